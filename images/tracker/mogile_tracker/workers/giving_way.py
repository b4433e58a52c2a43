"""Background workers give way: after each unit of work they pause for as long as the load of commands demands (`policy.giving_way`).

Niceness keeps the jobs' own processes behind the servers, but not what they have PostgreSQL do, which runs at normal priority. Every
worker of a class that may wait is wrapped, so a new one cannot forget it. The settings are read anew after every unit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from mogile_core.runtime.metrics import Registry
from mogile_core.runtime.workers import Busy, Step, Throttled, WorkerStatus
from mogile_tracker.foreground import Foreground
from mogile_tracker.policy.giving_way import Turns, allowance, urgent_pause_seconds
from mogile_tracker.policy.tunables import BACKGROUND_SHARE, URGENT_SHARE
from mogile_tracker.workers.base import JobWorker


class Pauses:
    """One per jobs process: what its workers owe the commands."""

    def __init__(
        self,
        foreground: Foreground,
        settings: Callable[[], Mapping[str, str]],
        registry: Registry,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.monotonic = monotonic
        self._foreground = foreground
        self._settings = settings
        self._turns = Turns()
        self._paused = registry.counter(
            "worker_gave_way_seconds_total", "Time a background worker has left to commands", ["worker"]
        )
        busy = registry.gauge("foreground_busy", "How busy the server processes are, from 0 to 1", merge="max")
        registry.on_collect(lambda: busy.set(foreground.busy))

    def after(self, worker: str, worked_seconds: float, *, urgent: bool) -> float:
        """How long the worker pauses now."""
        settings = self._settings()
        allowed = allowance(self._foreground.busy, BACKGROUND_SHARE.number(settings) / 100)
        if urgent:
            pause = urgent_pause_seconds(worked_seconds, allowed, URGENT_SHARE.number(settings) / 100)
        else:
            pause = self._turns.pause_seconds(self.monotonic(), worked_seconds, allowed)
        if pause > 0:
            self._paused.inc(pause, worker=worker)
        return pause


class GivesWay:
    """A worker that does what another one does, with pauses."""

    def __init__(self, worker: JobWorker, pauses: Pauses) -> None:
        self._worker = worker
        self._pauses = pauses
        self._pausing = False
        self.name = worker.name
        self.job_class = worker.job_class

    def status(self) -> WorkerStatus:
        """The other one's; it says so while it pauses."""
        status = self._worker.status()
        if not self._pausing:
            return status
        text = ", ".join(filter(None, ("gives way to commands", status.text)))
        return WorkerStatus(text=text, backlog=status.backlog, done_total=status.done_total)

    async def wait_for_work(self) -> None:
        await self._worker.wait_for_work()

    async def work(self) -> Step:
        """One unit of the other one's, which then waits for its turn."""
        self._pausing = False
        began = self._pauses.monotonic()
        step = await self._worker.work()
        if not isinstance(step, Busy | Throttled):
            return step
        pause = self._pauses.after(self.name, self._pauses.monotonic() - began, urgent=step.urgent)
        own = step.delay_seconds if isinstance(step, Throttled) else 0.0
        if pause <= own:
            return step
        self._pausing = True
        return Throttled(pause, urgent=step.urgent)

    async def close(self) -> None:
        """Close what the other one holds."""
        close = getattr(self._worker, "close", None)
        if close is not None:
            await close()
