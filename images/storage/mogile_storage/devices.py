"""The devices of a node: what each directory is, whether it may serve, and the thread that watches it.

Every device has one watcher thread. It alone decides the state, opens the device (module opening) and looks at it twice a second; a
second thread writes its usage file, mark and marker. The event loop never touches a device directory: it reads the fields the watcher
left, and takes a device whose watcher has been inside a system call for HANG_SECONDS as hung, so one dead disk is answered 503 at
once and holds up nobody. A disk whose directories still answer from memory is found out by the reads and writes of its pools that do
not come back, and by a read past the page cache (module probe), since most reads are nginx's.

A failed sync or an EIO while writing makes a device `failed` until the process starts again: the kernel forgets such an error once
it was told, so nothing that happens later could prove the device well.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time

from mogile_core.runtime.logs import get_log
from mogile_storage.commit import GroupCommitter, sync_store
from mogile_storage.errors import DeviceUnavailableError
from mogile_storage.latency import Latency
from mogile_storage.marker import MARKER_NAME, Marker, State, judge, read_marker
from mogile_storage.opening import NotServedError, Place, open_device
from mogile_storage.partials import oldest_kept
from mogile_storage.pool import Delivery
from mogile_storage.service import WRITE_HANG_SECONDS, Cluster, Service
from mogile_storage.settings import AgentSettings
from mogile_storage.usage import USAGE_NAME, BusyMeter, Space, limited, space_of, usage_text

log = get_log(__name__)

PROBE_SECONDS = 0.5
HANG_SECONDS = 1.25  # with the time the read nginx needs to be told, healthy devices answer within 3 s of a hang
ERROR_LOG_SECONDS = 60.0  # one line per kind of error in this time; the metrics count them all
SWEEP_SECONDS = 60.0  # between two looks for uploads in parts that nobody goes on with


class Device:
    """One `dev<N>` directory."""

    def __init__(self, devid: int, settings: AgentSettings, delivery: Delivery, cluster: Cluster) -> None:
        self.devid = devid
        self.path = os.path.join(os.path.realpath(settings.docroot), f"dev{devid}")
        self.state = State.FAILED
        self.message = "not looked at yet"
        self.sync_mode = ""
        self.sync_reason = ""
        self.space: Space | None = None
        self.utilization: float | None = None
        self.errors: dict[str, int] = {}
        self._quiet_until: dict[str, float] = {}
        self.read_latency, self.sync_latency = Latency(), Latency()
        self.records = False  # digests are kept with the files, so a scrub has something to compare
        self.quarantined = 0
        self.marker: Marker | None = None
        self.service: Service | None = None
        self.usage: bytes = b""
        self.promised = 0  # bytes of uploads under way; kept on the loop
        self.taken = 0  # bytes stored since the last look; kept on the loop, forgotten by the watcher
        self._settings, self._cluster = settings, cluster
        self._place = Place(
            devid=devid, path=self.path, settings=settings, delivery=delivery, cluster=cluster,
            read_latency=self.read_latency, sync_latency=self.sync_latency,
            on_damage=self._damage_found, on_read_error=self.count_error,
            on_write_error=self._write_error, on_sync_failure=self.fail,
        )  # fmt: skip
        self._busy = BusyMeter()
        self._broken = ""  # why this device stays failed
        self._seen_ready = False
        self._refuses_writes = (
            False  # EROFS; newer kernels do not show a file system closed after an error as read-only
        )
        self._initialise_as: str | None = None
        self._inside_since = 0.0
        self._writing_since = 0.0
        self._reads_hang = self._writes_hang = False
        self._told_hung = False
        self._usage_written = self._swept = 0.0
        self._batches_marked = 0
        self._retired: list[Service] = []
        self._kick = threading.Event()
        self._stopping = False
        self.first_look = threading.Event()
        self._write = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"dev{devid}-watch", daemon=True)
        self._writer = threading.Thread(target=self._keep_written, name=f"dev{devid}-write", daemon=True)

    # -- for the event loop ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()
        self._writer.start()

    @property
    def hung(self) -> bool:
        since = self._inside_since
        return self._reads_hang or (since > 0 and time.monotonic() - since > HANG_SECONDS)

    def tell_hang(self) -> None:
        """A line when the device stops answering, and one when it answers again; not by the watcher, since that may be what hangs."""
        hung = self.hung
        if hung != self._told_hung:
            self._told_hung = hung
            if hung:
                log.error(
                    "device does not answer", devid=self.devid, reason="a read" if self._reads_hang else "a look at it"
                )
            else:
                log.info("device answers again", devid=self.devid)

    @property
    def stalled(self) -> bool:
        """Reads work, writes do not come back."""
        since = self._writing_since
        return self._writes_hang or (since > 0 and time.monotonic() - since > WRITE_HANG_SECONDS)

    @property
    def read_only(self) -> bool:
        """Writes are refused by the kernel."""
        return self._refuses_writes or (self.space is not None and self.space.read_only)

    def usable(self) -> Service:
        """What serves this device; DeviceUnavailableError in one sentence when nothing does."""
        service = self.service
        if service is None or self.state is not State.READY:
            raise DeviceUnavailableError(f"dev{self.devid} is {self.state}: {self.message or 'being opened'}")
        if self.hung:
            raise DeviceUnavailableError(f"dev{self.devid} does not answer")
        return service

    def room(self) -> int:
        """Bytes a new upload may take now, uploads under way and the reserve left out."""
        space = self.space
        if space is None:
            return 0
        return space.available - (self._settings.reserve_mb << 20) - self.promised - self.taken

    def kick(self) -> None:
        """Look again now."""
        self._kick.set()

    def initialise(self, volume_id: str) -> None:
        """Mark this device as soon as the watcher comes round, if it is still blank then."""
        self._initialise_as = volume_id
        self.kick()

    def count_error(self, failure: OSError) -> None:
        """An I/O error while serving; from any thread."""
        name = errno.errorcode.get(failure.errno or 0, "unknown")
        self.errors[name] = self.errors.get(name, 0) + 1
        now = time.monotonic()
        if now >= self._quiet_until.get(name, 0.0):
            self._quiet_until[name] = now + ERROR_LOG_SECONDS
            log.error("I/O error", devid=self.devid, error=name, reason=failure.strerror, so_far=self.errors[name])

    def fail(self, failure: OSError) -> None:
        """A sync failed or a write met EIO: this device is not to be believed any more."""
        self.count_error(failure)
        self._broken = f"writing failed ({failure.strerror}); replace the device or restart the node after a check"
        self._become(State.FAILED, self._broken)

    def _damage_found(self, name: str, reason: str) -> None:
        self.quarantined += 1
        log.error("damaged copy put into quarantine", devid=self.devid, file=name, reason=reason)

    def _write_error(self, failure: OSError) -> None:
        self._refuses_writes = self._refuses_writes or failure.errno == errno.EROFS
        if failure.errno == errno.EIO:
            self.fail(failure)
        else:
            self.count_error(failure)

    # -- the watcher -----------------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._stopping:
            self._inside_since = time.monotonic()
            try:
                self._look()
            except OSError as failure:
                self.count_error(failure)
                self._lose(State.FAILED, failure.strerror or str(failure))
            except Exception as failure:  # the watcher must outlive a bug: the device would seem well for ever
                log.exception("unexpected error while watching a device", devid=self.devid)
                self._lose(State.FAILED, f"internal error: {failure}")
            self._inside_since = 0.0
            self.first_look.set()
            self._kick.wait(PROBE_SECONDS)
            self._kick.clear()

    def _look(self) -> None:
        self._close_retired()
        if self._broken or self._stopping:
            return
        service = self.service
        self._reads_hang = service is not None and service.reads_hang
        self._writes_hang = service is not None and service.writes_hang
        if service is not None and not _same_directory(service.store.fd, self.path):
            self._lose(State.LOST, "another file system, or none, is mounted here now")
            service = None
        if service is None:
            service = self._open()
        if service is not None:
            self._refresh(service)

    def _open(self) -> Service | None:
        volume_id, self._initialise_as = self._initialise_as, None
        try:
            service = open_device(self._place, seen_ready=self._seen_ready, volume_id=volume_id)
        except NotServedError as refusal:
            self._lose(refusal.state, refusal.message)
            return None
        self.records = service.store.records
        self.sync_mode, self.sync_reason = "each" if service.store.each else "group", service.sync_reason
        self._seen_ready = True
        self._describe(service)  # before the first request can ask
        self._usage_written = 0.0
        self._batches_marked = 0
        self.service = service
        self._become(State.READY, "")
        return service

    def _describe(self, service: Service) -> Space:
        space = space_of(service.store.fd)
        if self._settings.device_limit_mb:
            space = limited(space, self.path, self._settings.device_limit_mb << 20)
        self.marker, self.space, self.taken = service.marker, space, 0
        self.usage = usage_text(space, self.path, service.marker, service.store.damaged.count).encode()
        return space

    def _refresh(self, service: Service) -> None:
        """Look without writing: what hangs here hangs for readers too."""
        state, message = judge(service.marker, self.devid, self._cluster.id)
        if state is State.READY and read_marker(service.store.fd) is None:
            state, message = State.LOST, "the marker was removed"
        if state is not State.READY:
            self._lose(state, message)
            return
        space = self._describe(service)
        self.utilization = self._busy.sample(os.fstat(service.store.fd).st_dev)
        self.message = "the file system is read-only" if self.read_only else ""
        if self.stalled:
            self.message = "writes do not come back"
        elif not space.read_only:
            self._write.set()

    def _keep_written(self) -> None:
        """The second thread of a device: everything the watcher has to write, so that a slow journal does not look like a dead disk."""
        while not self._stopping:
            self._write.wait()
            self._write.clear()
            service = self.service
            if service is None or self._stopping:
                continue
            self._writing_since = time.monotonic()
            try:
                self._write_own_files(service)
            except OSError as failure:
                # A full disk must still be readable: the old usage file goes stale, which its time shows.
                if failure.errno not in (errno.ENOSPC, errno.EDQUOT) and service is self.service:
                    self._write_error(failure)
            self._writing_since = 0.0

    def _write_own_files(self, service: Service) -> None:
        cluster_id, changes = self._cluster.id, service.changes
        if cluster_id and cluster_id != service.marker.cluster_id:
            service.marker = Marker(cluster_id=cluster_id, devid=self.devid, volume_id=service.marker.volume_id)
            service.store.write_plain(MARKER_NAME, service.marker.encode(), sync=True)
            self._describe(service)
            self._usage_written = 0.0
        if isinstance(changes, GroupCommitter) and changes.batches != self._batches_marked:
            # Only when something was written. With a fsync per file there is nothing to find, so the mark may stay.
            self._batches_marked = changes.batches
            service.mark.write(clean=False, seconds=changes.settled_at, sync=False)
        now = time.monotonic()
        if now - self._usage_written >= self._settings.usage_interval_seconds:
            service.store.write_plain(USAGE_NAME, self.usage)
            self._usage_written = now
            self._refuses_writes = False
        if now - self._swept >= SWEEP_SECONDS:
            self._swept = now
            swept = service.partials.sweep(oldest_kept(self._settings.partial_hours))
            if swept:
                log.warning("uploads in parts were given up", devid=self.devid, files=swept)

    def _lose(self, state: State, message: str) -> None:
        """Stop serving. The descriptor stays open while jobs may still use it, and not longer: it would pin a removed disk."""
        service, self.service = self.service, None
        if service is not None:
            service.close_threads()
            self._retired.append(service)
            with contextlib.suppress(OSError):
                service.store.remove_plain(USAGE_NAME)
        self._become(state, message)

    def _close_retired(self) -> None:
        for service in [s for s in self._retired if s.idle]:
            self._retired.remove(service)
            service.mark.close()
            service.store.close()

    def _become(self, state: State, message: str) -> None:
        if (state, message) != (self.state, self.message):
            emit = log.info if state in (State.READY, State.BLANK) else log.error
            emit(f"device is {state}", devid=self.devid, reason=message or self.sync_mode)
        self.state, self.message = state, message

    # -- the end ---------------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Stop watching; called when no request is left. The clean mark is written only when everything is on disk."""
        self._stopping = True
        self.kick()
        self._write.set()
        service, self.service = self.service, None
        if service is None or self.hung or self._broken or service.pending:
            return
        for thread in (self._thread, self._writer):
            thread.join(timeout=2.0)
        if self._writer.is_alive():
            return
        service.close_threads()
        try:
            if not service.store.each:
                sync_store(service.store)
            service.mark.write(clean=True, seconds=time.time(), sync=True)
        except OSError as failure:
            log.error("device could not be closed cleanly", devid=self.devid, reason=str(failure))


def _same_directory(fd: int, path: str) -> bool:
    try:
        now = os.stat(path)
    except FileNotFoundError:
        return False
    held = os.fstat(fd)
    return (now.st_dev, now.st_ino) == (held.st_dev, held.st_ino)
