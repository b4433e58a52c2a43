"""The files of the stories: made from a seed, uploaded and read back over plain HTTP, compared byte by byte.

Sizes are log-uniform from 1 B to 20 MB by quantiles, so that every run has the same 500 files: 20 of them over 10 MB, about 595 MB in all.
Bodies are never kept: they are made again from (seed, index) when needed, and only digests are remembered.
"""

from __future__ import annotations

import hashlib
import http.client
import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote

T = TypeVar("T")

LARGEST_BYTES = 20_000_000
REQUEST_TIMEOUT_SECONDS = 60.0
ATTEMPTS = 7
PAUSE_SECONDS_FIRST = (
    0.2  # doubled each time: 12 s in all; an address is ready in the API a moment before every machine forwards to it
)
READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleFile:
    """One file of the workload: its key, length and content (by seed)."""

    index: int
    key: str
    length: int
    seed: int

    def body(self) -> bytes:
        return random.Random(self.seed * 1_000_003 + self.index).randbytes(self.length)

    def digest(self) -> str:
        return hashlib.sha256(self.body()).hexdigest()


def sample_files(count: int = 500, *, seed: int = 1, largest: int = LARGEST_BYTES) -> list[SampleFile]:
    """`count` files, sizes log-uniform from 1 to `largest` bytes, in an order that mixes small and large."""
    lengths = [max(1, round(math.exp(math.log(largest) * (i + 0.3) / count))) for i in range(count)]
    random.Random(seed).shuffle(lengths)
    return [
        SampleFile(index=i, key=f"e2e/{i % 10}/file {i:04d}.bin", length=n, seed=seed) for i, n in enumerate(lengths)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayClient:
    """Plain HTTP to a gateway, as any program would speak it: a connection per worker, several attempts."""

    host: str
    port: int = 80
    prefix: str = "/files/"
    token: str = ""

    def _path(self, key: str) -> str:
        return self.prefix + quote(key)

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def request(self, method: str, key: str, body: bytes | None = None, *, token: str | None = None) -> int:
        """One request, its status; no retry."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=REQUEST_TIMEOUT_SECONDS)
        headers = self._headers() if token is None else ({"Authorization": f"Bearer {token}"} if token else {})
        try:
            connection.request(method, self._path(key), body=body, headers=headers)
            response = connection.getresponse()
            while response.read(READ_BYTES):
                pass
            return response.status
        finally:
            connection.close()

    def put(self, file: SampleFile) -> None:
        """Upload; 201 is success. A broken connection is tried again: a repeated PUT is a new upload of the same key."""
        _attempt(lambda: _expect(self.request("PUT", file.key, file.body()), (200, 201, 204), f"PUT {file.key}"))

    def get_digest(self, key: str) -> tuple[int, str]:
        """(length, sha256) of what GET answers with 200."""
        return _attempt(lambda: self._get_digest(key))

    def _get_digest(self, key: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=REQUEST_TIMEOUT_SECONDS)
        try:
            connection.request("GET", self._path(key))
            response = connection.getresponse()
            digest, length = hashlib.sha256(), 0
            while block := response.read(READ_BYTES):
                digest.update(block)
                length += len(block)
            _expect(response.status, (200,), f"GET {key}")
            return length, digest.hexdigest()
        finally:
            connection.close()


def _expect(status: int, allowed: Sequence[int], what: str) -> None:
    if status not in allowed:
        raise http.client.HTTPException(f"{what}: status {status}")


def _attempt(action: Callable[[], T]) -> T:
    """Run `action` up to ATTEMPTS times; the last error is the caller's."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return action()
        except (OSError, http.client.HTTPException):
            if attempt == ATTEMPTS:
                raise
            time.sleep(PAUSE_SECONDS_FIRST * 2 ** (attempt - 1))
    raise AssertionError("unreachable")


def upload(gateway: GatewayClient, files: Iterable[SampleFile], *, workers: int = 4) -> None:
    """PUT all files; the first failure is raised after the running ones ended."""
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(gateway.put, files))


def differences(read: Callable[[str], tuple[int, str]], files: Iterable[SampleFile], *, workers: int = 4) -> list[str]:
    """One sentence per file that `read(key) -> (length, sha256)` does not give back byte-identical; empty when all is well."""

    def check(file: SampleFile) -> str:
        try:
            length, digest = read(file.key)
        except (OSError, http.client.HTTPException) as error:
            return f"{file.key}: {error!r}"
        if length != file.length:
            return f"{file.key}: {length} bytes instead of {file.length}"
        return "" if digest == file.digest() else f"{file.key}: same length, other bytes"

    with ThreadPoolExecutor(workers) as pool:
        return [sentence for sentence in pool.map(check, files) if sentence]
