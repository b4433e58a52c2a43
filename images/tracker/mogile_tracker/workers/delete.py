"""Deletion of the copies of deleted files.

A fid in `file_to_delete2` whose file row still exists is a mistake of somebody and is dropped from the queue, not deleted.
"""

from collections import defaultdict
from collections.abc import Sequence

from mogile_core.errors import NodeError
from mogile_core.runtime.logs import get_log
from mogile_core.runtime.workers import IDLE, Step, WorkerStatus
from mogile_tracker.policy import backoff
from mogile_tracker.store.queues import Claimed, PutOff
from mogile_tracker.workers.base import Jobs
from mogile_tracker.workers.deleting import Doomed, Fate, delete_copies, waiting_for

BATCH = 500

log = get_log(__name__)


class Delete:
    """The bytes of deleted files."""

    name = "delete"
    job_class = "delete"

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._done = 0

    def status(self) -> WorkerStatus:
        """Fids cleared since the start."""
        return WorkerStatus(done_total=self._done)

    async def wait_for_work(self) -> None:
        """Queue rows are found by looking."""
        await self._jobs.idle()

    async def work(self) -> Step:
        """One batch."""
        rows = await self._jobs.queues.claim_delete(BATCH)
        if not rows:
            return IDLE
        async with self._jobs.leases.of_files(rows) as (_, mine, busy):
            await self._jobs.queues.retry_delete(
                [
                    PutOff(row=row, delay_seconds=self._jobs.settings.busy_retry_seconds, failcount=row.failcount)
                    for row in busy
                ]
            )
            await self._batch(mine)
        return self._jobs.after_batch(len(rows), BATCH)

    async def _batch(self, rows: Sequence[Claimed]) -> None:
        known = await self._jobs.queues.deletable([row.fid for row in rows])
        mistakes = [row for row in rows if known[row.fid][0]]
        for row in mistakes:
            log.warning("queued for deletion but still a file: left alone", fid=row.fid)
        doomed = [row for row in rows if not known[row.fid][0]]
        copies = [(row, devid) for row in doomed for devid in known[row.fid][1]]
        fates = await self._fates(copies)
        gone = [(row.fid, devid) for row, devid in copies if fates[row.fid, devid].delay_seconds is None]
        waits: dict[int, float] = defaultdict(float)
        for row, devid in copies:
            if (delay := fates[row.fid, devid].delay_seconds) is not None:
                waits[row.fid] = max(waits[row.fid], delay)
        emptied = [row for row in doomed if row.fid not in waits]
        await self._jobs.queues.finish_delete(gone, emptied, mistakes)
        await self._jobs.queues.retry_delete(
            [
                PutOff(row=row, delay_seconds=waits[row.fid], failcount=row.failcount + 1)
                for row in doomed
                if row.fid in waits
            ]
        )
        self._done += len(emptied)

    async def _fates(self, copies: Sequence[tuple[Claimed, int]]) -> dict[tuple[int, int], Fate]:
        """What became of each (fid, devid)."""
        fates: dict[tuple[int, int], Fate] = {}
        doomed: list[Doomed] = []
        for row, devid in copies:
            if (wait := waiting_for(self._jobs, devid, row.failcount)) is not None:
                fates[row.fid, devid] = wait
            else:
                doomed.append((row.fid, devid, None))
        failures = {row.fid: row.failcount for row, _ in copies}
        for (fid, devid), outcome in (await delete_copies(self._jobs, doomed)).items():
            delay = None
            if isinstance(outcome, NodeError):
                log.info("copy not deleted yet", fid=fid, devid=devid, reason=str(outcome))
                delay = backoff.failed_delay_seconds(failures[fid], base_seconds=self._jobs.settings.retry_base_seconds)
            fates[fid, devid] = Fate(delay)
        return fates
