"""Orders to delete many copies of a device at once: `POST /devN/delete`, one line per copy, one line of answer each, in the same order.

A line is `<fid> <copy id or ->`; with an id only that very copy goes, as with If-Match. The answers are `<fid> deleted`, `<fid> missing`,
`<fid> other` (another copy lies there) or `<fid> failed <why>`; deletions are durable before they are sent. An order is cut into jobs of
a few copies that wait for each other, so that uploads that come meanwhile are not held up by the whole of it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import NamedTuple

from mogile_core.paths import FID_MAX, fid_path
from mogile_storage.answers import TEXT
from mogile_storage.blob import BlobStore
from mogile_storage.commit import SYNC_THREADS, Change
from mogile_storage.errors import BadRequestError, MissingError, NodeRefusal, WrongCopyError
from mogile_storage.http import Connection
from mogile_storage.service import Service

LINES_MAX = 1000
BODY_BYTES_MAX = 64 << 10
COPIES_IN_A_JOB = 50
_LINE = re.compile(rb"(\d{1,19}) (-|[0-9a-f]{32})\Z")


class Doomed(NamedTuple):
    """A copy that is to go; without an id whichever is there."""

    fid: int
    name: str
    copy_id: str | None


def parse_deletes(body: bytes, devid: int) -> list[Doomed]:
    """The copies of an order; BadRequestError naming the first bad line."""
    lines = body.split(b"\n")
    if lines.pop():
        raise BadRequestError("every line of a delete order ends with a line feed")
    if not 1 <= len(lines) <= LINES_MAX:
        raise BadRequestError(f"a delete order has 1 to {LINES_MAX} lines, not {len(lines)}")
    doomed = []
    for number, line in enumerate(lines, 1):
        match = _LINE.match(line)
        if match is None or (fid := int(match[1])) > FID_MAX:
            raise BadRequestError(f"line {number}: it must be <fid> <copy id or ->")
        path = fid_path(devid, fid)
        copy_id = None if match[2] == b"-" else match[2].decode()
        doomed.append(Doomed(fid, path[path.index("/", 1) + 1 :], copy_id))
    return doomed


class DeleteSome(Change):
    """Remove some copies; the result is a word for each. A call that fails fails all of them: repeating a deletion does no harm."""

    __slots__ = ("doomed",)

    def __init__(self, store: BlobStore, future: asyncio.Future[None], doomed: Sequence[Doomed]) -> None:
        super().__init__(store, lambda _: None if future.done() else future.set_result(None))
        self.doomed = doomed

    def run(self) -> list[str]:
        return [self._one(each) for each in self.doomed]

    def _one(self, each: Doomed) -> str:
        try:
            self.store.delete(each.name, each.copy_id)
        except MissingError:
            return "missing"
        except WrongCopyError:
            return "other"
        except NodeRefusal as refusal:
            return f"failed {refusal}"
        return "deleted"


async def serve_deletes(connection: Connection, service: Service, doomed: Sequence[Doomed]) -> None:
    """Carry out an order and answer it."""
    # With a sync for each, many wait for their syncs at once; with one sync for all, one job after the other shares those of the uploads.
    each = service.store.each
    size = max(1, -(-len(doomed) // SYNC_THREADS)) if each else COPIES_IN_A_JOB
    gate = asyncio.Semaphore(SYNC_THREADS if each else 1)

    async def some(part: Sequence[Doomed]) -> list[str]:
        async with gate:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            job = DeleteSome(service.store, future, part)
            try:
                service.changes.submit(job)
            except NodeRefusal as refusal:
                return [f"failed {refusal}"] * len(part)
            await future
            words: list[str] = [f"failed {job.error}"] * len(part) if job.error is not None else job.result
            return words

    parts = [doomed[at : at + size] for at in range(0, len(doomed), size)]
    words = [word for answer in await asyncio.gather(*map(some, parts)) for word in answer]
    lines = (f"{each.fid} {word}\n" for each, word in zip(doomed, words, strict=True))
    connection.respond(200, TEXT, "".join(lines).encode())
