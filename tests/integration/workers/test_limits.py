"""Limits at run time on what jobs copy, read, ask and list, and the order of urgency, on real nodes."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mogile_core.runtime.workers import Busy, Worker
from mogile_tracker.store.fsck import FsckStore
from mogile_tracker.store.orphans import OrphanStore
from mogile_tracker.store.pace import PaceStore
from mogile_tracker.workers.fsck import FsckCheck
from mogile_tracker.workers.heal import Heal
from mogile_tracker.workers.orphans import Orphans
from mogile_tracker.workers.reaper import Reaper
from mogile_tracker.workers.replicate import Replicate

SIZE = 100_000
BACKLOG = 10_000


async def test_trackers_share_one_rate_and_a_changed_one_holds_at_once(two_zones: Any) -> None:
    """Two trackers replicate side by side; together they keep to the limit, and finish soon when it is lifted."""
    other = await two_zones.make_jobs("tracker-2")
    await two_zones.ready()
    await two_zones.set_setting("replicate_bytes_per_second", SIZE)  # a file a second
    fids = [await two_zones.put([1], bytes([n]) * SIZE) for n in range(12)]
    started = time.monotonic()
    workers = [Replicate(jobs) for jobs in (two_zones.jobs, other)]

    async def copies() -> int:
        return int(await two_zones.database.fetchval("SELECT count(*) FROM file_on")) - len(fids)

    async def three() -> bool:
        return await copies() >= 3

    async with _working(*workers):
        await two_zones.wait_for(three, "the first copies", 90)
        # The first is free and each goes when the one before is paid for: 3 copies need 2 s, whoever makes them.
        assert time.monotonic() - started >= 1.8
        assert await copies() <= 2 + (time.monotonic() - started)

        async def held_back() -> bool:
            """Not while the copy of this second is being made."""
            return any(jobs.governor.held_back("replicate") for jobs in (two_zones.jobs, other))

        await two_zones.wait_for(held_back, "an order to be held back")
        await two_zones.set_setting("replicate_bytes_per_second", 0)

        async def all_made() -> bool:
            return await copies() == len(fids)

        lifted = time.monotonic()
        await two_zones.wait_for(all_made, "the rest", 90)
        slow = (len(fids) - 4) * 1.0
        assert time.monotonic() - lifted < slow + 20, "not at the old rate"
    await two_zones.check_files()


@contextlib.asynccontextmanager
async def _working(*workers: Worker) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(_work(worker)) for worker in workers]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _work(worker: Worker) -> None:
    while True:
        if not isinstance(await worker.work(), Busy):
            await asyncio.sleep(0.05)


async def _slow_then_fast(cluster: Any, done: Any, *, setting: str, first: int, all_: int, per_second: float) -> None:
    """At the limit that is set `first` of `all_` take their time; lifted, the rest takes less than half of what it would have."""
    started = time.monotonic()

    async def some() -> bool:
        return await done() >= first

    await cluster.wait_for(some, f"the first {first} with {setting}", 90)
    elapsed = time.monotonic() - started
    # What is let through at first owes nothing: the bytes (or files) of up to two seconds.
    assert elapsed >= first / per_second - 2.2, f"{setting} slows it down"
    count = await done()
    left = all_ - count
    assert count <= (time.monotonic() - started + 2.2) * per_second
    await cluster.set_setting(setting, 0)
    lifted = time.monotonic()

    async def finished() -> bool:
        return await done() >= all_

    await cluster.wait_for(finished, "the rest", 90)
    assert time.monotonic() - lifted < left / per_second / 2, f"{setting} is lifted at once"


async def test_trackers_share_what_fsck_may_read(two_zones: Any) -> None:
    other = await two_zones.make_jobs("tracker-2")
    await two_zones.ready()
    await two_zones.database.execute("INSERT INTO server_settings (field, value) VALUES ('fsck_checksum', 'MD5')")
    await two_zones.set_setting("fsck_bytes_per_second", 2 * SIZE)  # both copies of a file in a second
    fids = [await two_zones.put([1, 3], bytes([n]) * SIZE, queue=False) for n in range(40)]
    await FsckStore(two_zones.database).enqueue(fids)
    workers = [FsckCheck(jobs) for jobs in (two_zones.jobs, other)]

    async def checked() -> int:
        text = await two_zones.database.fetchval("SELECT value FROM server_settings WHERE field = 'fsck_fids_checked'")
        return int(text or 0)

    async with _working(*workers):
        await _slow_then_fast(
            two_zones, checked, setting="fsck_bytes_per_second", first=6, all_=len(fids), per_second=1
        )
    assert await checked() == len(fids), "each was read once, whoever waited for it"
    assert await two_zones.count("fsck_log") == 0


async def test_fsck_asks_about_so_many_copies_at_once(two_zones: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, seconds = (
        two_zones.jobs.nodes,
        0.05,
    )  # longer the second time, so that a slow machine cannot be taken for the limit
    ask, asking, most = nodes.size, 0, 0

    async def slow(*arguments: Any) -> Any:
        """A node that takes its time."""
        nonlocal asking, most
        asking += 1
        most = max(most, asking)
        try:
            await asyncio.sleep(seconds)
            return await ask(*arguments)
        finally:
            asking -= 1

    monkeypatch.setattr(nodes, "size", slow)
    fids = [await two_zones.put([1, 3], queue=False) for _ in range(100)]
    check = FsckCheck(two_zones.jobs)
    await two_zones.set_setting("fsck_concurrency", 2)
    await FsckStore(two_zones.database).enqueue(fids)
    started = time.monotonic()
    await two_zones.until_idle(check)
    assert most == 2
    assert time.monotonic() - started >= len(fids) * seconds
    await FsckStore(two_zones.database).enqueue(fids)
    seconds = 0.5
    started = time.monotonic()
    async with _working(check):

        async def under_way() -> bool:
            return asking > 0

        await two_zones.wait_for(under_way, "the second check")
        await two_zones.set_setting("fsck_concurrency", 0)

        async def done() -> bool:
            return await two_zones.count("file_to_queue") == 0

        await two_zones.wait_for(done, "the end of the second check")
    assert most > 2, "the batch that was under way has noticed"
    assert time.monotonic() - started < len(fids) * seconds / 2
    assert await two_zones.count("fsck_log") == 0


async def test_heal_fetches_at_its_own_rate(two_zones: Any) -> None:
    fids = [await two_zones.put([1, 3], bytes([n]) * SIZE, queue=False) for n in range(30)]
    for fid in fids:
        two_zones.rot(1, fid)
    await two_zones.scrub(1)
    host = two_zones.jobs.topology.host_of(1)

    async def seen() -> bool:
        await two_zones.look()
        observed = two_zones.jobs.topology.observations.devices[1]
        return bool(observed.damaged == len(fids))

    async def healed() -> int:
        return len(fids) - len(await two_zones.jobs.nodes.damaged(host, 1, after=0, limit=100))

    await two_zones.wait_for(seen, "the count of damaged copies")
    await two_zones.set_setting("fsck_bytes_per_second", 1)  # nothing to do with it
    await two_zones.set_setting("heal_bytes_per_second", SIZE)
    async with _working(Heal(two_zones.jobs)):
        await _slow_then_fast(two_zones, healed, setting="heal_bytes_per_second", first=6, all_=len(fids), per_second=1)
    await two_zones.check_files()


async def test_the_search_for_orphans_looks_at_so_many_files_a_second(two_zones: Any) -> None:
    other = await two_zones.make_jobs("tracker-2")
    await two_zones.ready()
    count = 100
    for _ in range(count):
        await two_zones.put([1], b"x", queue=False)
    await two_zones.set_setting("orphans_fids_per_second", 5)
    store = OrphanStore(two_zones.database)
    await store.start([1], min_age=0)

    async def looked_at() -> int:
        return sum(walk.files for walk in await store.walks())

    async with _working(Orphans(two_zones.jobs), Orphans(other)):
        await _slow_then_fast(
            two_zones, looked_at, setting="orphans_fids_per_second", first=20, all_=count, per_second=5
        )


async def test_a_debt_is_paid_off_at_the_limit_of_now(cluster: Any) -> None:
    store = PaceStore(cluster.database)
    assert await store.admit({"job:x": 1000.0}, {"job:x": 10_000_000}) == 0
    assert 9000 < await store.admit({"job:x": 1000.0}, {"job:x": 1}) <= 10_000
    assert await store.admit({"job:x": 1e5}, {"job:x": 1}) <= 100, "the same debt at the rate of now"
    await asyncio.sleep(0.05)
    assert await store.admit({"job:x": 1e9, "dev:1": 5.0}, {"job:x": 1, "dev:1": 100}) == 0
    assert await store.admit({"dev:1": 5.0}, {"dev:1": 1}) > 10
    assert await store.admit({"job:x": 1e9}, {"job:x": 1}) == 0, "a limit elsewhere costs this one nothing"
    assert await store.admit({}, {}) == 0


@pytest.mark.parametrize("waiting", ["not yet tried", "due again after failures"])
async def test_one_copy_left_goes_first_whatever_waits(two_zones: Any, waiting: str) -> None:
    """A backlog of 10 000 rows that were there before does not delay a file that has one copy left."""
    nexttry = 1 if waiting == "not yet tried" else int(time.time()) - 3600
    await two_zones.database.execute(
        "WITH f AS (INSERT INTO file (fid, dmid, dkey, length, classid, devcount) "
        "SELECT n, 1, 'old-' || n, 10, 1, 2 FROM generate_series(1000000, 1000000 + $1::int - 1) AS n RETURNING fid), "
        "q AS (INSERT INTO file_to_replicate (fid, nexttry, failcount) SELECT fid, $2::int, 1 FROM f) "
        "INSERT INTO file_on (fid, devid) SELECT fid, unnest(ARRAY[1, 3]) FROM f",
        BACKLOG,
        nexttry,
    )
    urgent = await two_zones.put([1, 4], queue=False)
    await two_zones.set_device(4, "dead")
    await two_zones.look()
    await two_zones.until_idle(Reaper(two_zones.jobs))
    await Replicate(two_zones.jobs).work()
    assert set(await two_zones.holders(urgent)) - {1, 4}, "the very first batch has made its second copy"
    left = await two_zones.database.fetchval("SELECT count(*) FROM file_to_replicate WHERE fid >= 1000000")
    assert left >= BACKLOG - two_zones.jobs.settings.replicate_batch
