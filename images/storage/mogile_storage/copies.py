"""One copy: what is recorded about it, and what it is while it is written or read. Values and reads of one descriptor, no names."""

from __future__ import annotations

import errno
import os
import threading
from dataclasses import dataclass
from typing import NamedTuple

from mogile_core.checksum import Digest, HashType, new_digest

ATTRIBUTE = "user.mogile"
READ_BLOCK_BYTES = 1 << 18
_NO_ATTRIBUTE = (errno.ENODATA, errno.ENOTSUP)


class Stored(NamedTuple):
    """A copy that is on the device: `outcome` is created, repeated or replaced."""

    outcome: str
    copy_id: str
    length: int
    md5: str


class Record(NamedTuple):
    """What was recorded about a file when it was written, in one attribute: `<copy id> <md5> <length>`."""

    copy_id: str
    md5: str
    length: int

    def encode(self) -> bytes:
        return b"%b %b %d" % (self.copy_id.encode("ascii"), self.md5.encode("ascii"), self.length)

    @classmethod
    def decode(cls, data: bytes) -> Record | None:
        """None when it is no record."""
        try:
            copy_id, md5, length = data.decode("ascii").split(" ")
            return cls(copy_id, md5, int(length)) if len(copy_id) == len(md5) == 32 else None
        except ValueError:
            return None


@dataclass(slots=True, kw_only=True)
class Opened:
    """A copy opened for reading; the owner closes `fd`."""

    fd: int
    length: int
    mtime: float
    copy_id: str
    md5: str | None
    recorded_length: int | None

    @property
    def damaged(self) -> bool:
        return self.recorded_length is not None and self.recorded_length != self.length


@dataclass(slots=True)
class Staged:
    """A body on its way to a name: a descriptor without a name (or with one in the temp directory)."""

    name: str
    fd: int
    temp_name: str | None
    digest: Digest
    length: int = 0
    over_empty: bool = False  # an empty file under this name may be replaced

    def write(self, data: bytes) -> None:
        """Append; the digest is fed from the same bytes."""
        view = memoryview(data)
        done = os.write(self.fd, view)
        while done < len(view):
            done += os.write(self.fd, view[done:])
        self.digest.update(data)
        self.length += len(data)


def fid_of(name: str) -> int:
    """The fid of a name such as `0/000/000/0000000001.fid`."""
    return int(name[name.rindex("/") + 1 : -4])


def record_of(fd: int) -> Record | None:
    """The record of an open file; None for files of other servers."""
    try:
        return Record.decode(os.getxattr(fd, ATTRIBUTE))
    except OSError as failure:
        if failure.errno in _NO_ATTRIBUTE:
            return None
        raise


def stand_in_copy_id(status: os.stat_result) -> str:
    """The copy id of a file without a record: made of what changes when it is written again."""
    return f"{status.st_ino & (1 << 64) - 1:016x}{status.st_mtime_ns & (1 << 64) - 1:016x}"


def digest_of(fd: int, hashtype: HashType = HashType.MD5) -> tuple[str, int]:
    """(hex digest, bytes read) of an open file from its beginning."""
    digest, offset = new_digest(hashtype), 0
    while block := os.pread(fd, READ_BLOCK_BYTES, offset):
        digest.update(block)
        offset += len(block)
    return digest.digest().hex(), offset


class CopyIds:
    """Random ids, drawn from the kernel many at a time."""

    def __init__(self) -> None:
        self._pool = b""
        self._lock = threading.Lock()

    def new(self) -> str:
        with self._lock:
            if not self._pool:
                self._pool = os.urandom(4096)
            drawn, self._pool = self._pool[:16], self._pool[16:]
        return drawn.hex()
