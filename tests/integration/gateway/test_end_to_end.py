"""The gateway in front of real trackers, real storage agents in `safe` mode and their read nginx, over a real PostgreSQL."""

import asyncio
import base64
import contextlib
import hashlib
import io
import os
import random
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from mogile_core.client import TrackerClient
from mogile_core.model import HostState
from testkit import programs
from testkit.places import server_folder
from testkit.waiting import wait_for

TRACKERS = ("127.0.23.60", "127.0.23.59")
NODES = ("127.0.23.61", "127.0.23.62", "127.0.23.63")
Http = aiohttp.ClientSession


class Cluster:
    """Two trackers and three nodes with one device each, as processes."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self.dsn, self.folder = dsn, folder
        self.processes: dict[str, programs.Program] = {}
        self.client = TrackerClient([f"{one}:7001" for one in TRACKERS])

    def _start(self, name: str, module: str, *arguments: str, **settings: object) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("MOGILE_")}
        environment = kept | {f"MOGILE_{key.upper()}": str(value) for key, value in settings.items()}
        log = self.folder / f"{name}.log"
        self.processes[name] = programs.start(module, *arguments, environment=environment, log=log, own_group=True)

    async def start(self) -> None:
        for index, address in enumerate(TRACKERS, 1):
            self._start(
                f"tracker{index}", programs.TRACKER, db_dsn=self.dsn, listen=f"{address}:7001",
                http_listen=f"{address}:7002", monitor_interval_seconds=0.5, job_idle_seconds=0.2, retry_base_seconds=1,
                min_free_space_mb=1, node_timeout_seconds=20,
            )  # fmt: skip
        for address in TRACKERS:
            await self._accepts(address, 7001)
        cluster_id = (await self.client.cluster()).cluster_id
        for number, address in enumerate(NODES, 1):
            (self.folder / address / f"dev{number}").mkdir(parents=True)
            common: dict[str, object] = {
                "docroot": self.folder / address, "http_address": address, "cluster_id": cluster_id,
                "http_listen": f"{address}:7502",
            }  # fmt: skip
            self._start(
                f"agent{number}", programs.STORAGE, "agent", **common, anonymous_writes="safe",
                usage_interval_seconds=0.5, reserve_mb=1,
            )  # fmt: skip
            self._start(f"nginx{number}", programs.STORAGE, "nginx", **common, run_dir=self.folder / f"run{number}")
        for number, address in enumerate(NODES, 1):
            await self._accepts(address, 7500)
            await self._accepts(address, 7580)
            await self.client.create_host(f"node{number}", address, 7500, getport=7580, status=HostState.ALIVE)
            await self.client.create_device(number, f"node{number}")
        await self.client.create_domain("images")
        for address in TRACKERS:  # each sees for itself, and learns within seconds what another one was told
            async with TrackerClient(f"{address}:7001") as client:

                async def all_seen(client: TrackerClient = client) -> bool:
                    return sum(device.observed == "writeable" for device in await client.get_devices()) == len(NODES)

                await wait_for(all_seen, "all devices to be writeable")
        for number, address in enumerate(NODES, 1):
            await wait_for(lambda n=number, a=address: self._serves(a, n), f"the read nginx of {address} to serve")

    async def _accepts(self, address: str, port: int) -> None:
        async def connects() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex((address, port)) == 0

        await wait_for(connects, f"{address}:{port} to listen")

    async def _serves(self, address: str, devid: int) -> bool:
        """It has heard of its agent: before that it answers 503."""
        async with Http() as http, http.get(f"http://{address}:7580/dev{devid}/usage") as answer:
            return answer.status == 200

    def kill(self, *names: str) -> None:
        """As a machine dies: nothing is told, nothing is left."""
        for name in names:
            os.killpg(self.processes[name].pid, signal.SIGKILL)
            self.processes[name].wait()

    async def stop(self) -> None:
        await self.client.close()
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(process.wait, 90)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
async def real(database_dsn: str) -> AsyncIterator[Cluster]:
    folder = server_folder("mogile-gateway-", attributes=True)
    cluster = Cluster(database_dsn, folder)
    try:
        await cluster.start()
        yield cluster
    finally:
        await cluster.stop()
        shutil.rmtree(folder)


async def put(http: Http, url: str, data: Any, headers: dict[str, str] | None = None) -> int:
    async with http.put(URL(url, encoded=True), data=data, headers=headers) as answer:
        await answer.read()
        return answer.status


async def get(http: Http, url: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    async with http.get(URL(url, encoded=True), headers=headers) as answer:
        return answer.status, await answer.read()


async def test_store_overwrite_replicate_and_lose_a_machine(
    start_gateway: Any, real: Cluster, http: Http, authorised: dict[str, str]
) -> None:
    gateway = await start_gateway([f"{one}:7001" for one in TRACKERS])
    url, rng = gateway.url + "/images/", random.Random(5)
    files = {f"dir%20{n}/file-{n}.bin": rng.randbytes(int(10 ** rng.uniform(0, 5.5))) for n in range(20)}
    files |= {"%E6%97%A5%26x%3D1%2B%20%25": b"odd", "empty": b"", "large": rng.randbytes(5_000_000)}
    for key, data in files.items():
        assert await put(http, url + key, io.BytesIO(data), authorised) == 201, (key, gateway.log())
        assert await get(http, url + key) == (200, data), key
    assert await put(http, url + "empty", b"", {}) == 401

    digest = base64.b64encode(hashlib.md5(b"checked").digest()).decode()
    assert await put(http, url + "sum", b"checked", authorised | {"Content-MD5": digest}) == 201
    assert await put(http, url + "sum2", b"chocked", authorised | {"Content-MD5": digest}) == 400
    assert (await get(http, url + "sum2"))[0] == 404

    async with http.head(url + "large") as first:
        tag = first.headers["ETag"]
    assert await put(http, url + "large", io.BytesIO(files["large"][::-1]), authorised) == 201
    files["large"] = files["large"][::-1]
    async with http.get(url + "large", headers={"If-None-Match": tag}) as second:
        assert (second.status, await second.read()) == (200, files["large"])
        assert second.headers["ETag"] != tag
    assert await get(http, url + "large", {"Range": "bytes=100-199"}) == (206, files["large"][100:200])

    async with asyncio.timeout(200):
        for key in [URL(url + key, encoded=True).path.removeprefix("/images/") for key in files]:
            while (await real.client.file_info("images", key)).devcount < 2:
                await asyncio.sleep(0.1)
    real.kill("agent1", "nginx1", "tracker1")
    for key, data in files.items():
        assert await get(http, url + key) == (200, data), (key, gateway.log())
    for number in range(5):
        assert await put(http, f"{url}after-{number}", b"after", authorised) == 201, gateway.log()
        assert await get(http, f"{url}after-{number}") == (200, b"after")
    async with http.delete(url + "large", headers=authorised) as answer:
        assert answer.status == 204
    assert (await get(http, url + "large"))[0] == 404


async def test_nodes_of_another_cluster_get_nothing(
    start_gateway: Any, real: Cluster, http: Http, authorised: dict[str, str]
) -> None:
    gateway = await start_gateway([f"{one}:7001" for one in TRACKERS], clusterId="00000000-0000-4000-8000-000000000000")
    assert await put(http, gateway.url + "/images/k", b"data", authorised) in (502, 503)
    assert (await get(http, gateway.url + "/images/k"))[0] == 404
