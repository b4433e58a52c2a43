"""The queue under virtual time: dedup, one worker per key, gaps, backoff with jitter."""

import asyncio
import random

import pytest

from mogile_operator.workqueue import BACKOFF_MAX_SECONDS, GAP_SECONDS, WorkQueue

pytestmark = pytest.mark.looptime


def now() -> float:
    return asyncio.get_running_loop().time()


def queue() -> WorkQueue[str]:
    return WorkQueue(random.Random(1))


async def test_a_key_is_queued_once_however_often_it_is_added() -> None:
    it = queue()
    for _ in range(10_000):
        it.add("a")
    assert await it.get() == "a"
    it.done("a")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(60):
            await it.get()


async def test_a_key_is_never_worked_on_twice_at_once_and_is_done_again_after_a_gap() -> None:
    it = queue()
    it.add("a")
    await it.get()
    for _ in range(10_000):
        it.add("a")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(10):
            await it.get()
    began = now()
    it.done("a", again_after=20)
    assert await it.get() == "a"
    assert now() - began == pytest.approx(GAP_SECONDS, abs=0.01)


async def test_ten_thousand_events_in_a_second_cost_a_few_passes() -> None:
    it = queue()
    passes = 0

    async def worker() -> None:
        nonlocal passes
        while True:
            key = await it.get()
            await asyncio.sleep(0.1)
            passes += 1
            it.done(key)

    task = asyncio.create_task(worker())
    for _ in range(100):
        for _ in range(100):
            it.add("a")
        await asyncio.sleep(0.01)
    await asyncio.sleep(5)
    task.cancel()
    assert 2 <= passes <= 4


async def test_an_earlier_wish_wins_over_a_later_one() -> None:
    it = queue()
    it.add("a", 50)
    it.add("a", 5)
    it.add("a", 100)
    began = now()
    assert await it.get() == "a"
    assert now() - began == pytest.approx(5, abs=0.01)


async def test_keys_come_in_the_order_they_are_due() -> None:
    it = queue()
    it.add("late", 2)
    it.add("soon", 1)
    it.add("now")
    assert [await it.get() for _ in range(3)] == ["now", "soon", "late"]


async def test_failures_are_retried_with_growing_pauses_and_a_success_forgets_them() -> None:
    it = queue()
    it.add("a")
    pauses = []
    for _ in range(14):
        await it.get()
        began = now()
        it.done("a", failed=True)
        await asyncio.sleep(0)
        key = await it.get()
        pauses.append(now() - began)
        it.done(key, failed=True)
    assert pauses[0] == pytest.approx(1, rel=0.11)
    assert all(pause <= BACKOFF_MAX_SECONDS * 1.1 for pause in pauses)
    assert pauses[-1] > BACKOFF_MAX_SECONDS * 0.89
    await it.get()
    it.done("a")
    it.add("a")
    await it.get()
    began = now()
    it.done("a", failed=True)
    await it.get()
    assert now() - began < 1.2


async def test_a_permanent_failure_is_tried_at_most_20_times_in_the_first_hour() -> None:
    it = queue()
    it.add("a")
    tries = 0
    end = now() + 3600
    while now() < end:
        try:
            async with asyncio.timeout(end - now()):
                key = await it.get()
        except TimeoutError:
            break
        tries += 1
        it.done(key, failed=True)
    assert tries <= 20


async def test_depth_and_age_count_only_what_is_due() -> None:
    it = queue()
    it.add("a")
    it.add("b", 100)
    await asyncio.sleep(7)
    assert it.depth() == 1
    assert it.oldest_seconds() == pytest.approx(7, abs=0.1)
