"""Limits that are changed at run time: what they mean, and that whoever waits for one sees it change."""

import asyncio
from collections.abc import Mapping

import pytest

from mogile_tracker.policy.tunables import BALANCE_MODE, BALANCE_SPREAD, Limits, find, known_names, listed
from mogile_tracker.workers import pacing
from mogile_tracker.workers.pacing import QUESTION, Governor, Load


class Ledger:
    """Stands for the shared table: lets through while nothing is owed; time passes when told."""

    def __init__(self) -> None:
        self.owed: dict[str, float] = {}
        self.asked = 0

    async def admit(self, rates: Mapping[str, float], bytes_: Mapping[str, int]) -> float:
        self.asked += 1
        wait = max((self.owed.get(name, 0.0) / rate for name, rate in rates.items()), default=0.0)
        if wait <= 0:
            for name in rates:
                self.owed[name] = self.owed.get(name, 0.0) + bytes_.get(name, 0)
        return wait

    def passed(self, seconds: float, rates: Mapping[str, float]) -> None:
        for name, rate in rates.items():
            self.owed[name] = max(0.0, self.owed.get(name, 0.0) - seconds * rate)


def governor(settings: dict[str, str]) -> tuple[Governor, Ledger]:
    ledger = Ledger()
    return Governor(ledger, lambda: settings), ledger  # type: ignore[arg-type]  # the part of the store it uses


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        ("balance_mode", "maybe", "off"),
        ("balance_spread", "0", "2.5"),
        ("drain_moves", "1", "on"),
        ("write_copies_default", "1.5", "2"),
        ("replicate_bytes_per_second", "-1", "1e6"),
        ("dev17_concurrency", "x", "3"),
        ("device_concurrency", "nan", "0"),
    ],
)
def test_values_are_checked_in_a_sentence(name: str, bad: str, good: str) -> None:
    tunable = find(name)
    assert tunable is not None
    assert tunable.problem(good) is None
    assert str(tunable.problem(bad)).startswith(f"{name} must be")


def test_a_missing_or_spoilt_value_is_the_default() -> None:
    assert BALANCE_SPREAD.number({}) == 5
    assert BALANCE_SPREAD.number({"balance_spread": "wide"}) == 5
    assert BALANCE_MODE.text({"balance_mode": "off"}) == "off"


def test_every_job_and_every_device_has_its_two_limits() -> None:
    for job in ("replicate", "rebalance", "balance", "drain", "heal", "fsck", "device"):
        assert f"{job}_bytes_per_second" in known_names()
        assert f"{job}_concurrency" in known_names()
    assert find("dev3_bytes_per_second") is not None
    assert find("dev3_colour") is None
    assert "dev3_concurrency" in [tunable.name for tunable in listed({"dev3_concurrency": "1", "other": "2"})]


def test_one_device_may_have_limits_of_its_own() -> None:
    limits = Limits({"device_concurrency": "4", "dev2_concurrency": "1", "drain_concurrency": "9"}, "drain")
    assert limits.slots((1, 2)) == {"job:drain": 9, "dev:1": 4, "dev:2": 1}
    assert Limits({"device_bytes_per_second": "10", "dev2_bytes_per_second": "0"}, "drain").rates((1, 2)) == {
        "dev:1": 10
    }


def test_orders_are_cut_to_what_the_limits_let_through_at_once() -> None:
    copies = [Load((1, 2), 10) for _ in range(10)]
    free, _ = governor({})
    assert [len(part) for part in free.parts("replicate", copies, items_max=4, bytes_max=1000)] == [4, 4, 2]
    few, _ = governor({"dev2_concurrency": "3"})
    assert [len(part) for part in few.parts("replicate", copies, items_max=100, bytes_max=1000)] == [3, 3, 3, 1]
    slow, _ = governor({"replicate_bytes_per_second": "10"})
    assert [len(part) for part in slow.parts("replicate", copies, items_max=100, bytes_max=1000)] == [2] * 5
    crawling, _ = governor({"replicate_bytes_per_second": "1"})
    assert [len(part) for part in crawling.parts("replicate", copies, items_max=100, bytes_max=1000)] == [1] * 10


async def test_no_more_copies_at_once_than_a_device_may_have() -> None:
    guard, _ = governor({"dev1_concurrency": "2"})
    running = most = 0

    async def work(source: int, target: int) -> None:
        nonlocal running, most
        async with guard.admitted("replicate", [Load((source, target), 1)]):
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.001)
            running -= 1

    await asyncio.wait_for(asyncio.gather(*(work(1, n) for n in range(2, 22)), *(work(n, 1) for n in range(2, 12))), 30)
    assert most == 2


async def test_an_order_larger_than_a_lowered_limit_still_goes_alone() -> None:
    guard, _ = governor({"replicate_concurrency": "1"})
    async with asyncio.timeout(10), guard.admitted("replicate", [Load((1, 2), 1), Load((3, 4), 1)]) as waited:
        assert not waited


async def test_a_limit_that_is_lifted_frees_who_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "LOOK_AGAIN_SECONDS", 0.01)
    settings = {"replicate_bytes_per_second": "1"}
    guard, ledger = governor(settings)
    async with guard.admitted("replicate", [Load((1, 2), 10**9)]) as waited:
        assert not waited, "the first is let through whatever its size"
    second = asyncio.create_task(_through(guard, "replicate"))
    while not guard.held_back("replicate"):
        await asyncio.sleep(0)
    while ledger.asked < 3:
        await asyncio.sleep(0.01)
    assert not second.done()
    assert await asyncio.wait_for(_through(guard, "drain"), 60) is False, "another job is not held back"
    del settings["replicate_bytes_per_second"]
    assert await asyncio.wait_for(second, 60) is True
    assert not guard.held_back("replicate")


async def test_what_was_owed_is_paid_off_at_the_rate() -> None:
    settings = {"device_bytes_per_second": "100"}
    guard, ledger = governor(settings)
    await _through(guard, "replicate")
    assert ledger.owed == {"dev:1": 50, "dev:2": 50}
    ledger.passed(0.5, {"dev:1": 100, "dev:2": 100})
    assert await asyncio.wait_for(_through(guard, "rebalance"), 60) is False


async def test_a_copy_that_is_cancelled_while_it_waits_leaves_no_slot_taken() -> None:
    guard, _ = governor({"replicate_concurrency": "1"})
    async with guard.admitted("replicate", [Load((1, 2), 1)]):
        waiting = asyncio.create_task(_through(guard, "replicate"))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert await asyncio.wait_for(_through(guard, "replicate"), 60) is False


async def _through(guard: Governor, job: str) -> bool:
    async with guard.admitted(job, [Load((1, 2), 50)]) as waited:
        return waited


def test_no_more_files_are_kept_than_may_be_read_at_once() -> None:
    files = [[Load((1,), 10), Load((2,), 10)] for _ in range(10)]
    assert governor({})[0].at_once("fsck", files) == 10
    assert governor({"fsck_bytes_per_second": "30"})[0].at_once("fsck", files) == 3
    assert governor({"dev2_bytes_per_second": "10"})[0].at_once("fsck", files) == 2
    assert governor({"fsck_bytes_per_second": "1"})[0].at_once("fsck", files) == 1, "but always one"
    assert governor({"replicate_bytes_per_second": "1"})[0].at_once("fsck", files) == 10
    assert governor({})[0].at_once("fsck", []) == 0


async def test_questions_count_for_their_job_only_and_are_never_paid_for() -> None:
    guard, ledger = governor({"fsck_concurrency": "1", "fsck_bytes_per_second": "1", "device_concurrency": "1"})
    async with guard.slots("fsck", [QUESTION]):
        other = asyncio.create_task(_through(guard, "replicate"))
        assert await asyncio.wait_for(other, 60) is False
        second = asyncio.create_task(_through(guard, "fsck"))
        await asyncio.sleep(0.01)
        assert guard.held_back("fsck")
    assert await asyncio.wait_for(second, 60) is True
    assert ledger.owed == {"job:fsck": 50}


async def test_what_has_no_bytes_is_paced_as_well() -> None:
    guard, ledger = governor({})
    assert await guard.due("walk", 10, 5) == 0
    assert await guard.due("walk", 10, 5) == 0.5
    assert await guard.due("walk", 0.001, 5) == pacing.LOOK_AGAIN_SECONDS, "a raised rate is noticed soon"
    assert await guard.due("walk", 0, 5) == 0
    assert ledger.owed == {"walk": 5}
