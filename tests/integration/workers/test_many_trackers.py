"""Three whole trackers over one database, killed at random while files come, go and lose their devices: everything ends in order."""

import asyncio
import os
import random
import signal
from typing import Any

import pytest

from mogile_tracker.store.fsck import Begin, FsckStore
from mogile_tracker.store.orphans import OrphanStore

ROUNDS = 60 if os.environ.get("FULL") else 6


@pytest.mark.timeout(1800 if ROUNDS > 10 else 900)
async def test_killed_and_stopped_trackers_leave_nothing_undone(two_zones: Any, three_trackers: list[Any]) -> None:
    randomness = random.Random(11)
    deleted: list[int] = []
    frozen: Any = None
    for round_ in range(ROUNDS):
        await two_zones.look()
        for _ in range(15):
            await two_zones.put([randomness.choice([1, 2, 3, 4])])
        for fid in randomness.sample(sorted(two_zones.content), 3):
            deleted.append(fid)
            two_zones.content.pop(fid)
            await two_zones.patiently(lambda fid=fid: delete(two_zones, fid), f"fid {fid} to be deleted")
        for devid, out in ((randomness.choice([1, 2, 3, 4]), False), (1 + round_ % 4, round_ % 2 == 0)):
            await two_zones.patiently(lambda d=devid, o=out: two_zones.set_out(d, o), f"device {devid} to be set out")
        victim = randomness.choice(three_trackers)
        if frozen is not None:
            frozen.signal(signal.SIGCONT)
            frozen = None
        if round_ % 3 == 2:
            victim.signal(signal.SIGSTOP)
            frozen = victim
        else:
            victim.signal(signal.SIGKILL)
            victim.start()
        await asyncio.sleep(randomness.uniform(0.5, 2.0))
    if frozen is not None:
        frozen.signal(signal.SIGCONT)
    for devid in (1, 2, 3, 4):
        await two_zones.set_out(devid, False)

    async def settled() -> bool:
        """The queues alone do not tell: what a device that came back has too many of is queued by a later look of the reaper."""
        holders = [await two_zones.holders(fid) for fid in two_zones.content]
        placed = all(len(devids) == 2 and two_zones.zones(devids) == {"a", "b"} for devids in holders)
        return placed and await two_zones.quiet()

    await two_zones.wait_for(settled, "two copies of every file in two zones and empty queues", 300)
    for tracker in three_trackers:
        tracker.signal(signal.SIGKILL)
    await in_order(two_zones)
    assert not [fid for fid in deleted if await two_zones.holders(fid)]


async def delete(cluster: Any, fid: int) -> None:
    await cluster.database.execute(
        "WITH gone AS (DELETE FROM file WHERE fid = $1 RETURNING fid) "
        "INSERT INTO file_to_delete2 (fid, nexttry) SELECT fid, 0 FROM gone",
        fid,
    )


async def in_order(cluster: Any) -> None:
    """Every file has two sound copies in two zones, and nothing lies on a disk without a row."""
    await cluster.check_files()
    for fid in cluster.content:
        devids = await cluster.holders(fid)
        assert len(devids) == 2, (fid, devids)
        assert cluster.zones(devids) == {"a", "b"}, (fid, devids)
    assert cluster.stray_files() == await cluster.locations()


def intact(cluster: Any, fid: int, devids: list[int]) -> bool:
    """A tracker may remove a copy at any moment."""
    try:
        return all(cluster.disk(devid, fid).read_bytes() == cluster.content[fid] for devid in devids)
    except FileNotFoundError:
        return False


async def damage(cluster: Any, randomness: random.Random, files: int) -> None:
    """Of files with two sound copies: take the bytes of one away, or its row, or both the row's bytes and nothing else."""
    for fid in randomness.sample(sorted(cluster.content), files):
        devids = await cluster.holders(fid)
        if len(devids) < 2 or not intact(cluster, fid, devids):
            continue  # it waits to be mended from an earlier round
        devid = randomness.choice(devids)
        if randomness.random() < 0.6:
            cluster.disk(devid, fid).unlink(missing_ok=True)
        else:
            await cluster.database.execute("DELETE FROM file_on WHERE fid = $1 AND devid = $2", fid, devid)


async def start_everything(cluster: Any) -> None:
    """A run of fsck over all files, and a walk over all disks."""
    await FsckStore(cluster.database).change(
        lambda state: Begin(
            settings={
                "fsck_host": "somebody",
                "fsck_highest_fid_checked": "0",
                "fsck_fid_at_end": str(state.max_fid),
                "fsck_start_time": str(state.now),
                "queue_rate_for_fsck": "7",
            }
        )
    )
    await OrphanStore(cluster.database).start([1, 2, 3, 4], min_age=0)


@pytest.mark.timeout(1800 if ROUNDS > 10 else 900)
async def test_fsck_and_orphan_search_under_kills_lose_nothing_and_mend_everything(
    two_zones: Any, three_trackers: list[Any]
) -> None:
    randomness = random.Random(5)
    for _ in range(40):
        await two_zones.put(randomness.choice([[1, 3], [1, 4], [2, 3], [2, 4]]), queue=False)
    store, orphans = FsckStore(two_zones.database), OrphanStore(two_zones.database)

    async def ended() -> bool:
        """Nothing runs, nothing waits."""
        state, walks = await store.state(), await orphans.walks()
        at_rest = not state.settings.get("fsck_host") and all(w.state == "finished" and not w.pending for w in walks)
        return at_rest and await two_zones.quiet()

    for round_ in range(ROUNDS):
        await damage(two_zones, randomness, 12)
        await start_everything(two_zones)
        await asyncio.sleep(randomness.uniform(0.3, 2.0))
        if round_ % 2:
            await orphans.order(None, randomness.choice(["adopt", "remove"]))
        victim = randomness.choice(three_trackers)
        victim.signal(signal.SIGKILL)
        victim.start()
    for _ in range(2):  # what one run mends another one looks at
        await start_everything(two_zones)
        await two_zones.wait_for(ended, "fsck, walks and queues to end", 200)
        await orphans.order(None, "remove")
        await two_zones.wait_for(ended, "orphans to be removed", 200)
    for tracker in three_trackers:
        tracker.signal(signal.SIGKILL)
    await in_order(two_zones)
    seen = await two_zones.database.fetch("SELECT DISTINCT trim(evcode) AS code FROM fsck_log")
    assert {"MISS", "ORPH", "REPL"} <= {row["code"] for row in seen}, "there was something to mend"
