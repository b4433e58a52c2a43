"""Moves: queued orders to bring a copy from one device to another, by the automatic balancer, a rebalance or a drain.

A move copies first and then removes the copy at the source by the guarded removal, so a file is never short of a copy on the way. What
cannot be done (the file is gone, the source holds it no more, no target can take it) is dropped from the queue: balancing plans again.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence

from mogile_core.runtime.logs import get_log
from mogile_core.runtime.workers import BUSY, IDLE, Step, WorkerStatus
from mogile_tracker.policy.balance import keeps_spread
from mogile_tracker.policy.placement import free_space_order
from mogile_tracker.store.copies import FileCopies
from mogile_tracker.store.leases import Lease
from mogile_tracker.store.queues import ClaimedMove, MoveKind
from mogile_tracker.workers.base import Jobs
from mogile_tracker.workers.copying import Copier, Order, Outcome
from mogile_tracker.workers.trimming import Trim, Trimmer

BATCH = 100

log = get_log(__name__)


class Moves:
    """The worker that carries out moves."""

    name = "moves"
    job_class = "rebalance"

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._copier = Copier(jobs)
        self._trimmer = Trimmer(jobs)
        self._done = 0

    def status(self) -> WorkerStatus:
        """Copies moved since the start."""
        held = [kind.job for kind in MoveKind if self._jobs.governor.held_back(kind.job)]
        return WorkerStatus(text=f"{', '.join(held)} held back by limits" if held else "", done_total=self._done)

    async def wait_for_work(self) -> None:
        """Queue rows are found by looking."""
        await self._jobs.idle()

    async def work(self) -> Step:
        """One batch."""
        rows = await self._jobs.queues.claim_moves(BATCH)
        if not rows:
            return IDLE
        async with self._jobs.leases.of_files(rows) as (lease, mine, busy):
            await self._jobs.queues.retry_moves(busy, delay_seconds=self._jobs.settings.busy_retry_seconds)
            await self._batch(lease, mine)
        return BUSY

    async def _batch(self, lease: Lease, rows: Sequence[ClaimedMove]) -> None:
        files = await self._jobs.copies.look([row.fid for row in rows])
        ready: list[tuple[ClaimedMove, FileCopies]] = []
        orders: dict[int, Order] = {}
        for row in rows:
            file = files.get(row.fid)
            if file is None or row.source not in file.holders:
                continue
            if self._copied_already(row, file):
                ready.append((row, file))  # by an earlier attempt: only the removal is left
            elif (order := self._order(row, file)) is not None:
                orders[row.fid] = order
        by_fid = {row.fid: row for row in rows}
        for outcome in await self._copies(lease, by_fid, orders):
            if outcome.made:
                ready.append((by_fid[outcome.order.file.fid], _with(outcome.order.file, outcome.order.target)))
            else:
                log.info("move given up", fid=outcome.order.file.fid, reason=outcome.reason, detail=outcome.message)
        gone = await self._trimmer.remove(lease, [Trim(file=file, victim=row.source) for row, file in ready])
        moved = [(row, file) for row, file in ready if (row.fid, row.source) in gone]
        automatic = [file for row, file in moved if row.kind is MoveKind.BALANCE]
        await self._jobs.census.note_moved(len(automatic), sum(file.length for file in automatic))
        # A copy too many may be left where the removal could not be proven: replication looks at the file again.
        left = [row.fid for row, _ in ready if (row.fid, row.source) not in gone]
        await self._jobs.queues.enqueue_replicate(left)
        await self._jobs.queues.finish_moves(rows)
        self._done += len(moved)

    async def _copies(
        self, lease: Lease, rows: Mapping[int, ClaimedMove], orders: Mapping[int, Order]
    ) -> list[Outcome]:
        """Made side by side for the jobs they belong to, each within its own limits."""
        by_job: dict[str, list[Order]] = defaultdict(list)
        for fid, order in orders.items():
            by_job[rows[fid].kind.job].append(order)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._copier.make(lease, part, job=job)) for job, part in by_job.items()]
        return [outcome for task in tasks for outcome in task.result()]

    def _copied_already(self, row: ClaimedMove, file: FileCopies) -> bool:
        """A destination holds the file, and it does not need the source."""
        policy, mindevcount = self._jobs.policy_of(file.dmid, file.classid)
        rest = [devid for devid in file.holders if devid != row.source]
        return any(devid in rest for devid in row.destinations) and policy.satisfied(
            self._jobs.landscape(), rest, mindevcount
        )

    def _order(self, row: ClaimedMove, file: FileCopies) -> Order | None:
        landscape, topology = self._jobs.landscape(), self._jobs.topology
        policy = self._jobs.policy_of(file.dmid, file.classid)
        targets = [
            site
            for devid in row.destinations
            if (site := landscape.sites.get(devid)) is not None
            and site.fit
            and devid not in file.holders
            and devid not in file.blocked
            and keeps_spread(landscape, file.holders, row.source, devid, policy)
        ]
        sources = [devid for devid in file.holders if topology.readable(devid)]
        if not targets or not sources:
            log.info("move given up: no target that keeps the file's spread, or no source", fid=row.fid)
            return None
        # Another holder spares the device that is being relieved.
        source = min(sources, key=lambda devid: (devid == row.source, self._jobs.randomness.random()))
        if row.kind is not MoveKind.BALANCE:
            targets = free_space_order(targets, self._jobs.randomness)
        return Order(file=file, source=source, target=targets[0].devid) if targets else None


def _with(file: FileCopies, devid: int) -> FileCopies:
    return FileCopies(
        fid=file.fid,
        dmid=file.dmid,
        classid=file.classid,
        length=file.length,
        holders=(*file.holders, devid),
        blocked=file.blocked,
        hashtype=file.hashtype,
        checksum=file.checksum,
    )


class Pacing:
    """Tells when the usage of all devices has been measured anew (twice: the first may have begun before the last byte moved)."""

    MEASUREMENTS = 2
    PATIENCE_SECONDS = 120.0  # a device that is never measured must not stop balancing for ever

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._since: Mapping[int, int] | None = None
        self._at = 0.0

    def disturbed(self) -> None:
        """Bytes are moving: what was measured so far says nothing."""
        self._since = {devid: seen.measurements for devid, seen in self._jobs.topology.observations.devices.items()}
        self._at = asyncio.get_running_loop().time()

    def settled(self, devids: Sequence[int]) -> bool:
        """The usage of these devices is fresh."""
        if self._since is None:
            self.disturbed()
            return False
        if asyncio.get_running_loop().time() - self._at > self.PATIENCE_SECONDS:
            return True
        return all(self._measured_since(devid) >= self.MEASUREMENTS for devid in devids)

    def _measured_since(self, devid: int) -> int:
        now = self._jobs.topology.observation(devid).measurements
        before = (self._since or {}).get(devid, 0)
        return now - before if now >= before else now  # a monitor that began anew counts from 0
