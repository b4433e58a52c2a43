"""Orphan search on real disks: what lies there without a row, rows without a file, and what may be done about it."""

import os
import time
from typing import Any

import aiohttp

from mogile_core.model import CLUSTER_HEADER
from mogile_core.paths import fid_path
from mogile_tracker.store.fsck import FsckStore
from mogile_tracker.store.orphans import OrphanStore, Walk
from mogile_tracker.workers import orphans
from mogile_tracker.workers.copydeletes import DeleteCopies
from mogile_tracker.workers.fsck import FsckCheck
from mogile_tracker.workers.orphans import Orphans
from mogile_tracker.workers.replicate import Replicate


async def walk(cluster: Any, *devids: int, min_age: int = 0) -> dict[int, Walk]:
    store = OrphanStore(cluster.database)
    await store.start(devids or (1, 2, 3, 4), min_age=min_age)
    await cluster.until_idle(Orphans(cluster.jobs))
    return {each.devid: each for each in await store.walks()}


async def carry_out(cluster: Any, todo: str, devid: int | None = None) -> None:
    await OrphanStore(cluster.database).order(devid, todo)
    await cluster.until_idle(Orphans(cluster.jobs))
    await cluster.until_idle(DeleteCopies(cluster.jobs))


async def listed(cluster: Any) -> set[tuple[int, int]]:
    return {(o.devid, o.fid) for o in await OrphanStore(cluster.database).page(None, (0, 0), 1000)}


async def events(cluster: Any) -> list[tuple[str, int, int]]:
    rows = await cluster.database.fetch("SELECT trim(evcode) AS code, fid, devid FROM fsck_log ORDER BY fid, logid")
    return [(row["code"], row["fid"], row["devid"]) for row in rows]


async def leave(cluster: Any, devid: int, data: bytes, fid: int | None = None) -> int:
    """Bytes on a device that no row knows."""
    if fid is None:
        fid = await cluster.database.fetchval("SELECT nextval(pg_get_serial_sequence('tempfile', 'fid'))")
    host = cluster.jobs.topology.host_of(devid)
    headers = {CLUSTER_HEADER: await cluster.cluster_id()}
    async with aiohttp.ClientSession(headers=headers) as session:
        url = f"http://{host.hostip}:{host.http_port}{fid_path(devid, fid)}"
        async with session.put(url, data=data) as response:
            assert response.status == 201, await response.text()
    return fid


async def test_orph_files_without_a_row_are_found_and_nothing_else(two_zones: Any) -> None:
    for _ in range(5):
        await two_zones.put([1, 3], queue=False)
    first, second = await leave(two_zones, 1, b"lost"), await leave(two_zones, 3, b"lost too")
    walks = await walk(two_zones)
    assert {devid: (w.state, w.files, w.orphans, w.missing) for devid, w in walks.items()} == {
        1: ("finished", 6, 1, 0),
        2: ("finished", 0, 0, 0),
        3: ("finished", 6, 1, 0),
        4: ("finished", 0, 0, 0),
    }
    assert await listed(two_zones) == {(1, first), (3, second)}
    assert await events(two_zones) == [("ORPH", first, 1), ("ORPH", second, 3)]
    counted = "SELECT value FROM server_settings WHERE field = 'fsck_sum_evcount_ORPH'"
    assert await two_zones.database.fetchval(counted) == "2"
    assert await two_zones.locations() < two_zones.stray_files(), "nothing is removed without an order"


async def test_what_a_row_accounts_for_is_no_orphan(two_zones: Any) -> None:
    """An upload under way, a copy being made, one being deleted, a file being deleted."""
    database = two_zones.database
    uploading, making, deleting, deleted = [await leave(two_zones, 1, b"x") for _ in range(4)]
    await database.execute(
        "INSERT INTO tempfile (fid, createtime, classid, dmid, dkey, devids) VALUES ($1, 1, 1, 1, 'k', '1')", uploading
    )
    await database.execute("INSERT INTO mogile_copy_intent (fid, devid, until) VALUES ($1, 1, 2000000000)", making)
    await database.execute("INSERT INTO mogile_copy_delete (fid, devid, nexttry) VALUES ($1, 1, 2000000000)", deleting)
    await database.execute("INSERT INTO file_to_delete2 (fid, nexttry) VALUES ($1, 2000000000)", deleted)
    assert (await walk(two_zones, 1))[1].orphans == 0


async def test_young_files_are_passed_over(two_zones: Any) -> None:
    young, old = await leave(two_zones, 1, b"young"), await leave(two_zones, 1, b"old")
    an_hour_ago = time.time() - 3600
    os.utime(two_zones.disk(1, old), (an_hour_ago, an_hour_ago))
    await walk(two_zones, 1, min_age=1800)
    assert await listed(two_zones) == {(1, old)}
    assert two_zones.disk(1, young).exists()


async def test_bytes_deleted_between_the_list_and_the_rows_are_no_orphan(two_zones: Any) -> None:
    fid = await two_zones.put([1], queue=False)
    original = two_zones.jobs.nodes.fids

    async def delete_after(*args: Any, **kwargs: Any) -> Any:
        found = await original(*args, **kwargs)
        for table in ("file", "file_on"):
            await two_zones.database.execute(f"DELETE FROM {table} WHERE fid = $1", fid)
        two_zones.disk(1, fid).unlink(missing_ok=True)
        return found

    two_zones.jobs.nodes.fids = delete_after
    assert (await walk(two_zones, 1))[1].orphans == 0


async def test_a_row_without_a_file_is_queued_for_fsck_and_mended(two_zones: Any) -> None:
    fids = [await two_zones.put([1, 3], queue=False) for _ in range(4)]
    for fid in (fids[0], fids[3]):
        two_zones.disk(1, fid).unlink()
    assert (await walk(two_zones, 1))[1].missing == 2
    await two_zones.until_idle(FsckCheck(two_zones.jobs))
    assert [(code, fid) for code, fid, _ in await events(two_zones) if code == "MISS"] == [
        ("MISS", fids[0]),
        ("MISS", fids[3]),
    ]
    assert await two_zones.holders(fids[0]) == [3]


async def test_parts_meet_without_a_gap_and_a_walk_goes_on_with_another_tracker(
    two_zones: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(orphans, "PART", 3)
    fids = [await two_zones.put([1, 3], queue=False) for _ in range(7)]
    lost = await leave(two_zones, 1, b"lost")
    two_zones.disk(1, fids[2]).unlink()  # at the edge of a part
    store = OrphanStore(two_zones.database)
    await store.start([1], min_age=0)
    await Orphans(two_zones.jobs).work()
    (half,) = await store.walks()
    assert (half.state, half.last_fid) == ("running", fids[3]), "the missing one is not in the list"
    other = await two_zones.make_jobs("tracker-2")
    await two_zones.look()
    await two_zones.until_idle(Orphans(other))
    (whole,) = await store.walks()
    assert (whole.state, whole.files, whole.orphans, whole.missing) == ("finished", 7, 1, 1)
    assert await listed(two_zones) == {(1, lost)}


async def test_an_emptied_disk_is_told_to_fsck_in_bounded_parts(two_zones: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(orphans, "PART", 3)
    fids = [await two_zones.put([1, 3], queue=False) for _ in range(8)]
    for fid in fids[:7]:
        two_zones.disk(1, fid).unlink()
    lost = await leave(two_zones, 1, b"lost")
    store = OrphanStore(two_zones.database)
    await store.start([1], min_age=0)
    await Orphans(two_zones.jobs).work()
    (part,) = await store.walks()
    assert (part.state, part.last_fid, part.missing) == ("running", fids[2], 3)
    await two_zones.until_idle(Orphans(two_zones.jobs))
    (whole,) = await store.walks()
    assert (whole.state, whole.files, whole.orphans, whole.missing) == ("finished", 2, 1, 7)
    assert await listed(two_zones) == {(1, lost)}
    monkeypatch.setattr(orphans, "CHECKS_MAX", 7)
    await store.start([1], min_age=0)
    await Orphans(two_zones.jobs).work()
    assert (await store.walks())[0].last_fid == 0, "fsck is to catch up first"


async def test_a_device_that_does_not_answer_waits_and_the_others_go_on(two_zones: Any) -> None:
    lost = await leave(two_zones, 1, b"lost")
    two_zones.agents[3].kill()
    walks = await walk(two_zones, 1, 3)
    assert (walks[1].state, walks[3].state) == ("finished", "running")
    assert await listed(two_zones) == {(1, lost)}


async def test_orphans_are_removed_when_that_is_ordered(two_zones: Any) -> None:
    kept = await two_zones.put([1, 3], queue=False)
    here, there = await leave(two_zones, 1, b"lost"), await leave(two_zones, 3, b"lost too")
    await walk(two_zones)
    await carry_out(two_zones, "remove", devid=1)
    assert not two_zones.disk(1, here).exists()
    assert await listed(two_zones) == {(3, there)}, "only the device that was named"
    await carry_out(two_zones, "remove")
    assert await listed(two_zones) == set()
    assert two_zones.stray_files() == await two_zones.locations()
    await two_zones.check_files([kept])


async def test_an_orphan_that_got_a_row_meanwhile_is_not_removed(two_zones: Any) -> None:
    lost = await leave(two_zones, 1, b"lost")
    await walk(two_zones)
    await two_zones.database.execute(
        "INSERT INTO file (fid, dmid, dkey, length, classid, devcount) VALUES ($1, 1, 'back', 4, 1, 1)", lost
    )
    await two_zones.database.execute("INSERT INTO file_on (fid, devid) VALUES ($1, 1)", lost)
    await carry_out(two_zones, "remove")
    assert two_zones.disk(1, lost).read_bytes() == b"lost"
    assert await listed(two_zones) == set()


async def test_the_last_bytes_of_a_file_are_adopted_even_if_removal_is_ordered(two_zones: Any) -> None:
    fid = await two_zones.put([1], queue=False)
    await two_zones.database.execute("DELETE FROM file_on WHERE fid = $1", fid)
    await walk(two_zones)
    await carry_out(two_zones, "remove")
    assert await two_zones.holders(fid) == [1]
    await two_zones.until_idle(Replicate(two_zones.jobs))
    assert len(await two_zones.holders(fid)) == 2
    await two_zones.check_files([fid])


async def test_a_copy_of_a_file_is_adopted_and_the_surplus_trimmed(two_zones: Any) -> None:
    """Bytes on a second place offered to an upload: no row knows of them."""
    fid = await two_zones.put([1, 3], queue=False)
    await leave(two_zones, 4, two_zones.content[fid], fid)
    await walk(two_zones)
    assert await listed(two_zones) == {(4, fid)}
    await carry_out(two_zones, "adopt")
    assert await listed(two_zones) == set()
    await two_zones.until_idle(Replicate(two_zones.jobs))
    await two_zones.until_idle(DeleteCopies(two_zones.jobs))
    assert len(await two_zones.holders(fid)) == 2
    assert two_zones.stray_files() == await two_zones.locations()
    await two_zones.check_files([fid])


async def test_other_bytes_of_the_same_length_are_not_adopted(two_zones: Any) -> None:
    fid = await two_zones.put([1, 3], queue=False)
    data = two_zones.content[fid]
    await leave(two_zones, 4, bytes([data[0] ^ 1]) + data[1:], fid)
    await walk(two_zones)
    await carry_out(two_zones, "adopt")
    assert await two_zones.holders(fid) == [1, 3]
    assert await listed(two_zones) == {(4, fid)}, "kept for a person to look at"


async def test_a_short_leftover_of_a_file_is_removed_but_not_adopted(two_zones: Any) -> None:
    fid = await two_zones.put([1, 3], queue=False)
    await leave(two_zones, 4, b"short", fid)
    await walk(two_zones)
    await carry_out(two_zones, "adopt")
    assert await listed(two_zones) == {(4, fid)}
    await carry_out(two_zones, "remove")
    assert two_zones.stray_files() == await two_zones.locations()
    await two_zones.check_files([fid])


async def test_a_fid_that_somebody_works_on_is_left_for_later(two_zones: Any) -> None:
    lost = await leave(two_zones, 1, b"lost")
    await walk(two_zones)
    lease = await two_zones.jobs.leases.take_fids([lost])
    async with lease:
        await OrphanStore(two_zones.database).order(None, "remove")
        await Orphans(two_zones.jobs).work()
        assert await listed(two_zones) == {(1, lost)}
        assert await two_zones.count("mogile_copy_delete") == 0
    await carry_out(two_zones, "remove")
    assert not two_zones.disk(1, lost).exists()
    assert await FsckStore(two_zones.database).queued(10) == (0, 0)
