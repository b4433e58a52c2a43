"""A body on its way to the device while it arrives: constant memory for any size.

At most one write of an upload is under way; what arrives meanwhile waits, and reading from the client stops at BUFFER_BYTES. The
bytes are pushed to the disk as they come, so that the sync at the end, and with it everybody else's batch, waits for little.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from mogile_storage.commit import StagedPut, start_writeback
from mogile_storage.copies import Staged, Stored
from mogile_storage.devices import Device
from mogile_storage.errors import LengthMismatchError, NodeRefusal, NoSpaceError
from mogile_storage.pool import CallJob, Job, PatientCall
from mogile_storage.service import Service

BUFFER_BYTES = 1 << 20
FLUSH_BYTES = 4 << 20

Outcome = Callable[[Stored | None, NodeRefusal | None], None]


class Upload:
    """One streamed body. `outcome(stored, refusal)` is called exactly once on the loop, unless `cancel` came first."""

    def __init__(
        self,
        device: Device,
        service: Service,
        name: str,
        outcome: Outcome,
        *,
        expected: int | None,
        md5: bytes | None,
        replace: bool,
    ) -> None:
        self._device, self._service, self._name = device, service, name
        self._outcome: Outcome | None = outcome
        self._expected, self._md5, self._replace = expected, md5, replace
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._received = 0
        self._staged: Staged | None = None
        self._flushed = 0
        self._busy = False
        self._ended = False
        self._promised = expected or 0
        device.promised += self._promised
        self.on_space: Callable[[], None] | None = None

    def feed(self, data: bytes) -> bool:
        """Take a piece; False when the sender should wait for `on_space`."""
        if self._outcome is None:
            return True
        self._received += len(data)
        if self._expected is None:
            self._device.promised += len(data)
            self._promised += len(data)
            if self._device.room() < 0:
                self._finish(None, NoSpaceError())
                return True
        self._chunks.append(data)
        self._buffered += len(data)
        self._work()
        return self._buffered < BUFFER_BYTES

    def end(self) -> None:
        """The body is complete."""
        if self._expected is not None and self._received != self._expected:
            self._finish(None, LengthMismatchError())
            return
        self._ended = True
        self._work()

    def cancel(self) -> None:
        """Forget it; nothing remains on the device."""
        self._outcome = None
        self._release()

    # -- inside ----------------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        if self._busy or self._outcome is None:
            return
        if self._chunks:
            chunks, self._chunks = self._chunks, []
            size, self._buffered = self._buffered, 0
            self._submit(CallJob(self._written, self._write, (chunks, size)))
        elif self._ended:
            self._submit(PatientCall(self._settled, self._settle, ()))

    def _submit(self, job: Job) -> None:
        try:
            self._service.streams.submit(job)
            self._busy = True
        except NodeRefusal as refusal:
            self._finish(None, refusal)

    def _write(self, chunks: list[bytes], size: int) -> None:
        """In a thread."""
        staged = self._staged
        if staged is None:
            staged = self._staged = self._service.store.stage(self._name)
        for chunk in chunks:
            staged.write(chunk)
        if staged.length - self._flushed >= FLUSH_BYTES:
            if self._flushed >= FLUSH_BYTES:  # wait for the piece before the last, so that little is ever under way
                start_writeback(staged.fd, 0, self._flushed, wait=True)
            start_writeback(staged.fd, self._flushed, staged.length - self._flushed, wait=False)
            self._flushed = staged.length

    def _settle(self) -> object:
        """In a thread: the bytes are on disk before the name joins a batch (mode `each` syncs when it publishes)."""
        if self._staged is None:
            self._staged = self._service.store.stage(self._name)
        if not self._service.store.each:
            os.fdatasync(self._staged.fd)
        return None

    def _written(self, job: Job) -> None:
        self._busy = False
        if job.error is not None:
            self._finish(None, job.error)
        elif self._outcome is None:
            self._release()
        else:
            self._work()
            if self.on_space is not None:
                self.on_space()

    def _settled(self, job: Job) -> None:
        self._busy = False
        if job.error is not None or self._outcome is None:
            self._finish(None, job.error)
            return
        staged, self._staged = self._staged, None
        assert staged is not None
        change = StagedPut(self._service.store, self._published, staged, self._md5, replace=self._replace)
        try:
            self._service.changes.submit(change)
        except NodeRefusal as refusal:
            self._staged = staged
            self._finish(None, refusal)

    def _published(self, job: Job) -> None:
        self._finish(job.result if job.error is None else None, job.error)

    def _finish(self, stored: Stored | None, refusal: NodeRefusal | None) -> None:
        outcome, self._outcome = self._outcome, None
        if stored is not None:
            self._device.taken += stored.length
        self._release()
        if outcome is not None:
            outcome(stored, refusal)

    def _release(self) -> None:
        self._device.promised -= self._promised
        self._promised = 0
        self._chunks.clear()
        self._buffered = 0
        if self._staged is not None and not self._busy:
            staged, self._staged = self._staged, None
            self._service.streams.clean_up(self._service.store.discard, staged)
