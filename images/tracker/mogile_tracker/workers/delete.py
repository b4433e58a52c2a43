"""Deletion: the copies of deleted files, single copies that were taken out of use, uploads that were never closed.

A fid in `file_to_delete2` whose file row still exists is a mistake of somebody and is dropped from the queue, not deleted. A copy delete
carries the copy id of the copy it is about; where the id is not known the node is asked for it first, so that what is deleted is always
one certain copy. No lease is taken for it: the copy id is the fence. An id that had to be asked for is written into the row first, which
fails when the claim is lost, because then the copy at that place may be a newer one. Only nodes that are not ours are sent a DELETE without
an id, and then the device stays barred for that fid for a while.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mogile_core.errors import NodeError
from mogile_core.model import DeviceState, DevId
from mogile_core.runtime.logs import get_log
from mogile_core.runtime.workers import BUSY, IDLE, Step, WorkerStatus
from mogile_tracker.nodes import DeleteOutcome
from mogile_tracker.policy import backoff
from mogile_tracker.store.copies import CopyDelete, CopyDeleteAgain
from mogile_tracker.store.queues import Claimed, PutOff
from mogile_tracker.workers.base import Jobs

BATCH = 500
PARALLEL = 32
TEMPFILE_BATCH = 500
WAKE_MAX = 10_000

COPIES_IN_AN_ORDER = 250

T = TypeVar("T")
Doomed = tuple[int, int, str | None]  # fid, devid, copy id
log = get_log(__name__)


@dataclass(frozen=True, slots=True)
class _Fate:
    """What is to be done about one copy: it is gone (delay None), or the row waits."""

    delay_seconds: float | None = None


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

    async def _fates(self, copies: Sequence[tuple[Claimed, int]]) -> dict[tuple[int, int], _Fate]:
        """What became of each (fid, devid)."""
        fates: dict[tuple[int, int], _Fate] = {}
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
            fates[fid, devid] = _Fate(delay)
        return fates


async def delete_copies(jobs: Jobs, copies: Sequence[Doomed]) -> dict[tuple[int, int], DeleteOutcome | NodeError]:
    """Delete copies on devices that `waiting_for` has nothing against, in few orders; the outcome of each (fid, devid)."""
    by_device: dict[int, list[tuple[int, str | None]]] = defaultdict(list)
    for fid, devid, copy_id in copies:
        by_device[devid].append((fid, copy_id))
    outcomes: dict[tuple[int, int], DeleteOutcome | NodeError] = {}

    def order(devid: int, part: Sequence[tuple[int, str | None]]) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            host = jobs.topology.host_of(devid)
            if host is None:  # since a moment ago
                found: Sequence[DeleteOutcome | NodeError] = [NodeError(f"device {devid} has no host")] * len(part)
            else:
                found = await jobs.nodes.delete_many(host, devid, part)
            outcomes.update({(fid, devid): outcome for (fid, _), outcome in zip(part, found, strict=True)})

        return run

    await bounded_gather(
        PARALLEL,
        [
            order(devid, mine[at : at + COPIES_IN_AN_ORDER])
            for devid, mine in by_device.items()
            for at in range(0, len(mine), COPIES_IN_AN_ORDER)
        ],
    )
    return outcomes


def waiting_for(jobs: Jobs, devid: int, failures: int) -> _Fate | None:
    """None when a copy on the device can be deleted now; else that it is gone with its device, or how long to wait."""
    topology, base = jobs.topology, jobs.settings.retry_base_seconds
    device = topology.devices.get(DevId(devid))
    if device is None or topology.host_of(devid) is None or device.status is DeviceState.DEAD:
        return _Fate()
    if not topology.deletable(devid):
        return _Fate(backoff.forbidden_delay_seconds(failures, base_seconds=base))
    if not topology.writeable(devid):
        return _Fate(backoff.unreachable_delay_seconds(failures, base_seconds=base))
    return None


async def bounded_gather(limit: int, tasks: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """Results in order, at most `limit` under way."""
    gate = asyncio.Semaphore(limit)

    async def one(task: Callable[[], Awaitable[T]]) -> T:
        async with gate:
            return await task()

    return list(await asyncio.gather(*map(one, tasks)))


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
