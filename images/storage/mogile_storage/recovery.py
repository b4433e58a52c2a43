"""What a device needs after an unclean stop, before it serves: half-made files put aside, stray temp files swept.

With group commit a name can reach the disk before its bytes (nobody was told of it yet): after a power cut such a file is short,
with a valid digest attribute, and must not be served. The mark is a small file with the time before which every name was on disk;
only directories changed since then are looked at, so a device with millions of files opens in seconds. In mode `each` the bytes are
on disk before the name, and there is nothing to find.

The mark is written in place with a fixed length: one block is old or new after a power cut, where a rename could leave it empty.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass

from mogile_storage.blob import TEMP_DIRECTORY, BlobStore
from mogile_storage.copies import digest_of, record_of
from mogile_storage.folders import directories, fid_names, names

MARK_NAME = ".mogile-mark"
SLACK_SECONDS = 60.0  # small steps of the clock; for larger ones back the mark is moved (`follow`)
DIGEST_BYTES_MAX = 1 << 20  # larger files were synced before they got their name
_MARK_FORMAT = "{:<8}{:>24.6f}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """What was found: `examined` files, of which `quarantined` names were put aside; `swept` temp files removed."""

    clean: bool
    examined: int = 0
    quarantined: tuple[str, ...] = ()
    swept: int = 0


class Mark:
    """The mark of an open device."""

    def __init__(self, store: BlobStore) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(MARK_NAME, flags, 0o644, dir_fd=store.fd)
        self._seconds = 0.0

    def read(self) -> tuple[bool, float]:
        """(clean, time); (False, 0.0) when there was none or it cannot be read."""
        try:
            word, seconds = os.pread(self._fd, 64, 0).split()
            return word == b"clean", float(seconds)
        except ValueError:
            return False, 0.0

    def follow(self, now: float) -> bool:
        """Called before names are made at `now`: where the clock was set back, they would look older than the mark and recovery would
        pass them by, so the mark goes back too, and is on disk first. True when it did."""
        if now >= self._seconds - SLACK_SECONDS / 2:
            return False
        self.write(clean=False, seconds=now, sync=True)
        return True

    def write(self, *, clean: bool, seconds: float, sync: bool) -> None:
        self._seconds = seconds
        os.pwrite(self._fd, _MARK_FORMAT.format("clean" if clean else "open", seconds).encode(), 0)
        if sync:
            os.fsync(self._fd)

    def close(self) -> None:
        os.close(self._fd)


def recover(store: BlobStore, mark: Mark, *, fresh: bool) -> Recovered:
    """Make the device fit to serve. `fresh`: it was marked or adopted just now, so nothing of ours can be half-made on it."""
    clean, seconds = mark.read()
    swept = _sweep(store)
    if clean or fresh:
        return Recovered(clean=True, swept=swept)
    examined, bad = 0, []
    for name in _changed_since(store, seconds - SLACK_SECONDS):
        examined += 1
        if _look_through(store, name, seconds):
            bad.append(name)
    return Recovered(clean=False, examined=examined, quarantined=tuple(bad), swept=swept)


def _sweep(store: BlobStore) -> int:
    count = 0
    with contextlib.suppress(FileNotFoundError):
        for name in list(names(store.fd, TEMP_DIRECTORY)):
            os.unlink(f"{TEMP_DIRECTORY}/{name}", dir_fd=store.fd)
            count += 1
    return count


def _changed_since(store: BlobStore, seconds: float) -> Iterator[str]:
    """The .fid files whose inode changed since then, in directories that did."""
    for first in directories(store.fd, ""):
        for second in directories(store.fd, first):
            for third in directories(store.fd, second):
                if os.stat(third, dir_fd=store.fd).st_mtime < seconds:
                    continue
                for name in list(fid_names(store.fd, third)):
                    path = f"{third}/{name}"
                    if os.stat(path, dir_fd=store.fd, follow_symlinks=False).st_ctime >= seconds:
                        yield path


def _look_through(store: BlobStore, name: str, seconds: float) -> str:
    """What is wrong with a copy, in a word: the length is not the recorded one, or, for what is newer than the mark (and small), the
    digest. Files without record are not ours. A damaged one is set aside."""
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=store.fd)
    try:
        status = os.fstat(fd)
        fault = _fault(fd, status, seconds)
    finally:
        os.close(fd)
    if fault:
        store.set_aside(name, status.st_ino, fault)
    return fault


def _fault(fd: int, status: os.stat_result, seconds: float) -> str:
    record = record_of(fd)
    if record is None:
        return ""  # ours are logged with their record before their name, so this one is from another server
    if record.length != status.st_size:
        return "length"
    if status.st_ctime < seconds or status.st_size > DIGEST_BYTES_MAX:
        return ""
    try:
        return "" if digest_of(fd)[0] == record.md5 else "digest"
    except OSError as failure:
        if failure.errno != errno.EIO:
            raise
        return "eio"
