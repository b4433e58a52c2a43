"""Threads that do the blocking work of one device, and the way their results come back to the event loop.

Every device has pools of its own with a bounded queue each, so that a disk that hangs holds up its own requests and nobody else's:
when its queue is full, `submit` refuses with BusyError at once. The threads are daemons on purpose: a thread stuck in a system call
on a dead disk cannot be ended, and must not keep the process from exiting. How long the oldest job has been at it is told by
`longest`: that is how a disk shows itself whose names still answer from memory.

Results are collected and handed to the loop with one wake-up for many, because a wake-up costs more than a small job.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from mogile_core.runtime.logs import get_log
from mogile_storage.errors import BusyError, DeviceUnavailableError, NodeRefusal, NoSpaceError
from mogile_storage.latency import Latency

log = get_log(__name__)

_SPACE = (errno.ENOSPC, errno.EDQUOT)


def as_refusal(failure: OSError) -> NodeRefusal:
    """What a failed system call on a device means for the request."""
    if failure.errno in _SPACE:
        return NoSpaceError()
    return DeviceUnavailableError(f"the device failed: {failure.strerror or failure}")


class Job:
    """One piece of blocking work. `run` is called in a thread, `done(job)` on the loop; then `error` or `result` is set."""

    __slots__ = ("done", "error", "pool", "result")
    patient = False  # True: takes long on a healthy disk too (a large file is read whole), so its age says nothing

    def __init__(self, done: Callable[[Any], None]) -> None:
        self.done = done
        self.result: Any = None
        self.error: NodeRefusal | None = None
        self.pool: Pool | None = None

    def run(self) -> Any:
        raise NotImplementedError

    def execute(self, on_os_error: Callable[[OSError], None]) -> None:
        """`run` with every failure caught: the thread serves others after this one."""
        try:
            self.result = self.run()
        except NodeRefusal as refusal:
            self.error = refusal
        except OSError as failure:
            on_os_error(failure)
            self.error = as_refusal(failure)
        except Exception as failure:  # a bug in one job must not end the thread; it is logged and answered
            log.exception("unexpected error in a device thread")
            self.error = NodeRefusal(f"internal error: {failure}")


class CallJob(Job):
    """A function call as a job."""

    __slots__ = ("args", "function")

    def __init__(self, done: Callable[[Any], None], function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        super().__init__(done)
        self.function, self.args = function, args

    def run(self) -> Any:
        return self.function(*self.args)


class PatientCall(CallJob):
    """A function call that may take long on a healthy disk."""

    __slots__ = ()
    patient = True


class Delivery:
    """Hands finished jobs to the event loop, many per wake-up."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._finished: deque[Job] = deque()
        self._awake = False

    def soon(self, function: Callable[[], None]) -> None:
        """Call it when the loop has seen to everything that is ready now. On the loop only."""
        self._loop.call_soon(function)

    def call(self, function: Callable[[], None]) -> None:
        """Call it on the loop; from any thread. Not at all when the loop has ended: nobody waits any more."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function)

    def put(self, jobs: list[Job]) -> None:
        """From a thread. Losing the race on `_awake` costs one more wake-up, never a lost result: it is cleared before draining."""
        self._finished.extend(jobs)
        if not self._awake:
            self._awake = True
            self.call(self._drain)

    def _drain(self) -> None:
        self._awake = False
        finished = self._finished
        while finished:
            job = finished.popleft()
            if job.pool is not None:
                job.pool.pending -= 1
            try:
                job.done(job)
            except Exception:  # one connection's bug must not lose the answers of the others
                log.exception("unexpected error while answering")


class Pool:
    """At most `threads` threads, started when needed, and at most `limit` jobs waiting or running."""

    def __init__(
        self,
        name: str,
        delivery: Delivery,
        *,
        threads: int,
        limit: int,
        on_os_error: Callable[[OSError], None] = lambda _: None,
        latency: Latency | None = None,
    ) -> None:
        self.name, self.limit = name, limit
        self.pending = 0  # touched on the loop only
        self._delivery = delivery
        self._on_os_error = on_os_error
        self._latency = latency
        self._threads_max = threads
        self._threads: list[threading.Thread] = []
        # Of each thread: when it began what it is doing; 0: nothing, or something that may take long.
        self._since: list[float] = []
        self._jobs: SimpleQueue[list[Job] | None] = SimpleQueue()
        self.closed = False

    def submit(self, job: Job) -> None:
        """Queue a job; BusyError when the pool is full or closed. On the loop only."""
        if self.closed or self.pending >= self.limit:
            raise BusyError(f"too much work is waiting for {self.name}")
        self.pending += 1
        job.pool = self
        if self.pending > len(self._threads) and len(self._threads) < self._threads_max:
            self._start_thread()
        self._hand_over(job)

    def _hand_over(self, job: Job) -> None:
        self._jobs.put([job])

    def clean_up(self, function: Callable[..., Any], *args: Any) -> None:
        """Close or remove what a request leaves behind: on a dead disk even a close can hang, so the loop must not do it. Never
        refused, also when the pool is full or closed: there are no more of these than descriptors were open. On the loop only."""
        job = CallJob(_forget, function, args)
        job.pool = self
        self.pending += 1
        self._jobs.put([job])
        if self.closed or not self._threads:
            self._start_thread()
        if self.closed:
            self._jobs.put(None)  # one for each thread: the last one is behind every job

    def longest(self) -> float:
        """Seconds for which the oldest job has been in its thread; 0 when none is. From any thread."""
        began = min((since for since in list(self._since) if since), default=0.0)
        return time.monotonic() - began if began else 0.0

    def _start_thread(self) -> None:
        slot = len(self._threads)
        self._since.append(0.0)
        thread = threading.Thread(target=self._serve, args=(slot,), name=f"{self.name}-{slot}", daemon=True)
        self._threads.append(thread)
        thread.start()

    async def call(self, function: Callable[..., Any], *args: Any, patient: bool = False) -> Any:
        """Run a function in the pool and wait for it; raises NodeRefusal."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def done(job: Job) -> None:
            if future.done():
                return
            if job.error is not None:
                future.set_exception(job.error)
            else:
                future.set_result(job.result)

        self.submit((PatientCall if patient else CallJob)(done, function, args))
        return await future

    def close(self) -> None:
        """No new jobs; what is queued is still done. From any thread: it takes place on the loop, so that no job can come behind it."""
        self._delivery.call(self._close)

    def _close(self) -> None:
        self.closed = True
        for _ in self._threads:
            self._jobs.put(None)

    def _serve(self, slot: int) -> None:
        while (jobs := self._jobs.get()) is not None:
            began = time.monotonic()
            self._since[slot] = 0.0 if jobs[0].patient else began
            for job in jobs:
                job.execute(self._on_os_error)
            self._since[slot] = 0.0
            if self._latency is not None:
                self._latency.observe(time.monotonic() - began)
            self._delivery.put(jobs)


def _forget(job: Job) -> None:
    if job.error is not None:
        log.warning("could not tidy up after a request", pool=job.pool.name if job.pool else "", reason=str(job.error))
