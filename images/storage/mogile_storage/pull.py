"""Copies that this node fetches from its peers when a tracker orders it: `POST /pull`.

Answers come in completion order, one JSON line each, after the copy is durable. Only hosts that show the id of our own cluster are
read from (the answer's header, before a byte is taken), or the order would make this node an open proxy. Closing the connection
cancels what has not begun and breaks off what has; broken-off copies leave nothing.

Small files come over a few pipelined connections (module fetch), large ones over one connection each, which is kept for a while.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque

from mogile_storage.copies import Stored
from mogile_storage.errors import NodeRefusal
from mogile_storage.fetch import Fetcher
from mogile_storage.http import HEAD_BYTES_MAX, SMALL_BODY_BYTES, Connection
from mogile_storage.orders import Order, SourceUnreachableError, check_answer, room_for
from mogile_storage.registry import Registry
from mogile_storage.small_copies import SmallCopies
from mogile_storage.uploads import Upload

LARGE_AT_A_TIME = 4  # of the whole node: more of them would only share the same disk and cable
CONNECT_SECONDS = 3.0
READ_SECONDS = 30.0  # without a byte
IDLE_CONNECTIONS_MAX = 64
IDLE_SECONDS = 30.0
STREAM_LIMIT_BYTES = 256 << 10


class _Source:
    """One kept connection to a peer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.used_at = time.monotonic()

    def close(self) -> None:
        self.writer.close()

    async def get(self, order: Order, cluster_id: str) -> tuple[int, dict[str, str]]:
        """Send the request, return status and headers."""
        host = f"[{order.host}]" if ":" in order.host else order.host
        request = f"GET {order.path} HTTP/1.1\r\nHost: {host}:{order.port}\r\nX-Mogile-Cluster: {cluster_id}\r\n\r\n"
        self.writer.write(request.encode("ascii"))
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError as failure:
            raise SourceUnreachableError("the source's answer is no HTTP") from failure
        lines = head[:-4].decode("latin-1").split("\r\n")
        words = lines[0].split(" ", 2)
        if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit() or len(head) > HEAD_BYTES_MAX:
            raise SourceUnreachableError("the source's answer is no HTTP")
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        return int(words[1]), headers


class _Lines:
    """The report: all lines of one turn of the loop with one write. An order has at most ITEMS_MAX, so nothing need wait here."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lines: list[str] = []

    def add(self, line: str) -> None:
        if not self._lines:
            asyncio.get_running_loop().call_soon(self._flush)
        self._lines.append(line)

    def _flush(self) -> None:
        if self._lines and not self._connection.lost:
            data = "\n".join(self._lines).encode() + b"\n"
            self._connection.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        self._lines.clear()

    def end(self) -> None:
        self._flush()
        if not self._connection.lost:
            self._connection.transport.write(b"0\r\n\r\n")
            self._connection.end_response()


class Puller:
    """Serves copy orders; keeps connections to sources between them."""

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._idle: dict[tuple[str, int], deque[_Source]] = {}
        self._kept = 0
        self._fetcher = Fetcher(SMALL_BODY_BYTES)
        self._large = asyncio.Semaphore(LARGE_AT_A_TIME)
        self.copied_files = 0
        self.copied_bytes = 0
        self.failed: dict[str, int] = {}

    async def serve(self, connection: Connection, orders: list[Order], registry: Registry) -> None:
        """Carry out orders and report each; returns early when the connection is lost."""
        connection.start_response(200, b"Content-Type: application/x-ndjson\r\n", None)
        lines = _Lines(connection)
        small = deque(order for order in orders if order.length <= SMALL_BODY_BYTES)
        large = deque(order for order in orders if order.length > SMALL_BODY_BYTES)
        task = asyncio.current_task()
        assert task is not None

        def cancel() -> None:
            task.cancel()

        def report(order: Order, outcome: Stored | NodeRefusal) -> None:
            lines.add(self._line(order, outcome))

        async def worker() -> None:
            while large:
                order = large.popleft()
                try:
                    report(order, await self._copy_large(order, registry))
                except NodeRefusal as refusal:
                    report(order, refusal)

        connection.on_lost = cancel
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(SmallCopies(small, registry, self._fetcher, report, self._concurrency).run())
                for _ in range(min(LARGE_AT_A_TIME, len(large))):
                    group.create_task(worker())
            lines.end()
        finally:
            connection.on_lost = None
            self._drop_old()

    async def close(self) -> None:
        self._fetcher.close()
        for kept in self._idle.values():
            for source in kept:
                source.close()
        self._idle.clear()

    def _line(self, order: Order, outcome: Stored | NodeRefusal) -> str:
        line: dict[str, object] = {"fid": order.fid, "devid": order.devid}
        if isinstance(outcome, NodeRefusal):
            self.failed[outcome.reason] = self.failed.get(outcome.reason, 0) + 1
            line |= {"status": "error", "reason": outcome.reason, "message": str(outcome)}
        else:
            self.copied_files += 1
            self.copied_bytes += outcome.length
            line |= {"status": "ok", "copyId": outcome.copy_id, "length": outcome.length, "md5": outcome.md5}
        return json.dumps(line)

    async def _copy_large(self, order: Order, registry: Registry) -> Stored:
        async with self._large:
            room_for(order, registry)
            return await self._copy_alone(order, registry)

    async def _copy_alone(self, order: Order, registry: Registry) -> Stored:
        """One file over a connection of its own."""
        source, fresh = await self._connect(order)
        complete = False
        try:
            try:
                status, headers = await self._ask(source, order, registry.cluster.id)
            except SourceUnreachableError:
                if fresh:
                    raise
                source.close()  # a kept connection may have been closed by the peer meanwhile: once more on a new one
                source, _ = await self._connect(order, fresh=True)
                status, headers = await self._ask(source, order, registry.cluster.id)
            length = headers.get("content-length", "")
            cluster_id = headers.get("x-mogile-cluster", "").lower()
            check_answer(order, status, cluster_id, int(length) if length.isdigit() else -1, registry.cluster.id)
            stored = await self._store(order, source, registry)
            complete = headers.get("connection", "").lower() != "close"
        finally:
            if complete:
                self._keep(order, source)
            else:
                source.close()
        return stored

    async def _ask(self, source: _Source, order: Order, cluster_id: str) -> tuple[int, dict[str, str]]:
        try:
            async with asyncio.timeout(READ_SECONDS):
                return await source.get(order, cluster_id)
        except (OSError, EOFError, TimeoutError) as failure:
            raise SourceUnreachableError(f"{order.host}:{order.port} does not answer") from failure

    async def _store(self, order: Order, source: _Source, registry: Registry) -> Stored:
        device = registry.devices[order.devid]
        service = device.usable()
        future: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()

        def outcome(stored: Stored | None, refusal: NodeRefusal | None) -> None:
            if future.done():
                return
            if stored is not None:
                future.set_result(stored)
            else:
                future.set_exception(refusal or NodeRefusal())

        upload = Upload(
            device, service, order.name, outcome, expected=order.length, md5=order.digest, replace=order.replace
        )
        try:
            await _pour(source, upload, order.length, future)
            return await future
        except BaseException:
            upload.cancel()
            raise

    # -- connections -----------------------------------------------------------------------------------------------------------

    async def _connect(self, order: Order, *, fresh: bool = False) -> tuple[_Source, bool]:
        """(connection, whether it is new)."""
        kept = self._idle.get((order.host, order.port))
        while kept and not fresh:
            source = kept.pop()
            self._kept -= 1
            if not source.reader.at_eof() and time.monotonic() - source.used_at < IDLE_SECONDS:
                return source, False
            source.close()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                reader, writer = await asyncio.open_connection(order.host, order.port, limit=STREAM_LIMIT_BYTES)
        except (OSError, TimeoutError) as failure:
            raise SourceUnreachableError(f"cannot connect to {order.host}:{order.port}") from failure
        return _Source(reader, writer), True

    def _keep(self, order: Order, source: _Source) -> None:
        if self._kept >= IDLE_CONNECTIONS_MAX:
            source.close()
            return
        source.used_at = time.monotonic()
        self._kept += 1
        self._idle.setdefault((order.host, order.port), deque()).append(source)

    def _drop_old(self) -> None:
        oldest = time.monotonic() - IDLE_SECONDS
        for key, kept in list(self._idle.items()):
            while kept and kept[0].used_at < oldest:
                kept.popleft().close()
                self._kept -= 1
            if not kept:
                del self._idle[key]


async def _pour(source: _Source, upload: Upload, length: int, future: asyncio.Future[Stored]) -> None:
    """Feed the upload as its device takes it; ends early when the upload has failed."""
    space = asyncio.Event()
    upload.on_space = space.set
    future.add_done_callback(lambda _: space.set())
    remaining = length
    while remaining and not future.done():
        try:
            async with asyncio.timeout(READ_SECONDS):
                data = await source.reader.read(min(remaining, STREAM_LIMIT_BYTES))
        except (OSError, TimeoutError) as failure:
            raise SourceUnreachableError("the source broke off") from failure
        if not data:
            raise SourceUnreachableError("the source broke off")
        remaining -= len(data)
        space.clear()
        if not upload.feed(data) and not future.done():
            await space.wait()
    if not future.done():
        upload.end()
