"""Lists of a device for trackers: all its fids in order, and its damaged copies. Streamed, in constant memory for any number of files.

A list is cut into pieces of one directory each; a piece is a job of its own, so that a listing never keeps a thread of the device
from the reads of clients for long. The last line is a dot: without it something went wrong on the way, and the list says nothing
about what is missing in it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Coroutine, Iterator
from typing import Any
from urllib.parse import parse_qsl

from mogile_core.runtime.logs import get_log
from mogile_storage.blob import BlobStore
from mogile_storage.devices import Device
from mogile_storage.errors import BadRequestError, BusyError, NodeRefusal
from mogile_storage.folders import fids
from mogile_storage.http import Connection
from mogile_storage.request import Request
from mogile_storage.service import Service

log = get_log(__name__)

LIMIT_DEFAULT = 100_000
LIMIT_MAX = 1_000_000
ENTRIES_IN_A_PIECE = 1000
LISTINGS_MAX = 2  # of one device at a time
_END = b".\n"
_FID_MAX = 2**63 - 1


def fid_lines(store: BlobStore, after: int, limit: int) -> Iterator[bytes]:
    """Text of `<fid> <length> <mtime>` lines, ascending, for at most `limit` fids larger than `after`; a piece may be empty."""
    for found, directory in fids(store.fd, after):
        lines = []
        for fid in found:
            if limit > 0 and (line := _fid_line(store.fd, directory, fid)) is not None:
                lines.append(line)
                limit -= 1
        yield b"".join(lines)
        if limit <= 0:
            return


def damaged_lines(store: BlobStore, after: int, limit: int) -> Iterator[bytes]:
    """The same for damaged copies: `<fid> <copy id or -> <reason> <unix time>`."""
    while limit > 0 and (entries := store.damaged.page(after, min(limit, ENTRIES_IN_A_PIECE))):
        yield b"".join(entry.line() for entry in entries)
        limit -= len(entries)
        after = entries[-1].fid


def _fid_line(root: int, directory: str, fid: int) -> bytes | None:
    try:
        status = os.stat(f"{directory}/{fid:010d}.fid", dir_fd=root, follow_symlinks=False)
    except FileNotFoundError:  # deleted meanwhile
        return None
    return b"%d %d %d\n" % (fid, status.st_size, int(status.st_mtime)) if stat.S_ISREG(status.st_mode) else None


LISTS = {"fids": fid_lines, "damaged": damaged_lines}


class Lister:
    """Answers listings; at most LISTINGS_MAX of a device at a time."""

    def __init__(self) -> None:
        self._running: dict[int, int] = {}

    def serve(self, connection: Connection, request: Request, kind: str, device: Device) -> Coroutine[Any, Any, None]:
        """Check the request (NodeRefusal); what is returned streams the list."""
        after, limit = _parameters(request)
        service = device.usable()
        if self._running.get(device.devid, 0) >= LISTINGS_MAX:
            raise BusyError(f"dev{device.devid} is being listed already")
        self._running[device.devid] = self._running.get(device.devid, 0) + 1
        return self._stream(connection, device, service, LISTS[kind](service.store, after, limit))

    async def _stream(self, connection: Connection, device: Device, service: Service, pieces: Iterator[bytes]) -> None:
        """The connection is cut when the device fails on the way."""
        try:
            connection.start_response(200, b"Content-Type: text/plain\r\n", None)
            while (piece := await service.reads.call(next, pieces, None, patient=True)) is not None:
                if piece:
                    await connection.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await connection.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(_END), _END))
            connection.end_response()
        except ConnectionResetError:
            pass
        except NodeRefusal as refusal:
            log.error("a listing was cut short", devid=device.devid, reason=str(refusal))
            connection.transport.abort()
        except BaseException:
            connection.transport.abort()
            raise
        finally:
            self._running[device.devid] -= 1


def _parameters(request: Request) -> tuple[int, int]:
    """(after, limit) of the query; BadRequestError naming the bad one."""
    if request.version == b"HTTP/1.0":
        raise BadRequestError("a listing needs HTTP/1.1, since its end must be seen")
    query = request.target.decode("latin-1").partition("?")[2]
    values = {"after": 0, "limit": LIMIT_DEFAULT}
    limits = {"after": (0, _FID_MAX), "limit": (1, LIMIT_MAX)}
    for name, text in parse_qsl(query[:256], keep_blank_values=True):
        if name not in values:
            raise BadRequestError(f"unknown parameter {name[:40]}; a listing knows after and limit")
        low, high = limits[name]
        if not (text.isascii() and text.isdigit() and len(text) <= 19 and low <= int(text) <= high):
            raise BadRequestError(f"{name} must be a whole number from {low} to {high}")
        values[name] = int(text)
    return values["after"], values["limit"]
