"""The agent process: opens the devices, listens, runs until it is told to stop, drains, closes the devices cleanly."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
from importlib.metadata import PackageNotFoundError, version

from mogile_core.errors import SettingError
from mogile_core.runtime.logs import get_log
from mogile_core.runtime.settings import parse_listen
from mogile_storage.app import AgentApp
from mogile_storage.health import Health
from mogile_storage.http import Application, Connection, sweep
from mogile_storage.marker import UUID
from mogile_storage.node import Node
from mogile_storage.pool import Delivery
from mogile_storage.registry import Registry
from mogile_storage.settings import AgentSettings
from mogile_storage.sidechannel import SideChannel, parse_networks

log = get_log(__name__)

RESCAN_SECONDS = 2.0
BACKLOG = 4096


def check(settings: AgentSettings) -> None:
    """SettingError in one sentence for what can be seen before anything runs."""
    if not os.path.isdir(settings.docroot):
        raise SettingError(f"MOGILE_DOCROOT: there is no directory {settings.docroot}")
    if not os.access(settings.docroot, os.R_OK | os.X_OK):
        raise SettingError(f"MOGILE_DOCROOT: {settings.docroot} cannot be read by this user")
    parse_networks(settings.admin_from)
    if settings.cluster_id and not UUID.match(settings.cluster_id.lower()):
        raise SettingError(f"MOGILE_CLUSTER_ID must be a UUID, got {settings.cluster_id!r}")


def software_version() -> str:
    try:
        return version("mogile")
    except PackageNotFoundError:
        return "0"


async def run(settings: AgentSettings) -> None:
    """Serve until SIGTERM, SIGINT or a shutdown order; SettingError when a port is taken."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    _raise_descriptor_limit()
    registry = Registry(settings, Delivery(loop))
    app = AgentApp(Node(settings, registry), software_version())
    health = Health(app, registry)
    (health_host, health_port), *_ = parse_listen(settings.http_listen, "http_listen")
    sidechannel = SideChannel(registry, stop.set, parse_networks(settings.admin_from))
    await asyncio.to_thread(registry.start)
    async with contextlib.AsyncExitStack() as at_the_end:  # the last one first
        at_the_end.push_async_callback(asyncio.to_thread, registry.stop)
        health_server = await _listen(health, "MOGILE_HTTP_LISTEN", health_host, health_port)
        at_the_end.callback(health_server.close)
        at_the_end.callback(health.close)
        at_the_end.push_async_callback(sidechannel.stop)
        try:
            await sidechannel.start(settings.http_address, settings.mgmt_port)
        except OSError as failure:
            raise _port_error("MOGILE_MGMT_PORT", settings.http_address, settings.mgmt_port, failure) from failure
        at_the_end.push_async_callback(app.drain, settings.drain_seconds)
        server = await _listen(app, "MOGILE_HTTP_PORT", settings.http_address, settings.http_port)
        at_the_end.callback(server.close)
        await server.start_serving()  # after the side channel: a node that takes requests has it
        await health_server.start_serving()  # last: what is ready answers on its other ports
        gc.collect()
        gc.freeze()  # what was made at start stays: the collector need not look at it again
        states = {f"dev{d}": str(device.state) for d, device in registry.devices.items()}
        log.info("storage agent is up", address=settings.http_address, port=settings.http_port, **states)
        await _until(stop, registry, app, health)
        log.info("stopping")


async def _until(stop: asyncio.Event, registry: Registry, *apps: Application) -> None:
    async def rescan() -> None:
        while True:
            await asyncio.sleep(RESCAN_SECONDS)
            try:
                await registry.rescan()
            except OSError as failure:
                log.error("cannot list the document root", reason=str(failure))

    helpers = [asyncio.ensure_future(work) for work in (rescan(), *(sweep(app.connections) for app in apps))]
    try:
        await stop.wait()
    finally:
        for helper in helpers:
            helper.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)


async def _listen(app: Application, named: str, host: str, port: int) -> asyncio.Server:
    """Take the port; nobody is answered before `start_serving`."""
    try:
        return await asyncio.get_running_loop().create_server(
            lambda: Connection(app), host, port, backlog=BACKLOG, start_serving=False
        )
    except OSError as failure:
        raise _port_error(named, host, port, failure) from failure


def _port_error(name: str, host: str, port: int, failure: OSError) -> SettingError:
    return SettingError(f"{name}: cannot listen on {host}:{port}: {os.strerror(failure.errno or 0)}")


def _raise_descriptor_limit() -> None:
    """As many connections and open files as the system allows this user."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
