"""Replication: bring the copies of queued files to what their class's policy wants.

One unit claims a batch of due rows, takes the lease of each fid, and asks the policy round after round until every file is happy, cannot
be helped now, or has used up its attempts. Files with the fewest live copies go first. A policy that is satisfied ends the row; a
surplus copy is removed by the guarded removal; anything else is put off by MogileFS's ladder of delays.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mogile_core.runtime.logs import get_log
from mogile_core.runtime.workers import IDLE, Step, WorkerStatus
from mogile_tracker.nodes import PullReason
from mogile_tracker.policy.backoff import replication_delay_seconds
from mogile_tracker.policy.replication import Plan, Verdict
from mogile_tracker.store.copies import FileCopies
from mogile_tracker.store.leases import Lease
from mogile_tracker.store.queues import NEVER, Claimed, PutOff
from mogile_tracker.workers.base import Jobs
from mogile_tracker.workers.copying import Copier, Order, Outcome
from mogile_tracker.workers.trimming import Trim, Trimmer

ROUNDS_MAX = 8  # a file needs one round per copy it lacks, one per surplus copy, and some to get around failures
BATCH_BYTES_MAX = 1 << 30
BUSY_ELSEWHERE_LEASES = 0.2  # of a lease: how long a row waits whose fid somebody else has

log = get_log(__name__)


@dataclass(slots=True)
class _Case:
    """One file while its batch is worked on."""

    row: Claimed
    file: FileCopies
    failed: set[int] = field(default_factory=set)
    bad_sources: set[int] = field(default_factory=set)
    stuck: str = ""  # why it cannot go on now
    progressed: bool = False


class Replicate:
    """One of the tracker's replication workers."""

    job_class = "replicate"

    def __init__(self, jobs: Jobs, number: int = 1) -> None:
        self._jobs = jobs
        self._copier = Copier(jobs)
        self._trimmer = Trimmer(jobs)
        self.name = f"replicate-{number}"
        self._done = 0
        self._text = ""

    def status(self) -> WorkerStatus:
        """Files whose policy was met, since the start."""
        text = "held back by its limits" if self._jobs.governor.held_back("replicate") else self._text
        return WorkerStatus(text=text, done_total=self._done)

    async def wait_for_work(self) -> None:
        """Queue rows are found by looking."""
        await self._jobs.idle()

    async def work(self) -> Step:
        """One batch."""
        rows = await self._jobs.queues.claim_replicate(self._jobs.settings.replicate_batch)
        if not rows:
            return IDLE
        async with self._jobs.leases.of_files(rows) as (lease, mine, busy):
            await self._put_off_busy(busy)
            urgent = await self._batch(lease, mine)
        return self._jobs.after_batch(len(rows), self._jobs.settings.replicate_batch, urgent=urgent)

    async def _put_off_busy(self, rows: Iterable[Claimed]) -> None:
        """Somebody else has the fid: look again soon."""
        delay = BUSY_ELSEWHERE_LEASES * self._jobs.settings.lease_seconds
        await self._jobs.queues.retry_replicate(
            [PutOff(row=row, delay_seconds=delay, failcount=row.failcount) for row in rows]
        )

    async def _batch(self, lease: Lease, rows: Sequence[Claimed]) -> bool:
        """True when another copy of a file with a single one was tried: there may be more of them."""
        files = await self._jobs.copies.look([row.fid for row in rows])
        finished = [row for row in rows if files.get(row.fid) is None]
        known = [_Case(row, file) for row in rows if (file := files.get(row.fid)) is not None]
        active, later = self._within_bytes(known)
        single = [case for case in active if self._live_copies(case) <= 1]
        stopped: list[_Case] = []
        for _ in range(ROUNDS_MAX):
            happy, active, stuck = await self._round(lease, active)
            finished += [case.row for case in happy]
            stopped += stuck
            self._done += len(happy)
            if not active:
                break
        for case in active:
            case.stuck = case.stuck or "too many attempts for one visit"
        await self._jobs.queues.finish_replicate(finished)
        await self._jobs.queues.retry_replicate([self._put_off(case) for case in [*stopped, *active]])
        await self._jobs.queues.retry_replicate(
            [PutOff(row=case.row, delay_seconds=0, failcount=case.row.failcount) for case in later]
        )
        self._text = f"{len(finished)} of {len(rows)} done in the last batch"
        return any(case.progressed or case.failed for case in single)

    def _within_bytes(self, cases: Sequence[_Case]) -> tuple[list[_Case], list[_Case]]:
        """The most urgent files that one batch may hold, so that a unit stays bounded; the rest is due at once again."""
        now: list[_Case] = []
        bytes_ = 0
        order = sorted(cases, key=self._live_copies)
        for case in order:
            bytes_ += case.file.length
            if now and bytes_ > BATCH_BYTES_MAX:
                break
            now.append(case)
        return now, order[len(now) :]

    def _put_off(self, case: _Case) -> PutOff:
        if case.stuck == _NO_SOURCE:
            log.warning("file has no copy left that is known", fid=case.row.fid)
            return PutOff(row=case.row, delay_seconds=NEVER, failcount=case.row.failcount + 1)
        failures = 1 if case.progressed else case.row.failcount + 1
        delay = replication_delay_seconds(
            failures, base_seconds=self._jobs.settings.retry_base_seconds, jitter=self._jobs.randomness.random()
        )
        log.info("replication put off", fid=case.row.fid, reason=case.stuck, failures=failures, seconds=round(delay))
        return PutOff(row=case.row, delay_seconds=delay, failcount=failures)

    async def _round(self, lease: Lease, cases: Sequence[_Case]) -> tuple[list[_Case], list[_Case], list[_Case]]:
        """Ask the policy about every file and take one step with each: (happy, to be asked again, stuck)."""
        happy: list[_Case] = []
        stuck: list[_Case] = []
        trims: list[tuple[_Case, int]] = []
        orders: list[tuple[_Case, Order]] = []
        load: Counter[int] = Counter()
        for case in sorted(cases, key=self._live_copies):
            plan = self._plan(case)
            if plan.verdict is Verdict.HAPPY:
                happy.append(case)
            elif plan.verdict is Verdict.TOO_HAPPY:
                trims.append((case, plan.surplus[0].devid))
            elif (order := self._order(case, plan, load)) is not None:
                orders.append((case, order))
            else:
                stuck.append(case)
        results = await asyncio.gather(self._trim(lease, trims), self._copy(lease, orders))
        again = [case for part in results for case in part if not case.stuck]
        stuck += [case for part in results for case in part if case.stuck]
        return happy, again, stuck

    def _live_copies(self, case: _Case) -> int:
        return sum(1 for site in self._jobs.landscape().counting(case.file.holders) if site.readable)

    def _plan(self, case: _Case) -> Plan:
        policy, mindevcount = self._jobs.policy_of(case.file.dmid, case.file.classid)
        excluded = case.failed | set(case.file.blocked)
        return policy.plan(
            self._jobs.landscape(), case.file.holders, mindevcount, self._jobs.randomness, failed=excluded
        )

    def _order(self, case: _Case, plan: Plan, load: Counter[int]) -> Order | None:
        if not case.file.holders:
            case.stuck = _NO_SOURCE
            return None
        if plan.verdict is Verdict.NOTHING_NOW:
            case.stuck = "no device can take a copy now"
            return None
        sources = [
            devid
            for devid in case.file.holders
            if devid not in case.bad_sources and self._jobs.topology.readable(devid)
        ]
        if not sources:
            case.stuck = "no copy can be read now"
            return None
        # Spread reads over the holders: the one with the fewest orders of this round, unless the row names one.
        source = min(sources, key=lambda devid: (devid != case.row.fromdevid, load[devid], devid))
        load[source] += 1
        return Order(file=case.file, source=source, target=plan.destinations[0].devid)

    async def _trim(self, lease: Lease, trims: Sequence[tuple[_Case, int]]) -> list[_Case]:
        if not trims:
            return []
        gone = await self._trimmer.remove(lease, [Trim(file=case.file, victim=devid) for case, devid in trims])
        for case, devid in trims:
            if (case.row.fid, devid) in gone:
                case.progressed = True
                case.file = _with_holders(case.file, [d for d in case.file.holders if d != devid], blocked=devid)
            else:
                case.stuck = "surplus copy kept: the others could not be verified"
        return [case for case, _ in trims]

    async def _copy(self, lease: Lease, orders: Sequence[tuple[_Case, Order]]) -> list[_Case]:
        cases = {case.row.fid: case for case, _ in orders}
        for outcome in await self._copier.make(lease, [order for _, order in orders], job="replicate"):
            self._learn(cases[outcome.order.file.fid], outcome)
        return list(cases.values())

    def _learn(self, case: _Case, outcome: Outcome) -> None:
        order = outcome.order
        if outcome.made:
            case.progressed = True
            case.file = _with_holders(case.file, [*case.file.holders, order.target])
            return
        log.info(
            "copy not made",
            fid=case.row.fid,
            source=order.source,
            target=order.target,
            reason=outcome.reason,
            detail=outcome.message,
        )
        if outcome.reason is not None and outcome.reason.blames_source:
            case.bad_sources.add(order.source)
        if outcome.reason is PullReason.NOT_RECORDED:
            case.stuck = "the file changed while it was copied"
        # Whatever may lie there now is being deleted, so the device is no destination again for the moment.
        case.failed.add(order.target)


_NO_SOURCE = "no known copy"


def _with_holders(file: FileCopies, holders: Sequence[int], blocked: int | None = None) -> FileCopies:
    return FileCopies(
        fid=file.fid,
        dmid=file.dmid,
        classid=file.classid,
        length=file.length,
        holders=tuple(holders),
        blocked=file.blocked if blocked is None else (*file.blocked, blocked),
        hashtype=file.hashtype,
        checksum=file.checksum,
    )
