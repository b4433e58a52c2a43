"""Deletion of files, and of what uploads left behind."""

from typing import Any

import aiohttp

from mogile_core.paths import fid_path
from mogile_tracker.workers.delete import Delete
from mogile_tracker.workers.sweep import Sweep


async def drop(cluster: Any, fid: int) -> None:
    await cluster.database.execute("DELETE FROM file WHERE fid = $1", fid)
    await cluster.database.execute("INSERT INTO file_to_delete2 (fid, nexttry) VALUES ($1, 0)", fid)


async def test_all_copies_go_and_nothing_is_remembered(two_zones: Any) -> None:
    kept = await two_zones.put([1, 3], queue=False)
    gone = [await two_zones.put([2, 4], queue=False) for _ in range(10)]
    for fid in gone:
        await drop(two_zones, fid)
    await two_zones.until_idle(Delete(two_zones.jobs))
    assert two_zones.stray_files() == {(1, kept), (3, kept)}
    assert await two_zones.count("file_on") == 2
    assert await two_zones.count("file_to_delete2") == 0


async def test_a_file_that_still_exists_is_not_deleted_by_mistake(two_zones: Any) -> None:
    fid = await two_zones.put([1, 3], queue=False)
    await two_zones.database.execute("INSERT INTO file_to_delete2 (fid, nexttry) VALUES ($1, 0)", fid)
    await two_zones.until_idle(Delete(two_zones.jobs))
    await two_zones.check_files([fid])
    assert await two_zones.count("file_to_delete2") == 0


async def test_a_stopped_node_is_waited_for_and_a_dead_device_is_not(two_zones: Any) -> None:
    first, second = await two_zones.put([1, 3], queue=False), await two_zones.put([1, 4], queue=False)
    two_zones.agents[3].kill()
    await two_zones.look()
    await two_zones.set_device(4, "dead")
    await drop(two_zones, first)
    await drop(two_zones, second)
    await two_zones.until_idle(Delete(two_zones.jobs))
    assert await two_zones.holders(first) == [3], "the copy on the live node is gone, the other one is remembered"
    assert await two_zones.holders(second) == []
    two_zones.agents[3].start()
    await two_zones.ready(3)
    await two_zones.database.execute("UPDATE file_to_delete2 SET nexttry = 0")
    await two_zones.until_idle(Delete(two_zones.jobs))
    assert await two_zones.count("file_to_delete2") == 0
    assert not two_zones.disk(3, first).exists()


async def test_an_upload_that_was_never_closed_is_thrown_away(two_zones: Any) -> None:
    host = two_zones.jobs.topology.host_of(2)
    async with (
        aiohttp.ClientSession() as session,
        session.put(f"http://{host.hostip}:7500{fid_path(2, 777)}", data=b"left behind") as response,
    ):
        assert response.status == 201
    insert = "INSERT INTO tempfile (fid, createtime, classid, dmid, dkey, devids) VALUES ($1, $2, 1, 1, 'k', '2,4')"
    await two_zones.database.execute(insert, 777, 1)
    await two_zones.database.execute(insert, 778, 2_000_000_000)
    await two_zones.until_idle(Sweep(two_zones.jobs))
    await two_zones.until_idle(Delete(two_zones.jobs))
    assert two_zones.stray_files() == set()
    assert await two_zones.database.fetchval("SELECT array_agg(fid) FROM tempfile") == [778]


async def test_the_two_older_delete_queues_are_drained(two_zones: Any) -> None:
    first, second, later = [await two_zones.put([1, 3], queue=False) for _ in range(3)]
    for fid in (first, second, later):
        await two_zones.database.execute("DELETE FROM file WHERE fid = $1", fid)
    await two_zones.database.execute("INSERT INTO file_to_delete (fid) VALUES ($1)", first)
    insert = "INSERT INTO file_to_delete_later (fid, delafter) VALUES ($1, $2)"
    await two_zones.database.execute(insert, second, 1)
    await two_zones.database.execute(insert, later, 2_000_000_000)
    await two_zones.until_idle(Sweep(two_zones.jobs))
    await two_zones.until_idle(Delete(two_zones.jobs))
    assert {fid for _, fid in two_zones.stray_files()} == {later}
