"""Rebalancing by the operator's policy: while `rebal_host` is set, queue the files of the source devices as moves, a part at a time.

One tracker at a time; moves and state are written in one transaction, so whoever goes on after a death goes on exactly there. The moves
themselves are carried out by the worker `moves`, which leaves a file alone where moving it would make it worse.
"""

from dataclasses import replace

from mogile_core.runtime.logs import get_log
from mogile_core.runtime.workers import BUSY, IDLE, Step, Throttled, WorkerStatus
from mogile_tracker.policy.rebalance import RebalancePolicy, RebalanceState, take
from mogile_tracker.store.rebalance import RebalanceStore
from mogile_tracker.workers.base import Jobs

LEASE = "rebalance"
RATE_DEFAULT = 500
QUEUE_DEFAULT = 10_000

log = get_log(__name__)


class Rebalance:
    """Fills the queue of moves."""

    name = "rebalance"
    job_class = "rebalance"

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._store = RebalanceStore(jobs.context.database)
        self._queued = 0
        self._text = ""

    def status(self) -> WorkerStatus:
        """Files queued since the start."""
        return WorkerStatus(text=self._text, done_total=self._queued)

    async def wait_for_work(self) -> None:
        """Look at the settings again."""
        await self._jobs.idle()

    async def work(self) -> Step:
        """One part."""
        if not self._jobs.topology.settings.get("rebal_host"):
            self._text = ""
            return IDLE
        async with self._jobs.leases.only_one(LEASE) as lease:
            if lease is None:
                return IDLE
            settings = await self._store.settings()
            if not settings.get("rebal_host"):
                return IDLE
            if settings.get("rebal_signal") == "stop":
                await self._end(settings, finished=False)
                return IDLE
            if await self._store.queued(QUEUE_DEFAULT * 10) >= _number(settings, "queue_size_for_rebal", QUEUE_DEFAULT):
                return Throttled(max(0.05, self._jobs.settings.job_idle_seconds))
            return await self._part(settings)

    async def _part(self, settings: dict[str, str]) -> Step:
        try:
            policy = RebalancePolicy.parse(settings.get("rebal_policy", ""))
        except ValueError as error:
            log.error("rebalance policy cannot be understood, stopping", reason=str(error))
            await self._end(settings, finished=False)
            return IDLE
        state = RebalanceState.parse(settings.get("rebal_state", ""))
        if not state.sdev_current:
            state = await self._next_device(policy, state)
            if not state.sdev_current:
                await self._end({**settings, "rebal_state": state.to_text()}, finished=True)
                return IDLE
        rate = _number(settings, "queue_rate_for_rebal", RATE_DEFAULT)
        files = await self._store.files(
            state.sdev_current, state.sdev_lastfid, rate, newest_first=policy.fid_age == "new"
        )
        fids, after, full = take(policy, state, files, int(self._jobs.context.clock.now()))
        sources = [state.sdev_current, *state.source_devs, *state.completed_devs]
        targets = policy.ordered_destinations(self._jobs.landscape(), sources, self._jobs.randomness)
        if not targets:
            self._text = "no destination device is fit now"
            return IDLE
        if full or not files:
            after = await self._next_device(policy, after)
        await self._store.queue(fids, state.sdev_current, targets, after.to_text())
        self._queued += len(fids)
        self._text = f"dev{state.sdev_current}: {after.fids_queued} files queued so far"
        return BUSY

    async def _next_device(self, policy: RebalancePolicy, state: RebalanceState) -> RebalanceState:
        sites = self._jobs.landscape().sites
        device_bytes = {devid: (site.used_mb or 0) << 20 for devid, site in sites.items()}
        after = state.next_device(policy, device_bytes)
        if after.sdev_current and policy.leave_in_drain_mode and await self._store.set_draining(after.sdev_current):
            await self._jobs.context.announce_change()
        return after

    async def _end(self, settings: dict[str, str], *, finished: bool) -> None:
        now = int(self._jobs.context.clock.now())
        state = RebalanceState.parse(settings.get("rebal_state", ""))
        state = replace(state, time_finished=now) if finished else replace(state, time_stopped=now)
        await self._store.change(lambda _: {"rebal_host": None, "rebal_signal": None, "rebal_state": state.to_text()})
        await self._jobs.context.announce_change()
        log.info("rebalance finished" if finished else "rebalance stopped", fids_queued=state.fids_queued)


def _number(settings: dict[str, str], name: str, default: int) -> int:
    text = settings.get(name, "")
    return max(1, min(10_000_000, int(text))) if text.isascii() and text.isdigit() else default
