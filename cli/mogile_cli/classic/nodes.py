"""HTTP to storage nodes, for the tools that look at them directly (`mogadm check`, `mogfiledebug`). Moving files is the client's business.

Bodies are streamed and bounded, redirects are not followed, every wait has a limit.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
from yarl import URL

SMALL_BODY_BYTES_MAX = 64 * 1024
PIECE_BYTES = 256 * 1024
WAIT_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a node said; `failure` instead of a status when it said nothing."""

    url: str
    status: int = 0
    reason: str = ""
    failure: str = ""
    body: bytes = b""
    length: int | None = None
    modified: str | None = None
    md5: str | None = None

    @property
    def well(self) -> bool:
        """2xx and 3xx, as `mogadm check` always counted."""
        return 200 <= self.status < 400

    @property
    def result(self) -> str:
        """`200 OK`, or why there is no answer."""
        return self.failure or f"{self.status} {self.reason}".rstrip()


_Read = tuple[bytes, int | None, str | None]
_Reader = Callable[[aiohttp.ClientResponse], Awaitable[_Read]]


class Nodes:
    """Requests to storage nodes over one HTTP session."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def small(self, url: str) -> Answer:
        """GET a short body; what is longer than SMALL_BODY_BYTES_MAX is cut there."""
        return await self._request("GET", url, _first_bytes)

    async def stat(self, url: str) -> Answer:
        """HEAD."""
        return await self._request("HEAD", url, _nothing)

    async def digest(self, url: str) -> Answer:
        """GET, counting and digesting the body without keeping it."""
        return await self._request("GET", url, _digest)

    async def _request(self, method: str, url: str, read: _Reader) -> Answer:
        try:
            async with self._session.request(method, URL(url, encoded=True), allow_redirects=False) as response:
                body, length, md5 = await read(response)
                return Answer(
                    url=url,
                    status=response.status,
                    reason=response.reason or "",
                    body=body,
                    length=length,
                    modified=response.headers.get("Last-Modified"),
                    md5=md5,
                )
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            return Answer(url=url, failure=str(error) or type(error).__name__)


async def _first_bytes(response: aiohttp.ClientResponse) -> _Read:
    body = b""
    while len(body) < SMALL_BODY_BYTES_MAX and (piece := await response.content.read(SMALL_BODY_BYTES_MAX - len(body))):
        body += piece
    return body, len(body), None


async def _nothing(response: aiohttp.ClientResponse) -> _Read:
    return b"", response.content_length, None


async def _digest(response: aiohttp.ClientResponse) -> _Read:
    digest, length = hashlib.md5(usedforsecurity=False), 0
    async for piece in response.content.iter_chunked(PIECE_BYTES):
        digest.update(piece)
        length += len(piece)
    return b"", length, digest.hexdigest()


@asynccontextmanager
async def nodes() -> AsyncIterator[Nodes]:
    """HTTP for the time of a command."""
    timeout = aiohttp.ClientTimeout(total=None, connect=WAIT_SECONDS, sock_connect=WAIT_SECONDS, sock_read=WAIT_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session:
        yield Nodes(session)
