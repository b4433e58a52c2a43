"""Deletion of single copies that were taken out of use, and of what failed or abandoned copy orders may have left.

A copy delete carries the copy id of the copy it is about; where the id is not known the node is asked for it first, so that what is deleted
is always one certain copy. No lease is taken for it: the copy id is the fence. An id that had to be asked for is written into the row
first, which fails when the claim is lost, because then the copy at that place may be a newer one. Only nodes that are not ours are sent a
DELETE without an id, and then the device stays barred for that fid for a while.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mogile_core.errors import NodeError
from mogile_core.runtime.logs import get_log
from mogile_core.runtime.workers import BUSY, IDLE, Step, WorkerStatus
from mogile_tracker.nodes import DeleteOutcome
from mogile_tracker.policy import backoff
from mogile_tracker.store.copies import CopyDelete, CopyDeleteAgain
from mogile_tracker.workers.base import Jobs
from mogile_tracker.workers.deleting import PARALLEL, bounded_gather, delete_copies, waiting_for

BATCH = 500

log = get_log(__name__)


@dataclass(frozen=True, slots=True)
class _Ready:
    """This very copy is to go (None: the node, which is not ours, has no ids)."""

    copy_id: str | None


class DeleteCopies:
    """Single copies that were taken out of use, and what failed or abandoned copy orders may have left."""

    name = "delete-copies"
    job_class = "delete"

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._done = 0

    def status(self) -> WorkerStatus:
        """Copies deleted since the start."""
        return WorkerStatus(done_total=self._done)

    async def wait_for_work(self) -> None:
        """Rows are found by looking."""
        await self._jobs.idle()

    async def work(self) -> Step:
        """One batch."""
        expired = await self._jobs.copies.expire_intents(BATCH)
        rows = await self._jobs.copies.claim_deletes(BATCH, claim_seconds=self._jobs.settings.lease_seconds)
        if not rows:
            return BUSY if expired else IDLE
        settled = dict(zip(rows, await bounded_gather(PARALLEL, [self._task(row) for row in rows]), strict=True))
        ready = {(row.fid, row.devid): row for row, how in settled.items() if isinstance(how, _Ready)}
        doomed = [(row.fid, row.devid, how.copy_id) for row, how in settled.items() if isinstance(how, _Ready)]
        for at, outcome in (await delete_copies(self._jobs, doomed)).items():
            row = ready[at]
            how = settled[row]
            assert isinstance(how, _Ready)
            settled[row] = self._after(row, how.copy_id, outcome)
        again = [how for how in settled.values() if isinstance(how, CopyDeleteAgain)]
        gone = [row for row, how in settled.items() if how is None]
        await self._jobs.copies.finish_deletes(gone)
        await self._jobs.copies.retry_deletes(again)
        self._done += len(gone)
        return self._jobs.after_batch(len(rows), BATCH)

    def _task(self, row: CopyDelete) -> Callable[[], Awaitable[_Ready | CopyDeleteAgain | None]]:
        async def run() -> _Ready | CopyDeleteAgain | None:
            try:
                return await self._one(row)
            except NodeError as error:
                return self._failed(row, error)

        return run

    def _failed(self, row: CopyDelete, error: NodeError) -> CopyDeleteAgain:
        log.info("copy not deleted yet", fid=row.fid, devid=row.devid, reason=str(error))
        base = self._jobs.settings.retry_base_seconds
        delay = backoff.replication_delay_seconds(row.failcount + 1, base_seconds=base, jitter=0.5)
        return CopyDeleteAgain(row=row, delay_seconds=delay, failcount=row.failcount + 1)

    async def _one(self, row: CopyDelete) -> _Ready | CopyDeleteAgain | None:
        """Which copy is to go; None when there is nothing left to do."""
        if row.deleted:
            return None
        if row.location:
            log.warning("copy delete dropped, the copy is in use", fid=row.fid, devid=row.devid)
            return None
        wait = waiting_for(self._jobs, row.devid, row.failcount)
        if wait is not None:
            if wait.delay_seconds is None:
                return None
            return CopyDeleteAgain(row=row, delay_seconds=wait.delay_seconds, failcount=row.failcount + 1)
        if row.copy_id is not None:
            return _Ready(row.copy_id)
        host = self._jobs.topology.host_of(row.devid)
        assert host is not None, "waiting_for has answered for unknown devices"
        info = await self._jobs.nodes.head(host, row.devid, row.fid)
        if info is None:
            return None
        if not await self._jobs.copies.name_copy(row, info.copy_id):
            log.info("copy delete left to whoever claimed it meanwhile", fid=row.fid, devid=row.devid)
            return None
        return _Ready(info.copy_id)

    def _after(
        self, row: CopyDelete, copy_id: str | None, outcome: DeleteOutcome | NodeError
    ) -> CopyDeleteAgain | None:
        if isinstance(outcome, NodeError):
            return self._failed(row, outcome)
        if outcome is DeleteOutcome.OTHER_COPY:
            log.info("copy was replaced, left alone", fid=row.fid, devid=row.devid)
        if copy_id is not None:
            return None
        barred = self._jobs.settings.delete_barred_seconds
        return CopyDeleteAgain(row=row, delay_seconds=barred, failcount=row.failcount, deleted=True)
