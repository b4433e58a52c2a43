"""Nodes that are not ours: a plain DAV server (nginx) in the place of a MogileFS node, as during a migration."""

import asyncio
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mogile_tracker.workers.copydeletes import DeleteCopies
from mogile_tracker.workers.delete import Delete
from mogile_tracker.workers.replicate import Replicate

ADDRESS = "127.0.21.252"
DEVID = 9
CONFIGURATION = """
daemon off; worker_processes 1; pid {run}/pid; error_log {run}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off; client_max_body_size 0;
    client_body_temp_path {run}/body; proxy_temp_path {run}/proxy; fastcgi_temp_path {run}/fcgi;
    uwsgi_temp_path {run}/uwsgi; scgi_temp_path {run}/scgi;
    server {{
        listen {address}:7500;
        root {root};
        location / {{ dav_methods PUT DELETE MKCOL; create_full_put_path on; dav_access user:rw group:r all:r; }}
    }}
}}
"""


@pytest.fixture
async def with_foreign(cluster: Any) -> AsyncIterator[Any]:
    """One node of ours (device 1) and one plain DAV server (device 9)."""
    nginx = shutil.which("nginx") or "/usr/sbin/nginx"
    assert Path(nginx).exists(), "these tests need nginx with its DAV module (Debian: nginx-core)"
    root, run = cluster.folder / "foreign", cluster.folder / "nginx"
    (root / f"dev{DEVID}").mkdir(parents=True)
    run.mkdir()
    for folder in (cluster.folder, root, root / f"dev{DEVID}", run):
        folder.chmod(0o777)
    (root / f"dev{DEVID}" / "usage").write_text(
        f"available: 900000\ndevice: /dev/x\ndisk: /x\ntime: {int(time.time())}\ntotal: 1000000\nuse: 10%\nused: 100000\n"
    )
    (run / "nginx.conf").write_text(CONFIGURATION.format(run=run, root=root, address=ADDRESS))
    process = subprocess.Popen([nginx, "-c", str(run / "nginx.conf"), "-p", str(run), "-e", str(run / "error.log")])
    try:
        await cluster.add_node([1])
        await cluster.database.execute(
            "INSERT INTO host (hostid, status, hostname, hostip, http_port) VALUES (9, 'alive', 'foreign', $1, 7500)",
            ADDRESS,
        )
        await cluster.database.execute("INSERT INTO device (devid, hostid, status) VALUES ($1, 9, 'alive')", DEVID)
        await cluster.make_jobs()
        await cluster.add_class()
        await cluster.ready(2)
        yield cluster
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 60)


def foreign_path(cluster: Any, fid: int) -> Path:
    digits = f"{fid:010d}"
    return Path(cluster.folder / "foreign" / f"dev{DEVID}" / digits[0] / digits[1:4] / digits[4:7] / f"{digits}.fid")


async def test_copies_go_to_a_foreign_node_through_the_tracker(with_foreign: Any) -> None:
    fids = [await with_foreign.put([1]) for _ in range(5)] + [await with_foreign.put([1], data=b"")]
    await with_foreign.until_idle(Replicate(with_foreign.jobs))
    for fid in fids:
        assert await with_foreign.holders(fid) == [1, DEVID]
        assert foreign_path(with_foreign, fid).read_bytes() == with_foreign.content[fid]


async def test_copies_come_from_a_foreign_node_through_the_tracker(with_foreign: Any) -> None:
    fid = await with_foreign.put([DEVID])
    await with_foreign.until_idle(Replicate(with_foreign.jobs))
    assert await with_foreign.holders(fid) == [1, DEVID]

    assert with_foreign.disk(1, fid).read_bytes() == with_foreign.content[fid]


async def test_sizes_are_asked_by_head_where_there_is_no_side_channel(with_foreign: Any) -> None:
    fid = await with_foreign.put([1, DEVID], queue=False)
    jobs = with_foreign.jobs
    for devid in (1, DEVID):
        host = jobs.topology.host_of(devid)
        assert await jobs.nodes.size(host, devid, fid) == len(with_foreign.content[fid])
        assert await jobs.nodes.size(host, devid, 123456) is None
    info = await jobs.nodes.head(jobs.topology.host_of(DEVID), DEVID, fid)
    assert info.copy_id is None


async def test_a_deleted_copy_bars_the_foreign_device_for_a_while(with_foreign: Any) -> None:
    """A DELETE without a copy id could still be under way, so the device takes no new copy of that file meanwhile."""
    jobs = with_foreign.jobs
    fid = await with_foreign.put([1, DEVID], queue=False)
    await with_foreign.database.execute("DELETE FROM file_on WHERE fid = $1 AND devid = $2", fid, DEVID)
    await with_foreign.database.execute(
        "INSERT INTO mogile_copy_delete (fid, devid, nexttry) VALUES ($1, $2, 0)", fid, DEVID
    )
    await with_foreign.until_idle(DeleteCopies(jobs))
    assert not foreign_path(with_foreign, fid).exists()
    assert await with_foreign.database.fetchval("SELECT deleted FROM mogile_copy_delete")
    await jobs.queues.enqueue_replicate([fid], nexttry=0)
    await Replicate(jobs).work()
    assert await with_foreign.holders(fid) == [1]
    await with_foreign.database.execute("UPDATE mogile_copy_delete SET nexttry = 0")
    await with_foreign.until_idle(DeleteCopies(jobs))
    await with_foreign.database.execute("UPDATE file_to_replicate SET nexttry = 0")
    await with_foreign.until_idle(Replicate(jobs))
    assert await with_foreign.holders(fid) == [1, DEVID]


async def test_a_deleted_file_leaves_the_foreign_node(with_foreign: Any) -> None:
    fid = await with_foreign.put([1, DEVID], queue=False)
    await with_foreign.database.execute("DELETE FROM file WHERE fid = $1", fid)
    await with_foreign.database.execute("INSERT INTO file_to_delete2 (fid, nexttry) VALUES ($1, 0)", fid)
    await with_foreign.until_idle(Delete(with_foreign.jobs))
    assert not foreign_path(with_foreign, fid).exists()
