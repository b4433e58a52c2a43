"""Files that arrive in parts (PUT with Content-Range): what has arrived is on disk and known, nothing of it is visible, until all is there.

A part is written into `.mogile-partial/<fid>`; the ranges that are complete and the total, once somebody named it, are kept in an
extended attribute of that file. Order, for every crash: a range that is written anew is struck out first, its bytes are synced, then
the range is recorded and that is synced; a 2xx comes after all of it. So what a client is told after a crash is on disk. The last part
gives the file its name like any other upload (module blob); from then on it is immutable.

One part of a file is written at a time. Uploads nobody added to for a while are swept. All methods block, but for `named`.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from dataclasses import dataclass

from mogile_core.checksum import Digest, HashType, new_digest
from mogile_storage.blob import BlobStore
from mogile_storage.copies import READ_BLOCK_BYTES, Staged, fid_of
from mogile_storage.errors import BadRequestError, BusyError, ExistsDiffersError, LengthMismatchError, MissingError
from mogile_storage.folders import names

PARTIAL_DIRECTORY = ".mogile-partial"
PARTIALS_MAX = 1000  # files under way on a device
RANGES_MAX = 64  # of one file; parts that follow each other are one range
_ATTRIBUTE = "user.mogile.partial"
_CONTENT_RANGE = re.compile(rb"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18}|\*)\Z")

Ranges = tuple[tuple[int, int], ...]  # (first, one behind the last), ascending, with gaps between


@dataclass(frozen=True, slots=True)
class ContentRange:
    """A Content-Range of a PUT: `size` bytes from `first` on, none for a question (`bytes */N`); `total` None: not known yet."""

    first: int
    size: int
    total: int | None


def parse_content_range(value: bytes, length: int | None) -> ContentRange:
    """BadRequestError in one sentence; `length` is the Content-Length, None in a chunked body."""
    match = _CONTENT_RANGE.match(value)
    if match is None:
        raise BadRequestError("Content-Range must be bytes <first>-<last>/<total or *>, or bytes */<total or *>")
    total = None if match[3] == b"*" else int(match[3])
    if match[1] is None:
        if length:
            raise BadRequestError("a Content-Range without first and last byte has no body")
        return ContentRange(0, 0, total)
    first, last = int(match[1]), int(match[2])
    if last < first or (total is not None and last >= total):
        raise BadRequestError("Content-Range ends before it begins, or behind the total")
    if length != last - first + 1:
        raise BadRequestError("Content-Length must be the length of the Content-Range")
    return ContentRange(first, last - first + 1, total)


def with_range(ranges: Ranges, first: int, end: int) -> Ranges:
    """Plus [first, end)."""
    merged: list[tuple[int, int]] = []
    for here in sorted((*ranges, (first, end))):
        if merged and here[0] <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], here[1]))
        else:
            merged.append(here)
    return tuple(r for r in merged if r[0] < r[1])


def without_range(ranges: Ranges, first: int, end: int) -> Ranges:
    """Minus [first, end)."""
    if first >= end:  # nothing; the pieces would touch
        return ranges
    pieces = [piece for a, b in ranges for piece in ((a, min(b, first)), (max(a, end), b))]
    return tuple((a, b) for a, b in pieces if a < b)


@dataclass(frozen=True, slots=True)
class Arrived:
    """What is known of a file that arrives in parts."""

    total: int | None = None
    ranges: Ranges = ()

    @property
    def complete(self) -> bool:
        """All bytes of the known total are there."""
        return self.total is not None and self.ranges == (((0, self.total),) if self.total else ())

    @property
    def contiguous(self) -> int | None:
        """The length of what is there when it begins at 0 and has no gaps."""
        return self.ranges[0][1] if len(self.ranges) == 1 and self.ranges[0][0] == 0 else None

    def text(self) -> str:
        """`0-999,2000-2999`, last bytes included."""
        return ",".join(f"{first}-{end - 1}" for first, end in self.ranges)

    def encode(self) -> bytes:
        return f"{'*' if self.total is None else self.total} {self.text()}".encode()

    @classmethod
    def decode(cls, data: bytes) -> Arrived:
        """Nothing has arrived when this is no record of ours."""
        try:
            total, _, text = data.decode("ascii").partition(" ")
            pairs = [piece.split("-") for piece in text.split(",")] if text else []
            ranges = tuple((int(first), int(last) + 1) for first, last in pairs)
            return cls(None if total == "*" else int(total), ranges)
        except ValueError:
            return cls()


class Partials:
    """The files of one device that are on their way."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._known: set[int] = set()
        self._busy: set[int] = set()

    def load(self) -> None:
        """Find what a predecessor left."""
        found = {int(name) for name in names(self._store.fd, PARTIAL_DIRECTORY) if name.isascii() and name.isdigit()}
        self._known = found

    def named(self, name: str) -> bool:
        """Something of this file has arrived."""
        return bool(self._known) and fid_of(name) in self._known

    def begin(self, name: str, part: ContentRange, *, replace_empty: bool) -> Part:
        """Open a file for one more part, or for a question; the caller ends it by `close` of the part. BusyError when another part of
        it is under way, ExistsDiffersError when the file has its name already, or another total."""
        fid = fid_of(name)
        with self._lock:
            if fid in self._busy:
                raise BusyError("another part of this file is being written")
            if fid not in self._known and len(self._known) >= PARTIALS_MAX:
                raise BusyError("too many files are arriving in parts on this device")
            self._busy.add(fid)
        opened = None
        try:
            self._refuse_existing(name, replace_empty=replace_empty)
            opened = self._open(fid, name)
            opened.strike(part)
        except BaseException:
            if opened is not None:
                os.close(opened.fd)
            self.free(fid)
            raise
        return opened

    def forget(self, fid: int) -> None:
        """Remove what has arrived of a file."""
        self._known.discard(fid)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_path(fid), dir_fd=self._store.fd)

    def free(self, fid: int) -> None:
        with self._lock:
            self._busy.discard(fid)

    def sync(self, fd: int) -> None:
        """A file here, with what is recorded about it, is on disk."""
        os.fsync(fd)
        self._store.confirm()

    def gone(self, fid: int) -> None:
        self._known.discard(fid)
        self.free(fid)

    def sweep(self, seconds: float) -> int:
        """Remove files to which nothing was added since then (wall clock); how many."""
        count = 0
        for fid in list(self._known):
            with self._lock:
                if fid in self._busy:
                    continue
                self._busy.add(fid)
            try:
                with contextlib.suppress(FileNotFoundError):
                    if os.stat(_path(fid), dir_fd=self._store.fd).st_ctime < seconds:
                        self.forget(fid)
                        count += 1
            finally:
                self.free(fid)
        return count

    def _refuse_existing(self, name: str, *, replace_empty: bool) -> None:
        try:
            with self._store.open(name) as there:
                if there.length or not replace_empty:
                    raise ExistsDiffersError(f"the file is complete: it has {there.length} bytes")
        except MissingError:
            return

    def _open(self, fid: int, name: str) -> Part:
        with contextlib.suppress(FileExistsError):
            os.mkdir(PARTIAL_DIRECTORY, 0o755, dir_fd=self._store.fd)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(_path(fid), flags, 0o644, dir_fd=self._store.fd)
        if (
            os.fstat(fd).st_nlink > 1
        ):  # it got its name just before a crash: that name is immutable, this one is left over
            os.close(fd)
            self.forget(fid)
            fd = os.open(_path(fid), flags | os.O_EXCL, 0o644, dir_fd=self._store.fd)
        if fid not in self._known:
            os.fsync(fd)
            self._store.sync_directory(PARTIAL_DIRECTORY)
            self._store.sync_directory("")
        self._known.add(fid)
        try:
            arrived = Arrived.decode(os.getxattr(fd, _ATTRIBUTE))
        except OSError:
            arrived = Arrived()
        return Part(self, fid, name, fd, arrived)


class Part:
    """A file opened for one part of it; of one user at a time."""

    def __init__(self, partials: Partials, fid: int, name: str, fd: int, arrived: Arrived) -> None:
        self._partials, self.fid, self.name, self.fd, self.arrived = partials, fid, name, fd, arrived
        self.digest: Digest = new_digest(HashType.MD5)  # of this part
        self._first = self._at = 0

    @property
    def written(self) -> int:
        return self._at - self._first

    def strike(self, part: ContentRange) -> None:
        """What is going to be written does not count as there any more."""
        total = self.arrived.total if part.total is None else part.total
        if self.arrived.total is not None and total != self.arrived.total:
            raise ExistsDiffersError(f"the total was said to be {self.arrived.total} bytes")
        if total is not None and (part.first + part.size > total or any(end > total for _, end in self.arrived.ranges)):
            raise LengthMismatchError(f"there are bytes behind the total of {total}")
        ranges = without_range(self.arrived.ranges, part.first, part.first + part.size)
        if len(with_range(ranges, part.first, part.first + part.size)) > RANGES_MAX:
            raise BadRequestError(f"a file may arrive in {RANGES_MAX} separate ranges at most")
        self._first = self._at = part.first
        self._record(Arrived(total, ranges))

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            done = os.pwrite(self.fd, view, self._at)
            self._at += done
            view = view[done:]
        self.digest.update(data)

    def settle(self) -> Arrived:
        """What was written is on disk and recorded."""
        if self._at > self._first:
            os.fdatasync(self.fd)
            self._record(Arrived(self.arrived.total, with_range(self.arrived.ranges, self._first, self._at)))
        return self.arrived

    def conclude(self, total: int) -> None:
        """The sender is taken to have said that this is all."""
        self._record(Arrived(total, self.arrived.ranges))

    def take(self) -> Staged:
        """The complete file as a body that `publish` gives its name to; this object is used up."""
        assert self.arrived.complete
        total = self.arrived.total or 0
        os.ftruncate(self.fd, total)  # a part that broke off may have left bytes behind it
        digest, offset = new_digest(HashType.MD5), 0
        while block := os.pread(self.fd, READ_BLOCK_BYTES, offset):
            digest.update(block)
            offset += len(block)
        os.fdatasync(self.fd)
        os.removexattr(self.fd, _ATTRIBUTE)
        fd, self.fd = self.fd, -1
        return Staged(self.name, fd, _path(self.fid), digest, offset)

    def close(self) -> None:
        """Others may add to the file."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        self._partials.free(self.fid)

    def published(self) -> None:
        """The file got its name, or will never: `publish` has removed the one it had here. Touches nothing, so also for the loop."""
        self._partials.gone(self.fid)

    def _record(self, arrived: Arrived) -> None:
        if arrived != self.arrived or not arrived.ranges:
            os.setxattr(self.fd, _ATTRIBUTE, arrived.encode())
            self._partials.sync(self.fd)
        self.arrived = arrived


def oldest_kept(hours: float) -> float:
    """The time (wall clock) before which an upload must have been added to, to be swept."""
    return time.time() - hours * 3600


def _path(fid: int) -> str:
    return f"{PARTIAL_DIRECTORY}/{fid:019d}"
