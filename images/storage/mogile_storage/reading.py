"""GET and HEAD of a copy: conditions and ranges decided on values, bytes read in the threads of the device.

A small file is opened, read and closed in one job and answered in one write. A large one is read in blocks, one ahead of nothing:
the next block is read when the client has taken the last, so a slow client costs one block of memory.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from typing import Any

from mogile_core.runtime.logs import get_log
from mogile_storage.blob import BlobStore
from mogile_storage.copies import Opened
from mogile_storage.errors import DamagedError
from mogile_storage.http import Connection
from mogile_storage.pool import Job
from mogile_storage.service import Service

log = get_log(__name__)

INLINE_BYTES = 256 << 10
BLOCK_BYTES = 256 << 10
_RANGE = re.compile(rb"bytes=(\d{0,18})-(\d{0,18})\Z")


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer to a read: which bytes with which status and headers; `total` is what Content-Length says."""

    status: int
    headers: bytes
    start: int
    total: int
    with_body: bool


def plan_read(headers: dict[bytes, bytes], opened: Opened, *, head: bool) -> Plan:
    """Conditions (RFC 9110, 13.2.2) before ranges."""
    etag = f'"{opened.copy_id}"'.encode()
    base = b"ETag: %b\r\nLast-Modified: %b\r\nAccept-Ranges: bytes\r\nContent-Type: application/octet-stream\r\n" % (
        etag,
        formatdate(int(opened.mtime), usegmt=True).encode(),
    )
    if opened.md5 is not None:
        base += b"X-Mogile-MD5: %b\r\n" % opened.md5.encode()
    if headers.keys() & _CONDITIONAL:
        status = _condition(headers, etag, int(opened.mtime))
        if status == 412:
            return Plan(412, base, 0, 0, with_body=False)
        if status == 304:
            return Plan(304, base, 0, opened.length, with_body=False)
    wanted = headers.get(b"range")
    if wanted is not None and not head and _range_applies(headers, etag, int(opened.mtime)):
        span = _span(wanted, opened.length)
        if span == (0, 0):
            return Plan(416, base + b"Content-Range: bytes */%d\r\n" % opened.length, 0, 0, with_body=False)
        if span is not None:
            first, count = span
            line = b"Content-Range: bytes %d-%d/%d\r\n" % (first, first + count - 1, opened.length)
            return Plan(206, base + line, first, count, with_body=True)
    return Plan(200, base, 0, opened.length, with_body=not head)


_CONDITIONAL = frozenset({b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since"})


def _condition(headers: dict[bytes, bytes], etag: bytes, mtime: int) -> int:
    if (match := headers.get(b"if-match")) is not None:
        if not _matches(match, etag, weak=False):
            return 412
    elif (since := _date(headers.get(b"if-unmodified-since"))) is not None and mtime > since:
        return 412
    if (match := headers.get(b"if-none-match")) is not None:
        return 304 if _matches(match, etag, weak=True) else 200
    if (since := _date(headers.get(b"if-modified-since"))) is not None and mtime <= since:
        return 304
    return 200


def _matches(value: bytes, etag: bytes, *, weak: bool) -> bool:
    tags = [tag.strip() for tag in value.split(b",")]
    return b"*" in tags or etag in tags or (weak and b"W/" + etag in tags)


def _range_applies(headers: dict[bytes, bytes], etag: bytes, mtime: int) -> bool:
    condition = headers.get(b"if-range")
    if condition is None:
        return True
    return condition == etag or _date(condition) == mtime


def _date(value: bytes | None) -> int | None:
    if value is None:
        return None
    try:
        return int(parsedate_to_datetime(value.decode("ascii")).timestamp())
    except (ValueError, TypeError, UnicodeDecodeError, OverflowError):
        return None


def _span(value: bytes, length: int) -> tuple[int, int] | None:
    """(first, count); (0, 0) when it cannot be satisfied; None when the header is to be ignored (several ranges, bad form)."""
    match = _RANGE.match(value)
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        count = min(int(match[2]), length)
        return (length - count, count) if count else (0, 0)
    first = int(match[1])
    last = min(int(match[2]), length - 1) if match[2] else length - 1
    if match[2] and int(match[2]) < first:
        return None
    return (first, last - first + 1) if first < length else (0, 0)


class ReadJob(Job):
    """Open a copy, decide the answer, and read it whole when it is small. `result` is (plan, data or open descriptor)."""

    __slots__ = ("head", "headers", "name", "store")

    def __init__(
        self,
        store: BlobStore,
        done: Callable[[Any], None],
        name: str,
        headers: dict[bytes, bytes],
        *,
        head: bool,
    ) -> None:
        super().__init__(done)
        self.store, self.name, self.headers, self.head = store, name, headers, head

    def run(self) -> tuple[Plan, bytes | int]:
        opened = self.store.open_copy(self.name)
        keep = False
        try:
            if opened.damaged:
                report_damage(self.store, self.name, opened.fd, "length")
                raise DamagedError
            plan = plan_read(self.headers, opened, head=self.head)
            if not plan.with_body:
                return plan, b""
            if plan.total <= INLINE_BYTES:
                data = read_block(self.store, self.name, opened.fd, plan.total, plan.start)
                if len(data) != plan.total:
                    raise DamagedError
                return plan, data
            keep = True
            return plan, opened.fd
        finally:
            if not keep:
                os.close(opened.fd)


def read_block(store: BlobStore, name: str, fd: int, size: int, offset: int) -> bytes:
    """`pread`; a copy that cannot be read is reported as damaged."""
    try:
        return os.pread(fd, size, offset)
    except OSError as failure:
        if failure.errno == errno.EIO:
            report_damage(store, name, fd, "eio")
        raise


def report_damage(store: BlobStore, name: str, fd: int, reason: str) -> None:
    """Set the open copy aside; where that fails (a full or read-only disk) the scrub will meet it again."""
    try:
        store.set_aside(name, os.fstat(fd).st_ino, reason)
    except OSError as failure:
        log.error("a damaged copy cannot be set aside", file=name, reason=str(failure))


async def send_blocks(connection: Connection, service: Service, name: str, plan: Plan, fd: int) -> None:
    """Answer with a large body; the connection is cut when the file ends early, so that nobody takes a part for the whole."""
    try:
        connection.start_response(plan.status, plan.headers, plan.total)
        offset, end = plan.start, plan.start + plan.total
        while offset < end:
            size = min(BLOCK_BYTES, end - offset)
            data = await service.reads.call(read_block, service.store, name, fd, size, offset)
            if not data:
                connection.transport.abort()
                return
            await connection.write(data)
            offset += len(data)
        connection.end_response()
    except ConnectionResetError:
        pass
    except BaseException:
        connection.transport.abort()
        raise
    finally:
        service.reads.clean_up(os.close, fd)
