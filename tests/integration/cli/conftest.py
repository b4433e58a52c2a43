"""A real tracker and two real storage nodes for the classic tools."""

import asyncio
import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from mogile_cli.classic import filedebug, keys, transfer
from mogile_cli.classic.admin.main import mogadm
from mogile_cli.classic.program import Console, Program, Utility, run_utility
from mogile_cli.classic.program import run as run_program
from mogile_cli.classic.stats import mogstats
from mogile_cli.local.postgres import EmbeddedPostgres
from testkit import programs
from testkit.waiting import EVENT_SECONDS, wait_until

TOOL_SECONDS = 200.0
NETWORK = f"127.77.{os.getpid() % 250 + 1}"  # two runs of these tests on one machine stay apart
TRACKER = f"{NETWORK}.10"
NODES = {"node1": f"{NETWORK}.1", "node2": f"{NETWORK}.2"}


def _utility(utility: Utility) -> Program:
    return lambda argv, environ, console: run_utility(utility, argv, environ, console)


TOOLS: dict[str, Program] = {
    "mogadm": mogadm,
    "mogstats": mogstats,
    **{
        tool.name: _utility(tool)
        for tool in (
            keys.DELETE,
            keys.RENAME,
            keys.LIST_KEYS,
            keys.LIST_FIDS,
            keys.FILE_INFO,
            transfer.UPLOAD,
            transfer.FETCH,
            filedebug.FILE_DEBUG,
        )
    },
}


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


@dataclass(frozen=True, kw_only=True)
class Result:
    status: int
    out: str
    err: str
    raw: bytes


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """`run("mogadm", "host", "list")` with trackers, domain and database in ~/.mogilefs.conf."""

    folder: Path
    dsn: str

    def run(self, tool: str, *argv: str, stdin: bytes = b"") -> Result:
        """In this process: starting an interpreter for each call would take longer than the calls."""
        stdout, stderr = io.BytesIO(), io.BytesIO()
        console = Console(stdin=io.BytesIO(stdin), stdout=stdout, stderr=stderr)
        status = asyncio.run(run_program(TOOLS[tool], argv, {"HOME": str(self.folder)}, console))
        raw, err = stdout.getvalue(), stderr.getvalue()
        return Result(status=status, out=_text(raw), err=_text(err), raw=raw)

    def shell(self, line: str) -> Result:
        """A line of bash with the installed tools on its path."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {"HOME": str(self.folder), "PATH": path, "LC_ALL": "C"}
        done = subprocess.run(
            ["bash", "-c", line], capture_output=True, env=environment, timeout=TOOL_SECONDS, check=False
        )
        return Result(status=done.returncode, out=_text(done.stdout), err=_text(done.stderr), raw=done.stdout)

    @property
    def trackers(self) -> str:
        return f"{TRACKER}:7001"

    def well(self, tool: str, *argv: str, stdin: bytes = b"") -> str:
        """The output of a call that must succeed without a word on stderr."""
        result = self.run(tool, *argv, stdin=stdin)
        assert (result.status, result.err) == (0, ""), (tool, argv, result)
        return result.out

    def until(self, condition: Callable[[], bool], what: str) -> None:
        try:
            wait_until(condition, what)
        except AssertionError as late:
            raise AssertionError(self.logs()) from late

    def count(self, table: str) -> int:
        """Rows, also `table WHERE ...`."""

        async def run() -> int:
            connection = await asyncpg.connect(self.dsn)
            try:
                return int(await connection.fetchval(f"SELECT count(*) FROM {table}"))
            finally:
                await connection.close()

        return asyncio.run(run())

    def logs(self) -> str:
        return "".join(f"--- {path.name}\n{path.read_text()}" for path in sorted(self.folder.glob("*.log")))


@pytest.fixture(scope="module")
def database(postgres: EmbeddedPostgres, template_database: str) -> Iterator[str]:
    """One migrated database for a module: starting a cluster takes longer than all its tests."""
    name = f"classic_tools_{os.getpid()}"
    _execute(postgres.dsn("postgres"), f'CREATE DATABASE "{name}" TEMPLATE "{template_database}"')
    yield postgres.dsn(name)
    _execute(postgres.dsn("postgres"), f'DROP DATABASE "{name}" WITH (FORCE)')


def _execute(dsn: str, statement: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(dsn)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(run())


@pytest.fixture(scope="module")
def cluster(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Tracker and nodes run; nothing is registered yet."""
    tmp_path = tmp_path_factory.mktemp("classic")
    running: list[programs.Program] = []

    def start(name: str, module: str, *argv: str, **settings: str) -> None:
        environment = {**os.environ, **{f"MOGILE_{key.upper()}": value for key, value in settings.items()}}
        running.append(programs.start(module, *argv, environment=environment, log=tmp_path / f"{name}.log"))

    for number, (name, address) in enumerate(NODES.items(), 1):
        (tmp_path / name / f"dev{number}").mkdir(parents=True)
        start(
            name,
            programs.STORAGE,
            "agent",
            docroot=str(tmp_path / name),
            http_address=address,
            http_listen=f"{address}:7502",
            usage_interval_seconds="0.5",
        )
    start(
        "tracker",
        programs.TRACKER,
        db_dsn=database,
        listen=f"{TRACKER}:7001",
        http_listen=f"{TRACKER}:7002",
        monitor_interval_seconds="0.3",
        topology_interval_seconds="0.5",
        write_test_interval_seconds="0.5",
        job_idle_seconds="0.1",
        retry_base_seconds="0.5",
        node_timeout_seconds="20",
    )
    config = f"trackers = {TRACKER}\ndomain = d\ndb_dsn = {database}\n"
    (tmp_path / ".mogilefs.conf").write_text(config)
    cluster = Cluster(folder=tmp_path, dsn=database)
    try:
        for address, port in [*((address, 7500) for address in NODES.values()), (TRACKER, 7001)]:
            cluster.until(lambda at=(address, port): _listens(*at), f"{address}:{port} to listen")
        yield cluster
    finally:
        for process in reversed(running):
            process.send_signal(signal.SIGTERM)
        for process in running:
            try:
                process.wait(EVENT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _listens(address: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((address, port), 1):
        return True
    return False


@pytest.fixture(scope="module")
def store(cluster: Cluster) -> Cluster:
    """The same with both nodes, their devices, domain `d` and class `two` registered by mogadm, ready to store."""
    for number, (name, address) in enumerate(NODES.items(), 1):
        cluster.well("mogadm", "host", "add", name, f"--ip={address}", "--port=7500", "--status=alive")
        cluster.well("mogadm", "device", "add", name, f"dev{number}")
    cluster.well("mogadm", "domain", "add", "d")
    cluster.well("mogadm", "class", "add", "d", "two", "--mindevcount=2", "--hashtype=MD5")
    cluster.until(lambda: cluster.well("mogadm", "check").count("writeable") == len(NODES), "two writeable devices")
    return cluster
