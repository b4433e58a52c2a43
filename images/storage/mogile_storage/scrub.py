"""Reading every copy again, slowly, to find what rotted on the disk: one thread per device, so that a sick disk stops its own scrub only.

A pass walks the device in order of fids and compares length and digest with what was recorded when the copy was written. Before a
copy is read its pages are dropped, so that the disk answers and not the memory. What differs, or cannot be read, is read once more;
when that fails too the copy is set aside (module blob) and trackers heal it. Copies without a record (of another server) get one.

The position is kept on the device and written every POSITION_SECONDS, so a restart repeats little. A pass begins when the last one
began `scrub_interval_hours` ago, or when it is ordered. Reading is paced by bytes and by files a second, with idle I/O priority where
the kernel's scheduler knows it.
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import errno
import json
import os
import platform
import threading
import time
from dataclasses import asdict, dataclass

from mogile_core.checksum import HashType, new_digest
from mogile_core.runtime.logs import get_log
from mogile_storage.blob import BlobStore
from mogile_storage.copies import ATTRIBUTE, Record, record_of, stand_in_copy_id
from mogile_storage.devices import Device
from mogile_storage.folders import fids
from mogile_storage.marker import State
from mogile_storage.service import Service

log = get_log(__name__)

STATE_NAME = ".mogile-scrub"
POSITION_SECONDS = 10.0
IDLE_SECONDS = 5.0  # between two looks whether there is something to do
AFTER_FAILURE_SECONDS = 60.0
BLOCK_BYTES = 1 << 20
BURST_SECONDS = 0.25  # what was not used in this time is lost
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_IOPRIO_WHO_PROCESS, _IOPRIO_CLASS_IDLE = 1, 3 << 13


class Stopped(Exception):  # noqa: N818 - a signal between two functions, no fault
    """The pass must not go on: the node stops, the device went away, or a new pass was ordered."""


@dataclass(slots=True, kw_only=True)
class Pass:
    """How far the current, or last, pass is; kept on the device."""

    started: float = 0.0
    finished: float = 0.0
    position: int = 0
    files: int = 0
    bytes: int = 0
    damaged: int = 0
    recorded: int = 0

    @classmethod
    def decode(cls, data: builtins.bytes) -> Pass:
        """An empty one when this is none: the device is looked through anew then."""
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            fields = json.loads(data)
            if all(isinstance(value, int | float) and value >= 0 for value in fields.values()):
                return cls(**fields)
        return cls()

    @property
    def running(self) -> bool:
        return self.started > self.finished


class Pace:
    """When the next piece of work may begin, so that neither rate is exceeded; a pure function of the times it is told."""

    def __init__(self, bytes_per_second: float, files_per_second: float) -> None:
        self._seconds_per_byte, self._seconds_per_file = 1 / bytes_per_second, 1 / files_per_second
        self._free_at = 0.0

    def delay(self, now: float, *, size: int, files: int) -> float:
        """Take note of work that is about to be done and return how long to wait before it."""
        self._free_at = max(self._free_at, now - BURST_SECONDS)
        wait = self._free_at - now
        self._free_at += max(size * self._seconds_per_byte, files * self._seconds_per_file)
        return max(0.0, wait)


class Scrubber:
    """The scrub of one device."""

    def __init__(
        self, device: Device, *, interval_seconds: float, bytes_per_second: int, files_per_second: int, record: bool
    ) -> None:
        self._device, self._interval, self._record = device, interval_seconds, record
        self._pace = Pace(bytes_per_second, files_per_second)
        self._ordered = threading.Event()
        self._wake = threading.Event()
        self._stopping = False
        self._saved_at = 0.0
        self._thread = threading.Thread(target=self._run, name=f"dev{device.devid}-scrub", daemon=True)
        self.current = Pass()
        self.failure = ""  # why the scrub does not get on
        self.files = self.bytes = self.damaged = 0  # since the process began
        self.finished = 0.0  # when the last whole pass ended

    def start(self) -> None:
        self._thread.start()

    def order(self) -> None:
        """Begin a pass at the first fid as soon as possible, also in the middle of another."""
        self._ordered.set()
        self._wake.set()

    def stop(self, seconds: float) -> None:
        """End soon; where the pass was is kept."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def status(self) -> dict[str, object]:
        """For `/status`."""
        return {"running": self.current.running, "failure": self.failure, **asdict(self.current)}

    # -- the thread ------------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        _be_idle()
        loaded: Service | None = None
        while not self._stopping:
            pause = IDLE_SECONDS
            service = self._device.service
            if service is not None and self._device.state is State.READY and self._device.records:
                try:
                    with service.used_by_scrub():
                        self._check(service, restart=False)
                        if service is not loaded:
                            self.current, loaded = _load(service.store), service
                            self.finished = self.current.finished
                        if self._due():
                            self._pass(service)
                            self.failure = ""
                except Stopped:
                    pause = 0.0 if self._ordered.is_set() else IDLE_SECONDS
                except OSError as failure:
                    self._device.count_error(failure)
                    self.failure = failure.strerror or str(failure)
                    log.error("scrub interrupted", devid=self._device.devid, reason=self.failure)
                    pause = AFTER_FAILURE_SECONDS
                except Exception as failure:  # a bug must not end the scrub of this device for good
                    log.exception("unexpected error in a scrub", devid=self._device.devid)
                    self.failure = f"internal error: {failure}"
                    pause = AFTER_FAILURE_SECONDS
            if not self._stopping:
                self._wake.wait(pause)
                self._wake.clear()

    def _due(self) -> bool:
        if self._ordered.is_set() or self.current.running:
            return True
        since = time.time() - self.current.started
        return self._interval > 0 and not 0 <= since < self._interval

    def _pass(self, service: Service) -> None:
        """From the position to the last fid."""
        if self._ordered.is_set() or not self.current.running:
            self._ordered.clear()
            self.current, self.failure = Pass(started=time.time()), ""
            self._save(service.store)
            log.info("scrub begins", devid=self._device.devid)
        try:
            for found, directory in fids(service.store.fd, self.current.position):
                for fid in found:
                    self._copy(service, f"{directory}/{fid:010d}.fid", fid)
                    self.current.position = fid
                    if time.monotonic() - self._saved_at > POSITION_SECONDS:
                        self._save(service.store)
                self._wait(service, size=0, files=1)
        except Stopped:
            self._save(service.store)
            raise
        self.current.finished = max(time.time(), self.current.started)
        if self.current.finished == self.current.started:
            self.current.finished += 1e-3
        self.finished = self.current.finished
        self._save(service.store)
        done = self.current
        log.info(
            "scrub ends", devid=self._device.devid, files=done.files, bytes=done.bytes, damaged=done.damaged, recorded=done.recorded
        )  # fmt: skip

    def _copy(self, service: Service, name: str, fid: int) -> None:
        self._wait(service, size=0, files=1)
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=service.store.fd)
        except (FileNotFoundError, NotADirectoryError):  # deleted meanwhile
            return
        try:
            status = os.fstat(fd)
            record = record_of(fd)
            fault = self._fault(service, fd, status.st_size, record)
            if fault:
                fault = self._fault(service, fd, status.st_size, record)  # an accident on the way would not come twice
        finally:
            os.close(fd)
        self.current.files += 1
        self.files += 1
        if fault and service.store.set_aside(name, status.st_ino, fault):
            self.current.damaged += 1
            self.damaged += 1

    def _fault(self, service: Service, fd: int, length: int, record: Record | None) -> str:
        """What is wrong with an open copy in a word, or nothing. Without a record there is nothing to compare: it is made."""
        if record is not None and record.length != length:
            return "length"
        if record is None and not self._record:
            return ""
        before = os.fstat(fd)
        digest, offset = new_digest(HashType.MD5), 0
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        while offset < length or not offset:
            size = min(BLOCK_BYTES, max(1, length - offset))
            self._wait(service, size=size, files=0)
            try:
                block = os.pread(fd, size, offset)
            except OSError as failure:
                if failure.errno != errno.EIO:
                    raise
                self._device.count_error(failure)
                return "eio"
            if not block:
                break
            digest.update(block)
            offset += len(block)
            self.current.bytes += len(block)
            self.bytes += len(block)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        md5 = digest.digest().hex()
        if record is not None:
            return "" if (md5, offset) == (record.md5, record.length) else "digest"
        after = os.fstat(fd)
        if (before.st_size, before.st_mtime_ns, offset) == (after.st_size, after.st_mtime_ns, length):
            made = Record(stand_in_copy_id(after), md5, offset)
            with contextlib.suppress(FileExistsError):
                os.setxattr(fd, ATTRIBUTE, made.encode(), os.XATTR_CREATE)
                self.current.recorded += 1
        return ""

    # -- pace and position -----------------------------------------------------------------------------------------------------

    def _wait(self, service: Service, *, size: int, files: int) -> None:
        deadline = time.monotonic() + self._pace.delay(time.monotonic(), size=size, files=files)
        while True:
            self._check(service, restart=self._ordered.is_set())
            left = deadline - time.monotonic()
            if left <= 0:
                return
            self._wake.wait(left)
            self._wake.clear()

    def _check(self, service: Service, *, restart: bool) -> None:
        if self._stopping or restart or self._device.service is not service:
            raise Stopped

    def _save(self, store: BlobStore) -> None:
        self._saved_at = time.monotonic()
        try:
            store.write_plain(STATE_NAME, json.dumps(asdict(self.current)).encode(), sync=True)
        except OSError as failure:
            if failure.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise  # on a full disk reading may go on


def _load(store: BlobStore) -> Pass:
    try:
        return Pass.decode(store.read_plain(STATE_NAME))
    except FileNotFoundError:
        return Pass()


def _be_idle() -> None:
    """Idle I/O priority for this thread; a hint, without effect where the scheduler has no priorities."""
    number = _IOPRIO_SET.get(platform.machine())
    if number is not None:
        ctypes.CDLL(None).syscall(number, _IOPRIO_WHO_PROCESS, 0, _IOPRIO_CLASS_IDLE)
