"""Moves the bytes of files between this process and storage nodes over plain HTTP.

Upload: create_open, PUT to the first place that takes it, create_close with size and MD5. A node that fails means the next place, then a
fresh create_open; the source is read again from its start each time. Download: the first copy that answers; a copy that fails half-way is
left for the next one, at the byte reached. Memory is bounded by one piece (PIECE_BYTES) unless the caller hands over all bytes itself.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import aiohttp

from mogile_core.checksum import Checksum, Digest, HashType, new_digest
from mogile_core.client import values
from mogile_core.errors import CommandError, TrackerOutcomeUnknownError, TransferError
from mogile_core.model import Fid

PIECE_BYTES = 256 * 1024
UPLOAD_ATTEMPTS = 3
STALL_SECONDS = 30.0  # no byte in either direction for so long is a failure
CONNECT_SECONDS = 5.0

# Bytes, the path of a local file, or a function that starts a new iterator over the content (pass `size` with it where it is known).
Source = bytes | os.PathLike[str] | Callable[[], AsyncIterator[bytes]]

_CLOSE_RETRY = frozenset({"no_temp_file", "size_verify_error", "db", "failure"})
_NODE_ERRORS = (aiohttp.ClientError, OSError, TimeoutError)


class FileCommands(Protocol):
    """The tracker commands a transfer needs."""

    async def create_open(
        self, domain: str, key: str | bytes, *, class_name: str = "", size: int | None = None
    ) -> values.OpenedFile: ...

    async def create_close(
        self,
        domain: str,
        key: str | bytes,
        fid: int,
        destination: values.Destination,
        *,
        size: int | None = None,
        checksum: Checksum | None = None,
    ) -> None: ...

    async def get_paths(self, domain: str, key: str | bytes) -> list[str]: ...


class Transfer:
    """Uploads and downloads of one client; the HTTP session opens with the first use."""

    def __init__(self, commands: FileCommands) -> None:
        self._commands = commands
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def upload(
        self, domain: str, key: str | bytes, source: Source, *, class_name: str, size: int | None
    ) -> values.FileInfo:
        """See TrackerClient.upload."""
        size = _size_of(source, size)
        problems: list[str] = []
        for _ in range(UPLOAD_ATTEMPTS):
            opened = await self._commands.create_open(domain, key, class_name=class_name, size=size)
            stored = await self._put_somewhere(opened, source, size, problems)
            if stored is None:
                continue
            destination, length, checksum = stored
            try:
                await self._commands.create_close(domain, key, opened.fid, destination, size=length, checksum=checksum)
            except TrackerOutcomeUnknownError as error:  # storing the same bytes once more is harmless
                problems.append(str(error))
            except CommandError as error:
                if error.wire_code not in _CLOSE_RETRY:
                    raise
                problems.append(str(error))
            else:
                return values.FileInfo(
                    fid=Fid(opened.fid),
                    domain=domain,
                    key=key if isinstance(key, str) else key.decode("utf-8", "surrogateescape"),
                    class_name=class_name,
                    length=length,
                    devcount=1,
                    checksum=checksum,
                    devids=(destination.devid,),
                )
        raise TransferError(f"could not store {domain}:{key!r}: {'; '.join(problems[-4:])}")

    async def fetch(self, domain: str, key: str | bytes, bytes_max: int) -> bytes:
        """See TrackerClient.fetch."""
        parts: list[bytes] = []
        total = 0
        async for piece in self.download(domain, key):
            total += len(piece)
            if total > bytes_max:
                raise TransferError(f"{domain}:{key!r} is longer than {bytes_max} bytes")
            parts.append(piece)
        return b"".join(parts)

    async def download(self, domain: str, key: str | bytes) -> AsyncIterator[bytes]:
        """See TrackerClient.download."""
        urls = await self._commands.get_paths(domain, key)
        if not urls:
            raise TransferError(f"{domain}:{key!r} has no readable copy now")
        done, problems = 0, []
        expected: int | None = None
        for url in urls:
            try:
                async with self._http().get(url, headers={"Range": f"bytes={done}-"} if done else {}) as response:
                    if response.status != (206 if done else 200):
                        problems.append(f"{url}: HTTP {response.status}")
                        continue
                    length = response.content_length
                    if length is not None and expected is not None and done + length != expected:
                        problems.append(f"{url}: another length than the first copy")
                        continue
                    expected = expected if length is None else done + length
                    async for piece in response.content.iter_chunked(PIECE_BYTES):
                        done += len(piece)
                        yield piece
                if expected is None or done == expected:
                    return
                problems.append(f"{url}: ended after {done} of {expected} bytes")
            except _NODE_ERRORS as error:
                problems.append(f"{url}: {error or type(error).__name__}")
        raise TransferError(f"could not read {domain}:{key!r}: {'; '.join(problems[-4:])}")

    async def _put_somewhere(
        self, opened: values.OpenedFile, source: Source, size: int | None, problems: list[str]
    ) -> tuple[values.Destination, int, Checksum] | None:
        for destination in opened.destinations:
            sent = _Counted(source)
            headers = {} if size is None else {"Content-Length": str(size)}
            body = source if isinstance(source, bytes) and len(source) <= PIECE_BYTES else sent.pieces()
            try:
                async with self._http().put(destination.url, data=body, headers=headers) as response:
                    if response.status in (200, 201, 204):
                        if body is source and isinstance(source, bytes):
                            sent.count(source)
                        if size is not None and sent.length != size:
                            raise TransferError(f"the source gave {sent.length} bytes, {size} were announced")
                        return destination, sent.length, Checksum(HashType.MD5, sent.digest.digest())
                    problems.append(f"{destination.url}: HTTP {response.status}")
            except _NODE_ERRORS as error:
                problems.append(f"{destination.url}: {error or type(error).__name__}")
        return None

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=STALL_SECONDS)
            self._session = aiohttp.ClientSession(timeout=timeout, auto_decompress=False)
        return self._session


class _Counted:
    """Reads a source once, counting and digesting."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.length = 0
        self.digest: Digest = new_digest(HashType.MD5)

    def count(self, piece: bytes) -> None:
        self.length += len(piece)
        self.digest.update(piece)

    async def pieces(self) -> AsyncIterator[bytes]:
        if isinstance(self._source, bytes):
            for start in range(0, len(self._source), PIECE_BYTES):
                piece = self._source[start : start + PIECE_BYTES]
                self.count(piece)
                yield piece
        elif callable(self._source):
            async for piece in self._source():
                self.count(piece)
                yield piece
        else:
            with await asyncio.to_thread(open, self._source, "rb") as stream:
                while piece := await asyncio.to_thread(stream.read, PIECE_BYTES):
                    self.count(piece)
                    yield piece


def _size_of(source: Source, size: int | None) -> int | None:
    if isinstance(source, bytes):
        return len(source)
    if callable(source):
        return size
    try:
        return os.stat(source).st_size
    except OSError as error:
        raise TransferError(f"cannot read {os.fspath(source)}: {error.strerror}") from error
