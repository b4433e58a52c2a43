"""From a device directory to what serves it: whose volume it is, how its changes are made durable, what an unclean stop left.

Blocks; called by the watcher of the device only. Whatever speaks against serving the directory is a NotServedError with the state it
has then; an OSError is the disk's own. Nothing is left open in both cases.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from mogile_core.runtime.logs import get_log
from mogile_storage.blob import BlobStore
from mogile_storage.commit import SYNC_THREADS, GroupCommitter, group_commit_refusal
from mogile_storage.latency import Latency
from mogile_storage.marker import MARKER_NAME, Marker, State, judge, judge_unmarked, new_marker, read_marker
from mogile_storage.mounts import mount_of
from mogile_storage.partials import Partials
from mogile_storage.pool import Delivery, Pool
from mogile_storage.probe import DataProbe
from mogile_storage.recovery import Mark, recover
from mogile_storage.service import Cluster, Service
from mogile_storage.settings import AgentSettings

log = get_log(__name__)

READ_THREADS = 8
STREAM_THREADS = 4
QUEUE_JOBS_MAX = 4096
_PROBE_ATTRIBUTE = "user.mogile.probe"


class NotServedError(Exception):
    """This directory is not to be served, and what it is instead."""

    def __init__(self, state: State, message: str) -> None:
        super().__init__(message)
        self.state, self.message = state, message


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A device directory and whom to tell what happens on it."""

    devid: int
    path: str
    settings: AgentSettings
    delivery: Delivery
    cluster: Cluster
    read_latency: Latency
    sync_latency: Latency
    on_damage: Callable[[str, str], None]
    on_read_error: Callable[[OSError], None]
    on_write_error: Callable[[OSError], None]
    on_sync_failure: Callable[[OSError], None]


def open_device(place: Place, *, seen_ready: bool, volume_id: str | None) -> Service:
    """Open and recover a device. `seen_ready`: it served before, so a volume without a marker is another one; `volume_id`: a blank
    volume is to be marked with it."""
    refusal = group_commit_refusal(place.path)
    mode = place.settings.sync_mode
    each = refusal is not None if mode == "auto" else mode == "each"
    try:
        store = BlobStore(place.path, each=each, on_damage=place.on_damage)
    except FileNotFoundError:
        raise NotServedError(State.LOST, "the directory is gone") from None
    try:
        _lock(place, store)
        marker, fresh = _claim(place, store, seen_ready=seen_ready, volume_id=volume_id)
        _look_for_attributes(place, store)
        _look_at_mount(place, store)
        reason = mode if mode != "auto" else refusal or "own ext4 or xfs mount"
        if not store.records:
            reason = "no attributes: files half-written at a power cut could not be found"
        return _serve(place, store, marker, reason, fresh=fresh)
    except BaseException:
        store.close()
        raise


def _lock(place: Place, store: BlobStore) -> None:
    """Before anything is written: a second agent on the same directory would call the device clean while the first one is at work, and
    sweep what that one writes. The lock is the descriptor's and goes with it; a file system without locks is trusted."""
    try:
        fcntl.flock(store.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        message = "the directory is still in use, by another agent or by a request of before"
        raise NotServedError(State.FAILED, message) from None
    except OSError as failure:
        log.warning("device cannot be locked against a second agent", devid=place.devid, reason=failure.strerror)


def _claim(place: Place, store: BlobStore, *, seen_ready: bool, volume_id: str | None) -> tuple[Marker, bool]:
    """(marker, whether it was made just now)."""
    devid, cluster = place.devid, place.cluster
    try:
        marker = read_marker(store.fd)
    except ValueError as failure:
        raise NotServedError(State.LOST, str(failure)) from failure
    if marker is not None:
        state, message = judge(marker, devid, cluster.id)
        if state is not State.READY:
            raise NotServedError(state, message)
        cluster.learn(marker.cluster_id)
        if not marker.cluster_id and cluster.id:
            marker = Marker(cluster_id=cluster.id, devid=devid, volume_id=marker.volume_id)
            store.write_plain(MARKER_NAME, marker.encode(), sync=True)
        return marker, False
    state, adoptable = judge_unmarked(store.fd)
    automatic = place.settings.initialise == "auto" and not seen_ready
    if (state is State.BLANK and (automatic or volume_id)) or (adoptable and automatic):
        marker = new_marker(devid, cluster.id, volume_id)
        store.write_plain(MARKER_NAME, marker.encode(), sync=True)
        log.info("device marked", devid=devid, volume=marker.volume_id, adopted=adoptable)
        return marker, True
    if state is State.BLANK and not seen_ready:
        raise NotServedError(State.BLANK, "the volume is empty and was not initialised")
    raise NotServedError(State.LOST, "the marker is missing; another volume may be mounted here")


def _look_at_mount(place: Place, store: BlobStore) -> None:
    mount = mount_of(place.path)
    if mount is None:
        return
    store.doubts = mount.is_ext
    try:
        store.confirm()  # now: on a full disk there may be no room for the attribute, and a sync that cannot be confirmed has failed
    except OSError as failure:
        if failure.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        store.doubts = False
        log.warning("no room for the attribute that confirms syncs: they are believed", devid=place.devid)
    if mount.without_barriers:
        log.warning(
            "the file system is mounted without barriers: a power cut takes back acknowledged files unless the disk's cache outlives it",
            devid=place.devid, mount=mount.point,
        )  # fmt: skip


def _look_for_attributes(place: Place, store: BlobStore) -> None:
    store.records = _keeps_attributes(store)
    if store.records:
        return
    if not place.settings.without_attributes:
        raise OSError(
            errno.ENOTSUP,
            "the file system keeps no extended attributes; use one that does (ext4, xfs), or set "
            "MOGILE_WITHOUT_ATTRIBUTES=1 to serve it without digests, copy ids and scrub",
        )
    store.each = True
    log.warning("files of this device are not recorded and not scrubbed", devid=place.devid)


def _keeps_attributes(store: BlobStore) -> bool:
    try:
        os.setxattr(store.fd, _PROBE_ATTRIBUTE, b"1")
        os.removexattr(store.fd, _PROBE_ATTRIBUTE)
    except OSError as failure:
        if failure.errno != errno.ENOTSUP:
            raise
        return False
    return True


def _serve(place: Place, store: BlobStore, marker: Marker, reason: str, *, fresh: bool) -> Service:
    mark = Mark(store)
    try:
        store.count_kept()
        partials = Partials(store)
        partials.load()
        found = recover(store, mark, fresh=fresh)
        if not found.clean:
            log.warning("device was not stopped cleanly", devid=place.devid, examined=found.examined)
        mark.write(clean=False, seconds=time.time(), sync=True)
    except BaseException:
        mark.close()
        raise
    name, delivery = f"dev{place.devid}", place.delivery
    changes: Pool
    if store.each:
        changes = Pool(
            f"{name}-sync",
            delivery,
            threads=SYNC_THREADS,
            limit=QUEUE_JOBS_MAX,
            on_os_error=place.on_write_error,
            latency=place.sync_latency,
        )
    else:
        changes = GroupCommitter(
            f"{name}-commit",
            delivery,
            store,
            on_os_error=place.on_write_error,
            on_sync_failure=place.on_sync_failure,
            latency=place.sync_latency,
            on_begin=mark.follow,
        )
    reads = Pool(
        f"{name}-read",
        delivery,
        threads=READ_THREADS,
        limit=QUEUE_JOBS_MAX,
        on_os_error=place.on_read_error,
        latency=place.read_latency,
    )
    streams = Pool(
        f"{name}-stream", delivery, threads=STREAM_THREADS, limit=QUEUE_JOBS_MAX, on_os_error=place.on_write_error
    )
    probe = DataProbe(store.fd, MARKER_NAME, thread_name=f"{name}-probe", on_os_error=place.on_read_error)
    return Service(
        store=store, partials=partials, marker=marker, mark=mark, changes=changes, reads=reads, streams=streams,
        probe=probe, sync_reason=reason,
    )  # fmt: skip
