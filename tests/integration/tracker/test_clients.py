"""Whole clients against a live tracker and nodes: ours, and pymogilefs from the package index, unmodified."""

import io
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pymogilefs.backend import Backend
from pymogilefs.client import Client as PyMogileClient
from pymogilefs.exceptions import MogilefsError

from mogile_core.checksum import HashType
from mogile_core.client import TrackerClient
from mogile_core.errors import CommandError, TrackerUnavailableError, TransferError
from mogile_core.model import DeviceState, HostState
from testkit.waiting import wait_for


async def test_files_through_our_client(three_nodes: Any, tmp_path: Path) -> None:
    async with TrackerClient(three_nodes.trackers[0].where) as client:
        await client.create_domain("d1")
        await client.create_class("d1", "md", 2, hashtype=HashType.MD5)
        body = bytes(range(256)) * 5000
        stored = await client.upload("d1", "Größe/ä b&c=d%", body, class_name="md")
        assert stored.length == len(body)
        assert await client.fetch("d1", "Größe/ä b&c=d%") == body
        info = await client.file_info("d1", "Größe/ä b&c=d%", devices=True)
        assert (info.key, info.class_name, info.checksum) == ("Größe/ä b&c=d%", "md", stored.checksum)
        assert info.devids
        path = tmp_path / "file"
        path.write_bytes(body[:999])
        await client.upload("d1", "from file", path)

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(10):
                yield b"0123456789"

        await client.upload("d1", "from pieces", pieces)
        await client.upload("d1", "empty", b"")
        assert await client.fetch("d1", "from file") == body[:999]
        assert await client.fetch("d1", "from pieces") == b"0123456789" * 10
        assert await client.fetch("d1", "empty") == b""
        with pytest.raises(TransferError, match="longer than"):
            await client.fetch("d1", "from file", bytes_max=998)
        assert [k async for k in client.keys("d1")] == ["Größe/ä b&c=d%", "empty", "from file", "from pieces"]
        await client.rename("d1", "empty", "nothing")
        await client.delete("d1", "nothing")
        with pytest.raises(CommandError, match="unknown_key"):
            await client.fetch("d1", "nothing")
        page = await client.list_keys("d1", prefix="none")
        assert page.keys == ()


async def test_administration_through_our_client(three_nodes: Any) -> None:
    async with TrackerClient(three_nodes.trackers[0].where) as client:
        cluster = await client.cluster()
        assert cluster.schema_version == 17
        await client.set_zone("node1", "zone ä")
        await client.set_out(2, out=True)
        devices = {d.devid: d for d in await client.devices()}
        assert devices[1].zone == "zone ä"  # type: ignore[index]
        assert devices[2].out  # type: ignore[index]
        assert [d.status for d in await client.get_devices()] == [DeviceState.ALIVE] * 6
        await client.create_host("node9", "fd00::9", 7500, status=HostState.DOWN)
        await client.update_host("node9", getport=7580, altip="10.0.0.9", altmask="10.0.0.0/8")
        host = next(h for h in await client.get_hosts() if h.hostname == "node9")
        assert (host.hostip, host.read_port, host.altip) == ("fd00::9", 7580, "10.0.0.9")
        await client.delete_host("node9")
        await client.create_domain("d1")
        await client.create_class("d1", "c", 3, replpolicy="MultipleHosts(3)")
        (domain,) = await client.get_domains()
        assert [(c.name, c.mindevcount, c.replpolicy) for c in domain.classes] == [
            ("default", 2, "MultipleHosts()"),
            ("c", 3, "MultipleHosts(3)"),
        ]
        census = await client.census()
        assert (census.files, len(census.devices)) == (0, 6)
        assert (await client.balance()).mode in ("auto", "off")


async def test_failover_between_trackers(three_nodes: Any) -> None:
    first, second = three_nodes.trackers[0], three_nodes.tracker()
    async with TrackerClient(f"127.0.20.9:1,{first.where},{second.where}") as client:
        await client.create_domain("d1")
        await client.upload("d1", "a", b"hello")
        first.stop(signal.SIGKILL)
        assert await client.fetch("d1", "a") == b"hello"
        await client.upload("d1", "b", b"more")
        second.stop(signal.SIGTERM)
        with pytest.raises(TrackerUnavailableError):
            await client.fetch("d1", "b")


async def test_download_goes_on_at_another_copy(three_nodes: Any) -> None:
    async with TrackerClient(three_nodes.trackers[0].where) as client:
        await client.create_domain("d1")
        await client.upload("d1", "a", b"x" * 100_000)

        async def both() -> list[str]:
            urls = await client.get_paths("d1", "a")
            return urls if len(urls) == 2 else []

        urls = await wait_for(both, "the second copy")
        address = urls[0].split("/")[2].partition(":")[0]
        next(n for n in three_nodes.nodes if n.address == address).stop(signal.SIGKILL)
        assert await client.fetch("d1", "a") == b"x" * 100_000


def test_pymogilefs_unmodified(three_nodes: Any) -> None:
    tracker = three_nodes.trackers[0]
    admin = Backend([tracker.where])
    admin.create_domain("d1")
    admin.create_class("d1", "two", 2)
    admin.update_class("d1", "two", 3)
    admin.create_class("d1", "gone", 1)
    admin.delete_class("d1", "gone")
    hosts = admin.get_hosts().data["hosts"].values()
    assert {host["hostname"] for host in hosts} == {"node1", "node2", "node3"}
    admin.create_host("node9", "127.0.20.99", 7500)
    admin.update_host("node9", "127.0.20.98", 7500)
    admin.create_device("node9", 90, "127.0.20.98", "down")
    admin.set_weight("node9", 90, 50)
    admin.set_state("node9", 90, "dead")
    devices = admin.get_devices().data["devices"]
    assert {d["devid"]: d["weight"] for d in devices.values()}["90"] == "50"
    client = PyMogileClient(trackers=[tracker.where], domain="d1")
    for number in range(1, 20):
        client.store_file(io.BytesIO(bytes([number]) * (number * 1000)), f"dir/file{number}", "two")
    for number in range(1, 20):
        assert client.get_file(f"dir/file{number}").read() == bytes([number]) * (number * 1000)
    assert set(client.list_keys(prefix="dir/", limit=100).data["keys"].values()) == {
        f"dir/file{n}" for n in range(1, 20)
    }
    assert client.list_keys(prefix="none/").data["key_count"] == 0
    client.delete_file("dir/file2")
    with pytest.raises(MogilefsError, match="unknown_key"):
        client.get_paths("dir/file2")
