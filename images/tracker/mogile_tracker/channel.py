"""A child's end of the socketpair to the parent: one JSON object a line, both ways.

What a child says: `status` (its metrics and figures, about once a second; the parent takes it as a sign of life), `load` (how much of a
processor a server process uses), `observed` (a monitor round), `ask` (a question that the parent or the other children answer: see
`switchboard`), `told` (its own answer to one), `watching`, `log`. What it hears: `answer`, `tell` (a question), `observed`, `load` (of all
server processes together), `state` (figures of all processes), `assign` (which job classes to run), `serve`, `to`, `watch`, `log`.
Messages but `log` are states, not events: a newer one of a kind replaces an older one that was not sent yet, so the memory is bounded
however slow the other side is; of log lines the oldest are dropped. When the parent is gone the child leaves too.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from mogile_tracker.logwatch import KEPT_LINES_MAX

LINE_BYTES_MAX = 16 << 20
ASK_SECONDS_MAX = 5.0
LOG_LINES_PER_MESSAGE = 100

Message = dict[str, Any]
Question = Callable[[Message], Awaitable[Any]]


class Channel:
    """Connects a child to its parent."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._writer: asyncio.StreamWriter | None = None
        self._handlers: dict[str, Callable[[Message], None]] = {}
        self._questions: dict[str, Question] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._newest: dict[str, bytes] = {}
        self._lines: deque[str] = deque(maxlen=KEPT_LINES_MAX)
        self._flushing: asyncio.Task[None] | None = None
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count(1)
        self.parent_gone = asyncio.Event()

    def on(self, kind: str, handler: Callable[[Message], None]) -> None:
        """Call `handler` for every message of a kind."""
        self._handlers[kind] = handler

    def on_question(self, what: str, handler: Question) -> None:
        """Answer a question of another process with what `handler` returns (JSON data)."""
        self._questions[what] = handler

    async def run(self) -> None:
        """Read until the parent is gone."""
        reader, self._writer = await asyncio.open_connection(sock=self._socket, limit=LINE_BYTES_MAX)
        self.on("answer", self._answered)
        self.on("tell", self._told)
        self._flush()
        try:
            while line := await reader.readline():
                message = json.loads(line)
                handler = self._handlers.get(message["t"])
                if handler is not None:
                    handler(message)
        except (OSError, ValueError):
            pass
        finally:
            self.parent_gone.set()

    def send(self, message: Message) -> None:
        """Send the newest message of its kind (`t`, and `id` where it has one)."""
        self._newest[f"{message['t']}/{message.get('id', '')}"] = json.dumps(message).encode() + b"\n"
        self._flush()

    def log(self, line: str) -> None:
        """Pass on a log line that somebody watches for."""
        self._lines.append(line)
        self._flush()

    async def flush(self) -> None:
        """Return when everything said so far is on its way."""
        while self._flushing is not None and not self._flushing.done():
            await asyncio.wait([self._flushing])

    async def ask(self, what: str, **args: object) -> Any:
        """The answer of the parent, or of all other processes together; None when it does not come within a bounded time."""
        number = next(self._numbers)
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked[number] = done
        self.send({"t": "ask", "id": number, "what": what, **args})
        try:
            async with asyncio.timeout(ASK_SECONDS_MAX):
                return await done
        except TimeoutError:
            return None
        finally:
            self._asked.pop(number, None)

    async def announce_change(self) -> None:
        """Tell the other processes to re-read the topology; returns when they have, or after a bounded time (they do so anyway)."""
        await self.ask("reload")

    def _answered(self, message: Message) -> None:
        done = self._asked.get(message["id"])
        if done is not None and not done.done():
            done.set_result(message["data"])

    def _told(self, message: Message) -> None:
        task = asyncio.get_running_loop().create_task(self._answer(message))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, message: Message) -> None:
        handler = self._questions.get(message["what"])
        data = await handler(message) if handler is not None else None
        self.send({"t": "told", "id": message["id"], "data": data})

    def _flush(self) -> None:
        if self._writer is not None and (self._flushing is None or self._flushing.done()):
            self._flushing = asyncio.get_running_loop().create_task(self._write_all())

    async def _write_all(self) -> None:
        assert self._writer is not None
        try:
            while self._newest or self._lines:
                if self._newest:
                    key = next(iter(self._newest))
                    self._writer.write(self._newest.pop(key))
                else:
                    self._writer.write(log_message(self._lines))
                await self._writer.drain()
        except OSError:
            self.parent_gone.set()


def log_message(lines: deque[str]) -> bytes:
    """The next lines as one message; they are taken out."""
    taken = [lines.popleft() for _ in range(min(len(lines), LOG_LINES_PER_MESSAGE))]
    return json.dumps({"t": "log", "lines": taken}).encode() + b"\n"
