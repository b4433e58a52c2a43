"""The side channel of one storage node: short questions as lines on one connection, many of them under way at once.

Answers come in the order of the questions, so a question costs a line each way instead of an HTTP exchange; that is what makes the
size check of create_close cheap. A broken connection fails what was under way, and the next question connects anew. Digests are asked on a
connection of their own: they take as long as the file is long, and would hold up the sizes behind them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

from mogile_core.errors import NodeError, NodeUnreachableError

QUESTIONS_MAX = 4096  # under way on one connection
LINE_BYTES_MAX = 4096


class _Question(NamedTuple):
    answer: asyncio.Future[str]
    until: float  # on the loop's clock
    seconds: float


class SideChannel:
    """One pipelined connection, made when it is first needed."""

    def __init__(self, address: str, port: int, *, connect_timeout_seconds: float) -> None:
        self._address = address
        self._port = port
        self._connect_timeout = connect_timeout_seconds
        self._waiting: deque[_Question] = deque()
        self._unsent: list[bytes] = []
        self._line: _Line | None = None
        self._connecting = asyncio.Lock()
        # One timer for all questions, at the time when the first of them has waited long enough: one each costs more than the question.
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    async def ask(self, question: str, *, timeout_seconds: float) -> str:
        """The answer line to one question line; NodeUnreachableError when none comes in time."""
        if len(self._waiting) >= QUESTIONS_MAX:
            raise NodeUnreachableError(f"{self._address}: {QUESTIONS_MAX} side channel questions wait already")
        if self._line is None:
            await self._connect()
            if (
                self._line is None
            ):  # closed again before we came to it: answers would be taken for the next connection's
                raise NodeUnreachableError(f"{self._address}: side channel closed")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[str] = loop.create_future()
        until = loop.time() + timeout_seconds
        self._waiting.append(_Question(answer, until, timeout_seconds))
        self._unsent.append(question.encode() + b"\r\n")
        if (
            len(self._unsent) == 1
        ):  # what is asked in one turn of the loop goes out together: a system call each is dear
            loop.call_soon(self._send)
        if self._timer is None or until < self._timer_at:
            self._set_timer(until)
        return await answer

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = asyncio.get_running_loop().call_at(at, self._look_at_clock), at

    def _look_at_clock(self) -> None:
        """The order of answers is all we have: after one is missed the connection cannot be trusted, and all that wait on it fail."""
        self._timer = None
        if not self._waiting:
            return
        first = min(self._waiting, key=lambda question: question.until)
        if first.until > asyncio.get_running_loop().time():
            self._set_timer(first.until)
        else:
            self._drop(NodeUnreachableError(f"{self._address}: side channel did not answer in {first.seconds} s"))

    def _send(self) -> None:
        unsent, self._unsent = self._unsent, []
        if self._line is not None and unsent:
            self._line.transport.write(b"".join(unsent))

    async def _connect(self) -> None:
        async with self._connecting:
            if self._line is not None:
                return
            try:
                async with asyncio.timeout(self._connect_timeout):
                    _, line = await asyncio.get_running_loop().create_connection(
                        lambda: _Line(self), self._address, self._port
                    )
            except (OSError, TimeoutError) as error:
                raise NodeUnreachableError(f"{self._address}:{self._port}: no side channel: {error}") from error
            if not line.transport.is_closing():  # it may have been closed before we were told that it is open
                self._line = line

    def answered(self, lines: Sequence[bytes]) -> None:
        """Answers to the questions that wait longest."""
        for line in lines:
            if not self._waiting:
                self._drop(NodeUnreachableError(f"{self._address}: an answer to no question"))
                return
            answer = self._waiting.popleft().answer
            if not answer.done():
                answer.set_result(line.decode("utf-8", "replace").rstrip("\r"))

    def lost(self, line: _Line, why: str) -> None:
        """A connection has ended."""
        if self._line is line:
            self._drop(NodeUnreachableError(f"{self._address}: side channel {why}"))

    def _drop(self, problem: NodeUnreachableError) -> None:
        line, self._line = self._line, None
        self._unsent.clear()
        if line is not None:
            line.transport.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting:
            answer = self._waiting.popleft().answer
            if not answer.done():
                answer.set_exception(problem)

    async def close(self) -> None:
        """Fail what is under way and close."""
        self._drop(NodeUnreachableError(f"{self._address}: side channel closed"))


class _Line(asyncio.Protocol):
    """The connection of a side channel: bytes to lines."""

    def __init__(self, channel: SideChannel) -> None:
        self._channel = channel
        self._tail = b""
        self.transport: asyncio.Transport = None  # type: ignore[assignment] # set before anything else is called

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        *lines, self._tail = (self._tail + data).split(b"\n")
        self._channel.answered(lines)
        if len(self._tail) > LINE_BYTES_MAX:
            self._channel.lost(self, "failed: an answer is too long")

    def connection_lost(self, exc: Exception | None) -> None:
        self._channel.lost(self, f"failed: {exc}" if exc is not None else "closed")


async def watch(
    address: str,
    port: int,
    *,
    timeout_seconds: float,
    silence_seconds: float,
    seen: Callable[[int, float | None], None],
) -> None:
    """Report every device's utilization in percent as the node tells it, about once a second, until the connection ends (NodeError).

    `timeout_seconds` is for the connection; a node that says nothing for `silence_seconds` is hung up on.
    """
    try:
        async with asyncio.timeout(timeout_seconds):
            reader, writer = await asyncio.open_connection(address, port, limit=LINE_BYTES_MAX)
    except (OSError, TimeoutError) as error:
        raise NodeUnreachableError(f"{address}:{port}: no side channel: {error}") from error
    try:
        writer.write(b"watch\r\n")
        while True:
            async with asyncio.timeout(silence_seconds):
                line = (await reader.readline()).decode("utf-8", "replace").strip()
            if not line:
                raise NodeUnreachableError(f"{address}: side channel closed")
            if line.startswith("ERR"):
                raise NodeError(f"{address}: {line[:200]}")
            devid, tab, percent = line.partition("\t")
            if tab and devid.isascii() and devid.isdigit():
                seen(int(devid), _percent(percent))
    except (OSError, ValueError, TimeoutError) as error:
        raise NodeUnreachableError(f"{address}: side channel failed: {error}") from error
    finally:
        writer.close()


def _percent(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None  # "-": the node cannot tell
    return value if 0.0 <= value <= 100.0 else None


def parse_size(answer: str, path: str) -> int | None:
    """`<path> <bytes>` or `<path> -1` (None); NodeError for anything else."""
    uri, _, size = answer.rpartition(" ")
    if uri != path or not size.lstrip("-").isdigit():
        raise NodeError(f"side channel answered {answer[:200]!r} to size {path}")
    length = int(size)
    return length if length >= 0 else None


def parse_digest(answer: str, path: str, algorithm: str) -> bytes | None:
    """`<path> MD5=<hex>` or `<path> MD5=-1` (None); NodeError for anything else."""
    uri, _, result = answer.rpartition(" ")
    name, _, digest = result.partition("=")
    if uri != path or name != algorithm:
        raise NodeError(f"side channel answered {answer[:200]!r} to {algorithm} {path}")
    if digest == "-1":
        return None
    try:
        return bytes.fromhex(digest)
    except ValueError as error:
        raise NodeError(f"side channel answered {answer[:200]!r} to {algorithm} {path}") from error
