"""One part of a file on its way to the device (PUT with Content-Range), and the end of an upload whose total nobody named.

MogileFS's Perl client (`largefile`) first PUTs an empty file, then writes `bytes a-b/*` where it likes and names the length to the
tracker only. The tracker then asks the node for the size: that question ends such an upload, if what is there begins at 0 and has no
gaps. Whoever says the total, in any part or by `bytes */N`, has the file complete with its last byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mogile_storage.commit import StagedPut, start_writeback
from mogile_storage.copies import Staged, Stored
from mogile_storage.devices import Device
from mogile_storage.errors import DigestMismatchError, ExistsDiffersError, MissingError, NodeRefusal
from mogile_storage.partials import Arrived, ContentRange, Part
from mogile_storage.pool import Job
from mogile_storage.service import Service
from mogile_storage.uploads import FLUSH_BYTES, Outcome, Upload


class PartUpload(Upload):
    """One part. Either `outcome` (the file is complete, or refused) or `on_arrived` is called, once, unless `cancel` came first; a part
    that broke off counts as far as it came."""

    def __init__(
        self,
        device: Device,
        service: Service,
        name: str,
        outcome: Outcome,
        *,
        on_arrived: Callable[[Arrived], None],
        part: ContentRange,
        md5: bytes | None = None,
        replace_empty: bool = False,
        conclude: bool = False,
    ) -> None:
        super().__init__(device, service, name, outcome, expected=part.size, md5=None, replace=False)
        self._on_arrived, self._range, self._part_md5 = on_arrived, part, md5
        self._replace_empty, self._conclude = replace_empty, conclude
        self._part: Part | None = None

    def _begin(self) -> Part:
        if self._part is None:
            self._part = self._service.partials.begin(self._name, self._range, replace_empty=self._replace_empty)
        return self._part

    def _write(self, chunks: list[bytes], _size: int) -> None:
        """In a thread."""
        part = self._begin()
        for chunk in chunks:
            part.write(chunk)
        if part.written - self._flushed >= FLUSH_BYTES:
            first = self._range.first
            if self._flushed >= FLUSH_BYTES:
                start_writeback(part.fd, first, self._flushed, wait=True)
            start_writeback(part.fd, first + self._flushed, part.written - self._flushed, wait=False)
            self._flushed = part.written

    def _settle(self) -> Arrived | Staged | Stored:
        """In a thread: the part is on disk and recorded, and the whole read once more when it is complete."""
        if not self._range.size and not self._service.partials.named(self._name):
            there = self._existing()
            if there is not None:
                return there
        part = self._begin()
        if self._part_md5 is not None and part.digest.digest() != self._part_md5:
            raise DigestMismatchError
        arrived = part.settle()
        if self._conclude and arrived.total is None and (length := arrived.contiguous) is not None:
            part.conclude(length)
        if not part.arrived.complete:
            self._part = None
            part.close()  # before the sender is told, who may go on at once
            return part.arrived
        staged = part.take()
        staged.over_empty = self._replace_empty
        return staged

    def _existing(self) -> Arrived | Stored | None:
        """The answer to a question about a file of which no part is under way."""
        total = self._range.total
        try:
            with self._service.store.open(self._name) as there:
                if total in (None, there.length):
                    return Stored("repeated", there.copy_id, there.length, there.md5 or "")
                raise ExistsDiffersError(f"the file is complete: it has {there.length} bytes")
        except MissingError:
            return None if total == 0 else Arrived(total)

    def _settled(self, job: Job) -> None:
        self._busy = False
        if job.error is not None or self._outcome is None:
            self._finish(None, job.error)
        elif isinstance(job.result, Stored):
            self._finish(job.result, None)
        elif isinstance(job.result, Arrived):
            self._outcome = None
            self._release()
            self._on_arrived(job.result)
        else:
            change = StagedPut(self._service.store, self._published, job.result, None, replace=False)
            try:
                self._service.changes.submit(change)
            except NodeRefusal as refusal:
                job.result.temp_name = None  # the parts stay; only their ranges must be sent again
                self._staged = job.result
                self._finish(None, refusal)

    def _published(self, job: Job) -> None:
        if self._part is not None:
            part, self._part = self._part, None
            part.published()
        super()._published(job)

    def _release(self) -> None:
        if self._part is not None and not self._busy:
            part, self._part = self._part, None
            keep = self._part_md5 is None  # else what came could not be checked
            self._service.streams.clean_up(_end, part, keep)
        super()._release()


def _end(part: Part, keep: bool) -> None:  # noqa: FBT001 - called by position only
    try:
        if keep and part.fd >= 0:
            part.settle()
    finally:
        part.close()


async def conclude(device: Device, name: str) -> None:
    """The size of a file is asked: an upload of unknown total that has no gaps is complete. Refusals are what the size then shows."""
    service = device.usable()
    if not service.partials.named(name):
        return
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def done(*_: object) -> None:
        if not over.done():
            over.set_result(None)

    question = ContentRange(0, 0, None)
    upload = PartUpload(device, service, name, done, on_arrived=done, part=question, replace_empty=True, conclude=True)
    upload.end()
    await over
