"""The side channel of one storage node: short questions as lines on one connection, many of them under way at once.

Answers come in the order of the questions, so a question costs a line each way instead of an HTTP exchange; that is what makes the
size check of create_close cheap. A broken connection fails what was under way, and the next question connects anew. Digests are asked on a
connection of their own: they take as long as the file is long, and would hold up the sizes behind them.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable

from mogile_core.errors import NodeError, NodeUnreachableError

QUESTIONS_MAX = 4096  # under way on one connection
LINE_BYTES_MAX = 4096


class SideChannel:
    """One pipelined connection, made when it is first needed."""

    def __init__(self, address: str, port: int, *, connect_timeout_seconds: float) -> None:
        self._address = address
        self._port = port
        self._connect_timeout = connect_timeout_seconds
        self._waiting: deque[asyncio.Future[str]] = deque()
        self._unsent: list[bytes] = []
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()

    async def ask(self, question: str, *, timeout_seconds: float) -> str:
        """The answer line to one question line; NodeUnreachableError when none comes in time."""
        if len(self._waiting) >= QUESTIONS_MAX:
            raise NodeUnreachableError(f"{self._address}: {QUESTIONS_MAX} side channel questions wait already")
        if self._writer is None:
            await self._connect()
            if (
                self._writer is None
            ):  # closed again before we came to it: answers would be taken for the next connection's
                raise NodeUnreachableError(f"{self._address}: side channel closed")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[str] = loop.create_future()
        self._waiting.append(answer)
        self._unsent.append(question.encode() + b"\r\n")
        if (
            len(self._unsent) == 1
        ):  # what is asked in one turn of the loop goes out together: a system call each is dear
            loop.call_soon(self._send)
        # A bare timer: a timeout scope costs more than all the rest of a question.
        timer = loop.call_later(timeout_seconds, self._give_up, answer, timeout_seconds)
        try:
            return await answer
        finally:
            timer.cancel()

    def _give_up(self, answer: asyncio.Future[str], seconds: float) -> None:
        """The order of answers is all we have: after one is missed the connection cannot be trusted, and all that wait on it fail."""
        problem = NodeUnreachableError(f"{self._address}: side channel did not answer in {seconds} s")
        if answer in self._waiting:
            self._drop(problem)
        if not answer.done():
            answer.set_exception(problem)

    def _send(self) -> None:
        unsent, self._unsent = self._unsent, []
        if self._writer is not None and unsent:
            self._writer.write(b"".join(unsent))

    async def _connect(self) -> None:
        async with self._connecting:
            if self._writer is not None:
                return
            try:
                async with asyncio.timeout(self._connect_timeout):
                    reader, writer = await asyncio.open_connection(self._address, self._port, limit=LINE_BYTES_MAX)
            except (OSError, TimeoutError) as error:
                raise NodeUnreachableError(f"{self._address}:{self._port}: no side channel: {error}") from error
            self._writer = writer
            self._reading = asyncio.create_task(self._read(reader, writer), name=f"side channel {self._address}")

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        problem: Exception = NodeUnreachableError(f"{self._address}: side channel closed")
        try:
            while line := await reader.readline():
                if not self._waiting:
                    break
                answer = self._waiting.popleft()
                if not answer.done():
                    answer.set_result(line.decode("utf-8", "replace").rstrip("\r\n"))
        except (OSError, ValueError) as error:
            problem = NodeUnreachableError(f"{self._address}: side channel failed: {error}")
        finally:
            if self._writer is writer:
                self._drop(problem)

    def _drop(self, problem: Exception) -> None:
        writer, self._writer = self._writer, None
        reading, self._reading = self._reading, None
        self._unsent.clear()
        if writer is not None:
            writer.close()
        if reading is not None and reading is not asyncio.current_task():
            reading.cancel()
        while self._waiting:
            answer = self._waiting.popleft()
            if not answer.done():
                answer.set_exception(problem)

    async def close(self) -> None:
        """Fail what is under way and close."""
        reading = self._reading
        self._drop(NodeUnreachableError(f"{self._address}: side channel closed"))
        if reading is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await reading


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
