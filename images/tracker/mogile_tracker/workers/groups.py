"""The workers of each job class under a supervisor of its own, started and stopped as the parent assigns classes to this process.

A class that is taken away ends its present units; one that is given back (or asked to shut down, which means: begin anew) starts only
when its former workers have ended, so two of a kind never run in one process. Only the monitor runs before its first complete round,
because without observations no device would be fit for anything.
"""

import asyncio
import inspect
from collections.abc import Callable, Sequence

from mogile_core.runtime.logs import get_log
from mogile_core.runtime.workers import Supervisor, WorkerReport
from mogile_tracker.context import JobsContext
from mogile_tracker.jobclasses import MONITOR
from mogile_tracker.logwatch import current_job
from mogile_tracker.workers.base import JobWorker

log = get_log(__name__)


class _Group:
    """The workers of one class."""

    def __init__(self, job: str, workers: Sequence[JobWorker], context: JobsContext) -> None:
        self.job = job
        self._workers = workers
        self.supervisor = Supervisor(
            workers,
            error_pause_cap_seconds=context.settings.error_pause_seconds_max,
            silence_seconds_max=context.settings.watchdog[job],
            stuck=context.stuck,
        )
        self.task = asyncio.create_task(self._run(), name=f"jobs of {job}")

    async def _run(self) -> None:
        current_job.set(self.job)
        try:
            await self.supervisor.run()
        finally:
            for worker in self._workers:
                close = getattr(worker, "close", None)
                if close is not None and inspect.iscoroutinefunction(close):
                    await close()


class Groups:
    """All classes this process runs now."""

    def __init__(self, context: JobsContext, make: Callable[[str], Sequence[JobWorker]]) -> None:
        self._context = context
        self._make = make
        self._running: dict[str, _Group] = {}
        self._ending: dict[str, _Group] = {}

    def reports(self) -> list[tuple[str, WorkerReport]]:
        """(class, report) of every worker."""
        return [(job, report) for job, group in sorted(self._running.items()) for report in group.supervisor.reports()]

    async def run(self) -> None:
        """Follow the assignment until the process is to stop and all workers have ended."""
        assignment = self._context.assignment
        try:
            while not self._context.stop.is_set():
                assignment.changed.clear()
                self._follow(assignment.take_messages())
                await self._until_something_happens()
        finally:
            for job in list(self._running):
                self._end(job)
            await asyncio.gather(*(group.task for group in self._ending.values()), return_exceptions=True)

    def _follow(self, messages: Sequence[tuple[str, str]]) -> None:
        for job, text in messages:
            group = self._running.get(job)
            if group is not None and text == ":wake_up":
                group.supervisor.wake()
            elif group is not None and text == ":shutdown":
                self._end(job)
        wanted = self._context.assignment.classes
        if not self._context.topology.observed_once.is_set():
            wanted = wanted & {MONITOR}
        for job in self._running.keys() - wanted:
            self._end(job)
        for job in sorted(wanted - self._running.keys() - self._ending.keys()):
            self._running[job] = _Group(job, self._make(job), self._context)

    def _end(self, job: str) -> None:
        group = self._ending[job] = self._running.pop(job)
        group.supervisor.stop()

    async def _until_something_happens(self) -> None:
        events = [self._context.stop, self._context.assignment.changed]
        if not self._context.topology.observed_once.is_set():
            events.append(self._context.topology.observed_once)
        waits = [asyncio.create_task(event.wait()) for event in events]
        try:
            ending = [group.task for group in self._ending.values()]
            running = [
                group.task for group in self._running.values() if not group.task.done()
            ]  # all its workers may be done
            await asyncio.wait([*waits, *ending, *running], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        for job, group in list(self._ending.items()):
            if group.task.done():
                del self._ending[job]
                group.task.result()
        for group in self._running.values():
            if group.task.done():
                group.task.result()  # what broke a supervisor ends the process; another takes its place
