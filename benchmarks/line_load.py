"""The load generator: many users, each with one operation under way, on the tracker's line protocol and nodes' HTTP.

An operation is a generator: it yields what is to be sent and is given the answer. No futures or tasks per request: the generator shares
two cores with what it measures, so it must be cheap (its CPU time is reported beside the others').
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import NamedTuple, cast


class Put(NamedTuple):
    """An HTTP request to a storage node."""

    address: tuple[str, int]
    data: bytes


Operation = Callable[[], Generator[bytes | Put, bytes, None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a stretch of load did."""

    count: int
    seconds: float
    p50_ms: float
    p99_ms: float
    cpu_seconds: float

    @property
    def per_second(self) -> float:
        return self.count / self.seconds


class _Line(asyncio.Protocol):
    """Answers that end with a line feed."""

    def __init__(self, user: _User) -> None:
        self._user, self._data = user, b""
        self.closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closing:
            self._user.fail(ConnectionError(f"connection lost: {exc}"))

    def data_received(self, data: bytes) -> None:
        if self._data:
            data = self._data + data
        if self._complete(data):
            self._data = b""
            self._user.step(data)
        else:
            self._data = data

    def _complete(self, data: bytes) -> bool:
        return data.endswith(b"\n")


class _Http(_Line):
    """Answers with a Content-Length (or none and no body)."""

    def _complete(self, data: bytes) -> bool:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = data[:end].lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        return len(data) >= end + 4 + length


class _User:
    """One client of the tracker."""

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._tracker: _Line | None = None
        self._nodes: dict[tuple[str, int], _Http] = {}
        self._running: Generator[bytes | Put, bytes, None] | None = None
        self._began = 0.0

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        if self._load.tracker is not None:
            _, self._tracker = await loop.create_connection(lambda: _Line(self), *self._load.tracker)

    def begin(self) -> None:
        now = time.perf_counter()
        if now >= self._load.end:
            self._load.one_less()
            return
        self._began = now
        self._running = self._load.operation()
        request = next(self._running, None)
        if request is None:  # nothing left to do
            self._load.one_less()
        else:
            self._send(request)

    def step(self, answer: bytes) -> None:
        """Give the operation its answer."""
        try:
            assert self._running is not None
            request = self._running.send(answer)
        except StopIteration:
            self._load.times.append(time.perf_counter() - self._began)
            self.begin()
        except Exception as error:
            self.fail(error)
        else:
            self._send(request)

    def _send(self, request: bytes | Put) -> None:
        if isinstance(request, bytes):
            assert self._tracker is not None
            self._tracker.transport.write(request)
        elif (node := self._nodes.get(request.address)) is not None:
            node.transport.write(request.data)
        else:
            self._load.spawn(self._send_first(request))

    async def _send_first(self, request: Put) -> None:
        try:
            loop = asyncio.get_running_loop()
            _, node = await loop.create_connection(lambda: _Http(self), *request.address)
        except OSError as error:
            return self.fail(error)
        self._nodes[request.address] = node
        return node.transport.write(request.data)

    def fail(self, error: BaseException) -> None:
        self._load.fail(error)

    def close(self) -> None:
        for connection in (self._tracker, *self._nodes.values()):
            if connection is not None:
                connection.closing = True
                connection.transport.close()


class _Load:
    """One stretch of load."""

    def __init__(self, tracker: tuple[str, int] | None, operation: Operation) -> None:
        self.tracker, self.operation = tracker, operation
        self.times: list[float] = []
        self.end = 0.0
        self._left = 0
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, connections: int, seconds: float) -> Result:
        users = [_User(self) for _ in range(connections)]
        for user in users:
            await user.connect()
        self._left = connections
        cpu, began = time.process_time(), time.perf_counter()
        self.end = began + seconds
        for user in users:
            user.begin()
        try:
            async with asyncio.timeout(seconds + 60):
                await self._done
        finally:
            took, used = time.perf_counter() - began, time.process_time() - cpu
            for user in users:
                user.close()
        times = sorted(self.times)
        return Result(
            count=len(times), seconds=took, cpu_seconds=used,
            p50_ms=times[len(times) // 2] * 1e3, p99_ms=times[int(len(times) * 0.99)] * 1e3,
        )  # fmt: skip

    def spawn(self, work: Generator[object, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def one_less(self) -> None:
        self._left -= 1
        if not self._left and not self._done.done():
            self._done.set_result(None)

    def fail(self, error: BaseException) -> None:
        if not self._done.done():
            self._done.set_exception(error)


async def load(tracker: tuple[str, int] | None, operation: Operation, connections: int, seconds: float) -> Result:
    """Keep `connections` users busy for `seconds` or until operations are empty; the first wrong answer ends it with an error."""
    return await _Load(tracker, operation).run(connections, seconds)


def fields(answer: bytes, start: bytes = b"OK ") -> dict[str, str]:
    """The arguments of a good answer; ValueError for any other."""
    if not answer.startswith(start):
        raise ValueError(f"wrong answer: {answer[:300]!r}")
    return dict(pair.split("=") for pair in answer[3:].decode().strip().split("&") if pair)  # type: ignore[misc]
