"""Starts a tracker: settings, database schema, listening ports, then the children (the only place that wires processes)."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import gc
import os
import socket
import sys
import time

from mogile_core.errors import SettingError, StoreError, StoreUnavailableError
from mogile_core.runtime import daemon, logs
from mogile_core.runtime.settings import exit_with_line, load_or_exit
from mogile_tracker import classicstart, processes
from mogile_tracker.adminline import parse_networks
from mogile_tracker.jobclasses import Roster
from mogile_tracker.server import BACKLOG
from mogile_tracker.settings import TrackerSettings
from mogile_tracker.store.migrate import upgrade
from mogile_tracker.supervisor import Supervisor

PROG = processes.PROG
LISTENERS_MAX = 8  # sockets of one address that server processes started later (`!want`) can share out among them

log = logs.get_log(__name__)


def main() -> None:
    """Entry point `mogile-tracker`."""
    settings = _settings(sys.argv[1:])
    pidfile = daemon.PidFile(settings.pidfile, "MOGILE_PIDFILE")
    try:
        dsn, own, watchdog = settings.dsn, settings.own_jobs, settings.watchdog
        restart_pauses = settings.restart_pauses
        parse_networks(settings.admin_from)
        pidfile.check()
        processors = len(os.sched_getaffinity(0))
        count = max(settings.processes, min(processors, LISTENERS_MAX))
        addresses = [] if settings.migrate_only else settings.listen_addresses
        reserved = [sock for host, port in addresses for sock in reserve(host, port, count)]
        if not settings.migrate_only:
            probe(*settings.http_address)
        prepare_database(settings, dsn)
    except (SettingError, StoreError) as error:
        exit_with_line(PROG, str(error))
    if settings.migrate_only:
        log.info("the database schema is up to date")
        return
    if settings.daemonize:
        daemon.daemonize()
        os.chdir("/")  # holds nothing that is to be unmounted
        logs.setup(settings.log_format, settings.log_level, "parent", syslog=True)
    pidfile.write()
    gc.freeze()  # what is loaded now is shared by all children
    for sock in reserved:
        sock.listen(BACKLOG)
    supervisor = Supervisor(
        Roster(servers=settings.processes, own=own),
        functools.partial(processes.run_child, settings, reserved),
        listeners=reserved,
        drain_seconds=settings.drain_seconds,
        watchdog_seconds=watchdog,
        restart_pauses=restart_pauses,
    )
    status = supervisor.run()
    pidfile.remove()
    sys.exit(status)


def _settings(arguments: list[str]) -> TrackerSettings:
    """Ours, and where they are silent mogilefsd's; the process has the right user afterwards."""
    names = {field.name for field in dataclasses.fields(TrackerSettings)}
    try:
        classic = classicstart.read(arguments, names.__contains__, processors=len(os.sched_getaffinity(0)))
        settings = load_or_exit(TrackerSettings, classic.arguments, PROG, foreign=classic.values)
        logs.setup(settings.log_format, settings.log_level, "parent")
        if classic.used and not settings.user and os.geteuid() == 0:
            raise SettingError(
                "refusing to run as root, as mogilefsd does: name a user (user = mogile; root if it must be)"
            )
        if settings.user:
            daemon.become(settings.user)
    except SettingError as error:
        exit_with_line(PROG, str(error))
    for warning in classic.warnings:
        log.warning(warning)
    return settings


def reserve(host: str, port: int, count: int) -> list[socket.socket]:
    """Bind a port so many times, after making sure that nobody else has it: the kernel spreads connections over the sockets."""
    probe(host, port)
    sockets = []
    for _ in range(count):
        sock = socket.socket(_family(host), socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setblocking(False)
        sock.bind((host, port))
        sockets.append(sock)
    return sockets


def probe(host: str, port: int) -> None:
    """SettingError when somebody listens at the address or it is not this machine's.

    Bound and not listened at: a connection that came in this moment would be reset, with whatever its client had sent.
    """
    with socket.socket(_family(host), socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError as error:
            raise SettingError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def prepare_database(settings: TrackerSettings, dsn: str) -> None:
    """Bring the schema up to date; waits a bounded time for a database that cannot be reached yet."""
    deadline = time.monotonic() + settings.db_start_timeout_seconds
    while True:
        try:
            plan = asyncio.run(upgrade(dsn, pooled=settings.db_pooled))
        except StoreUnavailableError as error:
            if time.monotonic() + settings.db_start_pause_seconds > deadline:
                raise
            log.warning("waiting for the database", error=error)
            time.sleep(settings.db_start_pause_seconds)
        else:
            for warning in plan.warnings:
                log.warning(warning)
            return


if __name__ == "__main__":
    main()
