"""Which copies of a device were found damaged: the durable list that trackers read and heal.

One small file for each, `.mogile-damaged/<fid, 19 digits>` with `<copy id or -> <reason> <unix time>`, so that the list has no limit
but the disk's and costs no memory: only its length is kept. An entry stays until a good copy of the fid lies on the device again, or
until the fid is deleted here. After a power cut an entry may be back though its copy is good: the healing pull then finds the same
bytes and removes it again. The other way round cannot happen, because entries are on disk before the copy is moved away.
"""

from __future__ import annotations

import heapq
import os
import threading
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from mogile_storage.folders import names

DAMAGED_DIRECTORY = ".mogile-damaged"
_FID_DIGITS = 19


class Root(Protocol):
    """The device directory, as far as it is needed here (a BlobStore)."""

    @property
    def fd(self) -> int: ...

    def write_plain(self, name: str, data: bytes, *, sync: bool = False) -> None: ...

    def read_plain(self, name: str, limit: int = 1 << 16) -> bytes: ...

    def remove_plain(self, name: str) -> None: ...

    def sync_directory(self, directory: str) -> None: ...


class Damaged(NamedTuple):
    """One entry; `copy_id` is `-` for a copy without a record."""

    fid: int
    copy_id: str
    reason: str
    seconds: int

    def line(self) -> bytes:
        return f"{self.fid} {self.copy_id} {self.reason} {self.seconds}\n".encode("ascii")


class DamagedList:
    """The entries of one device. All methods block."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._lock = threading.Lock()
        self.count = 0

    def load(self) -> None:
        """Count what is there; to be called before the others."""
        with self._lock:
            self.count = sum(1 for _ in self._names())

    def add(self, entry: Damaged) -> None:
        """Remember, durably; an older entry of the fid is replaced."""
        with self._lock:
            known = self._exists(entry.fid)
            first = not self._directory_exists()
            self._root.write_plain(_name(entry.fid), b"%b\n" % entry.line().split(b" ", 1)[1].rstrip(), sync=True)
            if first:
                self._root.sync_directory("")
            self.count += not known

    def clear(self, fid: int) -> bool:
        """Forget; True when there was an entry. Costs nothing while the list is empty."""
        if not self.count:
            return False
        with self._lock:
            try:
                self._root.remove_plain(_name(fid))
            except FileNotFoundError:
                return False
            self.count -= 1
            return True

    def get(self, fid: int) -> Damaged | None:
        """The entry of a fid. One that cannot be understood is still an entry."""
        if not self.count:
            return None
        try:
            words = self._root.read_plain(_name(fid)).decode("ascii", "replace").split()
        except FileNotFoundError:
            return None
        if len(words) != 3 or not words[2].isdigit():
            words = ["-", "unknown", "0"]
        return Damaged(fid, words[0], words[1], int(words[2]))

    def page(self, after: int, limit: int) -> list[Damaged]:
        """At most `limit` entries with larger fids, ascending."""
        fids = heapq.nsmallest(limit, (int(name) for name in self._names() if int(name) > after))
        return [entry for fid in fids if (entry := self.get(fid)) is not None]

    def _names(self) -> Iterator[str]:
        return (
            n for n in names(self._root.fd, DAMAGED_DIRECTORY) if len(n) == _FID_DIGITS and n.isascii() and n.isdigit()
        )

    def _exists(self, fid: int) -> bool:
        try:
            os.stat(_name(fid), dir_fd=self._root.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def _directory_exists(self) -> bool:
        try:
            os.stat(DAMAGED_DIRECTORY, dir_fd=self._root.fd)
        except FileNotFoundError:
            return False
        return True


def _name(fid: int) -> str:
    return f"{DAMAGED_DIRECTORY}/{fid:0{_FID_DIGITS}d}"
