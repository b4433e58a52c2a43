"""Bit rot: the node's scrub finds it, the tracker fetches the copies again onto the same devices, quarantine keeps the bad ones."""

import asyncio
import os
import random
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from mogile_tracker.workers.delete import Delete
from mogile_tracker.workers.fsck import FsckCheck
from mogile_tracker.workers.heal import Heal
from mogile_tracker.workers.replicate import Replicate

FILES = 10_000 if os.environ.get("FULL") else 1000


async def fill(cluster: Any) -> None:
    """FILES files on devices 1 and 2, several at a time."""
    gate = asyncio.Semaphore(8)

    async def one(number: int) -> None:
        async with gate:
            await cluster.put([1, 2], data=random.Random(number).randbytes(200), queue=False)

    await asyncio.gather(*map(one, range(FILES)))


async def healed(cluster: Any, heal: Heal, wanted: int, seconds: float = 90.0) -> None:
    async def done() -> bool:
        await cluster.look()
        await heal.work()
        return heal.status().done_total >= wanted

    await cluster.wait_for(done, f"{wanted} healed copies", seconds)


async def none_damaged(cluster: Any, heal: Heal) -> None:
    """No device counts a damaged copy any more."""

    async def none() -> bool:
        await cluster.look()
        await heal.work()
        return heal.status().backlog == 0

    await cluster.wait_for(none, "no damaged copies")


def quarantined(cluster: Any, devid: int) -> list[bytes]:
    host = cluster.jobs.topology.host_of(devid)
    folder = cluster.agents[host.hostid].docroot / f"dev{devid}" / ".mogile-quarantine"
    return sorted(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.timeout(1800 if FILES > 1000 else 900)
async def test_a_scrub_finds_exactly_the_rotten_copies_and_they_are_healed(cluster: Any) -> None:
    """Issue: flip bytes in 100 of 10 000 files (a tenth of both unless FULL=1)."""
    for devid in (1, 2):
        await cluster.add_node([devid])
        cluster.agents[devid].environment |= {
            "MOGILE_SCRUB_FILES_PER_SECOND": "100000",
            "MOGILE_SCRUB_BYTES_PER_SECOND": str(1 << 30),
        }
        cluster.agents[devid].kill()
        cluster.agents[devid].start()
    await cluster.make_jobs()
    await cluster.add_class()
    await cluster.ready()
    await fill(cluster)
    rotten = sorted(random.Random(1).sample(sorted(cluster.content), FILES // 100))
    bad = sorted(cluster.rot(2, fid) for fid in rotten)
    report = await cluster.scrub(2)
    assert (report["files"], report["damaged"]) == (FILES, len(rotten))
    host = cluster.jobs.topology.host_of(2)
    entries = await cluster.jobs.nodes.damaged(host, 2, after=0, limit=FILES)
    assert [(entry.fid, entry.reason) for entry in entries] == [(fid, "digest") for fid in rotten]
    heal = Heal(cluster.jobs)
    await healed(cluster, heal, len(rotten), 250)
    await none_damaged(cluster, heal)
    assert heal.status().done_total == len(rotten)
    await cluster.check_files()
    assert quarantined(cluster, 2) == bad, "quarantine holds exactly the bad ones"
    assert await cluster.count("file_on") == 2 * FILES
    assert (await cluster.scrub(2))["damaged"] == 0


async def test_a_read_that_meets_a_short_copy_has_it_healed(two_zones: Any) -> None:
    fid = await two_zones.put([1, 3], queue=False)
    path: Path = two_zones.disk(3, fid)
    path.chmod(0o644)
    os.truncate(path, 5)
    host = two_zones.jobs.topology.host_of(3)
    with pytest.raises(Exception, match="500"):
        await two_zones.jobs.nodes.head(host, 3, fid)
    heal = Heal(two_zones.jobs)
    await healed(two_zones, heal, 1)
    await none_damaged(two_zones, heal)
    await two_zones.check_files([fid])
    assert await two_zones.holders(fid) == [1, 3]


async def test_the_last_copy_keeps_its_location_and_its_bytes_in_quarantine(two_zones: Any) -> None:
    fid = await two_zones.put([3], queue=False)
    bad = two_zones.rot(3, fid)
    await two_zones.scrub(3)
    heal, check = Heal(two_zones.jobs), FsckCheck(two_zones.jobs)

    async def told() -> bool:
        await two_zones.look()
        await heal.work()
        return bool(await two_zones.count("file_to_queue"))

    await two_zones.wait_for(told, "fsck to be told")
    await two_zones.until_idle(check)
    rows = await two_zones.database.fetch("SELECT trim(evcode) AS code FROM fsck_log ORDER BY logid")
    assert [row["code"] for row in rows] == ["POVI", "MISS", "SRCH", "GONE"]
    assert await two_zones.holders(fid) == [3]
    assert quarantined(two_zones, 3) == [bad]
    assert heal.status().done_total == 0


async def test_a_device_that_may_not_be_written_is_relieved_of_its_damaged_copy(two_zones: Any) -> None:
    fid = await two_zones.put([1, 3], queue=False)
    two_zones.rot(3, fid)
    await two_zones.scrub(3)
    await two_zones.set_device(3, "readonly")
    heal, check = Heal(two_zones.jobs), FsckCheck(two_zones.jobs)

    async def elsewhere() -> bool:
        await two_zones.look()
        await heal.work()
        await check.work()
        await Replicate(two_zones.jobs).work()
        return await two_zones.holders(fid) == [1, 4]

    await two_zones.wait_for(elsewhere, "the copy to be made on the other node of its zone")
    await two_zones.check_files([fid])


async def test_entries_of_deleted_files_are_cleared_in_one_order(two_zones: Any) -> None:
    fids = [await two_zones.put([1, 3], queue=False) for _ in range(20)]
    for fid in fids:
        two_zones.rot(3, fid)
    await two_zones.scrub(3)
    await two_zones.database.execute("DELETE FROM file")
    await two_zones.database.execute("DELETE FROM file_on WHERE devid = 3")
    await two_zones.database.execute("INSERT INTO file_to_delete2 (fid, nexttry) SELECT unnest($1::bigint[]), 0", fids)
    heal = Heal(two_zones.jobs)

    async def all_counted() -> bool:
        await two_zones.look()
        return heal.status().backlog == len(fids)

    await two_zones.wait_for(all_counted, "the monitor to see the damaged copies")
    await two_zones.until_idle(Delete(two_zones.jobs))
    await none_damaged(two_zones, heal)
    assert not two_zones.stray_files()
    counted = await requests(two_zones.jobs.topology.host_of(3).hostip)
    assert sum(number for (method, _), number in counted.items() if method == "DELETE") == 0
    assert counted["POST", "200"] == 1, "all of them together"


async def requests(address: str) -> dict[tuple[str, str], float]:
    """(method, status) -> answers given by a node so far."""
    async with aiohttp.ClientSession() as session, session.get(f"http://{address}:7502/metrics") as response:
        text = await response.text()
    found = re.findall(r'^mogile_storage_requests_total\{method="(\w+)",status="(\d+)"\} (\S+)$', text, re.MULTILINE)
    return {(method, status): float(number) for method, status, number in found}
