"""The line protocol on a socket: splits, dispatches, answers strictly in order, and never waits for one client at another's cost.

One request is in service per connection; further ones wait (bounded: a client that sends without reading its answers is not read any more,
and is cut when its answers stay unread for `slow_reader_seconds`). Every failure becomes an answer; only a line that is too long closes
the connection, because the rest of it cannot be told from the next request.

The listening sockets are the parent's: it says which of them this process accepts from. So a connection that waits in a kernel's queue
outlives the process that was to take it, and another one does.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from mogile_core.errors import CommandError, MogError, RequestTooLongError, StoreError
from mogile_core.runtime.logs import get_log
from mogile_core.runtime.metrics import Registry as Metrics
from mogile_core.wire import LineBuffer, Request, encode_error, encode_ok, parse_request
from mogile_tracker.commands.registry import Call, Registry, Tracker

PIPELINED_MAX = 1000
RECENT_MAX = 50
RECENT_CHARS_MAX = 1000
PENDING_SHOWN_MAX = 1000

WATCHER_BUFFER_BYTES_MAX = 1 << 20
BACKLOG = 1024
LAST_ACCEPT_SECONDS = 0.05  # what has been queued is taken before a process stops accepting
FIRST_WORD_SECONDS = 0.3  # a client that has just connected may still send its first request

AdminAnswer = Callable[[str, "ClientConnection"], Awaitable[list[str]]]
log = get_log(__name__)


class Duty:
    """What the parent wants of a server process: whether it answers commands, and which listening sockets it accepts from."""

    def __init__(self) -> None:
        self.serving = asyncio.Event()  # cleared by `!want 0 queryworker`: commands wait, admin lines are answered
        self.serving.set()
        self.accept: frozenset[int] = frozenset()
        self.changed = asyncio.Event()

    def update(self, message: dict[str, Any]) -> None:
        """A message of the parent."""
        (self.serving.set if message["on"] else self.serving.clear)()
        self.accept = frozenset(message["accept"])
        self.changed.set()


class LineServer:
    """All connections of one server process."""

    def __init__(
        self, tracker: Tracker, commands: Registry, metrics: Metrics, duty: Duty, listeners: Sequence[socket.socket]
    ) -> None:
        self.tracker = tracker
        self.commands = commands
        self.admin: AdminAnswer | None = None
        self.connections: set[ClientConnection] = set()
        self.watchers: set[ClientConnection] = set()
        self.on_watchers: Callable[[], None] = lambda: None
        self.recent: deque[tuple[float, str, str, str, float, float]] = deque(maxlen=RECENT_MAX)
        self.serving = duty.serving
        self.waited = 0
        self.started = time.monotonic()
        self.draining = False
        self.queries = metrics.counter("tracker_commands_total", "Commands answered", ["command", "result"])
        self.seconds = metrics.histogram("tracker_command_seconds", "Time from request to answer", ["command"])
        self.cut = metrics.counter("tracker_connections_cut_total", "Connections closed by the tracker", ["reason"])
        open_gauge = metrics.gauge("tracker_connections", "Open client connections")
        metrics.on_collect(lambda: open_gauge.set(len(self.connections)))
        self._duty, self._listeners = duty, listeners
        self._accepting: dict[int, asyncio.Server] = {}

    async def accept_for_ever(self) -> None:
        """Accept from the sockets that are this process's duty; each is accepted from through a descriptor of our own."""
        loop = asyncio.get_running_loop()
        while True:
            self._duty.changed.clear()
            for index in self._accepting.keys() - self._duty.accept:
                self._accepting.pop(index).close()
            for index in self._duty.accept - self._accepting.keys():
                self._accepting[index] = await loop.create_server(
                    lambda: ClientConnection(self), sock=self._listeners[index].dup(), backlog=BACKLOG
                )
            await self._duty.changed.wait()

    async def drain(self, seconds: float) -> None:
        """Accept nothing new, finish what was accepted, then close; cut what is left after the deadline."""
        await asyncio.sleep(LAST_ACCEPT_SECONDS)
        for server in self._accepting.values():
            server.close()
        for listener in self._listeners:
            listener.close()
        for connection in list(self.connections):
            if connection.spoke:
                connection.close_when_done()
        if self.connections:
            await asyncio.sleep(min(FIRST_WORD_SECONDS, seconds))
        self.draining = True
        for connection in list(self.connections):
            connection.close_when_done()
        deadline = time.monotonic() + seconds
        while self.connections and time.monotonic() < deadline:  # noqa: ASYNC110 - once, at the end
            await asyncio.sleep(0.02)
        for connection in list(self.connections):
            connection.cut("shutdown")

    @property
    def in_service(self) -> int:
        """Requests being worked on."""
        return sum(connection.busy for connection in self.connections) if self.serving.is_set() else 0

    def pending(self) -> list[str]:
        """Requests that wait: behind another one of their connection, or for a process that takes requests."""
        found = []
        for connection in self.connections:
            for request in connection.waiting():
                found.append(f"{connection.peer} {request.command} {request.raw_args[:RECENT_CHARS_MAX]}")
                if len(found) >= PENDING_SHOWN_MAX:
                    return found
        return found

    def figures(self) -> dict[str, int]:
        """What this process tells the others."""
        waiting = sum(connection.waiting_count for connection in self.connections)
        return {"in_service": self.in_service, "waiting": waiting, "connections": len(self.connections)}

    def counters(self) -> dict[str, int]:
        """What only grows."""
        counts = {"queries": int(self.queries.total()), "times_out_of_qworkers": self.waited}
        return {name: count for name, count in counts.items() if count}

    def show(self, lines: Sequence[str]) -> None:
        """Log lines for the watchers; one that does not read misses some."""
        data = "".join(f":: {line}\r\n" for line in lines).encode("latin-1", "replace")
        for connection in self.watchers:
            connection.show(data)

    def set_watching(self, connection: ClientConnection, *, on: bool) -> None:
        """A connection wants log lines, or no longer."""
        before = bool(self.watchers)
        (self.watchers.add if on else self.watchers.discard)(connection)
        if before is not bool(self.watchers):
            self.on_watchers()

    async def answer(self, request: Request, peer: str) -> bytes:
        """The answer line of one request."""
        callid = request.args.get("callid")
        arrived = time.perf_counter()
        if not self.serving.is_set():
            self.waited += 1
            await self.serving.wait()
        handler = self.commands.get(request.command)
        if handler is None:
            self.queries.inc(command="unknown", result="unknown_command")
            return encode_error("unknown_command", callid=callid)
        started = time.perf_counter()
        code = "ok"
        try:
            reply = encode_ok(await handler(self.tracker, Call(request.args, peer)), callid)
        except CommandError as error:
            code = error.wire_code
            reply = encode_error(code, error.text, callid)
        except StoreError as error:
            code = "db"
            log.warning("database error", command=request.command, error=error)
            reply = encode_error(code, callid=callid)
        except (MogError, TimeoutError) as error:
            code = "failure"
            log.warning("command failed", command=request.command, error=str(error) or "timeout")
            reply = encode_error(code, callid=callid)
        except Exception:
            code = "failure"
            log.exception("command failed unexpectedly", command=request.command)
            reply = encode_error(code, callid=callid)
        seconds = time.perf_counter() - started
        self.queries.inc_key((request.command, code))
        self.seconds.observe_key((request.command,), seconds)
        total = seconds + started - arrived
        self.recent.append((time.time(), peer, request.command, request.raw_args[:RECENT_CHARS_MAX], total, seconds))
        return reply


class ClientConnection(asyncio.Protocol):
    """One client."""

    def __init__(self, server: LineServer) -> None:
        self._server = server
        self._settings = server.tracker.settings
        self._buffer = LineBuffer(self._settings.request_bytes_max)
        self._lines: deque[str] = deque()
        self._transport: asyncio.Transport | None = None
        self.peer = ""
        self.spoke = False
        self._in_service: Request | None = None
        self._task: asyncio.Task[None] | None = None
        self._writable: asyncio.Event | None = None
        self._slow_timer: asyncio.TimerHandle | None = None
        self._reading_paused = False
        self._closing = False  # no further line is read; close after the last answer
        self._last_words = b""

    @property
    def busy(self) -> bool:
        """A request is in service."""
        return self._task is not None

    @property
    def waiting_count(self) -> int:
        """Requests of this client that are not worked on."""
        held = self._in_service is not None and not self._server.serving.is_set()
        return len(self._lines) + int(held)

    def waiting(self) -> list[Request]:
        """The same, oldest first."""
        held = [self._in_service] if self._in_service is not None and not self._server.serving.is_set() else []
        return [*held, *(r for line in self._lines if (r := parse_request(line)) is not None and not r.admin)]

    def show(self, data: bytes) -> None:
        """Log lines, unless too many lie unread already."""
        if self._transport is not None and self._transport.get_write_buffer_size() < WATCHER_BUFFER_BYTES_MAX:
            self._transport.write(data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) else ""
        if len(self._server.connections) >= self._settings.connections_max or self._server.draining:
            self._server.cut.inc(reason="too many")
            transport.abort()
            return
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._server.set_watching(self, on=False)
        self._transport = None
        self._lines.clear()
        if self._slow_timer is not None:
            self._slow_timer.cancel()
        if self._writable is not None:
            self._writable.set()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        self.spoke = True
        try:
            for line in self._buffer.feed(data):
                self._lines.append(line)
        except RequestTooLongError as error:
            self._server.cut.inc(reason="request too long")
            self._last_words = encode_error(error.code, str(error))
            self._closing = True
            if self._task is None and not self._lines:
                self._close()
        if len(self._lines) >= PIPELINED_MAX and self._transport is not None and not self._reading_paused:
            self._transport.pause_reading()
            self._reading_paused = True
        if self._task is None and self._lines:
            self._task = asyncio.create_task(self._serve())

    def pause_writing(self) -> None:
        """The client does not read its answers: no further request is served until it does, and not for ever."""
        self._writable = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._slow_timer = loop.call_later(self._settings.slow_reader_seconds, self.cut, "slow reader")

    def resume_writing(self) -> None:
        if self._slow_timer is not None:
            self._slow_timer.cancel()
            self._slow_timer = None
        if self._writable is not None:
            self._writable.set()
            self._writable = None

    def close_when_done(self) -> None:
        """Read no more, answer what was accepted, close."""
        self._closing = True
        if self._task is None:
            self._close()

    def cut(self, reason: str) -> None:
        """Close at once."""
        self._server.cut.inc(reason=reason)
        if self._transport is not None:
            self._transport.abort()

    async def _serve(self) -> None:
        try:
            while self._lines and self._transport is not None:
                request = parse_request(self._lines.popleft())
                if request is None:
                    continue
                if request.admin:
                    lines = await self._admin(request.admin)
                    self._write("".join(f"{line}\r\n" for line in lines).encode("latin-1", "replace"))
                else:
                    self._in_service = request
                    self._write(await self._server.answer(request, self.peer))
                    self._in_service = None
                if self._writable is not None:
                    await self._writable.wait()
                if self._reading_paused and len(self._lines) < PIPELINED_MAX // 2 and self._transport is not None:
                    self._transport.resume_reading()
                    self._reading_paused = False
        finally:
            self._task = None
            if self._closing:
                self._close()

    def _close(self) -> None:
        if self._transport is not None:
            self._write(self._last_words)
            self._transport.close()

    async def _admin(self, text: str) -> list[str]:
        assert self._server.admin is not None, "set before the server listens"
        try:
            return [*await self._server.admin(text.rstrip("\r"), self), "."]
        except Exception:
            log.exception("admin line failed unexpectedly", line=text[:RECENT_CHARS_MAX])
            return ["ERROR: this tracker failed to answer; see its log", "."]

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)
