"""Small files from a peer over a few kept connections, many requests under way on each.

Only GET is sent, so a request may be sent again; it is, once, when the connection it was on ends. Answers come in order (HTTP/1.1
pipelining, which our agent and nginx both keep to); anything that is not a plain answer with Content-Length ends the connection.

Callbacks and not coroutines, requests and answers many at a time: a task, a future and a system call each would cost more than the
rest of a small copy (make bench-storage).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable
from operator import attrgetter
from typing import NamedTuple, cast

from mogile_core.errors import MogError

CONNECTIONS_PER_SOURCE = 4
SOURCES_MAX = 256
CONNECT_SECONDS = 3.0
READ_SECONDS = 30.0  # without a byte while answers are due
IDLE_SECONDS = 30.0
HEAD_BYTES_MAX = 16 << 10
ATTEMPTS = 2
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})(?: |\Z)")
_CLUSTER = re.compile(rb"[0-9a-fA-F-]{36}\Z")


class FetchError(MogError):
    """The peer cannot be read from."""


class Fetched(NamedTuple):
    """An answer. `body` is None when it is larger than asked for."""

    status: int
    cluster_id: str
    length: int
    body: bytes | None


Done = Callable[[Fetched | FetchError], None]


class _Wanted:
    """A request on its way."""

    __slots__ = ("attempts", "done", "request")

    def __init__(self, request: bytes, done: Done) -> None:
        self.request, self.done, self.attempts = request, done, 0


class _Pipe(asyncio.Protocol):
    """One connection."""

    def __init__(self, source: _Source, limit: int) -> None:
        self._source, self._limit = source, limit
        self._waiting: deque[_Wanted] = deque()
        self._unsent: list[bytes] = []
        self._buffer = b""
        self._answer: Fetched | None = None  # whose body is still to come
        self._transport: asyncio.Transport | None = None
        self.moved_at = time.monotonic()
        self.closed = False
        self.last = False  # the peer takes no more requests here

    @property
    def load(self) -> int:
        """Answers that are due."""
        return len(self._waiting)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._end("the source broke off")

    def send(self, wanted: _Wanted) -> None:
        if not self._waiting:
            self.moved_at = time.monotonic()
        wanted.attempts += 1
        self._waiting.append(wanted)
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent.append(wanted.request)

    def _flush(self) -> None:
        """Everything asked for in this turn of the loop with one system call."""
        if self._transport is not None and not self.closed:
            self._transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def data_received(self, data: bytes) -> None:
        self.moved_at = time.monotonic()
        buffer = self._buffer + data if self._buffer else data
        start, size = 0, len(buffer)
        while start < size and not self.closed:
            answer = self._answer
            if answer is None:
                end = buffer.find(b"\r\n\r\n", start)
                if end < 0:
                    if size - start > HEAD_BYTES_MAX:
                        self._end("the source's answer is no HTTP")
                    break
                answer = self._answer = self._head(buffer[start:end])
                start = end + 4
                if answer is None:
                    break
            end = start + answer.length
            if end > size:
                break
            self._answer = None
            self._waiting.popleft().done(answer._replace(body=buffer[start:end]))
            start = end
        self._buffer = buffer[start:]

    def _head(self, head: bytes) -> Fetched | None:
        """The head of the next answer; None when it is not usable, then the connection has ended."""
        lines = head.split(b"\r\n")
        status, length, cluster_id = _STATUS.match(lines[0]), -1, ""
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            name = name.lower()
            if name == b"content-length":
                value = value.strip(b" \t")
                length = int(value) if value.isdigit() and len(value) < 19 else -1
            elif name == b"x-mogile-cluster":
                value = value.strip(b" \t")
                cluster_id = value.decode("ascii").lower() if _CLUSTER.match(value) else ""
            elif name == b"connection":
                self.last = value.strip(b" \t").lower() == b"close"  # what was sent behind this one goes to another
        if status is None or length < 0 or not self._waiting:
            self._end("the source's answer is no HTTP with a length")
            return None
        answer = Fetched(int(status[1]), cluster_id, length, None)
        if length > self._limit:
            self._waiting.popleft().done(answer)
            self._end("the source's answer is larger than it should be")
            return None
        return answer

    def _end(self, why: str) -> None:
        self.closed = True
        waiting, self._waiting = self._waiting, deque()
        if self._transport is not None:
            self._transport.abort()
        self._source.ended(self, waiting, FetchError(why))

    def close(self) -> None:
        for wanted in self._waiting:
            wanted.attempts = ATTEMPTS
        self._end("closed")

    def check(self, now: float) -> None:
        """End a connection that is silent while answers are due, or was not used for long."""
        limit = READ_SECONDS if self._waiting else IDLE_SECONDS
        if now - self.moved_at > limit:
            self._end("the source does not answer")


_load = attrgetter("load")


class _Source:
    """The connections to one peer."""

    def __init__(self, host: str, port: int, limit: int) -> None:
        self._address, self._limit = (host, port), limit
        self.pipes: list[_Pipe] = []
        self._queue: deque[_Wanted] = deque()  # until there is a connection
        self._opening: asyncio.Task[None] | None = None

    @property
    def unused(self) -> bool:
        return not self.pipes and self._opening is None

    def get(self, wanted: _Wanted) -> None:
        pipe = min((pipe for pipe in self.pipes if not pipe.last), key=_load, default=None)
        if self._opening is None and (pipe is None or (pipe.load and len(self.pipes) < CONNECTIONS_PER_SOURCE)):
            self._opening = asyncio.get_running_loop().create_task(self._open())
        if pipe is None:
            self._queue.append(wanted)
        else:
            pipe.send(wanted)

    async def _open(self) -> None:
        failure: FetchError | None = None
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                loop = asyncio.get_running_loop()
                _, pipe = await loop.create_connection(lambda: _Pipe(self, self._limit), *self._address)
            if pipe.closed:
                raise ConnectionResetError
            self.pipes.append(pipe)
        except (OSError, TimeoutError):
            failure = FetchError(f"cannot connect to {self._address[0]}:{self._address[1]}")
        finally:
            self._opening = None
        queue, self._queue = self._queue, deque()
        for wanted in queue:
            if failure is None or self.pipes:
                self.get(wanted)
            else:
                wanted.done(failure)

    def ended(self, pipe: _Pipe, waiting: deque[_Wanted], why: FetchError) -> None:
        """A kept connection may have been closed by the peer at any time: what was on it is asked for once more."""
        if pipe in self.pipes:
            self.pipes.remove(pipe)
        for wanted in waiting:
            if wanted.attempts < ATTEMPTS:
                self.get(wanted)
            else:
                wanted.done(why)

    def check(self, now: float) -> None:
        for pipe in list(self.pipes):
            pipe.check(now)

    def close(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
        for pipe in list(self.pipes):
            pipe.close()


class Fetcher:
    """Gets small files; keeps connections to its sources."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._sources: dict[tuple[str, int], _Source] = {}
        self._watch: asyncio.TimerHandle | None = None

    def get(self, host: str, port: int, path: str, cluster_id: str, done: Done) -> None:
        """`done` is called once on the loop, never from within this call unless there is no room for another source."""
        source = self._sources.get((host, port))
        if source is None:
            if len(self._sources) >= SOURCES_MAX:
                done(FetchError("too many sources at once"))
                return
            source = self._sources[host, port] = _Source(host, port, self._limit)
            if self._watch is None:
                self._watch = asyncio.get_running_loop().call_later(1.0, self._check)
        name = f"[{host}]" if ":" in host else host
        request = f"GET {path} HTTP/1.1\r\nHost: {name}:{port}\r\nX-Mogile-Cluster: {cluster_id}\r\n\r\n"
        source.get(_Wanted(request.encode("ascii"), done))

    def close(self) -> None:
        for source in self._sources.values():
            source.close()
        self._sources.clear()
        if self._watch is not None:
            self._watch.cancel()

    def _check(self) -> None:
        now = time.monotonic()
        for address, source in list(self._sources.items()):
            source.check(now)
            if source.unused:
                del self._sources[address]
        self._watch = asyncio.get_running_loop().call_later(1.0, self._check) if self._sources else None
