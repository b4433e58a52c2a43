"""A small real cluster for the jobs: PostgreSQL, storage agents as processes on loopback, workers stepped by hand or supervised."""

import asyncio
import contextlib
import itertools
import json
import os
import random
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from mogile_core.errors import StoreUnavailableError
from mogile_core.model import CLUSTER_HEADER
from mogile_core.paths import fid_path
from mogile_core.runtime.clock import SystemClock
from mogile_core.runtime.metrics import Registry
from mogile_core.runtime.workers import Idle, Throttled, Worker
from mogile_tracker.commands.census import counted_now
from mogile_tracker.context import JobsContext, LiveTopology
from mogile_tracker.foreground import Foreground
from mogile_tracker.policy.totals import Totals
from mogile_tracker.settings import TrackerSettings
from mogile_tracker.store.postgres import Database
from mogile_tracker.store.topology import TopologyStore
from mogile_tracker.workers import make_nodes
from mogile_tracker.workers.base import Jobs
from mogile_tracker.workers.monitor import Monitor
from testkit import programs
from testkit.places import server_folder
from testkit.trackers import WholeTracker
from testkit.waiting import EVENT_SECONDS, wait_for

_addresses = itertools.count(1)
DOMAIN, FILE_CLASS = 1, 1


@dataclass
class Agent:
    """One storage node."""

    hostid: int
    address: str
    docroot: Path
    process: programs.Program | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def start(self) -> None:
        log = self.docroot / "agent.log"
        self.process = programs.start(programs.STORAGE, "agent", environment=self.environment, log=log)

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(EVENT_SECONDS)

    def path(self, devid: int, fid: int) -> Path:
        return self.docroot / fid_path(devid, fid).lstrip("/")


WAITING = (
    "file_to_replicate",
    "file_to_delete2",
    "mogile_copy_delete",
    "mogile_copy_intent",
    "file_to_queue",
    "mogile_device_walk",
)


class MiniCluster:
    """Agents, a database and one tracker's jobs."""

    def __init__(self, dsn: str, folder: Path, settings: dict[str, Any]) -> None:
        self.dsn = dsn
        self.folder = folder
        self.settings = settings
        self.agents: dict[int, Agent] = {}
        self.content: dict[int, bytes] = {}
        self.database = Database(dsn, connections=8)
        self.jobs: Jobs = None  # type: ignore[assignment]
        self.trackers: list[Jobs] = []

    # ------------------------------------------------------------------ making

    async def add_node(self, devids: Iterable[int], zone: str | None = None, limit_mb: int = 1000) -> Agent:
        hostid = len(self.agents) + 1
        address = f"127.0.21.{next(_addresses) % 250 + 1}"
        docroot = self.folder / f"node{hostid}"
        for devid in devids:
            (docroot / f"dev{devid}").mkdir(parents=True)
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("MOGILE_")},
            "MOGILE_DOCROOT": str(docroot),
            "MOGILE_HTTP_ADDRESS": address,
            "MOGILE_HTTP_LISTEN": f"{address}:7502",
            "MOGILE_CLUSTER_ID": await self.cluster_id(),
            "MOGILE_USAGE_INTERVAL_SECONDS": "0.3",
            "MOGILE_DEVICE_LIMIT_MB": str(limit_mb),
            "MOGILE_RESERVE_MB": "1",
            "MOGILE_ANONYMOUS_WRITES": "safe",
        }
        agent = Agent(hostid=hostid, address=address, docroot=docroot, environment=environment)
        self.agents[hostid] = agent
        agent.start()
        await self.database.execute(
            "INSERT INTO host (hostid, status, hostname, hostip, http_port) VALUES ($1, 'alive', $2, $3, 7500)",
            hostid,
            f"node{hostid}",
            address,
        )
        await self.database.execute("INSERT INTO mogile_host (hostid, zone) VALUES ($1, $2)", hostid, zone)
        for devid in devids:
            await self.database.execute(
                "INSERT INTO device (devid, hostid, status) VALUES ($1, $2, 'alive')", devid, hostid
            )
        return agent

    async def cluster_id(self) -> str:
        return str(await self.database.fetchval("SELECT id FROM mogile_cluster"))

    async def answers(self, address: str) -> bool:
        async with aiohttp.ClientSession() as session, session.get(f"http://{address}:7500/") as response:
            return response.status == 200

    async def make_jobs(self, owner: str = "tracker-1", **overrides: Any) -> Jobs:
        """The jobs of one tracker, with its own topology."""
        settings = TrackerSettings(db_dsn=self.dsn, **{**self.settings, **overrides})
        store = TopologyStore(
            self.database,
            min_free_space_mb=settings.min_free_space_mb,
            default_mindevcount=settings.default_mindevcount,
        )
        live = LiveTopology(store, SystemClock(), settings.topology_interval_seconds)
        await live.refresh()
        context = JobsContext(
            settings=settings,
            database=self.database,
            topology=live,
            registry=Registry(),
            clock=SystemClock(),
            stop=asyncio.Event(),
            foreground=Foreground(SystemClock()),
            owner=owner,
            publish=live.observe,
            announce_change=live.refresh,
        )
        jobs = Jobs.make(context, make_nodes(context), seed=1)
        self.trackers.append(jobs)
        if self.jobs is None:
            self.jobs = jobs
        return jobs

    async def ready(self, devices: int | None = None) -> None:
        """Nodes have started and are seen, and take files."""
        if self.jobs is None:
            await self.make_jobs()
        wanted = devices or await self.database.fetchval("SELECT count(*) FROM device WHERE status = 'alive'")
        monitors = {id(jobs): Monitor(jobs) for jobs in self.trackers}

        async def seen() -> bool:
            for jobs in self.trackers:
                await jobs.context.topology.refresh()
                await monitors[id(jobs)].work()
            return all(sum(s.fit for s in jobs.landscape().sites.values()) == wanted for jobs in self.trackers)

        await self.wait_for(seen, f"{wanted} fit devices")

    async def look(self) -> None:
        """One fresh view of everything, for every tracker."""
        for jobs in self.trackers:
            await jobs.context.topology.refresh()
            await Monitor(jobs).work()

    async def add_class(self, mindevcount: int = 2, hashtype: int | None = None) -> None:
        await self.database.execute("INSERT INTO domain (dmid, namespace) VALUES (1, 'd')")
        await self.database.execute(
            "INSERT INTO class (dmid, classid, classname, mindevcount, hashtype) VALUES (1, 1, 'c', $1, $2)",
            mindevcount,
            hashtype,
        )
        for jobs in self.trackers:
            await jobs.context.topology.refresh()

    async def put(self, devids: Iterable[int], data: bytes | None = None, *, queue: bool = True) -> int:
        """What create_open, PUT and create_close leave behind: bytes on devices, a file row, locations, a queue row."""
        fid: int = await self.database.fetchval("SELECT nextval(pg_get_serial_sequence('tempfile', 'fid'))")
        data = data if data is not None else random.Random(fid).randbytes(1000 + fid % 5000)
        devids = list(devids)
        async with aiohttp.ClientSession() as session:
            for devid in devids:
                host = self.jobs.topology.host_of(devid)
                assert host is not None
                await upload(session, f"http://{host.hostip}:{host.http_port}{fid_path(devid, fid)}", data)
        await self.database.execute(
            "WITH f AS (INSERT INTO file (fid, dmid, dkey, length, classid, devcount) VALUES ($1, 1, $2, $3, 1, $4)), "
            "q AS (INSERT INTO file_to_replicate (fid, nexttry) SELECT $1, 0 WHERE $6) "
            "INSERT INTO file_on (fid, devid) SELECT $1, unnest($5::smallint[])",
            fid,
            f"key-{fid}",
            len(data),
            len(devids),
            devids,
            queue,
        )
        self.content[fid] = data
        return fid

    # ------------------------------------------------------------------ doing

    async def set_device(self, devid: int, status: str) -> None:
        await self.database.execute("UPDATE device SET status = $2 WHERE devid = $1", devid, status)
        for jobs in self.trackers:
            await jobs.context.topology.refresh()

    async def set_setting(self, name: str, value: object) -> None:
        """One of our own settings, as every tracker sees it within seconds."""
        await self.database.execute(
            "INSERT INTO mogile_setting (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            name,
            str(value),
        )
        for jobs in self.trackers:
            await jobs.context.topology.refresh()

    async def set_out(self, devid: int, out: bool) -> None:
        await self.database.execute(
            "INSERT INTO mogile_device (devid, out_since) VALUES ($1, $2) "
            "ON CONFLICT (devid) DO UPDATE SET out_since = excluded.out_since",
            devid,
            1 if out else None,
        )
        for jobs in self.trackers:
            await jobs.context.topology.refresh()

    def rot(self, devid: int, fid: int) -> bytes:
        """Change a byte behind the node's back; what lies there now."""
        path = self.disk(devid, fid)
        path.chmod(0o644)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        with path.open("r+b") as stream:
            stream.write(data)
        return bytes(data)

    async def scrub(self, devid: int) -> dict[str, Any]:
        """Order a scrub of a device and wait for its end."""
        host = self.jobs.topology.host_of(devid)
        headers = {CLUSTER_HEADER: await self.cluster_id()}
        found: dict[str, Any] = {}
        async with aiohttp.ClientSession(headers=headers) as session:

            async def state() -> dict[str, Any]:
                async with session.get(f"http://{host.hostip}:7502/status") as response:
                    devices = json.loads(await response.text())["devices"]
                return next(d for d in devices if d["devid"] == devid)["scrub"]

            before = (await state())["started"]
            async with session.post(f"http://{host.hostip}:7500/dev{devid}/scrub") as response:
                assert response.status == 202

            async def over() -> bool:
                nonlocal found
                found = await state()
                return bool(
                    found["started"] > before and not found["running"] and found["finished"] >= found["started"]
                )

            await self.wait_for(over, "the scrub to end", 250)
        return found

    async def until_idle(self, worker: Worker, steps: int = 50) -> None:
        for _ in range(steps):
            step = await worker.work()
            if isinstance(step, Idle):
                return
            if isinstance(step, Throttled):
                await asyncio.sleep(step.delay_seconds)
        raise AssertionError(f"{worker.name} is still busy after {steps} steps")

    async def wait_for(self, condition: Callable[[], Awaitable[Any]], what: str, seconds: float = EVENT_SECONDS) -> Any:
        try:
            return await wait_for(condition, what, seconds)
        except AssertionError as late:
            raise AssertionError(f"{late}; left are {await self.left()}") from late

    async def patiently(self, change: Callable[[], Awaitable[Any]], what: str) -> None:
        """Make a change that may have to wait for the row lock of a stopped tracker, until the database ends its transaction."""

        async def done() -> bool:
            with contextlib.suppress(StoreUnavailableError):
                await change()
                return True
            return False

        await self.wait_for(done, what)

    # ------------------------------------------------------------------ looking

    async def left(self) -> dict[str, list[tuple[Any, ...]]]:
        """Some rows of everything that waits, and where files are that have other than two copies: what a wait in vain was for."""
        statements = {table: f"SELECT * FROM {table} LIMIT 5" for table in WAITING}
        statements["file_on"] = (
            "SELECT f.fid, ARRAY(SELECT devid FROM file_on o WHERE o.fid = f.fid) FROM file f "
            "WHERE (SELECT count(*) FROM file_on o WHERE o.fid = f.fid) <> 2 LIMIT 5"
        )
        found = {name: [tuple(row) for row in await self.database.fetch(text)] for name, text in statements.items()}
        return {name: rows for name, rows in found.items() if rows}

    async def holders(self, fid: int) -> list[int]:
        rows = await self.database.fetch("SELECT devid FROM file_on WHERE fid = $1 ORDER BY devid", fid)
        return [row["devid"] for row in rows]

    async def count(self, table: str) -> int:
        return int(await self.database.fetchval(f"SELECT count(*) FROM {table}"))

    async def quiet(self) -> bool:
        """Nothing waits in any queue, all of them seen at one moment: work moves from one to another."""
        waiting = " UNION ALL ".join(f"SELECT FROM {table}" for table in WAITING)
        return not await self.database.fetchval(f"SELECT EXISTS ({waiting})")

    def disk(self, devid: int, fid: int) -> Path:
        host = self.jobs.topology.host_of(devid)
        assert host is not None
        return self.agents[host.hostid].path(devid, fid)

    def zones(self, devids: Iterable[int]) -> set[str | None]:
        return {self.jobs.topology.zone_of(devid) for devid in devids}

    async def check_files(self, fids: Iterable[int] | None = None) -> None:
        """Every location of every file holds exactly its bytes."""
        for fid in fids if fids is not None else self.content:
            devids = await self.holders(fid)
            assert devids, f"fid {fid} has no location"
            for devid in devids:
                assert self.disk(devid, fid).read_bytes() == self.content[fid], (fid, devid)

    def stray_files(self) -> set[tuple[int, int]]:
        """(devid, fid) of every .fid file on any disk."""
        found = set()
        for agent in self.agents.values():
            for path in agent.docroot.glob("dev*/*/*/*/*.fid"):
                found.add((int(path.relative_to(agent.docroot).parts[0][3:]), int(path.stem)))
        return found

    async def locations(self) -> set[tuple[int, int]]:
        return {(row["devid"], row["fid"]) for row in await self.database.fetch("SELECT devid, fid FROM file_on")}

    async def totals(self) -> Totals:
        return (await counted_now(self.jobs.census, self.jobs.topology, 0)).totals

    # ------------------------------------------------------------------ end

    async def close(self) -> None:
        for jobs in self.trackers:
            jobs.context.stop.set()
            await jobs.nodes.close()
        await self.database.close()
        for agent in self.agents.values():
            if agent.process is not None and agent.process.poll() is None:
                agent.process.kill()
                agent.process.wait(EVENT_SECONDS)


async def upload(session: aiohttp.ClientSession, url: str, data: bytes) -> None:
    """PUT as clients do: again when the node is too busy for it (503)."""

    async def stored() -> bool:
        async with session.put(url, data=data) as response:
            assert response.status in (200, 201, 503), (response.status, await response.text())
            return response.status != 503

    await wait_for(stored, f"PUT {url}")


# Short delays of the jobs' own. What takes its time on a busy machine keeps long limits: a lease that runs out under its owner, or a node
# that is taken for dead because it was slow, would be another story; the tests of those set their own.
FAST = {
    "monitor_interval_seconds": 0.2,
    "write_test_interval_seconds": 0.2,
    "job_idle_seconds": 0.05,
    "retry_base_seconds": 0.2,
    "lease_seconds": 10.0,
    "node_timeout_seconds": 20.0,
    "reap_interval_seconds": 0.2,
    "balance_interval_seconds": 0.2,
    "census_pause_seconds": 0.5,
    "topology_interval_seconds": 0.3,
    "min_free_space_mb": 1,
}
QUICK_LEASES = {"lease_seconds": 2.0}  # for tests where somebody else takes over


@pytest.fixture
async def cluster(database_dsn: str) -> AsyncIterator[MiniCluster]:
    folder = server_folder("mogile-jobs-", attributes=True)
    mini = MiniCluster(database_dsn, folder, FAST)
    try:
        yield mini
    finally:
        await mini.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def two_zones(cluster: MiniCluster) -> MiniCluster:
    """Four nodes with a device each: 1 and 2 in zone a, 3 and 4 in zone b."""
    await cluster.add_node([1], "a")
    await cluster.add_node([2], "a")
    await cluster.add_node([3], "b")
    await cluster.add_node([4], "b")
    await cluster.make_jobs()
    await cluster.add_class()
    await cluster.ready()
    return cluster


@pytest.fixture
def three_trackers(two_zones: MiniCluster) -> Iterator[list[WholeTracker]]:
    """Three whole trackers over the cluster's database; killed at the end."""
    two_zones.settings = {**two_zones.settings, **QUICK_LEASES}
    trackers = [WholeTracker(two_zones.dsn, two_zones.settings, two_zones.folder, number) for number in range(3)]
    for tracker in trackers:
        tracker.start()
    yield trackers
    for tracker in trackers:
        tracker.signal(signal.SIGCONT)
        tracker.signal(signal.SIGKILL)
