"""Census: walks over all files, a part at a time, counts them, and queues those whose policy asks for a copy more.

That makes a lost queue row, a changed class or a zone that came back something that heals by itself within one pass, without anybody
having to run fsck. One tracker does it at a time; the place reached and the totals so far are stored, so another can go on.
"""

import asyncio

from mogile_core.runtime.logs import get_log
from mogile_core.runtime.workers import IDLE, Step, Throttled, WorkerStatus
from mogile_tracker.policy.totals import Finding, Totals, examine
from mogile_tracker.store.queues import URGENT
from mogile_tracker.workers.base import Jobs

PART = 2000
PAUSE_SECONDS = 0.25  # between parts: 8000 files a second at most, a few per cent of a core
LEASE = "census"

log = get_log(__name__)


class Census:
    """The background pass."""

    name = "census"
    job_class = "census"

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._queued = 0
        self._text = ""

    def status(self) -> WorkerStatus:
        """Files queued because they lacked a copy."""
        return WorkerStatus(text=self._text, done_total=self._queued)

    async def wait_for_work(self) -> None:
        """Rest between two passes."""
        await asyncio.sleep(self._jobs.settings.census_pause_seconds)

    async def work(self) -> Step:
        """One part."""
        if self._jobs.topology.observations.rounds == 0:
            return Throttled(self._jobs.settings.job_idle_seconds)
        async with self._jobs.leases.only_one(LEASE) as lease:
            if lease is None:
                return IDLE
            after, totals = await self._jobs.census.load("running") or (0, Totals())
            rows = await self._jobs.census.rows(after, PART)
            lacking: list[int] = []
            endangered: list[int] = []
            known: dict[tuple[int, int, tuple[int, ...]], Finding] = {}
            landscape = self._jobs.landscape()
            for row in rows:
                key = (row.dmid, row.classid, row.holders)
                found = known.get(key)
                if found is None:
                    policy, mindevcount = self._jobs.policy_of(row.dmid, row.classid)
                    found = known[key] = examine(landscape, policy, mindevcount, row.holders)
                totals.add(
                    dmid=row.dmid, classid=row.classid, holders=row.holders, files=1, bytes_=row.length, found=found
                )
                if found.lacking:
                    (endangered if found.one else lacking).append(row.fid)
            queued = await self._jobs.queues.enqueue_missing_replicate(endangered, nexttry=URGENT)
            queued += await self._jobs.queues.enqueue_missing_replicate(lacking)
            if queued:
                log.info("files queued that lack a copy", files=queued)
            self._queued += queued
            self._text = f"{totals.files} files counted in this pass"
            if len(rows) < PART:
                await self._jobs.census.save("complete", rows[-1].fid if rows else after, totals)
                await self._jobs.census.save("running", 0, Totals())
                return IDLE
            await self._jobs.census.save("running", rows[-1].fid, totals)
            return Throttled(PAUSE_SECONDS)
