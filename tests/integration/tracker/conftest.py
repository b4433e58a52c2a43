"""A whole tracker as processes, real storage agents on loopback, and a raw line client."""

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from mogile_core.wire import Reply, parse_reply
from testkit import programs
from testkit.places import server_folder
from testkit.ports import free_port
from testkit.waiting import EVENT_SECONDS, wait_until

_nodes = itertools.count()


def clean_environment(**settings: object) -> dict[str, str]:
    """This process's environment without our settings, plus the given ones."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MOGILE_")}
    return kept | {f"MOGILE_{k.upper()}": str(v) for k, v in settings.items()}


def accepts(address: str, port: int) -> bool:
    with socket.socket() as sock:
        sock.settimeout(1)
        return sock.connect_ex((address, port)) == 0


class LineClient:
    """Speaks the protocol by hand: one connection, raw bytes. `ok` tells what the tracker logged when it lost the connection."""

    def __init__(
        self, address: str, port: int, timeout: float = EVENT_SECONDS, log: Callable[[], str] = lambda: ""
    ) -> None:
        self.log = log
        self.socket = socket.create_connection((address, port), timeout=timeout)
        self.stream = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def line(self) -> bytes:
        line = self.stream.readline()
        if not line.endswith(b"\n"):
            raise EOFError(f"connection closed after {line!r}")
        return line

    def raw(self, request: str) -> str:
        """One request line -> one answer line, both as Latin-1 without the line end."""
        self.send(request.encode("latin-1") + b"\r\n")
        answer = self.line().decode("latin-1")
        assert answer.endswith("\r\n"), answer
        return answer[:-2]

    def ask(self, request: str) -> Reply:
        return parse_reply(self.raw(request))

    def ok(self, request: str) -> dict[str, str]:
        try:
            reply = self.ask(request)
        except (OSError, EOFError) as lost:
            raise ConnectionError(f"{request}: {lost}; the tracker's log:\n{self.log()[-3000:]}") from lost
        assert reply.ok, f"{request} -> {reply.code} {reply.text}"
        return reply.args

    def admin(self, text: str) -> list[str]:
        self.send(f"!{text}\r\n".encode())
        lines = []
        while (line := self.line().decode("latin-1").rstrip("\r\n")) != ".":
            lines.append(line)
        return lines

    def close(self) -> None:
        self.stream.close()
        self.socket.close()


class TrackerProcess:
    """A whole tracker."""

    def __init__(self, dsn: str, folder: Path, address: str = "127.0.20.1", **settings: object) -> None:
        self.address = address
        self.port, self.http_port = free_port(self.address), free_port(self.address)
        self.log_file = folder / f"tracker-{self.port}.log"
        self.environment = clean_environment(
            **{
                "db_dsn": dsn,
                "listen": f"{self.address}:{self.port}",
                "http_listen": f"{self.address}:{self.http_port}",
                "monitor_interval_seconds": 0.3,
                "topology_interval_seconds": 1,
                "job_idle_seconds": 0.2,
                "drain_seconds": 30,
                "node_timeout_seconds": 20,  # nobody here is taken for dead because the machine is busy
                **settings,
            }
        )
        self.arguments: list[str] = []
        self.first = ""  # statements to be run before
        self.process: programs.Program | None = None
        self.clients: list[LineClient] = []

    def start(self, *, wait: bool = True) -> None:
        self.process = programs.start(
            programs.TRACKER, *self.arguments, environment=self.environment, log=self.log_file, first=self.first
        )
        if wait:
            wait_until(lambda: self.process.poll() is not None or accepts(self.address, self.port), "the tracker")
            assert self.process.poll() is None, self.log()

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        for client in self.clients:
            client.close()
        self.clients.clear()
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        return self.process.wait(EVENT_SECONDS)

    def log(self) -> str:
        return self.log_file.read_text()

    def without(self, *jobs: str) -> None:
        """Stop background jobs, for a test that looks at what one of them would change."""
        client = self.client()
        for job in jobs:
            wait_until(lambda job=job: client.admin(f"want 0 {job}")[0].startswith("Now"), "the first monitor round")
            wait_until(lambda job=job: f"{job} count 0" in client.admin("jobs"), f"the end of {job}")

    def again(self, *jobs: str) -> None:
        """Start them again."""
        for job in jobs:
            self.client().admin(f"want 1 {job}")

    def client(self) -> LineClient:
        client = LineClient(self.address, self.port, log=self.log)
        self.clients.append(client)
        return client

    @property
    def where(self) -> str:
        return f"{self.address}:{self.port}"


class StorageNode:
    """A storage agent with its device directories."""

    def __init__(self, folder: Path, devids: list[int]) -> None:
        self.address = f"127.0.20.{next(_nodes) % 240 + 10}"
        self.docroot = folder / self.address
        self.devids = devids
        for devid in devids:
            (self.docroot / f"dev{devid}").mkdir(parents=True)
        self.environment = clean_environment(
            docroot=self.docroot,
            http_address=self.address,
            http_listen=f"{self.address}:7502",
            usage_interval_seconds=0.3,
            reserve_mb=1,
        )
        self.process: programs.Program | None = None

    def start(self, *, wait: bool = True) -> None:
        log = self.docroot / "agent.log"
        self.process = programs.start(programs.STORAGE, "agent", environment=self.environment, log=log)
        if wait:
            self.wait()

    def wait(self) -> None:
        wait_until(lambda: accepts(self.address, 7500) and accepts(self.address, 7501), f"the agent {self.address}")

    def stop(self, signal_number: int = signal.SIGTERM) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        self.process.wait(EVENT_SECONDS)


class PgBouncer:
    """A pooler in transaction mode before one database, with fewer server connections than a tracker has of its own: whatever sticks to a
    session breaks."""

    SERVER_CONNECTIONS = 3

    def __init__(self, dsn: str, folder: Path) -> None:
        parts = urlsplit(dsn)
        self.address, self.folder = "127.0.20.5", folder
        self.port = free_port(self.address)
        self.dsn = f"postgresql://{parts.username}@{self.address}:{self.port}{parts.path}"
        program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
        assert program, "install Debian's package pgbouncer"
        folder.mkdir(mode=0o755)
        (folder / "users").write_text(f'"{parts.username}" "{parts.password}"\n')
        (folder / "pgbouncer.ini").write_text(
            f"""[databases]
{parts.path[1:]} = host={parts.hostname} port={parts.port}
[pgbouncer]
listen_addr = {self.address}
listen_port = {self.port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = {self.SERVER_CONNECTIONS}
max_client_conn = 300
server_round_robin = 1
log_connections = 0
log_disconnections = 0
"""
        )
        user = "nobody" if os.geteuid() == 0 else None  # it does not run as root
        for path in (folder, folder / "users", folder / "pgbouncer.ini"):
            path.chmod(0o755)
        for parent in folder.parents:
            if user and parent.is_relative_to(tempfile.gettempdir()) and parent != Path(tempfile.gettempdir()):
                parent.chmod(0o755)
        with (folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [program, folder / "pgbouncer.ini"], stdout=log, stderr=log, user=user, cwd="/"
            )
        wait_until(lambda: self.process.poll() is not None or accepts(self.address, self.port), "PgBouncer")
        assert self.process.poll() is None, (folder / "log").read_text()

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(EVENT_SECONDS)


class Cluster:
    """Nodes and trackers over one database; stopped by the fixture. With `pooled` the trackers reach it through PgBouncer."""

    def __init__(self, dsn: str, folder: Path, *, pooled: bool = False) -> None:
        self.dsn, self.folder = dsn, folder
        self.pooler = PgBouncer(dsn, folder / "pgbouncer") if pooled else None
        self.nodes: list[StorageNode] = []
        self.trackers: list[TrackerProcess] = []

    def tracker(self, address: str = "127.0.20.1", **settings: object) -> TrackerProcess:
        tracker = self.unstarted_tracker(address, **settings)
        tracker.start()
        return tracker

    def unstarted_tracker(self, address: str = "127.0.20.1", **settings: object) -> TrackerProcess:
        if self.pooler is not None:
            settings = {"db_pooled": 1, **settings}
        tracker = TrackerProcess(self.pooler.dsn if self.pooler else self.dsn, self.folder, address, **settings)
        self.trackers.append(tracker)
        return tracker

    wait_until = staticmethod(wait_until)

    def node(self, *devids: int, wait: bool = True) -> StorageNode:
        node = StorageNode(self.folder, list(devids))
        self.nodes.append(node)
        node.start(wait=wait)
        return node

    def register(self, client: LineClient, zones: dict[int, str] | None = None) -> None:
        """Make hosts node1.. and their devices, and wait until every device takes files."""
        for number, node in enumerate(self.nodes, 1):
            client.ok(f"create_host host=node{number}&ip={node.address}&port=7500&status=alive")
            if zones:
                client.ok(f"mogile_set_zone host=node{number}&zone={zones[number]}")
            for devid in node.devids:
                client.ok(f"create_device devid={devid}&hostname=node{number}&state=alive")
        count = sum(len(node.devids) for node in self.nodes)

        def all_writeable() -> bool:
            devices = client.ok("get_devices")
            return sum(v == "writeable" for k, v in devices.items() if k.endswith("observed_state")) >= count

        wait_until(all_writeable, "all devices to be writeable")

    def quiet(self) -> bool:
        """No work waits in any queue, all of them seen at one moment: it moves from one to another."""
        tables = ("file_to_replicate", "file_to_delete2", "mogile_copy_delete", "mogile_copy_intent", "file_to_queue")
        waiting = " UNION ALL ".join(f"SELECT FROM {table}" for table in tables)
        return not self.value(f"SELECT EXISTS ({waiting})")

    def sql(self, query: str, *args: object) -> list[asyncpg.Record]:
        async def run() -> list[asyncpg.Record]:
            connection = await asyncpg.connect(self.dsn)
            try:
                return await connection.fetch(query, *args)
            finally:
                await connection.close()

        return asyncio.run(run())

    def value(self, query: str, *args: object) -> Any:
        return self.sql(query, *args)[0][0]

    def close(self) -> None:
        for tracker in self.trackers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                if tracker.process is not None:
                    tracker.stop()
        for node in self.nodes:
            node.stop(signal.SIGKILL)
        if self.pooler is not None:
            self.pooler.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.definition.get_closest_marker("also_through_pgbouncer"):
        metafunc.parametrize("cluster", ["direct", "pgbouncer"], indirect=True)


@pytest.fixture
def cluster(database_dsn: str, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    folder = server_folder("mogile-cluster-", attributes=True)
    made = Cluster(database_dsn, folder, pooled=getattr(request, "param", "direct") == "pgbouncer")
    yield made
    made.close()
    shutil.rmtree(folder)


@pytest.fixture
def pooler() -> Iterator[Callable[[str, Path], PgBouncer]]:
    """Starts PgBouncer before a database."""
    started: list[PgBouncer] = []

    def start(dsn: str, folder: Path) -> PgBouncer:
        started.append(PgBouncer(dsn, folder))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture
def three_nodes(cluster: Cluster) -> Cluster:
    """Three nodes with devices 1-2, 3-4, 5-6 and one tracker, as the recorded cluster had."""
    for devids in ((1, 2), (3, 4), (5, 6)):
        cluster.node(*devids, wait=False)  # they start side by side
    tracker = cluster.tracker()
    for node in cluster.nodes:
        node.wait()
    cluster.register(tracker.client())
    return cluster
