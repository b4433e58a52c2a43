"""The on-disk contract of a device: what a .fid file is and how it comes, stays and goes.

Duty: every change of a .fid file goes through `BlobStore`. All methods block and are called in the threads of the device only.

Invariants, and why:
- A .fid file is immutable and never seen in part: the body goes to a nameless file (O_TMPFILE) and gets its name by `linkat` when
  it is complete, with copy id, digest and length already in its extended attributes.
- A name is never taken over by a bare rename: after a power cut the rename may be on disk and the new bytes not (seen: 10 of 10
  files empty). Where a damaged copy is replaced, the new file is fsynced before the rename and the old one kept in quarantine.
- An equal repeat changes nothing; it is compared byte by byte, because the digest attribute says what was written, not what is there.
- With `each` every method returns only when file and directory entry are on disk; without, the caller owes one `syncfs` before it
  tells anybody (module commit).
- A sync that says yes is believed only when the file system takes changes after it (`confirm`).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator

from mogile_core.checksum import HashType, new_digest
from mogile_storage.copies import (
    ATTRIBUTE,
    CopyIds,
    Opened,
    Record,
    Staged,
    Stored,
    digest_of,
    fid_of,
    record_of,
    stand_in_copy_id,
)
from mogile_storage.damaged import Damaged, DamagedList
from mogile_storage.errors import (
    DigestMismatchError,
    ExistsDiffersError,
    MissingError,
    TargetExistsError,
    WrongCopyError,
)
from mogile_storage.folders import names

TEMP_DIRECTORY = ".mogile-tmp"
QUARANTINE_DIRECTORY = ".mogile-quarantine"
UNBROKEN_BYTES = (
    2047  # hashlib gives the interpreter away for more, and for a small body getting it back costs more than the digest
)
_KNOWN_DIRECTORIES_MAX = 100_000
_NAME_LOCKS = 64
_AT_EMPTY_PATH = 0x1000
_CONFIRMED = "user.mogile.confirmed"


_copy_ids = CopyIds()
_libc = ctypes.CDLL(None, use_errno=True)


def link_descriptor(fd: int, directory_fd: int, name: str) -> int:
    """`linkat` of an open file to a name; 0, or the number of the error (ENOENT also: not allowed)."""
    return 0 if _libc.linkat(fd, b"", directory_fd, os.fsencode(name), _AT_EMPTY_PATH) == 0 else ctypes.get_errno()


class BlobStore:
    """The .fid files below one device directory, reached through one descriptor that is kept open."""

    def __init__(
        self, root: str, *, each: bool, on_damage: Callable[[str, str], None] = lambda _name, _reason: None
    ) -> None:
        self.root = root
        self.each = each
        self.records = True  # False: the file system keeps no attributes, so nothing is recorded (and each must be set)
        self.doubts = False  # True: on ext4, see `confirm`
        self.damaged = DamagedList(self)
        self.quarantined_files = 0
        self.quarantined_bytes = 0
        self._on_damage = on_damage
        self.fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._known: set[str] = set()
        self._directory_lock = threading.Lock()
        self._name_locks = tuple(threading.Lock() for _ in range(_NAME_LOCKS))
        self._nameless = True
        self._by_descriptor = True

    def close(self) -> None:
        """The number may be given to another file at once: nothing may use it any more."""
        fd, self.fd = self.fd, -1
        os.close(fd)

    # -- writing ---------------------------------------------------------------------------------------------------------------

    def stage(self, name: str) -> Staged:
        """A nameless file beside the place where `name` (relative to the device) will be."""
        directory = os.path.dirname(name)
        if directory not in self._known:
            self._make_directory(directory)
        digest = new_digest(HashType.MD5)
        if self._nameless:
            flags = os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC
            try:
                return Staged(name, os.open(directory, flags, 0o644, dir_fd=self.fd), None, digest)
            except FileNotFoundError:  # removed behind our back
                self._known.discard(directory)
                self._make_directory(directory)
                return Staged(name, os.open(directory, flags, 0o644, dir_fd=self.fd), None, digest)
            except OSError as failure:
                if failure.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                    raise
                self._nameless = False
        with contextlib.suppress(FileExistsError):
            os.mkdir(TEMP_DIRECTORY, 0o755, dir_fd=self.fd)
        temp_name = f"{TEMP_DIRECTORY}/{os.urandom(16).hex()}"
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        return Staged(name, os.open(temp_name, flags, 0o644, dir_fd=self.fd), temp_name, digest)

    def discard(self, staged: Staged) -> None:
        """Forget a body; nothing of it remains. Safe to call after `publish`."""
        if staged.fd >= 0:
            os.close(staged.fd)
            staged.fd = -1
        if staged.temp_name is not None:
            with contextlib.suppress(OSError):  # what cannot be removed now is swept at the next start
                os.unlink(staged.temp_name, dir_fd=self.fd)
            staged.temp_name = None

    def publish(self, staged: Staged, *, md5: bytes | None = None, replace: bool = False) -> Stored:
        """Give the body its name, or find that the same bytes are there already. Consumes `staged` in every case."""
        try:
            digest = staged.digest.digest()
            if md5 is not None and digest != md5:
                raise DigestMismatchError
            copy_id = _copy_ids.new()
            hexdigest = digest.hex()
            if self.records:
                os.setxattr(staged.fd, ATTRIBUTE, Record(copy_id, hexdigest, staged.length).encode())
            else:
                copy_id = stand_in_copy_id(os.fstat(staged.fd))
            if self.each:
                os.fsync(staged.fd)
            made = Stored("created", copy_id, staged.length, hexdigest)
            with self._name_lock(staged.name):
                stored = self._link_or_compare(staged, made, replace=replace)
            if self.each:
                self._sync_name(stored, staged.name)
            if self.damaged.count:
                self.damaged.clear(fid_of(staged.name))
            return stored
        finally:
            self.discard(staged)

    def _link_or_compare(self, staged: Staged, made: Stored, *, replace: bool) -> Stored:
        for _ in range(3):
            try:
                self._link(staged, staged.name)
            except FileExistsError:
                try:
                    return self._compare(staged, made, replace=replace)
                except FileNotFoundError:  # deleted in between
                    continue
            except FileNotFoundError:  # the directory was removed behind our back
                directory = os.path.dirname(staged.name)
                self._known.discard(directory)
                self._make_directory(directory)
                continue
            return made
        raise ExistsDiffersError(f"{staged.name} keeps coming and going")

    def _link(self, staged: Staged, name: str) -> None:
        if staged.temp_name is not None:
            os.link(staged.temp_name, name, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        else:
            self._link_nameless(staged.fd, name)

    def _link_nameless(self, fd: int, name: str) -> None:
        """Give an O_TMPFILE its name: by its descriptor where the kernel allows that (6.10, or with a privilege), else by way of /proc,
        which costs more. src_dir_fd makes Python call linkat with AT_SYMLINK_FOLLOW, which needs no privilege."""
        if self._by_descriptor:
            number = link_descriptor(fd, self.fd, name)
            if not number:
                return
            if number == errno.EEXIST:
                raise FileExistsError(number, os.strerror(number), name)
        os.link(f"/proc/self/fd/{fd}", name, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        self._by_descriptor = False

    def _compare(self, staged: Staged, made: Stored, *, replace: bool) -> Stored:
        fd = os.open(staged.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            status = os.fstat(fd)
            record = record_of(fd)
            if status.st_size == made.length and digest_of(fd) == (made.md5, made.length):
                copy_id = record.copy_id if record is not None else stand_in_copy_id(status)
                now = Record(copy_id, made.md5, made.length)
                if self.records and record != now:
                    os.setxattr(fd, ATTRIBUTE, now.encode())
                if self.each:
                    os.fsync(fd)
                return Stored("repeated", copy_id, made.length, made.md5)
            # What is there is not what was recorded when it was written, and these bytes are: that heals it.
            heals = record is not None and (record.md5, record.length) == (made.md5, made.length)
            heals = heals or (staged.over_empty and not status.st_size)
        finally:
            os.close(fd)
        if not (replace or heals):
            raise ExistsDiffersError
        os.fsync(staged.fd)
        if status.st_size:
            self.quarantine(staged.name, keep=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(TEMP_DIRECTORY, 0o755, dir_fd=self.fd)
        temp_name = f"{TEMP_DIRECTORY}/{made.copy_id}"
        self._link(staged, temp_name)
        os.replace(temp_name, staged.name, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        return Stored("replaced", made.copy_id, made.length, made.md5)

    def quarantine(self, name: str, *, keep: bool = False) -> None:
        """Keep a damaged file under a name that nothing serves; with `keep` the old name stays too, for a rename over it."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(QUARANTINE_DIRECTORY, 0o755, dir_fd=self.fd)
        kept = f"{QUARANTINE_DIRECTORY}/{os.path.basename(name)}.{time.time_ns()}"
        os.link(name, kept, src_dir_fd=self.fd, dst_dir_fd=self.fd, follow_symlinks=False)
        size = os.stat(kept, dir_fd=self.fd, follow_symlinks=False).st_size
        with self._directory_lock:
            self.quarantined_files += 1
            self.quarantined_bytes += size
        if not keep:
            os.unlink(name, dir_fd=self.fd)

    def set_aside(self, name: str, inode: int, reason: str) -> bool:
        """A copy was found damaged: remember its fid, then quarantine it; both are on disk when this returns. False when the name
        is gone or another file by now. Remembered first: bytes may be served a little longer, but never go unnoticed."""
        with self._name_lock(name):
            try:
                opened = self.open_copy(name)
            except MissingError:
                return False
            try:
                if os.fstat(opened.fd).st_ino != inode:
                    return False
                copy_id = opened.copy_id if opened.md5 is not None else "-"
            finally:
                os.close(opened.fd)
            self.damaged.add(Damaged(fid_of(name), copy_id, reason, int(time.time())))
            self.quarantine(name)
            self.sync_directory(QUARANTINE_DIRECTORY)
            self.sync_directory(os.path.dirname(name))
        self._on_damage(name, reason)
        return True

    def count_kept(self) -> None:
        """Look through what was found damaged before: once, when the device is opened."""
        self.damaged.load()
        for name in names(self.fd, QUARANTINE_DIRECTORY):
            with contextlib.suppress(FileNotFoundError):
                size = os.stat(f"{QUARANTINE_DIRECTORY}/{name}", dir_fd=self.fd, follow_symlinks=False).st_size
                self.quarantined_files += 1
                self.quarantined_bytes += size

    def delete(self, name: str, copy_id: str | None) -> None:
        """Remove a copy; with `copy_id` only that one (WrongCopyError), never a newer one under the same name. A copy that lies in
        quarantine counts as removed when it is no longer listed as damaged."""
        with self._name_lock(name):
            try:
                status = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
                if not stat.S_ISREG(status.st_mode):
                    raise MissingError
                if copy_id is not None:
                    with self.open(name) as opened:
                        if opened.copy_id != copy_id:
                            raise WrongCopyError
                os.unlink(name, dir_fd=self.fd)
            except (FileNotFoundError, NotADirectoryError):
                self._forget_damaged(name, copy_id)
                return
            self.damaged.clear(fid_of(name))
        if self.each:
            self.sync_directory(os.path.dirname(name))

    def _forget_damaged(self, name: str, copy_id: str | None) -> None:
        entry = self.damaged.get(fid_of(name))
        if entry is None:
            raise MissingError
        if copy_id is not None and entry.copy_id not in (copy_id, "-"):
            raise WrongCopyError
        self.damaged.clear(entry.fid)

    def _sync_name(self, stored: Stored, name: str) -> None:
        try:
            self.sync_directory(os.path.dirname(name))
        except OSError:
            if stored.outcome == "created":
                self.unlink_created(name, stored.copy_id)
            raise

    def move(self, name: str, new_name: str) -> None:
        """Give a copy another name, with everything that is recorded about it; never over an existing file."""
        directory = os.path.dirname(new_name)
        self._make_directory(directory)
        with contextlib.ExitStack() as locks:
            for index in sorted({hash(name) % _NAME_LOCKS, hash(new_name) % _NAME_LOCKS}):
                locks.enter_context(self._name_locks[index])
            try:
                status = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
                if not stat.S_ISREG(status.st_mode):
                    raise MissingError
                os.link(name, new_name, src_dir_fd=self.fd, dst_dir_fd=self.fd, follow_symlinks=False)
            except (FileNotFoundError, NotADirectoryError):
                raise MissingError from None
            except FileExistsError:
                raise TargetExistsError from None
            if self.each:
                self.sync_directory(directory)
            os.unlink(name, dir_fd=self.fd)
        if self.damaged.count:
            self.damaged.clear(fid_of(new_name))
        if self.each:
            self.sync_directory(os.path.dirname(name))

    def unlink_created(self, name: str, copy_id: str) -> None:
        """Take back a name whose sync failed: nobody was told of it, and an equal repeat must not find it."""
        with contextlib.suppress(OSError, MissingError, WrongCopyError):
            self.delete(name, copy_id)

    def put_small(self, name: str, body: bytes, md5: bytes | None, *, replace: bool) -> Stored:
        """A body that is in memory whole: the same as stage, write, publish, with fewer steps where nothing is in the way."""
        directory = name.rpartition("/")[0]
        if self.each or not self._nameless or directory not in self._known:
            return self._put_stepwise(name, body, md5, replace=replace)
        digest = new_digest(HashType.MD5)
        for start in range(0, len(body), UNBROKEN_BYTES):
            digest.update(body[start : start + UNBROKEN_BYTES])
        if md5 is not None and digest.digest() != md5:
            raise DigestMismatchError
        made = Stored("created", _copy_ids.new(), len(body), digest.digest().hex())
        try:
            fd = os.open(directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=self.fd)
        except FileNotFoundError:
            return self._put_stepwise(name, body, md5, replace=replace)
        try:
            if os.write(fd, body) != made.length:  # a nearly full disk: the long way says what is wrong
                return self._put_stepwise(name, body, md5, replace=replace)
            os.setxattr(fd, ATTRIBUTE, Record(made.copy_id, made.md5, made.length).encode())
            with self._name_lock(name):
                try:
                    self._link_nameless(fd, name)
                except FileExistsError:
                    made = self._link_or_compare(Staged(name, fd, None, digest, made.length), made, replace=replace)
            if self.damaged.count:
                self.damaged.clear(fid_of(name))
            return made
        finally:
            os.close(fd)

    def _put_stepwise(self, name: str, body: bytes, md5: bytes | None, *, replace: bool) -> Stored:
        staged = self.stage(name)
        try:
            staged.write(body)
        except BaseException:
            self.discard(staged)
            raise
        return self.publish(staged, md5=md5, replace=replace)

    # -- small plain files -----------------------------------------------------------------------------------------------------

    def write_plain(self, name: str, data: bytes, *, sync: bool = False) -> None:
        """Write a small file that is not a .fid (usage, marker, test-write): whole or not at all."""
        directory = os.path.dirname(name)
        if directory and directory not in self._known:
            self._make_directory(directory)
        temp_name = f"{name}.{os.urandom(4).hex()}.tmp"
        fd = os.open(temp_name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=self.fd)
        try:
            try:
                done = 0
                while done < len(data):  # a nearly full disk takes a part first, and then says what is wrong
                    done += os.write(fd, data[done:])
                if sync:
                    os.fsync(fd)
            finally:
                os.close(fd)
            os.replace(temp_name, name, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temp_name, dir_fd=self.fd)
            raise
        if sync:
            self.sync_directory(directory)

    def remove_plain(self, name: str) -> None:
        """Remove such a file; FileNotFoundError when there is none."""
        os.unlink(name, dir_fd=self.fd)

    def read_plain(self, name: str, limit: int = 1 << 16) -> bytes:
        """At most `limit` bytes of such a file."""
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            return os.read(fd, limit)
        finally:
            os.close(fd)

    # -- reading ---------------------------------------------------------------------------------------------------------------

    def open_copy(self, name: str) -> Opened:
        """Open a copy for reading; MissingError when there is none."""
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
        except (FileNotFoundError, NotADirectoryError):
            raise MissingError from None
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise MissingError
            record = record_of(fd)
            return Opened(
                fd=fd,
                length=status.st_size,
                mtime=status.st_mtime,
                copy_id=record.copy_id if record is not None else stand_in_copy_id(status),
                md5=record.md5 if record is not None else None,
                recorded_length=record.length if record is not None else None,
            )
        except BaseException:
            os.close(fd)
            raise

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[Opened]:
        """`open_copy` that closes by itself."""
        opened = self.open_copy(name)
        try:
            yield opened
        finally:
            os.close(opened.fd)

    # -- directories -----------------------------------------------------------------------------------------------------------

    def _make_directory(self, directory: str) -> None:
        """Make a directory and its parents. With `each` their entries are synced before anybody relies on them: the lock is held
        meanwhile, because a second writer that finds the directory must not acknowledge before its entry is on disk."""
        with self._directory_lock:
            if directory in self._known:
                return
            parts = directory.split("/")
            for depth in range(1, len(parts) + 1):
                with contextlib.suppress(FileExistsError):
                    os.mkdir("/".join(parts[:depth]), 0o755, dir_fd=self.fd)
                if self.each:
                    self.sync_directory("/".join(parts[: depth - 1]))
            if len(self._known) >= _KNOWN_DIRECTORIES_MAX:
                self._known.clear()
            self._known.add(directory)

    def sync_directory(self, directory: str) -> None:
        """The entries of a directory (relative to the device) are on disk."""
        fd = os.open(directory or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        self.confirm()

    def confirm(self) -> None:
        """After a sync: OSError when the file system had stopped taking changes, whatever the sync said.

        When ext4's journal is aborted (a write of its own failed, damaged metadata) what was not committed is dropped, and a sync that
        begins after that finds nothing to do and succeeds. Giving an attribute the value it has changes nothing on ext4, but the journal
        is asked for leave first, and an aborted one never gives it again (docs/decisions/0002).
        """
        if self.doubts and self.records:
            os.setxattr(self.fd, _CONFIRMED, b"1")

    def _name_lock(self, name: str) -> threading.Lock:
        return self._name_locks[hash(name) % _NAME_LOCKS]
