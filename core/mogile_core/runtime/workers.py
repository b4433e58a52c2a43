"""Background workers: the contract of one, and the supervisor that steps many.

A worker does *one bounded unit* per `work()` call and says what came of it: `BUSY` (there is more, come back at once), `Throttled`
(come back after a pause it asks for), `IDLE` (nothing to do: `wait_for_work` until something may have changed) or `DONE` (never
again). Because units are bounded, the supervisor can stop a worker between two of them and never has to tear one apart, except
when the deadline at exit has passed.

A unit may last as long as it gets on: whoever waits for something calls `progress()` when it has come. A unit that has shown no progress
for its time is cancelled and counts as failed; one that does not even heed that makes the whole process unfit (`stuck`).

The supervisor must not know what workers do. An exception out of `work()` is counted, logged and answered with an exponential
pause with a cap: this is one of the two places where any `Exception` is caught, since one broken job must not stop the others.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

from mogile_core.runtime.logs import get_log

CANCEL_SECONDS_MAX = 10.0  # a unit that was cancelled has so long to clear up

log = get_log(__name__)


@dataclass(frozen=True, slots=True)
class Busy:
    """There is more to do at once; `urgent`: data is at risk until it is done."""

    urgent: bool = False


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing to do now; `wait_for_work` returns when that may have changed."""


@dataclass(frozen=True, slots=True)
class Done:
    """The worker has finished for good."""


@dataclass(frozen=True, slots=True)
class Throttled:
    """There is more to do, but not before this many seconds have passed."""

    delay_seconds: float
    urgent: bool = False


Step = Busy | Idle | Done | Throttled

BUSY = Busy()
IDLE = Idle()
DONE = Done()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """What a worker says of itself: shown by the admin commands and the metrics."""

    text: str = ""
    backlog: int | None = None
    done_total: int = 0


class Worker(Protocol):
    """One background job."""

    @property
    def name(self) -> str:
        """Unique in its process, and the label of its metrics."""

    def status(self) -> WorkerStatus:
        """Cheap and without waiting: called by admin commands at any time."""

    async def work(self) -> Step:
        """Do one bounded unit."""

    async def wait_for_work(self) -> None:
        """Return when `work` may find something; may be cancelled at any time, so it holds nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReport:
    """The supervisor's view of one worker."""

    name: str
    state: str
    status: WorkerStatus
    steps: int
    errors: int
    consecutive_errors: int
    last_error: str
    last_error_age_seconds: float | None
    state_seconds: float = 0.0  # in this state: a unit that has been busy for very long is stuck


class NoProgressError(Exception):
    """A unit of work waited for something that did not come."""


class _Slot:
    """A worker together with what the supervisor counts about it."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.since: float | None = None
        self._state = "starting"
        self.steps = 0
        self.errors = 0
        self.consecutive_errors = 0
        self.last_error = ""
        self.last_error_at: float | None = None
        self.progress_at = 0.0

    @property
    def state(self) -> str:
        """starting, busy, throttled, idle, error, done or stopped."""
        return self._state

    @state.setter
    def state(self, state: str) -> None:
        if state != self._state or state == "busy":
            self._state, self.since = state, asyncio.get_running_loop().time()


_unit: ContextVar[_Slot | None] = ContextVar("unit of work", default=None)


def progress(patience_seconds: float = 0.0) -> None:
    """The unit of work this is called in gets on; the next wait may take `patience_seconds` longer than waits usually may."""
    slot = _unit.get()
    if slot is not None:
        slot.progress_at = max(slot.progress_at, asyncio.get_running_loop().time() + patience_seconds)


def apart() -> None:
    """To be called first in a task that only keeps something alive (a heartbeat): what it does is no progress of the unit."""
    _unit.set(None)


class Supervisor:
    """Steps its workers until it is told to stop, each in a task of its own."""

    def __init__(
        self,
        workers: Sequence[Worker],
        *,
        error_pause_seconds: float = 0.5,
        error_pause_cap_seconds: float = 60.0,
        exit_deadline_seconds: float = 8.0,
        silence_seconds_max: float | None = None,
        stuck: Callable[[str], None] | None = None,
    ) -> None:
        names = [worker.name for worker in workers]
        if len(set(names)) != len(names):
            raise ValueError(f"worker names must be unique, got {names}")
        self._slots = [_Slot(worker) for worker in workers]
        self._error_pause = error_pause_seconds
        self._error_pause_cap = error_pause_cap_seconds
        self._exit_deadline = exit_deadline_seconds
        self._silence_max = silence_seconds_max
        self._stuck = stuck
        self._stopping = asyncio.Event()
        self._woken = asyncio.Event()  # replaced whenever it was set; stays set once the supervisor is stopping

    def wake(self) -> None:
        """End every wait for work, for a pause or after an error at once."""
        self._woken.set()
        if not self._stopping.is_set():
            self._woken = asyncio.Event()

    def stop(self) -> None:
        """Ask every worker to stop after its present unit."""
        self._stopping.set()
        self.wake()

    def reports(self) -> list[WorkerReport]:
        """One entry per worker, in the order they were given."""
        return [self._report(slot) for slot in self._slots]

    def _report(self, slot: _Slot) -> WorkerReport:
        age = None
        if slot.last_error_at is not None:
            age = asyncio.get_running_loop().time() - slot.last_error_at
        return WorkerReport(
            name=slot.worker.name,
            state=slot.state,
            status=slot.worker.status(),
            steps=slot.steps,
            errors=slot.errors,
            consecutive_errors=slot.consecutive_errors,
            last_error=slot.last_error,
            last_error_age_seconds=age,
            state_seconds=0.0 if slot.since is None else asyncio.get_running_loop().time() - slot.since,
        )

    async def run(self) -> None:
        """Run until every worker is done or `stop` was called; units still running after the deadline are cancelled."""
        tasks = [asyncio.create_task(self._drive(slot), name=f"worker {slot.worker.name}") for slot in self._slots]
        stopping = asyncio.create_task(self._wait_for_stop(), name="worker supervisor stop")
        try:
            while not self._stopping.is_set() and not all(task.done() for task in tasks):
                pending = [task for task in tasks if not task.done()]
                await asyncio.wait([stopping, *pending], return_when=asyncio.FIRST_COMPLETED)
            if pending := [task for task in tasks if not task.done()]:
                await asyncio.wait(pending, timeout=self._exit_deadline)
        finally:
            stopping.cancel()
            late = [task for task in tasks if not task.done()]
            for task in late:
                log.warning("worker cut off at exit", task=task.get_name())
                task.cancel()
            await asyncio.gather(*tasks, stopping, return_exceptions=True)

    async def _wait_for_stop(self) -> None:
        await self._stopping.wait()

    async def _drive(self, slot: _Slot) -> None:
        while not self._stopping.is_set():
            slot.state = "busy"
            try:
                step = await (
                    slot.worker.work() if self._silence_max is None else self._watched(slot, self._silence_max)
                )
            except Exception as error:  # noqa: BLE001 - the supervisor's duty, see the module's docstring
                await self._after_error(slot, error)
                continue
            slot.steps += 1
            slot.consecutive_errors = 0
            match step:
                case Busy():
                    # A unit may end without having waited for anything; the others must get their turn all the same.
                    await asyncio.sleep(0)
                case Throttled(delay_seconds=delay):
                    slot.state = "throttled"
                    await self._pause(delay)
                case Idle():
                    slot.state = "idle"
                    await self._wait_for_work(slot)
                case Done():
                    slot.state = "done"
                    return
        slot.state = "stopped"

    async def _watched(self, slot: _Slot, silence_max: float) -> Step:
        """One unit, ended when it has shown no progress for too long."""
        loop = asyncio.get_running_loop()
        slot.progress_at = loop.time()
        _unit.set(slot)
        unit = asyncio.create_task(slot.worker.work(), name=f"unit of {slot.worker.name}")
        try:
            while not unit.done():
                remaining = slot.progress_at + silence_max - loop.time()
                if remaining <= 0:
                    await self._cut(slot, unit)
                    raise NoProgressError(f"no progress for {silence_max:.0f} s; the unit of work was ended")
                await asyncio.wait({unit}, timeout=remaining)
            return unit.result()
        finally:
            if not unit.done():  # this itself was cancelled
                unit.cancel()
                await asyncio.gather(unit, return_exceptions=True)

    async def _cut(self, slot: _Slot, unit: asyncio.Task[Step]) -> None:
        unit.cancel()
        await asyncio.wait({unit}, timeout=CANCEL_SECONDS_MAX)
        if unit.done():
            await asyncio.gather(unit, return_exceptions=True)  # what it ended with is of no interest
        else:
            log.error("unit of work cannot be ended", worker=slot.worker.name)
            if self._stuck is not None:
                self._stuck(slot.worker.name)
            await asyncio.gather(unit, return_exceptions=True)

    async def _after_error(self, slot: _Slot, error: Exception) -> None:
        slot.state = "error"
        slot.errors += 1
        slot.consecutive_errors += 1
        slot.last_error = f"{type(error).__name__}: {error}"
        slot.last_error_at = asyncio.get_running_loop().time()
        doublings = min(slot.consecutive_errors - 1, 20)
        pause = min(self._error_pause_cap, self._error_pause * 2**doublings)
        fields = {"worker": slot.worker.name, "again_in_seconds": round(pause, 1), "reason": slot.last_error}
        if slot.consecutive_errors == 1:
            log.exception("worker failed", **fields)  # noqa: LOG004 - called while the exception is handled
        else:
            log.error("worker failed again", **fields)
        await self._pause(pause)

    async def _wait_for_work(self, slot: _Slot) -> None:
        waiting = asyncio.ensure_future(slot.worker.wait_for_work())
        woken = asyncio.ensure_future(self._woken.wait())
        try:
            await asyncio.wait({waiting, woken}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()
            waiting.cancel()
            await asyncio.gather(woken, return_exceptions=True)
            results = await asyncio.gather(waiting, return_exceptions=True)
        failure = results[0]
        if isinstance(failure, Exception):
            await self._after_error(slot, failure)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
