"""What runs in each child of the tracker: the line protocol, the jobs, the health port. Each wires its own objects after the fork."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

import uvloop

from mogile_core.errors import SettingError, StoreError
from mogile_core.runtime import logs
from mogile_core.runtime.clock import SystemClock
from mogile_core.runtime.health import HealthServer, health_app
from mogile_core.runtime.metrics import Registry, render
from mogile_core.runtime.settings import exit_with_line
from mogile_tracker import workers
from mogile_tracker.adminline import AdminLines
from mogile_tracker.channel import Channel, Message
from mogile_tracker.commands import all_commands
from mogile_tracker.commands.registry import Tracker
from mogile_tracker.context import Assignment, JobsContext, LiveTopology
from mogile_tracker.foreground import MEASURE_SECONDS, Foreground, ProcessorUse
from mogile_tracker.jobclasses import HTTP, MONITOR, QUERYWORKER, SHARED
from mogile_tracker.jobstate import QUEUE_JOBS, TrackerState, WorkerState
from mogile_tracker.logwatch import Tap
from mogile_tracker.nodes import Nodes
from mogile_tracker.server import Duty, LineServer
from mogile_tracker.settings import TrackerSettings
from mogile_tracker.store.admin import AdminStore
from mogile_tracker.store.engine import Engine
from mogile_tracker.store.files import FileStore
from mogile_tracker.store.postgres import LANE_TIMEOUT_SECONDS, Database, connect
from mogile_tracker.store.topology import TopologyStore
from mogile_tracker.topology import Observations

PROG = "mogile-tracker"
STATUS_SECONDS = 1.0
STALE_SECONDS = 10.0
FIRST_LOAD_PAUSE_SECONDS = 1.0
# Plans must not depend on what the statistics said when a statement was first planned: one index look-up per item, always. And each is made
# once: left to itself PostgreSQL plans sets anew at every execution, which costs more than the look-ups do.
LANE_SETTINGS = {
    "enable_seqscan": "off",
    "enable_sort": "off",
    "enable_incremental_sort": "off",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
}

log = logs.get_log(__name__)


def run_child(
    settings: TrackerSettings, listeners: Sequence[socket.socket], name: str, role: str, sock: socket.socket
) -> int:
    """Run one child of the tracker; its exit status."""
    logs.setup(settings.log_format, settings.log_level, name, syslog=settings.daemonize)
    mains: dict[str, Callable[[TrackerSettings, Channel], Coroutine[Any, Any, None]]] = {
        QUERYWORKER: partial(serve, listeners=listeners),
        HTTP: watch,
    }
    main = mains.get(role, work)
    if role != QUERYWORKER:
        for listener in listeners:
            listener.close()

    async def body() -> None:
        channel = Channel(sock)
        tap = Tap(channel.log, "" if role == SHARED else role)
        channel.on("watch", lambda message: tap.switch(on=message["on"]))
        reading = asyncio.create_task(channel.run())
        try:
            await main(settings, channel)
        finally:
            reading.cancel()

    try:
        uvloop.run(body())
    except SettingError as error:
        exit_with_line(PROG, str(error))
    return 0


def stop_event(channel: Channel) -> asyncio.Event:
    """Set by SIGTERM or by the parent's end."""
    stop = channel.parent_gone
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    return stop


class _Common:
    """What server and jobs processes share: a pool, the live topology, figures for the parent."""

    def __init__(self, settings: TrackerSettings, channel: Channel) -> None:
        self.settings, self.channel = settings, channel
        self.clock = SystemClock()
        self.registry = Registry()
        self.database = Database(settings.dsn, connections=4, pooled=settings.db_pooled)
        store = TopologyStore(
            self.database,
            min_free_space_mb=settings.min_free_space_mb,
            default_mindevcount=settings.default_mindevcount,
        )
        self.topology = LiveTopology(store, self.clock, settings.topology_interval_seconds)
        self.figures: dict[str, Any] = {}
        self.counters: Callable[[], Mapping[str, int]] = (
            dict  # what `!stats` adds up over all processes, also over ended ones
        )
        self.tasks: set[asyncio.Task[Any]] = set()
        channel.on_question("reload", self._reload)
        age = self.registry.gauge("topology_age_seconds", "Since the topology was last read", merge="max")
        self.registry.on_collect(lambda: age.set(min(self.topology.age_seconds, 1e9)))

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """A task that is cancelled at the end."""
        task = asyncio.create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a task ended with an error", error=repr(error))

    async def first_load(self, stop: asyncio.Event) -> None:
        """Have a topology before anything is served; keeps trying, the parent has seen the database."""
        while not stop.is_set():
            try:
                return await self.topology.refresh()
            except StoreError as error:
                log.warning("cannot read the topology yet", error=error)
                await asyncio.sleep(FIRST_LOAD_PAUSE_SECONDS)
        return None

    async def announce_change(self) -> None:
        """Re-read here and in the other processes."""
        await asyncio.gather(self.topology.refresh(), self.channel.announce_change())

    async def report(self) -> None:
        """Tell the parent about this process, for ever."""
        while True:
            self._say_status()
            await asyncio.sleep(STATUS_SECONDS)

    def _say_status(self) -> None:
        self.figures["topology_age"] = min(self.topology.age_seconds, 1e9)
        self.figures["observed"] = self.topology.observed_once.is_set()
        self.figures["counters"] = dict(self.counters())
        metrics = self.registry.snapshot()
        self.channel.send({"t": "status", "at": time.monotonic(), "figures": self.figures, "metrics": metrics})

    async def close(self) -> None:
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.database.close()
        self._say_status()  # what was counted since the last time
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STATUS_SECONDS):
                await self.channel.flush()

    async def _reload(self, _: Message) -> None:
        try:
            await self.topology.refresh()
        except StoreError as error:
            log.warning("cannot re-read the topology", error=error)


async def serve(settings: TrackerSettings, channel: Channel, listeners: Sequence[socket.socket]) -> None:
    """A server process; it accepts from those of the parent's listening sockets that the parent says."""
    stop = stop_event(channel)
    common = _Common(settings, channel)
    duty = Duty()
    channel.on("serve", duty.update)
    channel.on("observed", lambda m: common.topology.observe(Observations.from_json(m["data"])))
    await common.first_load(stop)

    lane = partial(
        connect,
        settings.dsn,
        pooled=settings.db_pooled,
        server_settings=LANE_SETTINGS,
        command_timeout_seconds=LANE_TIMEOUT_SECONDS,
    )
    engines = [
        Engine(
            name,
            lane,
            lanes=lanes,
            retry_seconds=settings.db_retry_seconds,
            registry=common.registry,
            pooled=settings.db_pooled,
        )
        for name, lanes in (("read", settings.db_read_connections), ("write", settings.db_write_connections))
    ]
    for engine in engines:
        await engine.start()
    nodes = Nodes(
        cluster_id=common.topology.current.cluster_id,
        connect_timeout_seconds=settings.conn_timeout_seconds,
        request_timeout_seconds=max(5.0, 2 * settings.node_timeout_seconds),
        transfer_idle_seconds=settings.transfer_idle_seconds,
        mgmt_port=settings.mgmt_port,
        retry_seconds=settings.node_retry_seconds,
    )
    tracker = Tracker(
        settings=settings,
        database=common.database,
        files=FileStore(*engines, batch_max=settings.batch_max),
        admin=AdminStore(common.database),
        topology=common.topology,
        nodes=nodes,
        clock=common.clock,
        announce_change=common.announce_change,
        processes=TrackerState(),
    )
    channel.on("state", tracker.processes.update)
    server = LineServer(tracker, all_commands(), common.registry, duty, listeners)
    AdminLines(server, channel)
    common.registry.on_collect(lambda: common.figures.update(server.figures()))
    common.counters = server.counters
    common.spawn(common.topology.run())
    common.spawn(common.report())
    common.spawn(tell_load(channel))
    accepting = asyncio.create_task(server.accept_for_ever())
    await asyncio.wait([accepting, asyncio.create_task(stop.wait())], return_when=asyncio.FIRST_COMPLETED)
    accepting.cancel()
    await asyncio.gather(accepting, return_exceptions=True)
    await server.drain(settings.drain_seconds)
    for engine in engines:
        await engine.stop()
    await tracker.orders.close()
    await nodes.close()
    await common.close()


async def tell_load(channel: Channel) -> None:
    """Tell the parent how busy this server process is, for ever; nothing new is not said."""
    use, said = ProcessorUse(), 0.0
    while True:
        await asyncio.sleep(MEASURE_SECONDS)
        cores = round(use.cores(), 2)
        if cores or said:
            channel.send({"t": "load", "cores": cores})
        said = cores


async def work(settings: TrackerSettings, channel: Channel) -> None:
    """A jobs process: the shared one, or one of a single job class; the parent says which classes it runs."""
    os.nice(settings.jobs_nice)
    stop = stop_event(channel)
    common = _Common(settings, channel)
    assignment = Assignment(())
    foreground = Foreground(common.clock)

    def observed(message: Message) -> None:
        if MONITOR not in assignment.classes:
            common.topology.observe(Observations.from_json(message["data"]))

    channel.on("observed", observed)
    channel.on("load", foreground.told)
    channel.on("assign", lambda message: assignment.assign(message["jobs"]))
    channel.on("to", lambda message: assignment.tell(message["job"], message["text"]))
    await common.first_load(stop)

    def publish(observations: Observations) -> None:
        common.topology.observe(observations)
        channel.send({"t": "observed", "data": observations.to_json()})

    def report(workers_now: list[WorkerState]) -> None:
        common.figures["workers"] = [worker.to_json() for worker in workers_now]
        done: Counter[str] = Counter()
        for worker in workers_now:
            if worker.job in QUEUE_JOBS:
                done[f"work_sent_to_{worker.job}"] += worker.done
        common.counters = lambda: done

    context = JobsContext(
        settings=settings,
        database=common.database,
        topology=common.topology,
        registry=common.registry,
        clock=common.clock,
        stop=stop,
        foreground=foreground,
        owner=f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}",
        publish=publish,
        announce_change=common.announce_change,
        report=report,
        assignment=assignment,
        # The parent starts another; what was claimed is due again when its leases end.
        stuck=lambda _worker: os._exit(1),
    )
    common.spawn(common.topology.run())
    common.spawn(common.report())
    if not stop.is_set():
        await workers.run(context)
    await common.close()


async def watch(settings: TrackerSettings, channel: Channel) -> None:
    """The health and metrics process."""
    stop = stop_event(channel)
    probes = _Probes(settings)
    channel.on("state", probes.update)
    host, port = settings.http_address
    health = HealthServer(health_app(live=probes.live, ready=probes.ready, metrics=probes.metrics), host, port)
    await health.start()
    while not stop.is_set():
        channel.send({"t": "alive"})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STATUS_SECONDS):
                await stop.wait()
    await health.stop()


class _Probes:
    """Answers of the health port, out of what the processes report."""

    def __init__(self, settings: TrackerSettings) -> None:
        self._topology_seconds_max = STALE_SECONDS + 2 * settings.topology_interval_seconds
        self._processes: dict[str, Message] = {}
        self._started = time.monotonic()

    def update(self, message: Message) -> None:
        """The newest state of all processes."""
        self._processes = message["processes"]

    async def ready(self) -> str | None:
        servers = [p for p in self._processes.values() if p["role"] == QUERYWORKER and p["figures"]]
        if not servers:
            return "no server process has reported yet"
        for name, process in self._processes.items():
            if process["role"] != HTTP and time.monotonic() - process["at"] > STALE_SECONDS:
                return f"process {name} has not reported for {STALE_SECONDS:.0f} s"
        if any(s["figures"]["topology_age"] > self._topology_seconds_max for s in servers):
            return "the database cannot be reached"
        if not all(s["figures"]["observed"] for s in servers):
            return "the first monitor round is not complete"
        return None

    async def live(self) -> str | None:
        served = any(p["role"] == QUERYWORKER for p in self._processes.values())
        if time.monotonic() - self._started > 2 * STALE_SECONDS and not served:
            return "no server process is running"
        return None

    async def metrics(self) -> str:
        return render(p["metrics"] for p in self._processes.values())
