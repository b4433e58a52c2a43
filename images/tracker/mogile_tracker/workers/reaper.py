"""Reaper: what follows from a device being dead, out, or back.

*dead*: its files are queued for replication, then its locations are dropped, in batches; never the last location of a file, however its
device came to be dead. *out*: its files are queued (a walk with a stored place), no location is dropped. *back*: they are queued again, so
that copies made meanwhile are trimmed. One tracker does each device at a time.

Every walk is made twice. Each process decides from its own picture of the cluster, which may be as old as the interval of its re-reading
(a process that stood still: as old as its leases allow): one that does not know of the change yet may find a file content, or give it one
copy too many, behind the back of the first walk. The second one begins when no such picture is in use any more.
"""

import asyncio
from collections.abc import Sequence

from mogile_core.model import Device, DeviceState, DevId
from mogile_core.runtime.logs import get_log
from mogile_core.runtime.workers import BUSY, IDLE, Step, WorkerStatus
from mogile_tracker.store.copies import Walk
from mogile_tracker.store.queues import DUE_NOW, URGENT
from mogile_tracker.workers.base import Jobs

BATCH_DEFAULT = 1000  # MogileFS's setting queue_rate_for_reaper overrides it
REST_ROUNDS = 12  # a dead device without anything left to drop is looked at again after this many rounds

log = get_log(__name__)


class Reaper:
    """Walks over devices that no longer count, or count again."""

    name = "reaper"
    job_class = "reaper"

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._done = 0
        self._text = ""
        self._dead_cursor: dict[DevId, int] = {}
        self._resting: dict[DevId, int] = {}

    def status(self) -> WorkerStatus:
        """Files looked at since the start."""
        return WorkerStatus(text=self._text, done_total=self._done)

    async def wait_for_work(self) -> None:
        """Look at the device states again."""
        await asyncio.sleep(self._jobs.settings.reap_interval_seconds)

    async def work(self) -> Step:
        """One batch of every device that needs one."""
        more = False
        self._resting = {
            devid: rounds
            for devid, rounds in self._resting.items()
            if (known := self._jobs.topology.devices.get(devid)) is not None and known.status is DeviceState.DEAD
        }
        for device in list(self._jobs.topology.devices.values()):
            if device.status is DeviceState.DEAD:
                more |= await self._dead(device)
        walks = await self._jobs.copies.walks()
        for walk in walks.values():
            more |= await self._walk(walk, self._jobs.topology.devices.get(DevId(walk.devid)))
        for device in self._jobs.topology.devices.values():
            if device.out and device.status is not DeviceState.DEAD and device.devid not in walks:
                await self._start_walk(device.devid, "out")
                more = True
        return BUSY if more else IDLE

    def _batch_size(self) -> int:
        text = self._jobs.topology.settings.get("queue_rate_for_reaper", "")
        return max(1, min(100_000, int(text))) if text.isascii() and text.isdigit() else BATCH_DEFAULT

    async def _enqueue(self, fids: Sequence[int]) -> None:
        """Into the replication queue, those with the fewest copies left first."""
        landscape = self._jobs.landscape()
        not_counting = [devid for devid, site in landscape.sites.items() if not site.counts]
        left = await self._jobs.copies.urgency(fids, not_counting)
        await self._jobs.queues.enqueue_replicate([f for f, copies in left.items() if copies <= 1], nexttry=URGENT)
        await self._jobs.queues.enqueue_replicate([f for f, copies in left.items() if copies > 1], nexttry=DUE_NOW)

    async def _dead(self, device: Device) -> bool:
        """True when there is more to do at once."""
        devid = device.devid
        if self._resting.get(devid, 0) > 0:
            self._resting[devid] -= 1
            return False
        async with self._jobs.leases.only_one(f"reap:{devid}") as lease:
            if lease is None:
                return False
            after = self._dead_cursor.get(devid, 0)
            fids = await self._jobs.copies.on_device(devid, after, self._batch_size())
            if not fids:
                self._dead_cursor.pop(devid, None)
                self._resting[devid] = REST_ROUNDS
                return False
            dead = [d.devid for d in self._jobs.topology.devices.values() if d.status is DeviceState.DEAD]
            # What has no copy elsewhere cannot be rebuilt; queueing it in every round would only keep the queue busy.
            elsewhere = await self._jobs.copies.urgency(fids, dead)
            await self._enqueue([fid for fid, copies in elsewhere.items() if copies])
            dropped = await self._jobs.copies.forget_dead(devid, fids, dead)
            self._dead_cursor[devid] = fids[-1]
            self._done += len(fids)
            self._text = f"dev{devid} is dead: {dropped} of {len(fids)} locations dropped in the last batch"
            log.info("locations on a dead device dropped", devid=devid, looked_at=len(fids), dropped=dropped)
            return True

    async def _start_walk(self, devid: int, why: str) -> None:
        settings = self._jobs.settings
        stale_seconds = 2 * settings.topology_interval_seconds + settings.lease_seconds
        await self._jobs.copies.start_walk(devid, why, again_in_seconds=stale_seconds)

    async def _walk(self, walk: Walk, device: Device | None) -> bool:
        """True when there is more to do at once."""
        copies, devid = self._jobs.copies, walk.devid
        if device is None or device.status is DeviceState.DEAD:
            await copies.end_walk(devid, walk.why)
            return False
        if device.out != (walk.why == "out"):
            await self._start_walk(devid, "out" if device.out else "back")
            return True
        if walk.finished and not walk.due:
            return False
        async with self._jobs.leases.only_one(f"walk:{devid}") as lease:
            if lease is None:
                return False
            if walk.finished:
                await copies.start_last_walk(devid, walk.why)
                return True
            fids = await copies.on_device(devid, walk.last_fid, self._batch_size())
            await self._enqueue(fids)
            self._done += len(fids)
            if fids:
                await copies.advance_walk(devid, walk.why, fids[-1], finished=False)
                return True
            if walk.why == "back" and not walk.again:
                await copies.end_walk(devid, walk.why)
            else:
                await copies.advance_walk(devid, walk.why, walk.last_fid, finished=True)
            log.info("all files of a device queued for replication", devid=devid, why=walk.why, again=walk.again)
            return False
