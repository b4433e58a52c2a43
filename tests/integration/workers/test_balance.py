"""Balancing on real nodes whose devices count as small disks, all workers running under their supervisor."""

import asyncio
import random
import time
from typing import Any

import pytest

from mogile_tracker.policy.balance import Fill, participants
from mogile_tracker.workers import run
from mogile_tracker.workers.balance import Balance
from mogile_tracker.workers.moves import Moves

LIMIT_MB = 40


@pytest.fixture(autouse=True)
async def _balancer_on(cluster: Any) -> None:
    """It is off in the other tests."""
    await cluster.set_setting("balance_mode", "auto")


async def small_disks(cluster: Any) -> None:
    for devid, zone in ((1, "a"), (2, "b"), (3, "c")):
        await cluster.add_node([devid], zone, limit_mb=LIMIT_MB)
    await cluster.make_jobs()
    await cluster.add_class()
    await cluster.ready()


async def fill_up(cluster: Any, files: int) -> None:
    randomness = random.Random(5)
    for _ in range(files):
        devids = randomness.sample([1, 2, 3], 2)
        await cluster.put(devids, randomness.randbytes(randomness.randrange(100_000, 900_000)), queue=False)


def spread(cluster: Any) -> float:
    return Fill(participants(cluster.jobs.landscape())).spread()


async def test_new_devices_are_filled_until_the_spread_is_met_and_every_file_stays_whole(cluster: Any) -> None:
    await small_disks(cluster)
    await fill_up(cluster, 80)
    for devid, zone in ((4, "a"), (5, "b")):
        await cluster.add_node([devid], zone, limit_mb=LIMIT_MB)
    await cluster.ready(5)
    running = asyncio.create_task(run(cluster.jobs.context))
    try:

        async def imbalance_seen() -> bool:
            return spread(cluster) > 30

        async def balanced() -> bool:
            idle = await cluster.count("file_to_queue") == 0 and await cluster.count("mogile_copy_delete") == 0
            return idle and spread(cluster) <= 5

        await cluster.wait_for(imbalance_seen, "the usage of the full devices")
        moved, since = -1, time.monotonic()

        async def at_rest() -> bool:
            """For so long that a balancer that does not leave a balanced cluster alone never comes to it: it looks five times a second.
            Until then a move is no defect: the first figures of less spread may be of before the last copies were removed."""
            nonlocal moved, since
            before, moved = moved, (await cluster.jobs.census.balance()).moved_fids
            if moved != before or not await balanced():
                since = time.monotonic()
            return time.monotonic() - since > 4

        await cluster.wait_for(at_rest, "the spread to be met and nothing to be moved any more", 200)
        assert moved > 10
    finally:
        cluster.jobs.context.stop.set()
        await asyncio.wait_for(running, 60)
    await cluster.check_files()
    for fid in cluster.content:
        devids = await cluster.holders(fid)
        assert len(devids) == 2
        assert len(cluster.zones(devids)) == 2
    assert cluster.stray_files() == await cluster.locations()


async def test_no_move_while_the_balancer_is_off(cluster: Any) -> None:
    await small_disks(cluster)
    await fill_up(cluster, 40)
    await cluster.add_node([4], "a", limit_mb=LIMIT_MB)
    await cluster.ready(4)
    await cluster.set_setting("balance_mode", "off")
    balance = Balance(cluster.jobs)
    for _ in range(10):
        await cluster.look()
        await balance.work()
        await asyncio.sleep(0.2)
    assert await cluster.count("file_to_queue") == 0


async def test_a_move_never_leaves_a_file_with_fewer_copies(cluster: Any) -> None:
    """The target refuses (its node is stopped): the move is given up, the source keeps its copy."""
    await small_disks(cluster)
    fid = await cluster.put([1, 2], queue=False)
    cluster.agents[3].kill()
    await cluster.database.execute(
        "INSERT INTO file_to_queue (fid, devid, type, nexttry, arg) VALUES ($1, 1, 2, 0, '3')", fid
    )
    await cluster.until_idle(Moves(cluster.jobs))
    assert await cluster.holders(fid) == [1, 2]
    assert await cluster.count("file_to_queue") == 0


async def test_a_move_that_was_cut_after_its_copy_is_finished_by_the_next(cluster: Any) -> None:
    await small_disks(cluster)
    fid = await cluster.put([1, 2, 3], queue=False)
    await cluster.database.execute(
        "INSERT INTO file_to_queue (fid, devid, type, nexttry, arg) VALUES ($1, 1, 2, 0, '3')", fid
    )
    await cluster.until_idle(Moves(cluster.jobs))
    assert await cluster.holders(fid) == [2, 3]
    assert not cluster.disk(1, fid).exists()


async def test_nearly_empty_devices_are_balanced_by_their_share_of_the_files(cluster: Any) -> None:
    for devid, zone in ((1, "a"), (2, "b"), (3, "c")):
        await cluster.add_node([devid], zone, limit_mb=1000)
    await cluster.make_jobs()
    await cluster.add_class()
    await cluster.ready()
    randomness = random.Random(7)
    for _ in range(60):
        await cluster.put(randomness.sample([1, 2, 3], 2), randomness.randbytes(20_000), queue=False)
    await cluster.add_node([4], "d", limit_mb=1000)
    await cluster.ready(4)
    sites = participants(cluster.jobs.landscape())
    assert spread(cluster) < 1, "the fill gives no reason to move anything"

    async def imbalance() -> float:
        devices = (await cluster.totals()).devices
        return Fill(sites, bytes_={devid: bytes_ for devid, (_, bytes_) in devices.items()}).imbalance()

    assert await imbalance() == 100, "the new device has nothing"
    running = asyncio.create_task(run(cluster.jobs.context))
    try:

        async def balanced() -> bool:
            return await cluster.count("file_to_queue") == 0 and await imbalance() <= 50

        await cluster.wait_for(balanced, "the shares to be fair", 200)
    finally:
        cluster.jobs.context.stop.set()
        await asyncio.wait_for(running, 60)
    assert (await cluster.jobs.census.balance()).moved_fids > 0
    await cluster.check_files()
