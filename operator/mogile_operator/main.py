"""`mogile-operator`: wires everything together and keeps it running until a signal, a lost lease, or a broken part.

Every replica watches and answers probes; only the leader works on the queue. Any part that ends ends the process: the kubelet
starts it again, and a fresh start is the recovery that is tested most.
"""

import asyncio
import contextlib
import logging
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import kopf

from mogile_core.errors import MogError, SettingError
from mogile_core.runtime import logs
from mogile_core.runtime.health import HealthServer, always_ok, health_app
from mogile_core.runtime.settings import exit_with_line, load_or_exit, parse_listen
from mogile_operator import handlers
from mogile_operator.events import Recorder
from mogile_operator.execute import Executor, LeaseLostError
from mogile_operator.informers import Informers
from mogile_operator.kube import Kube, KubeError, connect
from mogile_operator.leader import Leader
from mogile_operator.metrics import OperatorMetrics
from mogile_operator.nodeadmin import NodeAdmin
from mogile_operator.observe import Observer
from mogile_operator.reconcile import Key, Pace, Reconciler
from mogile_operator.settings import OperatorSettings
from mogile_operator.specs.base import Context
from mogile_operator.workqueue import WorkQueue

PROG = "mogile-operator"
EXIT_DEADLINE_SECONDS = 10.0
PASS_SECONDS_MAX = 300.0
RESOLV_CONF = "/etc/resolv.conf"

log = logs.get_log(__name__)


def read_resolver(text: str) -> tuple[str, str]:
    """(first name server, cluster domain) of a resolv.conf; the domain is what follows `svc.` in the search list."""
    server, domain = "", "cluster.local"
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["nameserver"] and len(words) > 1 and not server:
            server = words[1]
        if words[:1] == ["search"]:
            domain = next((word[4:].rstrip(".") for word in words[1:] if word.startswith("svc.")), domain)
    return server, domain


def build_context(settings: OperatorSettings) -> Context:
    """What builders need to know of this place."""
    try:
        with open(RESOLV_CONF, encoding="utf-8") as stream:
            server, domain = read_resolver(stream.read())
    except OSError:
        server, domain = "", "cluster.local"
    return Context(
        registry=settings.operand_registry,
        tag=settings.operand_tag,
        operator_namespace=settings.operator_namespace,
        resolver=settings.cluster_dns or server,
        cluster_domain=settings.cluster_domain or domain,
    )


def _innermost(error: BaseException | None) -> BaseException | None:
    """What is inside task groups: the sentence that says what happened."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class Operator:
    """The parts and how they hang together."""

    def __init__(self, settings: OperatorSettings, kube: Kube) -> None:
        self._settings = settings
        self._kube = kube
        self._nodes = NodeAdmin()
        self._namespaces = [part.strip() for part in settings.namespaces.split(",") if part.strip()]
        identity = settings.identity or f"{socket.gethostname()}_{secrets.token_hex(4)}"
        self._queue: WorkQueue[Key] = WorkQueue()
        memory = Path(settings.state_directory) / "lease.json" if settings.state_directory else None
        self._leader = Leader(kube, settings.operator_namespace, identity, time.monotonic, memory)
        self._informers = Informers(
            kube, self._namespaces or [""], lambda ns, name: self._queue.add((ns, name)), self._sweep_soon
        )
        elected = self._leader if settings.leader_election else None
        self._metrics = OperatorMetrics(kube, self._queue, self._informers, elected)
        leading: Callable[[], bool] = self._leader.leading if settings.leader_election else lambda: True
        self._reconciler = Reconciler(
            kube,
            Observer(kube, self._nodes),
            Executor(kube, self._nodes, leading),
            Recorder(kube, identity, time.monotonic),
            context=build_context(settings),
            pace=Pace(steady_seconds=settings.steady_seconds, unsettled_seconds=settings.unsettled_seconds),
            tracker_address=settings.tracker_address,
        )
        self._sweep = asyncio.Event()

    def _sweep_soon(self) -> None:
        self._sweep.set()

    def _names_touched(self, namespace: str, cluster: str) -> None:
        """A Domain or Class changed: its cluster if it names one, and in any case all clusters of the namespace."""
        self._queue.add((namespace, ""))
        if cluster:
            self._queue.add((namespace, cluster))
        else:
            self._sweep.set()

    async def run(self) -> int:
        """Until something ends; returns the exit code."""
        host, port = parse_listen(self._settings.metrics_listen, "metrics_listen")[0]
        server = HealthServer(health_app(live=always_ok, ready=always_ok, metrics=self._metrics.text), host, port)
        await server.start()
        watching = asyncio.Event()
        parts: dict[str, Coroutine[Any, Any, object]] = {
            "stop": self._signalled(watching),
            "kopf": self._kopf(watching),
            "informers": self._informers.run(),
            "work": self._work(),
        }
        tasks = [asyncio.create_task(part, name=name) for name, part in parts.items()]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return self._verdict(done)
        finally:
            await self._stop(tasks)
            await server.stop()

    def _verdict(self, done: set[asyncio.Task[object]]) -> int:
        if any(task.get_name() == "stop" for task in done):
            log.info("stopping on a signal")
            return 0
        for task in done:
            error = "cancelled" if task.cancelled() else _innermost(task.exception())
            log.error("a part has ended", part=task.get_name(), error=error or "without an error")
        return 1

    async def _stop(self, tasks: list[asyncio.Task[object]]) -> None:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(EXIT_DEADLINE_SECONDS):
                await asyncio.gather(*tasks, return_exceptions=True)
                if self._settings.leader_election:
                    await self._leader.release()
                await self._nodes.close()

    async def _signalled(self, watching: asyncio.Event) -> None:
        """Wait for SIGTERM or SIGINT. kopf takes these signals for itself when it starts, so they are taken back afterwards."""
        stop = asyncio.Event()
        self._take_signals(stop)
        # Polled: kopf cancels tasks that others make meanwhile when it ends.
        while not (stop.is_set() or watching.is_set()):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        self._take_signals(stop)
        await stop.wait()

    @staticmethod
    def _take_signals(stop: asyncio.Event) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)

    async def _kopf(self, watching: asyncio.Event) -> None:
        registry = handlers.build_registry(
            access=self._kube.access if self._settings.kubeconfig else None,
            cluster_touched=lambda ns, name: self._queue.add((ns, name)),
            names_touched=self._names_touched,
            problems=lambda: [f"the watch of {kind} is dead" for kind in self._informers.stale()],
        )
        host, port = parse_listen(self._settings.health_listen, "health_listen")[0]
        await kopf.operator(
            registry=registry,
            settings=handlers.build_settings(),
            standalone=True,
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            liveness_endpoint=f"http://{host}:{port}/healthz",
            ready_flag=watching,
        )

    async def _work(self) -> None:
        """Wait for leadership, then work until it is lost."""
        if not self._settings.leader_election:
            await self._workers()
            return
        await self._leader.acquire()
        keeper = asyncio.create_task(self._leader.keep(), name="lease")
        workers = asyncio.create_task(self._workers(), name="workers")
        try:
            done, _ = await asyncio.wait({keeper, workers}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (keeper, workers):
                task.cancel()
            await asyncio.gather(keeper, workers, return_exceptions=True)
        raise LeaseLostError("the lease was lost; another replica goes on")

    async def _workers(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._sweeper(), name="sweeper")
            for index in range(self._settings.workers):
                group.create_task(self._worker(), name=f"worker {index}")

    async def _sweeper(self) -> None:
        """Every key at the start, then at least every `sweep_seconds`, and when machines change."""
        while True:
            self._sweep.clear()
            try:
                for key in await self._reconciler.clusters(self._namespaces or [""]):
                    self._queue.add(key)
            except KubeError as error:
                log.warning("sweep failed", error=error)
                await asyncio.sleep(5.0)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.sweep_seconds):
                    await self._sweep.wait()
            await asyncio.sleep(0.5)

    async def _worker(self) -> None:
        while True:
            key = await self._queue.get()
            started = self._metrics.begin(key)
            try:
                async with asyncio.timeout(PASS_SECONDS_MAX):
                    again = await self._reconciler.run(key)
            except LeaseLostError:
                raise
            except (MogError, TimeoutError) as error:
                log.warning("pass failed", namespace=key[0], cluster=key[1], error=error or "it took too long")
                self._metrics.end(key, started, "error")
                self._queue.done(key, failed=True)
            except Exception:
                log.exception("pass failed unexpectedly", namespace=key[0], cluster=key[1])
                self._metrics.end(key, started, "error")
                self._queue.done(key, failed=True)
            else:
                self._metrics.end(key, started, "ok")
                self._queue.done(key, again_after=again)


async def _run(settings: OperatorSettings) -> int:
    for name in ("metrics_listen", "health_listen"):
        parse_listen(getattr(settings, name), name)
    kube = await connect(settings.kubeconfig)
    try:
        return await Operator(settings, kube).run()
    finally:
        await kube.close()


def main() -> None:
    """Entry point."""
    settings = load_or_exit(OperatorSettings, sys.argv[1:], PROG)
    logs.setup(settings.log_format, settings.log_level)
    for noisy in ("aiohttp.access", "kopf.activities.probe", "kopf.objects"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        code = asyncio.run(_run(settings))
    except (SettingError, KubeError) as error:
        exit_with_line(PROG, str(error))
    sys.exit(code)


if __name__ == "__main__":
    main()
