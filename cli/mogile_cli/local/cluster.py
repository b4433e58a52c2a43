"""One local cluster: PostgreSQL, trackers, storage nodes and a gateway, started in that order and stopped in the reverse one.

Invariants: the lock of the data folder is held while anything runs; the state file names every process before its start is waited for;
`stop` ends everything within a deadline, keeps the data, and may be called at any moment, also in the middle of a start.
A node that was killed on purpose stays down until it is asked for. When PostgreSQL ends, the cluster cannot work: `failure` is set.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mogile_cli.errors import CliError
from mogile_cli.local import layout as layouts
from mogile_cli.local import preflight, processes, registry, state
from mogile_cli.local.layout import Layout, NodeSpec
from mogile_cli.local.postgres import EmbeddedPostgres, PostgresError
from mogile_cli.local.processes import ProcessRecord
from mogile_cli.local.programs import Programs, gateway_config
from mogile_cli.local.supervisor import Supervisor
from mogile_core.client import TrackerClient
from mogile_core.model import DeviceState

POSTGRES = "postgresql"
POSTGRES_POLL_SECONDS = 0.5
LEFTOVER_STOP_SECONDS = 15.0


class LocalCluster:
    """The cluster of one data folder. `report` gets one sentence for everything a user should see."""

    def __init__(self, layout: Layout, report: Callable[[str], None]) -> None:
        self.layout = layout
        self.failure: asyncio.Future[str] | None = None  # set when the cluster cannot go on
        self.gateway_kind = ""
        self._report = report
        self._supervisor = Supervisor(report, self._write_state)
        self._lock = state.Lock(layout.data)
        self._postgres = EmbeddedPostgres(directory=layout.data / "postgres")
        self._postgres_record: ProcessRecord | None = None
        self._watch: asyncio.Task[None] | None = None
        self._programs: Programs | None = None
        self._client: TrackerClient | None = None
        self._cluster_id = ""
        self._ready = False
        self.control_path = ""

    @property
    def client(self) -> TrackerClient:
        """The tracker client of a started cluster."""
        assert self._client is not None, "the cluster is not started"
        return self._client

    @property
    def programs(self) -> Programs:
        assert self._programs is not None, "the cluster is not started"
        return self._programs

    @property
    def run_folder(self) -> Path:
        return self.programs.run_folder

    @property
    def token_file(self) -> Path | None:
        """Where the upload token lies, when other machines can reach the gateway."""
        return self.layout.data / "gateway" / "token" if self.layout.open_to_others else None

    def claim(self) -> None:
        """Take the data folder for this process, end what an earlier run left behind, and check that a start can work."""
        layout = self.layout
        preflight.prepare_folder(layout.data)
        self._lock.acquire()
        for name in stop_leftovers(layout.data):
            self._report(f"{name} of an earlier run was still there and has been stopped")
        preflight.check(layout)
        layouts.save(layout)
        run_folder = Path(tempfile.mkdtemp(prefix="mogile-"))
        self._programs = Programs(layout=layout, run_folder=run_folder)
        self.control_path = str(run_folder / "control")
        self._write_state()

    async def start(self) -> None:
        """Start everything and wait until files can be stored; needs `claim` before."""
        self.failure = asyncio.get_running_loop().create_future()
        await self._start_postgres()
        first, *others = (
            self.programs.tracker(i, self._dsn(), self._postgres.directory / "password")
            for i in range(self.layout.trackers)
        )
        await self._supervisor.start(first)  # alone: it makes the tables
        self._client = TrackerClient(self.layout.tracker_addresses)
        self._cluster_id = (await self.client.cluster()).cluster_id
        try:
            async with asyncio.TaskGroup() as group:
                for tracker in others:
                    group.create_task(self._supervisor.start(tracker))
                for node in self.layout.nodes:
                    group.create_task(self._start_processes(node))
        except ExceptionGroup as failures:  # the first one is the reason, the others were cut short by it
            raise failures.exceptions[0] from failures
        await registry.register(self.client, self.layout, reader=self._has_reader)
        await self._start_gateway()
        await self._wait_writeable(self.layout.devids)
        self._ready = True
        self._write_state()

    async def stop(self) -> None:
        """End everything in order; the data stays."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        if self._client is not None:
            await self._client.close()
        await self._supervisor.stop_all()
        await asyncio.to_thread(self._postgres.stop)
        if self._programs is not None:
            shutil.rmtree(self.run_folder, ignore_errors=True)
            state.remove(self.layout.data)
        self._lock.release()

    # ---- orders of the user

    async def add_device(self, node: int) -> int:
        """One more device on a running node; its devid."""
        layout, spec, devid = self.layout.with_device(node)
        if not self._supervisor.is_running(spec.name):
            raise CliError(f"{spec.name} is down; start it first with: mog local start-node {node}")
        self._save(layout)
        (layout.docroot(spec) / f"dev{devid}").mkdir(parents=True, exist_ok=True)
        await registry.register_node(self.client, layout, spec, reader=self._has_reader)
        await self._wait_writeable([devid])
        return devid

    async def add_node(self, devices: int) -> NodeSpec:
        """One more storage node with new devices."""
        layout, node = self.layout.with_node(devices)
        preflight.check_address(layout.address(node.number))
        for address, port, option in layout.ports():
            if address == layout.address(node.number):
                preflight.check_port(address, port, option)
        self._save(layout)
        await self._start_processes(node)
        await registry.register_node(self.client, layout, node, reader=self._has_reader)
        await self._wait_writeable(node.devids)
        return node

    async def kill_node(self, number: int) -> list[int]:
        """kill -9 of a node's processes, as a power cut would; the pids that are gone."""
        node = self.layout.node(number)
        killed = [record for name in _process_names(node) if (record := await self._supervisor.kill(name)) is not None]
        if not killed:
            raise CliError(f"{node.name} is down already")
        if left := [pid for record in killed for pid in processes.family(record)]:
            raise CliError(f"{node.name} survived kill -9: {left}")
        return [record.pid for record in killed]

    async def start_node(self, number: int) -> None:
        """Start a node that is down."""
        node = self.layout.node(number)
        if all(self._supervisor.is_running(name) for name in self._wanted_names(node)):
            raise CliError(f"{node.name} runs already")
        await self._start_processes(node)

    async def mark(self, devid: int, device_state: DeviceState) -> None:
        """Set a device's state at the trackers."""
        node = next((node for node in self.layout.nodes if devid in node.devids), None)
        if node is None:
            known = ", ".join(str(d) for d in self.layout.devids)
            raise CliError(f"there is no device {devid}; there are {known}")
        await self.client.set_state(node.name, devid, device_state)

    def nodes_down(self) -> list[str]:
        """The names of storage nodes whose agent does not run."""
        return [node.name for node in self.layout.nodes if not self._supervisor.is_running(node.name)]

    def orders(self) -> dict[str, Callable[..., Any]]:
        """What other terminals may ask for, by name; arguments and results are JSON values."""

        async def add_node(devices: int) -> dict[str, Any]:
            node = await self.add_node(devices)
            return {"node": node.number, "zone": node.zone, "devids": list(node.devids)}

        async def mark(devid: int, device_state: str) -> None:
            await self.mark(devid, DeviceState(device_state))

        return {
            "add-device": self.add_device,
            "add-node": add_node,
            "kill-node": self.kill_node,
            "start-node": self.start_node,
            "mark": mark,
        }

    # ---- parts

    @property
    def _has_reader(self) -> bool:
        return self.programs.nginx is not None

    def _wanted_names(self, node: NodeSpec) -> tuple[str, ...]:
        names = _process_names(node)
        return names if self._has_reader else names[:1]

    def _dsn(self) -> str:
        """Without the password, which the trackers read from its file."""
        postgres = self._postgres
        return f"postgresql://{postgres.user}@{postgres.address}:{postgres.port}/{postgres.database}"

    async def _start_postgres(self) -> None:
        starting = asyncio.create_task(asyncio.to_thread(self._postgres.start))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            await asyncio.gather(starting, return_exceptions=True)  # its thread cannot be stopped half-way
            raise
        except PostgresError as error:
            raise CliError(str(error)) from error
        pid = self._postgres.pid
        self._postgres_record = None if pid is None else processes.record(POSTGRES, pid)
        self._write_state()
        self._watch = asyncio.create_task(self._watch_postgres(), name="watch postgresql")

    async def _watch_postgres(self) -> None:
        while True:
            await asyncio.sleep(POSTGRES_POLL_SECONDS)
            if self._postgres.pid is None:
                break
        assert self.failure is not None
        if not self.failure.done():
            self.failure.set_result(f"PostgreSQL ended unexpectedly; see {self._postgres.log_path}")

    async def _start_processes(self, node: NodeSpec) -> None:
        for folder in self.layout.device_folders(node):
            folder.mkdir(parents=True, exist_ok=True)
        specs = [self.programs.agent(node, self._cluster_id)]
        if self._has_reader:
            specs.append(self.programs.reader(node, self._cluster_id))
        for spec in specs:
            if not self._supervisor.is_running(spec.name):
                await self._supervisor.start(spec)

    async def _wait_writeable(self, devids: Sequence[int]) -> None:
        """Until every tracker takes files for these devices; a lost disk is reported and does not keep the others from serving."""
        for address in self.layout.tracker_addresses:
            async with TrackerClient(address) as client:
                if missing := await registry.wait_writeable(client, devids):
                    self._report(missing)

    async def _start_gateway(self) -> None:
        folder = self.layout.data / "gateway"
        folder.mkdir(exist_ok=True)
        token = self.token_file
        if token is not None:
            _ensure_token(token)
        config = folder / "gateway.json"
        config.write_text(gateway_config(self.layout, self._cluster_id, token), encoding="utf-8")
        spec, self.gateway_kind = await asyncio.to_thread(self.programs.gateway, config)
        await self._supervisor.start(spec)

    def _save(self, layout: Layout) -> None:
        """A grown layout, remembered before anything of it is started: a devid is never given twice."""
        layouts.save(layout)
        self.layout = layout
        self._programs = Programs(layout=layout, run_folder=self.run_folder, environment=self.programs.environment)

    def _write_state(self) -> None:
        me = processes.record("mog", os.getpid())
        assert me is not None
        records = [] if self._postgres_record is None else [self._postgres_record]
        state.write(
            state.RunState(
                data=self.layout.data,
                supervisor=me,
                ready=self._ready,
                control=self.control_path,
                trackers=tuple(self.layout.tracker_addresses),
                gateway=self.layout.gateway_url,
                processes=(*records, *self._supervisor.records()),
            )
        )


def _ensure_token(path: Path) -> None:
    """Make the upload token once; only its owner may read it."""
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secrets.token_urlsafe(24) + "\n")


def _process_names(node: NodeSpec) -> tuple[str, str]:
    return node.name, f"{node.name}-nginx"


def stop_leftovers(data: Path) -> list[str]:
    """End the processes of a cluster whose supervisor is gone, the last started first; the names of those that were still there.

    Must only be called with the lock of the data folder held.
    """
    old = state.read(data)
    if old is None:
        return []
    living = [record for record in old.processes if processes.family(record)]
    servers = [record for record in living if record.name == POSTGRES]
    processes.stop_families([r for r in living if r.name != POSTGRES], LEFTOVER_STOP_SECONDS, signal.SIGTERM)
    processes.stop_families(servers, LEFTOVER_STOP_SECONDS, signal.SIGINT)  # fast shutdown
    if old.control.endswith("/control"):
        shutil.rmtree(Path(old.control).parent, ignore_errors=True)
    state.remove(data)
    return [record.name for record in living]
