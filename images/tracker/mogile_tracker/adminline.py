"""The commands that start with an exclamation mark, in the form operators and exporters know (`!stats`, `!jobs`, `!want`, ...).

Our processes stand for MogileFS's: server processes for its queryworkers, and each job class runs in the shared jobs process or in
processes of its own. Whichever server process got the connection answers for the whole tracker: figures of the others are at most a
second old, what must be exact is asked for (`channel`). What changes the tracker (`!want`, `!to`, `!shutdown`) is taken only from this
machine and from the networks of `admin_from`.
"""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Sequence
from typing import Any

from mogile_core.errors import SettingError
from mogile_core.runtime.settings import variable_name
from mogile_tracker.channel import Channel, Message
from mogile_tracker.jobclasses import CLASSES, MONITOR, QUERYWORKER, WANT_MAX
from mogile_tracker.jobstate import QUEUE_JOBS, jobs_lines, status_lines
from mogile_tracker.server import RECENT_MAX, ClientConnection, LineServer

MOGILEFS_VERSION = "2.73"
HELP = """Available commands:
  !version, !stats, !jobs, !status, !recent, !queue, !pending, !watch
  !want <count> <jobclass>     so many processes of a class from now on
  !to <jobclass> <message>     :wake_up or :shutdown
  !shutdown                    finish what was accepted, then end this tracker"""

_WANT = re.compile(r"want\s+(\d{1,9})\s+(\S+)\s*\Z")
_TO = re.compile(r"to\s+(\S+)\s+(\S.*?)\s*\Z")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_networks(text: str) -> list[Network]:
    """`10.0.0.0/8,192.168.1.5` -> networks; SettingError naming the setting."""
    try:
        return [ipaddress.ip_network(part.strip(), strict=False) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise SettingError(f"{variable_name('admin_from')} must list networks such as 10.0.0.0/8: {error}") from error


def refusal(command: str, peer: str, networks: Sequence[Network]) -> str:
    """Why this client may not change the tracker; empty when it may."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return f"ERROR: {command} refused: the client's address is not known"
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_loopback or any(address in network for network in networks):
        return ""
    return f"ERROR: {command} refused: {address} is neither this machine nor in a network of --admin-from"


class AdminLines:
    """Answers admin lines in a server process."""

    def __init__(self, server: LineServer, channel: Channel) -> None:
        self._server = server
        self._channel = channel
        self._state = server.tracker.processes
        self._networks = parse_networks(server.tracker.settings.admin_from)
        server.admin = self.answer
        server.on_watchers = lambda: channel.send({"t": "watching", "on": bool(server.watchers)})
        channel.on("log", lambda message: server.show(message["lines"]))
        channel.on_question("recent", self._recent_here)
        channel.on_question("pending", self._pending_here)

    async def answer(self, text: str, connection: ClientConnection) -> list[str]:
        """The body lines of one admin command."""
        word = text.split(maxsplit=1)[0] if text.split() else ""
        if text.strip() == "stats":
            return self._stats()
        for name, body in (
            ("version", self._version),
            ("jobs", self._jobs),
            ("status", self._status),
            ("recent", self._recent),
            ("queue", self._pending),
            ("pending", self._pending),
            ("want", self._want),
            ("watch", self._watch),
            ("to", self._to),
            ("shutdown", self._shutdown),
        ):
            if word.startswith(name):
                return await body(text, connection)
        return [HELP]

    # ---- what is shown

    async def _version(self, _text: str, _connection: ClientConnection) -> list[str]:
        return [MOGILEFS_VERSION]

    async def _jobs(self, _text: str, _connection: ClientConnection) -> list[str]:
        return jobs_lines(self._state)

    async def _status(self, _text: str, _connection: ClientConnection) -> list[str]:
        return status_lines(self._state.workers())

    def _stats(self) -> list[str]:
        state, server = self._state, self._server
        here = server.figures()
        servers = [p["figures"] for p in state.servers() if p["figures"]] or [here]
        counters = state.counters()
        counters["queries"] = max(counters["queries"], int(server.queries.total()))
        counters["connections"] = sum(int(f.get("connections", 0)) for f in servers)
        for job in QUEUE_JOBS:
            backlog = state.backlog(job)
            if backlog is not None:
                counters[f"work_queue_for_{job}"] = backlog
        processing = sum(int(f.get("in_service", 0)) for f in servers)
        started = state.started if state.started is not None else server.started
        return [
            f"uptime {int(time.monotonic() - started)}",
            f"pending_queries {sum(int(f.get('waiting', 0)) for f in servers)}",
            f"processing_queries {processing}",
            f"bored_queryworkers {max(0, len(state.pids(QUERYWORKER)) - processing)}",
            *(f"{name} {count}" for name, count in sorted(counters.items())),
        ]

    async def _recent_here(self, _: Message) -> list[list[Any]]:
        return [list(entry) for entry in self._server.recent]

    async def _recent(self, _text: str, _connection: ClientConnection) -> list[str]:
        answers = await self._channel.ask("recent") or [await self._recent_here({})]
        entries = sorted((entry for part in answers for entry in part), key=lambda entry: entry[0])[-RECENT_MAX:]
        return [f"{peer} {command} {args} {total:.4f} {work:.4f}" for _, peer, command, args, total, work in entries]

    async def _pending_here(self, _: Message) -> list[str]:
        return self._server.pending()

    async def _pending(self, _text: str, _connection: ClientConnection) -> list[str]:
        answers = await self._channel.ask("pending") or [self._server.pending()]
        return [line for part in answers for line in part]

    async def _watch(self, _text: str, connection: ClientConnection) -> list[str]:
        on = connection not in self._server.watchers
        self._server.set_watching(connection, on=on)
        return ["Added you to watcher list." if on else "Removed you from watcher list."]

    # ---- what is done

    async def _want(self, text: str, connection: ClientConnection) -> list[str]:
        if problem := refusal("!want", connection.peer, self._networks):
            return [problem]
        found = _WANT.match(text)
        if found is None:
            return ["ERROR: usage: !want <count> <jobclass>"]
        count, job = min(int(found[1]), WANT_MAX), found[2]
        if job not in CLASSES:
            return [f"ERROR: Invalid class '{job}'.  Valid classes: {', '.join(CLASSES)}"]
        watched = self._state.desired.get(MONITOR, 1) > 0
        if watched and job != MONITOR and not self._server.tracker.live.observed_once.is_set():
            return ["ERROR: Monitor has not completed initial run yet"]
        if await self._channel.ask("want", job=job, count=count) is None:
            return ["ERROR: the parent process does not answer"]
        return [f"Now desiring {count} children doing '{job}'."]

    async def _to(self, text: str, connection: ClientConnection) -> list[str]:
        if problem := refusal("!to", connection.peer, self._networks):
            return [problem]
        found = _TO.match(text)
        if found is None:
            return ["ERROR: usage: !to <jobclass> <message>"]
        told = await self._channel.ask("to", job=found[1], text=found[2])
        return [f"Message sent to {told or 0} children."]

    async def _shutdown(self, _text: str, connection: ClientConnection) -> list[str]:
        if problem := refusal("!shutdown", connection.peer, self._networks):
            return [problem]
        await self._channel.ask("shutdown")
        return []
