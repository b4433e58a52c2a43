"""The automatic balancer: while fill differs by more than the target, plan moves, wait until they are done and measured, look again.

Its settings (`balance_mode`, `balance_spread`) are in the database and may be changed at any time; the queue of moves is its only other
state, so a tracker that dies leaves nothing undone that the next one does not see.
"""

import asyncio
from collections.abc import Sequence

from mogile_core.runtime.logs import get_log
from mogile_core.runtime.workers import IDLE, Step, WorkerStatus
from mogile_tracker.policy.balance import Fill, Move, PlacedFile, aim, participants, plan_moves, worth_sampling
from mogile_tracker.policy.tunables import BALANCE_MODE, BALANCE_SHARE, BALANCE_SPREAD
from mogile_tracker.store.queues import MoveKind, PendingMove
from mogile_tracker.workers.base import Jobs
from mogile_tracker.workers.moves import Pacing
from mogile_tracker.workers.shares import Shares

LEASE = "balance"
MOVES_MAX = 1000  # per evaluation
BYTES_MAX = 20 << 30  # per evaluation
SAMPLES_PER_DEVICE = 1000
SAMPLED_DEVICES_MAX = 8  # per evaluation, the fullest

log = get_log(__name__)


class Balance:
    """One tracker at a time balances."""

    name = "balance"
    job_class = "rebalance"

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._pacing = Pacing(jobs)
        self._shares = Shares(jobs)
        self._cursors: dict[int, int] = {}
        self._planned = 0
        self._moved = -1
        self._text = ""

    def status(self) -> WorkerStatus:
        """Moves planned since the start."""
        return WorkerStatus(text=self._text, done_total=self._planned)

    async def wait_for_work(self) -> None:
        """Evaluations are paced."""
        await asyncio.sleep(self._jobs.settings.balance_interval_seconds)

    async def work(self) -> Step:
        """One evaluation."""
        settings = self._jobs.topology.our_settings
        if BALANCE_MODE.text(settings) != "auto":
            self._text = "off"
            return IDLE
        async with self._jobs.leases.only_one(LEASE) as lease:
            if lease is not None:
                await self._evaluate(BALANCE_SPREAD.number(settings))
        return IDLE

    async def _evaluate(self, target: float) -> None:
        if self._jobs.topology.settings.get("rebal_host"):
            self._text = "waiting for the end of a rebalance"
            return
        landscape = self._jobs.landscape()
        sites = participants(landscape)
        if len(sites) < 2:
            self._text = "fewer than two devices to balance"
            return
        pending = await self._jobs.queues.pending_moves(MOVES_MAX)
        moved = (await self._jobs.census.balance()).moved_fids
        if pending or moved != self._moved:
            # Also when another tracker planned moves and they were done before we looked: our figures are from before them.
            self._moved = moved
            self._pacing.disturbed()
            self._shares.disturbed()
            self._text = f"{len(pending)} moves under way"
            return
        if not self._pacing.settled([site.devid for site in sites]):
            self._text = "waiting for fresh usage"
            return
        fill = Fill(sites)
        spread = fill.spread()
        await self._jobs.census.note_spread(spread)
        self._text = f"spread {spread:.2f}, target {target:g}"
        shares = await self._shares.look(sites) if spread <= target else None
        share = BALANCE_SHARE.number(self._jobs.topology.our_settings)
        towards = aim(fill, shares, spread_percent=target, share_percent=share)
        if towards is None:
            return
        samples = {devid: await self._samples(devid) for devid in worth_sampling(towards.fill)[:SAMPLED_DEVICES_MAX]}
        moves = plan_moves(landscape, towards, samples, self._jobs.policy_of, limit=MOVES_MAX, bytes_max=BYTES_MAX)
        await self._jobs.queues.enqueue_moves([_queued(move) for move in moves], kind=MoveKind.BALANCE)
        self._planned += len(moves)
        if shares is not None:
            self._shares.planned(len(moves))
        if moves or shares is None:
            self._pacing.disturbed()
            self._shares.disturbed()
        log.info(
            "balancing",
            why=towards.words,
            moves=len(moves),
            bytes=sum(move.length for move in moves),
            spread_after=f"{fill.spread():.2f}",
        )

    async def _samples(self, devid: int) -> Sequence[PlacedFile]:
        """The next files of a device, beginning anew at its end."""
        after = self._cursors.get(devid, 0)
        rows = await self._jobs.census.sample(devid, after, SAMPLES_PER_DEVICE)
        if len(rows) < SAMPLES_PER_DEVICE and after:
            known = {row.fid for row in rows}
            more = await self._jobs.census.sample(devid, 0, SAMPLES_PER_DEVICE - len(rows))
            rows += [row for row in more if row.fid not in known]
        self._cursors[devid] = rows[-1].fid if rows else 0
        return rows


def _queued(move: Move) -> PendingMove:
    return PendingMove(fid=move.fid, source=move.source, destinations=(move.target,), length=move.length)
