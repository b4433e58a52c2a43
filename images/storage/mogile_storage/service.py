"""What serves an open device, and the cluster its node belongs to: values that the watcher makes and the event loop uses."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from mogile_core.runtime.logs import get_log
from mogile_storage.blob import BlobStore
from mogile_storage.marker import Marker
from mogile_storage.partials import Partials
from mogile_storage.pool import Pool
from mogile_storage.probe import DataProbe
from mogile_storage.recovery import Mark

log = get_log(__name__)

READ_HANG_SECONDS = 5.0  # a queue of reads on a busy disk takes long, but not so long
WRITE_HANG_SECONDS = 10.0  # longer: a busy disk makes writers wait for its journal, and reads may go on


@dataclass(slots=True, kw_only=True)
class Service:
    """What serves an open device: its store, pools for changes, reads and streamed bodies, and the probe of the disk."""

    store: BlobStore
    partials: Partials
    marker: Marker
    mark: Mark
    changes: Pool
    reads: Pool
    streams: Pool
    probe: DataProbe
    sync_reason: str  # why changes are made durable the way they are
    scrubbing: bool = False

    @contextlib.contextmanager
    def used_by_scrub(self) -> Iterator[None]:
        """The descriptors stay open meanwhile; whoever uses this looks afterwards whether the device still has this service."""
        self.scrubbing = True
        try:
            yield
        finally:
            self.scrubbing = False

    def close_threads(self) -> None:
        for pool in (self.changes, self.reads, self.streams):
            pool.close()
        self.probe.close()

    @property
    def idle(self) -> bool:
        """Nothing uses the descriptors any more, and nothing will."""
        pools = (self.changes, self.reads, self.streams)
        return all(part.closed for part in (*pools, self.probe)) and not self.pending and not self.scrubbing

    @property
    def pending(self) -> int:
        return self.changes.pending + self.reads.pending + self.streams.pending

    @property
    def reads_hang(self) -> bool:
        """A read does not come back."""
        return max(self.reads.longest(), self.probe.longest()) > READ_HANG_SECONDS

    @property
    def writes_hang(self) -> bool:
        """A write or a sync does not come back."""
        return max(self.changes.longest(), self.streams.longest()) > WRITE_HANG_SECONDS


class Cluster:
    """The cluster this node belongs to; empty until it is set, learned from a marker or claimed by a tracker. Never changes then."""

    def __init__(self, cluster_id: str) -> None:
        self.id = cluster_id
        self._lock = threading.Lock()

    def learn(self, cluster_id: str) -> bool:
        """True when this call decided it."""
        with self._lock:
            if self.id or not cluster_id:
                return False
            self.id = cluster_id
        log.info("node joined a cluster", cluster=cluster_id)
        return True
