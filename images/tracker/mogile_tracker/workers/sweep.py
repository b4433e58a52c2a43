"""Housekeeping: small regular duties of the job_master."""

import asyncio

from mogile_core.runtime.logs import get_log
from mogile_core.runtime.workers import BUSY, IDLE, Step, WorkerStatus
from mogile_tracker.workers.base import Jobs

TEMPFILE_BATCH = 500
WAKE_MAX = 10_000

log = get_log(__name__)


class Sweep:
    """Small regular duties: uploads never closed, MogileFS's older queues, leases of the dead, replications that wait for a device."""

    name = "sweep"
    job_class = "job_master"

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._done = 0
        self._fit: frozenset[int] = frozenset()

    def status(self) -> WorkerStatus:
        """Rows moved since the start."""
        return WorkerStatus(done_total=self._done)

    async def wait_for_work(self) -> None:
        """Every few seconds."""
        await asyncio.sleep(self._jobs.settings.sweep_interval_seconds)

    async def work(self) -> Step:
        """One batch of each."""
        settings = self._jobs.settings
        moved = await self._jobs.queues.expire_tempfiles(
            age_seconds=settings.tempfile_max_age_seconds, limit=TEMPFILE_BATCH
        )
        moved += await self._jobs.queues.drain_old_queues(TEMPFILE_BATCH)
        await self._jobs.leases.sweep()
        await self._wake_waiting()
        self._done += moved
        return BUSY if moved >= TEMPFILE_BATCH else IDLE

    async def _wake_waiting(self) -> None:
        """When a device becomes fit, what waited for one need not wait out its delay (up to a day)."""
        fit = frozenset(devid for devid, site in self._jobs.landscape().sites.items() if site.fit)
        if fit - self._fit:
            woken = await self._jobs.queues.bring_forward(WAKE_MAX)
            if woken:
                log.info("devices became fit, waiting replications are tried again", files=woken)
        self._fit = fit
