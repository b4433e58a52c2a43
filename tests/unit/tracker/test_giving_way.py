"""Background jobs give way to commands: how long they pause, what is promised to them, and that the load is measured."""

import asyncio
import heapq
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mogile_core.runtime.metrics import Registry
from mogile_core.runtime.workers import BUSY, IDLE, Busy, Step, Throttled, WorkerStatus
from mogile_tracker.foreground import HELD_SECONDS, STALE_SECONDS, Foreground, ProcessorUse, busyness, needed_seconds
from mogile_tracker.jobclasses import CLASSES, GIVE_WAY, JOB_MASTER, MONITOR, QUERYWORKER
from mogile_tracker.policy.giving_way import CALM, PAUSE_SECONDS_MAX, PRESSED, Turns, allowance, urgent_pause_seconds
from mogile_tracker.workers.giving_way import GivesWay, Pauses

SHARES = st.floats(0.01, 0.99)
INFINITE = float("inf")


class Clock:
    """Time passes when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def day_of_work(units: list[float], share: float, seconds: float, busy: Callable[[float], float]) -> list[float]:
    """Workers with units so long, always with more to do, for so many seconds: the time each of them has worked."""
    turns, worked = Turns(), [0.0] * len(units)
    ends = [(unit, number) for number, unit in enumerate(units)]
    heapq.heapify(ends)
    while ends[0][0] < seconds:
        now, number = heapq.heappop(ends)
        worked[number] += units[number]
        pause = turns.pause_seconds(now, units[number], allowance(busy(now), share))
        heapq.heappush(ends, (now + pause + units[number], number))
    return worked


def test_nobody_pauses_while_it_is_calm_or_when_it_is_switched_off() -> None:
    for busy in (0.0, CALM / 2, CALM):
        assert allowance(busy, 0.15) == INFINITE
    assert allowance(1.0, 1.0) == INFINITE
    assert Turns(taken_until=1e9).pause_seconds(0.0, 1.0, INFINITE) == 0
    assert urgent_pause_seconds(1.0, INFINITE, 0.5) == 0


@given(st.floats(0, 1), st.floats(0, 1), SHARES)
def test_the_busier_the_servers_the_less_is_allowed_down_to_the_share(one: float, other: float, share: float) -> None:
    calmer, busier = sorted((one, other))
    assert allowance(calmer, share) >= allowance(busier, share) >= share * 0.999
    assert allowance(PRESSED, share) == allowance(1.0, share) == pytest.approx(share)


@given(st.lists(st.floats(0.01, 0.2), min_size=1, max_size=3), st.floats(0.15, 0.9))
@settings(deadline=None)
def test_all_workers_together_get_the_share_and_nobody_is_starved(units: list[float], share: float) -> None:
    worked = day_of_work(units, share, 200.0, lambda _: 1.0)
    assert sum(worked) / 200 == pytest.approx(share, rel=0.1)
    turns = [time / unit for time, unit in zip(worked, units, strict=True)]
    assert all(number >= 200 / (PAUSE_SECONDS_MAX + unit) - 1 for number, unit in zip(turns, units, strict=True))
    assert min(turns) > max(turns) / (2 + max(units) / min(units)), "a short unit ends more often, that is all"


@given(st.lists(st.floats(0.001, 100), min_size=1, max_size=8), SHARES)
def test_no_pause_is_longer_than_promised_however_long_the_units(units: list[float], share: float) -> None:
    turns, now = Turns(), 0.0
    for unit in units:
        now += unit
        assert 0 <= turns.pause_seconds(now, unit, allowance(1.0, share)) <= PAUSE_SECONDS_MAX
        assert 0 <= urgent_pause_seconds(unit, allowance(1.0, share), 0.5) <= PAUSE_SECONDS_MAX


def test_when_the_servers_calm_down_the_next_unit_owes_nothing() -> None:
    turns = Turns()
    assert turns.pause_seconds(10.0, 1.0, 0.1) == PAUSE_SECONDS_MAX
    assert turns.pause_seconds(11.0, 1.0, INFINITE) == 0


def test_urgent_work_pays_for_itself_alone_and_at_its_own_share() -> None:
    assert urgent_pause_seconds(0.2, 0.1, 0.5) == pytest.approx(0.2), "half of the time"
    assert urgent_pause_seconds(0.2, 0.8, 0.5) == pytest.approx(0.05), "never less than the others"
    assert urgent_pause_seconds(0.2, 2.0, 0.5) == 0


class Scripted:
    """A worker whose steps are written down."""

    name, job_class = "scripted", "delete"

    def __init__(self, clock: Clock, *steps: Step) -> None:
        self._clock, self._steps = clock, list(steps)

    def status(self) -> WorkerStatus:
        return WorkerStatus(text="as ever", done_total=7)

    async def wait_for_work(self) -> None:
        """Nothing comes."""

    async def work(self) -> Step:
        self._clock.now += 0.1
        return self._steps.pop(0)


async def steps(busy: float, shares: dict[str, str], *given_steps: Step) -> tuple[list[Step], list[str], Registry]:
    """What a worker that gives way makes of steps of 0.1 s each, what it says after each, and the metrics."""
    clock, registry = Clock(), Registry()
    foreground = Foreground(clock)  # type: ignore[arg-type]  # the part of a clock it uses
    worker = GivesWay(Scripted(clock, *given_steps), Pauses(foreground, lambda: shares, registry, clock.monotonic))
    made, said = [], []
    for _ in given_steps:
        foreground.told({"busy": busy})
        made.append(await worker.work())
        said.append(worker.status().text)
    return made, said, registry


async def test_a_worker_is_throttled_says_so_and_counts_it() -> None:
    made, said, registry = await steps(1.0, {}, BUSY, IDLE, Throttled(60.0))
    assert isinstance(made[0], Throttled)
    assert made[0].delay_seconds == pytest.approx(0.1 / 0.25 - 0.1)
    assert made[1:] == [IDLE, Throttled(60.0)], "what pauses anyway pauses no longer"
    assert said == ["gives way to commands, as ever", "as ever", "as ever"]
    paused = registry.snapshot()["mogile_worker_gave_way_seconds_total"]["values"]
    assert [labels for labels, _ in paused] == [["scripted"]]
    assert registry.snapshot()["mogile_foreground_busy"]["values"] == [[[], 1.0]]


async def test_settings_and_urgency_decide_how_long() -> None:
    assert (await steps(0.1, {}, BUSY))[0] == [BUSY]
    assert (await steps(1.0, {"background_share": "100"}, BUSY))[0] == [BUSY]
    (half,), _, _ = await steps(1.0, {"background_share": "50"}, BUSY)
    (urgent,), _, _ = await steps(1.0, {}, Busy(urgent=True))
    assert isinstance(half, Throttled)
    assert isinstance(urgent, Throttled)
    assert half.delay_seconds == pytest.approx(0.1)
    assert urgent.delay_seconds == pytest.approx(0.1)
    assert urgent.urgent
    assert (await steps(1.0, {"urgent_share": "100"}, Busy(urgent=True)))[0] == [Busy(urgent=True)]


def test_what_watches_over_devices_never_waits() -> None:
    assert set(CLASSES) - {MONITOR, JOB_MASTER, QUERYWORKER, "reaper"} == GIVE_WAY


def test_busyness_is_what_the_servers_use_of_what_they_could() -> None:
    assert busyness([], 2) == 0
    assert busyness([0.8], 2) == pytest.approx(0.8)
    assert busyness([0.8, 0.2], 4) == pytest.approx(0.5)
    assert busyness([0.5, 0.5, 0.5, 0.5], 2) == 1, "they cannot have more than there is"


def test_a_rise_counts_at_once_a_lull_only_when_it_lasts_and_what_is_not_renewed_no_more() -> None:
    clock = Clock()
    foreground = Foreground(clock)  # type: ignore[arg-type]
    assert foreground.busy == 0
    foreground.told({"busy": 0.7})
    assert foreground.busy == 0.7
    clock.now += HELD_SECONDS / 2
    foreground.told({"busy": 0.1})
    assert foreground.busy == 0.7
    clock.now += HELD_SECONDS / 2
    assert foreground.busy == 0.1
    foreground.told({"busy": 0.4})
    clock.now += STALE_SECONDS
    assert foreground.busy == 0


async def test_processor_time_is_measured_waiting_for_anything_else_is_not() -> None:
    use = ProcessorUse()
    await asyncio.sleep(0.2)
    assert use.cores() < 0.5
    sum(range(3_000_000))
    assert use.cores() > 0.05


def test_waiting_for_a_processor_counts_up_to_as_much_again() -> None:
    assert needed_seconds(0.3, 0.0) == pytest.approx(0.3)
    assert needed_seconds(0.3, 0.1) == pytest.approx(0.4)
    assert needed_seconds(0.3, 0.7) == pytest.approx(0.6)
    assert needed_seconds(0.02, 0.9) == pytest.approx(0.04), "a crowd of others makes nobody busy who does little"
