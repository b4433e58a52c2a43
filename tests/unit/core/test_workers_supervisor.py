"""The supervisor of background workers: pacing, errors, stopping. Time is virtual: the pace of the machine has no say."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from mogile_core.runtime.workers import BUSY, DONE, IDLE, Step, Supervisor, Throttled, WorkerStatus, apart, progress

pytestmark = pytest.mark.looptime


class Scripted:
    """A worker that does what it is told."""

    def __init__(self, name: str, steps: list[Step | Exception | Callable[[], Awaitable[Step]]]) -> None:
        self.name = name
        self.steps = steps
        self.taken = 0
        self.waits = 0
        self.wake = asyncio.Event()

    def status(self) -> WorkerStatus:
        return WorkerStatus(text=f"{self.taken} taken", done_total=self.taken)

    async def work(self) -> Step:
        step = self.steps[min(self.taken, len(self.steps) - 1)]
        self.taken += 1
        if isinstance(step, Exception):
            raise step
        return await step() if callable(step) else step

    async def wait_for_work(self) -> None:
        self.waits += 1
        await self.wake.wait()


async def run_until(supervisor: Supervisor, condition: Callable[[], bool]) -> None:
    running = asyncio.create_task(supervisor.run())
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)
    supervisor.stop()
    async with asyncio.timeout(10):
        await running


async def test_a_worker_that_is_done_is_not_stepped_again_and_ends_the_run() -> None:
    worker = Scripted("a", [BUSY, BUSY, DONE])
    await Supervisor([worker]).run()
    assert worker.taken == 3


async def test_an_idle_worker_waits_until_it_is_woken() -> None:
    worker = Scripted("a", [IDLE, DONE])
    supervisor = Supervisor([worker])
    running = asyncio.create_task(supervisor.run())
    await asyncio.sleep(0.05)
    assert (worker.taken, worker.waits) == (1, 1)
    worker.wake.set()
    async with asyncio.timeout(5):
        await running
    assert worker.taken == 2


async def test_a_throttled_worker_pauses_and_a_stop_cuts_the_pause_short() -> None:
    worker = Scripted("a", [Throttled(3600.0)])
    await run_until(Supervisor([worker]), lambda: worker.taken == 1)
    assert worker.taken == 1


async def test_errors_are_counted_back_off_and_do_not_touch_the_others() -> None:
    bad = Scripted("bad", [ValueError("no")])
    good = Scripted("good", [Throttled(0.001)])
    supervisor = Supervisor([bad, good], error_pause_seconds=0.02, error_pause_cap_seconds=0.05)
    await run_until(supervisor, lambda: good.taken >= 20 and bad.taken >= 3)
    report = supervisor.reports()[0]
    assert report.errors == bad.taken
    assert report.consecutive_errors == bad.taken
    assert report.last_error == "ValueError: no"
    assert good.taken > bad.taken


async def test_success_forgets_consecutive_errors() -> None:
    worker = Scripted("a", [ValueError("no"), BUSY, DONE])
    supervisor = Supervisor([worker], error_pause_seconds=0.001)
    await supervisor.run()
    report = supervisor.reports()[0]
    assert (report.errors, report.consecutive_errors, report.state) == (1, 0, "done")


@pytest.mark.parametrize("silence_max", [None, 60.0], ids=["plain", "watched"])
async def test_a_unit_that_outlasts_the_deadline_is_cut_off_at_exit(silence_max: float | None) -> None:
    cut = asyncio.Event()

    async def endless() -> Step:
        try:
            await asyncio.sleep(3600)
        finally:
            cut.set()
        return BUSY

    worker = Scripted("a", [endless])
    supervisor = Supervisor([worker], exit_deadline_seconds=0.05, silence_seconds_max=silence_max)
    await run_until(supervisor, lambda: worker.taken == 1)
    assert cut.is_set()


async def test_a_unit_under_way_is_finished_before_exit() -> None:
    finished = asyncio.Event()

    async def slow() -> Step:
        await asyncio.sleep(0.1)
        finished.set()
        return BUSY

    worker = Scripted("a", [slow])
    await run_until(Supervisor([worker], exit_deadline_seconds=5), lambda: worker.taken == 1)
    assert finished.is_set()


def test_names_must_be_unique() -> None:
    with pytest.raises(ValueError, match="unique"):
        Supervisor([Scripted("a", [DONE]), Scripted("a", [DONE])])


async def test_a_unit_that_waits_for_ever_is_ended_and_the_worker_goes_on() -> None:
    async def for_ever() -> Step:
        await asyncio.Event().wait()
        return BUSY

    worker = Scripted("a", [for_ever, DONE])
    supervisor = Supervisor([worker], error_pause_seconds=0.001, silence_seconds_max=0.05)
    async with asyncio.timeout(10):
        await supervisor.run()
    report = supervisor.reports()[0]
    assert (report.errors, report.state) == (1, "done")
    assert "no progress for" in report.last_error


async def test_a_unit_that_gets_on_may_last_and_patience_lengthens_the_next_wait() -> None:
    async def helper() -> None:
        await asyncio.sleep(0.1)
        progress()

    async def slow() -> Step:
        for _ in range(5):
            await asyncio.create_task(helper())  # what a unit's own tasks do counts
        progress(30)
        await asyncio.sleep(0.4)
        return DONE

    worker = Scripted("a", [slow])
    supervisor = Supervisor([worker], silence_seconds_max=0.3)
    async with asyncio.timeout(10):
        await supervisor.run()
    assert supervisor.reports()[0].errors == 0


async def test_a_heartbeat_is_no_progress() -> None:
    async def heartbeat() -> None:
        apart()
        while True:
            await asyncio.sleep(0.01)
            progress()

    async def for_ever() -> Step:
        beat = asyncio.create_task(heartbeat())
        try:
            await asyncio.Event().wait()
        finally:
            beat.cancel()
        return BUSY

    worker = Scripted("a", [for_ever, DONE])
    supervisor = Supervisor([worker], error_pause_seconds=0.001, silence_seconds_max=0.1)
    async with asyncio.timeout(10):
        await supervisor.run()
    assert supervisor.reports()[0].errors == 1


async def test_a_unit_that_cannot_be_ended_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mogile_core.runtime.workers.CANCEL_SECONDS_MAX", 0.05)
    release = asyncio.Event()

    async def stubborn() -> Step:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return BUSY

    stuck: list[str] = []

    def report(name: str) -> None:
        stuck.append(name)
        release.set()  # in a tracker the process ends here

    worker = Scripted("a", [stubborn, DONE])
    supervisor = Supervisor([worker], error_pause_seconds=0.001, silence_seconds_max=0.05, stuck=report)
    async with asyncio.timeout(10):
        await supervisor.run()
    assert stuck == ["a"]
