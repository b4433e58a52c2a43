"""A small HTTP/1.1 server on asyncio.Protocol: framing, limits and timeouts, no routes.

One request of a connection is in service at a time; pipelined ones wait in the buffer, and reading stops when it is full. The
application answers `begin(request, connection)` by calling exactly one of `respond`, `take_body`, `stream_body` (then `respond`
later) or `start_response`. Small bodies are collected, large ones handed on as they come; nothing here grows with a body's size.

An answer given before the body was read (a refusal) ends the connection after the answer: what still comes is read and thrown away
for a short while, because closing with unread data would make the kernel cut the answer off. Small remainders are just skipped.

Anything ambiguous about where a request ends (two lengths, length and chunks, folded headers) is refused: that is how requests
get smuggled.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Protocol, cast

from mogile_storage.request import HttpError, Request, parse_head

HEAD_BYTES_MAX = 16 << 10
BUFFER_BYTES_MAX = 128 << 10
SMALL_BODY_BYTES = 64 << 10
SKIP_BYTES_MAX = 256 << 10
LINGER_BYTES_MAX = 64 << 20
HEAD_SECONDS = 15.0  # from the first byte of a request to the end of its head
IDLE_SECONDS = 300.0
LINGER_SECONDS = 5.0
SWEEP_SECONDS = 1.0
WRITE_BUFFER_BYTES = 512 << 10

_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
_HEAD, _COLLECT, _STREAM, _CHUNK_SIZE, _CHUNK_DATA, _CHUNK_END, _TRAILER, _SKIP, _SERVICE, _LINGER, _CLOSED = range(11)


class Application(Protocol):
    """What the server calls."""

    connections: set[Connection]
    silence_seconds: float  # a client may be silent so long in the middle of a body it sends or reads

    def begin(self, request: Request, connection: Connection) -> None: ...

    def common_headers(self) -> bytes: ...

    def accepts(self) -> bool: ...

    def answered(self, request: Request | None, status: int) -> None: ...


class Sink(Protocol):
    """Takes a streamed body. `feed` may call `connection.pause()`; `lost` is called at most once, instead of `end`."""

    def feed(self, data: bytes) -> None: ...

    def end(self) -> None: ...

    def lost(self, why: str) -> None: ...


class Connection(asyncio.Protocol):
    """One client connection."""

    __slots__ = (
        "_app",
        "_body_done",
        "_buffer",
        "_closing",
        "_drained",
        "_in_advance",
        "_paused",
        "_remaining",
        "_request",
        "_sink",
        "_state",
        "_whole",
        "deadline",
        "on_lost",
        "transport",
    )

    def __init__(self, app: Application) -> None:
        self._app = app
        self._buffer = b""
        self._state = _HEAD
        self._request: Request | None = None
        self._remaining = 0
        self._whole: Callable[[bytes], None] | None = None
        self._sink: Sink | None = None
        self._body_done = True
        self._closing = False
        self._in_advance = False
        self._paused = False
        self._drained: asyncio.Future[None] | None = None
        self.on_lost: Callable[[], None] | None = None
        self.deadline = time.monotonic() + IDLE_SECONDS
        self.transport: asyncio.Transport = None  # type: ignore[assignment] # set before anything else is called

    # -- asyncio ---------------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self.transport.set_write_buffer_limits(WRITE_BUFFER_BYTES)
        self._app.connections.add(self)
        if not self._app.accepts():
            self._closing = True
            self._body_done = True
            self.respond(503, b"Retry-After: 1\r\n", b"too many connections\n")

    def connection_lost(self, exc: BaseException | None) -> None:
        self._app.connections.discard(self)
        state, self._state = self._state, _CLOSED
        self._buffer = b""
        sink, self._sink = self._sink, None
        if sink is not None and _STREAM <= state <= _TRAILER:
            sink.lost("the client closed the connection before the body was complete")
        if self._drained is not None and not self._drained.done():
            self._drained.set_exception(ConnectionResetError())
        if self.on_lost is not None:
            self.on_lost()

    def eof_received(self) -> bool:
        """A half-closed client still gets the answer it waits for, nothing else."""
        self._closing = True
        return self._state == _SERVICE

    def pause_writing(self) -> None:
        self._drained = asyncio.get_running_loop().create_future()
        self.deadline = time.monotonic() + self._app.silence_seconds

    def resume_writing(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None

    def data_received(self, data: bytes) -> None:
        if self._state == _LINGER:
            self._remaining -= len(data)
            if self._remaining < 0:
                self.transport.abort()
            return
        if self._state == _HEAD and not self._buffer:
            self.deadline = time.monotonic() + HEAD_SECONDS
        self._buffer = self._buffer + data if self._buffer else data
        self._advance()
        if self._state == _SERVICE and len(self._buffer) > BUFFER_BYTES_MAX:
            self.pause()

    def expired(self, now: float) -> None:
        """The deadline has passed: called by the sweep."""
        if self._state == _HEAD and self._buffer:
            self._refuse(408, "the request did not arrive in time")
        elif self._state == _SERVICE and self._drained is None:
            self.deadline = now + self._app.silence_seconds  # we are the slow ones
        elif self._paused:
            self.deadline = now + self._app.silence_seconds
        else:
            self.transport.abort()

    # -- flow ------------------------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        if not self._paused and self._state != _CLOSED:
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self._paused and self._state != _CLOSED:
            self._paused = False
            self.deadline = time.monotonic() + self._app.silence_seconds
            self.transport.resume_reading()
            if self._buffer:
                self._advance()

    @property
    def lost(self) -> bool:
        return self._state == _CLOSED or self.transport.is_closing()

    @property
    def idle(self) -> bool:
        """Between requests."""
        return self._state == _HEAD and not self._buffer

    def finish_up(self) -> None:
        """The node is stopping: end after the request in service, at once when there is none."""
        self._closing = True
        if self.idle:
            self.transport.close()

    # -- parsing ---------------------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        if self._in_advance:
            return
        self._in_advance = True
        try:
            while self._buffer and not self._paused and self._step():
                pass
        except HttpError as fault:
            self._fault(fault)
        finally:
            self._in_advance = False

    def _step(self) -> bool:
        """Consume a piece of the buffer; False when more bytes, or an answer, must come first."""
        state = self._state
        if state == _HEAD:
            return self._step_head()
        if state == _COLLECT:
            if len(self._buffer) < self._remaining:
                self.deadline = time.monotonic() + self._app.silence_seconds
                return False
            size = self._remaining
            body, self._buffer = self._buffer[:size], self._buffer[size:]
            self._complete()
            whole, self._whole = self._whole, None
            assert whole is not None
            whole(body)
            return True
        if state in (_STREAM, _CHUNK_DATA, _SKIP):
            return self._step_data()
        if _CHUNK_SIZE <= state <= _TRAILER:
            return self._step_chunk()
        return False

    def _step_head(self) -> bool:
        buffer = self._buffer
        if buffer[:2] == b"\r\n":  # tolerated before a request (RFC 9112, 2.2)
            self._buffer = buffer[2:]
            return True
        end = buffer.find(b"\r\n\r\n")
        if end < 0 or end > HEAD_BYTES_MAX:
            if len(buffer) > HEAD_BYTES_MAX:
                raise HttpError(414 if b"\r\n" not in buffer else 431, "the request head is too long")
            return False
        self._buffer = buffer[end + 4 :]
        request = parse_head(buffer[:end])
        self._request = request
        self._state = _SERVICE
        self._body_done = not request.chunked and not request.length
        if not request.keep_alive:
            self._closing = True
        self._app.begin(request, self)
        return self._state != _SERVICE

    def _step_data(self) -> bool:
        data = self._buffer
        if len(data) > self._remaining:
            data, self._buffer = data[: self._remaining], data[self._remaining :]
        else:
            self._buffer = b""
        self._remaining -= len(data)
        self.deadline = time.monotonic() + self._app.silence_seconds
        sink = self._sink
        if self._remaining == 0:
            if self._state == _CHUNK_DATA:
                self._state = _CHUNK_END
            elif self._state == _SKIP:
                self._state = _HEAD
            else:
                self._complete()
        if sink is not None:
            sink.feed(data)
            if self._state == _SERVICE and self._sink is sink:
                self._sink = None
                sink.end()
        return True

    def _step_chunk(self) -> bool:
        line, found, rest = self._buffer.partition(b"\r\n")
        if not found:
            if len(self._buffer) > 1024:
                raise HttpError(400, "a chunk line is too long")
            return False
        self._buffer = rest
        if self._state == _CHUNK_END:
            if line:
                raise HttpError(400, "a chunk is longer than it said")
            self._state = _CHUNK_SIZE
        elif self._state == _CHUNK_SIZE:
            digits = line.partition(b";")[0].strip(b" \t")
            if not digits or len(digits) > 15 or digits.strip(b"0123456789abcdefABCDEF"):
                raise HttpError(400, "bad chunk size")
            self._remaining = int(digits, 16)
            self._state = _CHUNK_DATA if self._remaining else _TRAILER
        elif not line:
            self._complete()
            sink, self._sink = self._sink, None
            if sink is not None:
                sink.end()
        else:
            self._remaining += len(line) + 2  # of the trailers
            if self._remaining > HEAD_BYTES_MAX:
                raise HttpError(431, "the trailers are too long")
        return True

    def _complete(self) -> None:
        self._state = _SERVICE
        self._body_done = True

    def _fault(self, fault: HttpError) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.lost(str(fault))
        self._refuse(fault.status, str(fault))

    def _refuse(self, status: int, text: str) -> None:
        self._closing = True
        self._body_done = False
        self._state = _SERVICE
        self.respond(status, b"Content-Type: text/plain\r\n", text.encode() + b"\n")

    # -- for the application ---------------------------------------------------------------------------------------------------

    def take_body(self, whole: Callable[[bytes], None]) -> None:
        """Collect a small body (its length was checked) and call `whole` with it."""
        request = self._request
        assert request is not None
        assert request.length is not None
        if not request.length:
            whole(b"")
            return
        self._whole = whole
        self._remaining = request.length
        self._state = _COLLECT
        self._go_on(request)

    def stream_body(self, sink: Sink) -> None:
        """Hand the body on as it comes."""
        request = self._request
        assert request is not None
        if request.chunked:
            self._state = _CHUNK_SIZE
        elif request.length:
            self._remaining = request.length
            self._state = _STREAM
        else:
            sink.end()
            return
        self._sink = sink
        self._go_on(request)

    def _go_on(self, request: Request) -> None:
        self.deadline = time.monotonic() + self._app.silence_seconds
        if request.expect and not self._buffer:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def respond(self, status: int, headers: bytes = b"", body: bytes = b"", length: int | None = None) -> None:
        """The whole answer. `length` is given where the body is left out (HEAD, 304)."""
        if self.lost:
            return
        self.transport.write(self._head(status, headers, len(body) if length is None else length) + body)
        self._answered()

    def start_response(self, status: int, headers: bytes, length: int | None) -> None:
        """The head of an answer whose body follows by `write`; None: of unknown length (chunked)."""
        self.transport.write(self._head(status, headers, length))

    async def write(self, data: bytes) -> None:
        """A piece of the body; waits while the client is slower. ConnectionResetError when it is gone."""
        if self.lost:
            raise ConnectionResetError
        self.transport.write(data)
        self.deadline = time.monotonic() + self._app.silence_seconds
        if self._drained is not None:
            await self._drained

    def end_response(self) -> None:
        """The body is complete."""
        if not self.lost:
            self._answered()

    def _head(self, status: int, headers: bytes, length: int | None) -> bytes:
        if not self._body_done and not self._may_skip():
            self._closing = True
        request = self._request
        self._app.answered(request, status)
        if self._closing:
            connection = b"Connection: close\r\n"
        elif request is not None and request.version == b"HTTP/1.0":
            connection = b"Connection: keep-alive\r\n"
        else:
            connection = b""
        if length is None:
            size = b"Transfer-Encoding: chunked\r\n"
        elif status == 204:
            size = b""
        else:
            size = b"Content-Length: %d\r\n" % length
        return b"HTTP/1.1 %d %b\r\n%b%b%b%b\r\n" % (
            status,
            _REASONS.get(status, b"Status"),
            self._app.common_headers(),
            headers,
            size,
            connection,
        )

    def _may_skip(self) -> bool:
        """The rest of the body is small and on its way: skip it and keep the connection."""
        request = self._request
        if request is None or request.chunked or request.expect or request.length is None:
            return False
        return request.length <= SKIP_BYTES_MAX and self._state in (_SERVICE, _STREAM, _COLLECT)

    def _answered(self) -> None:
        request, self._request = self._request, None
        self._sink, self._whole = None, None
        if not self._body_done and not self._closing:
            assert request is not None
            assert request.length is not None
            if self._state == _SERVICE:
                self._remaining = request.length
            self._body_done = True
            self._state = _SKIP
            self._skip()
            return
        if self._closing:
            self._end()
            return
        self._state = _HEAD
        self.deadline = time.monotonic() + (HEAD_SECONDS if self._buffer else IDLE_SECONDS)
        if self._paused:
            self.resume()
        elif self._buffer and not self._in_advance:
            self._advance()

    def _skip(self) -> None:
        self.deadline = time.monotonic() + self._app.silence_seconds
        if self._paused:
            self.resume()
        elif self._buffer and not self._in_advance:
            self._advance()

    def _end(self) -> None:
        if self._body_done and not self._buffer:
            self._state = _CLOSED
            self.transport.close()
            return
        self._buffer = b""
        self._state = _LINGER
        self._remaining = LINGER_BYTES_MAX
        self.deadline = time.monotonic() + LINGER_SECONDS
        if self._paused:
            self._paused = False
            self.transport.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()


class CommonHeaders:
    """Server and date lines; the date is made anew once a second."""

    def __init__(self, server: str) -> None:
        self._server = f"Server: {server}\r\n".encode()
        self._made_at = 0
        self._lines = b""
        self._extra = b""

    def lines(self, extra: bytes) -> bytes:
        now = int(time.time())
        if now != self._made_at or extra is not self._extra:
            self._made_at, self._extra = now, extra
            self._lines = self._server + f"Date: {formatdate(now, usegmt=True)}\r\n".encode() + extra
        return self._lines


async def sweep(connections: set[Any]) -> None:
    """Expire connections whose deadline has passed, for ever: one timer for all, not one per request."""
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        now = time.monotonic()
        for connection in [c for c in connections if c.deadline < now]:
            connection.expired(now)
