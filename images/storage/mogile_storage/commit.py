"""Making changes durable: one sync for many (group commit) where that is safe, one per file elsewhere.

Group commit: one thread per device takes everything that has arrived, does it, calls `syncfs` once and answers all of it. What
arrives meanwhile is the next batch; a lone request waits for nobody. It is used only where it was shown to hold
(docs/decisions/0002): the device directory is a mount point of its own whose root is the root of the file system, the type is ext4
or xfs, the kernel is 5.17 or newer (older ones drop some errors). FUSE looks like a mount of its own and answers 0 to `syncfs`
where fsync says EIO; on a shared file system `syncfs` waits for everybody else's writes.

A failed sync fails every change of its batch and the device with it: the kernel reports such an error once and then forgets it, so
a second try would lie. On ext4 the first may lie already, which is why every sync is confirmed (`BlobStore.confirm`). Names made by
that batch are taken back, since an equal repeat must never find bytes that are not on disk.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import re
import time
from collections.abc import Callable
from queue import Empty
from typing import Any

from mogile_storage.blob import BlobStore
from mogile_storage.copies import Staged, Stored
from mogile_storage.errors import DeviceUnavailableError
from mogile_storage.latency import Latency
from mogile_storage.mounts import mount_of
from mogile_storage.pool import Delivery, Job, Pool

BATCH_JOBS_MAX = 256
GATHER_JOBS = 32  # a batch costs as much beside its changes as two or three of them, so larger ones gain little
GATHER_SECONDS = 0.001
SYNC_THREADS = 32  # of one device without group commit: so many fsyncs overlap
QUEUE_JOBS_MAX = 4096
GROUP_FILE_SYSTEMS = frozenset({"ext4", "xfs"})
GROUP_KERNEL_MIN = (5, 17)

_libc = ctypes.CDLL(None, use_errno=True)
_RANGE_WRITE = 2
_RANGE_WAIT = 1 | 2 | 4


def sync_file_system(fd: int) -> None:
    """`syncfs`: everything written so far to the file system of `fd` is on disk; OSError if not."""
    if _libc.syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def sync_store(store: BlobStore) -> None:
    """All changes of a store so far are on disk; OSError if not."""
    sync_file_system(store.fd)
    store.confirm()


def start_writeback(fd: int, offset: int, length: int, *, wait: bool) -> None:
    """`sync_file_range`: begin (and with `wait` finish) writing a range; a hint, errors are left to the fsync that follows."""
    flags = _RANGE_WAIT if wait else _RANGE_WRITE
    _libc.sync_file_range(fd, ctypes.c_int64(offset), ctypes.c_int64(length), ctypes.c_uint(flags))


def group_commit_refusal(path: str, mountinfo: str | None = None, release: str | None = None) -> str | None:
    """None when group commit is safe for this device directory, else the reason why not in words."""
    mount = mount_of(path, mountinfo)
    if mount is None or mount.point != path:
        return "the device directory is not a mount point"
    if mount.root != "/":
        return "only a part of the file system is mounted here"
    if mount.kind not in GROUP_FILE_SYSTEMS:
        return f"file system {mount.kind} is not one of {', '.join(sorted(GROUP_FILE_SYSTEMS))}"
    version = re.match(r"(\d+)\.(\d+)", release or platform.release())
    if version is None or (int(version[1]), int(version[2])) < GROUP_KERNEL_MIN:
        return "the kernel is older than 5.17"
    return None


class Change(Job):
    """A change of a device that must be durable before `done` is called."""

    __slots__ = ("store",)

    def __init__(self, store: BlobStore, done: Callable[[Any], None]) -> None:
        super().__init__(done)
        self.store = store

    def revert(self) -> None:
        """Called when the sync failed."""


class SmallPut(Change):
    """A body that is in memory whole."""

    __slots__ = ("body", "md5", "name", "replace")

    def __init__(
        self, store: BlobStore, done: Callable[[Any], None], name: str, body: bytes, md5: bytes | None, *, replace: bool
    ) -> None:
        super().__init__(store, done)
        self.name, self.body, self.md5, self.replace = name, body, md5, replace

    def run(self) -> Stored:
        return self.store.put_small(self.name, self.body, self.md5, replace=self.replace)

    def revert(self) -> None:
        if isinstance(self.result, Stored) and self.result.outcome == "created":
            self.store.unlink_created(self.name, self.result.copy_id)


class StagedPut(Change):
    """A body that was streamed into a nameless file; its bytes are on disk already, so that the batch waits for its name only."""

    __slots__ = ("md5", "name", "replace", "staged")

    def __init__(
        self, store: BlobStore, done: Callable[[Any], None], staged: Staged, md5: bytes | None, *, replace: bool
    ) -> None:
        super().__init__(store, done)
        self.staged, self.name, self.md5, self.replace = staged, staged.name, md5, replace

    def run(self) -> Stored:
        return self.store.publish(self.staged, md5=self.md5, replace=self.replace)

    def revert(self) -> None:
        if isinstance(self.result, Stored) and self.result.outcome == "created":
            self.store.unlink_created(self.name, self.result.copy_id)


class Delete(Change):
    """Remove a copy; durable too, or a deleted file could come back without a row that knows it."""

    __slots__ = ("copy_id", "name")

    def __init__(self, store: BlobStore, done: Callable[[Any], None], name: str, copy_id: str | None) -> None:
        super().__init__(store, done)
        self.name, self.copy_id = name, copy_id

    def run(self) -> None:
        self.store.delete(self.name, self.copy_id)


class Move(Change):
    """Give a copy another name on its device."""

    __slots__ = ("name", "new_name")

    def __init__(self, store: BlobStore, done: Callable[[Any], None], name: str, new_name: str) -> None:
        super().__init__(store, done)
        self.name, self.new_name = name, new_name

    def run(self) -> None:
        self.store.move(self.name, self.new_name)


class GroupCommitter(Pool):
    """One thread; everything that is waiting is one batch with one sync.

    What arrives in one turn of the loop is handed over together: one wake-up for all, and the thread does not fight the loop for the
    interpreter meanwhile. Where several clients are at work a batch is begun when as many have come as were in the last one or waited
    behind it (GATHER_JOBS at most), or after GATHER_SECONDS: else they split into two halves, each of which waits for the sync of the
    other before its own, and a batch of one costs three times the CPU of one of eight. A lone client never waits.
    """

    def __init__(
        self,
        name: str,
        delivery: Delivery,
        store: BlobStore,
        *,
        on_os_error: Callable[[OSError], None],
        on_sync_failure: Callable[[OSError], None],
        latency: Latency | None = None,
        on_begin: Callable[[float], object] = lambda _: None,
    ) -> None:
        """`on_begin(wall clock)` is called before the first name of a batch is made; its OSError fails the batch like a failed sync."""
        super().__init__(name, delivery, threads=1, limit=QUEUE_JOBS_MAX, on_os_error=on_os_error, latency=latency)
        self._store = store
        self._on_sync_failure, self._on_begin = on_sync_failure, on_begin
        self.batches = 0
        self.changes = 0
        self._batch_began: float | None = None
        self._arrived: list[Job] = []

    @property
    def settled_at(self) -> float:
        """Every name made before this time (wall clock) is on disk."""
        now = time.time()  # before the look at the batch: one that begins in between began later
        return self._batch_began or now

    def _hand_over(self, job: Job) -> None:
        if not self._arrived:
            self._delivery.soon(self._hand_over_all)
        self._arrived.append(job)

    def _hand_over_all(self) -> None:
        arrived, self._arrived = self._arrived, []
        if arrived:
            self._jobs.put(arrived)

    def _close(self) -> None:
        self._hand_over_all()
        super()._close()

    def _serve(self, slot: int) -> None:
        waiting: list[Job] = []
        at_work = 0
        while (batch := waiting or self._jobs.get()) is not None:
            self._gather(batch, min(at_work, GATHER_JOBS))
            self._since[slot] = time.monotonic()
            self._work(batch)
            self._since[slot] = 0.0
            waiting = []
            self._gather(waiting, 0)  # before the answers: what comes after them may be of the same clients
            at_work = len(batch) + len(waiting)
            self._delivery.put(batch)

    def _gather(self, batch: list[Job], wanted: int) -> None:
        """Add what waits, and for a moment what is still to come while there are fewer than `wanted`. A turn of the loop is not split,
        so a batch may become a little larger than BATCH_JOBS_MAX."""
        deadline = time.monotonic() + GATHER_SECONDS
        with contextlib.suppress(Empty):
            while len(batch) < BATCH_JOBS_MAX:
                if len(batch) < wanted and (left := deadline - time.monotonic()) > 0:
                    following = self._jobs.get(timeout=left)
                else:
                    following = self._jobs.get_nowait()
                if following is None:
                    self._jobs.put(None)
                    return
                batch += following

    def _work(self, batch: list[Job]) -> None:
        self._batch_began = time.time()
        try:
            self._on_begin(self._batch_began)
            for job in batch:
                job.execute(self._on_os_error)
            if any(job.error is None for job in batch):
                self._sync()
        except OSError as failure:
            self._fail(batch, failure)
        self._batch_began = None
        self.batches += 1
        self.changes += len(batch)

    def _sync(self) -> None:
        began = time.monotonic()
        try:
            sync_store(self._store)
        finally:
            if self._latency is not None:
                self._latency.observe(time.monotonic() - began)

    def _fail(self, batch: list[Job], failure: OSError) -> None:
        self._on_sync_failure(failure)
        for job in batch:
            if job.error is None:
                if isinstance(job, Change):
                    job.revert()
                job.error = DeviceUnavailableError(f"the device did not sync: {failure.strerror}")
