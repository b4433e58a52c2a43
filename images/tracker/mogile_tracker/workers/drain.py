"""Drain: where the setting `drain_moves` is on, devices in state drain are emptied: their files are queued as moves, a part at a time.

Off is the default and what MogileFS does: a device set to drain by hand takes no new files and keeps those it has. The state is the
operator's: nothing here changes it, neither before nor when the device is empty. One tracker at a time queues; the place reached is only
remembered in memory, since what was moved is no longer there. What cannot be moved without making a file worse is tried again in the
next pass.
"""

from mogile_core.model import DeviceState
from mogile_core.runtime.logs import get_log
from mogile_core.runtime.workers import BUSY, IDLE, Step, Throttled, WorkerStatus
from mogile_tracker.policy.placement import free_space_order
from mogile_tracker.policy.tunables import DRAIN_MOVES
from mogile_tracker.store.queues import MoveKind, PendingMove
from mogile_tracker.workers.base import Jobs

LEASE = "drain"
BATCH = 500
QUEUE_MAX = 1000  # moves that wait; more are queued when these are done
REST_ROUNDS = 30  # idle waits between two passes over a device

log = get_log(__name__)


class Drain:
    """Fills the queue of moves from draining devices."""

    name = "drain"
    job_class = "rebalance"

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._cursors: dict[int, int] = {}
        self._resting: dict[int, int] = {}
        self._queued = 0
        self._text = ""

    def status(self) -> WorkerStatus:
        """Files queued since the start."""
        return WorkerStatus(text=self._text, done_total=self._queued)

    async def wait_for_work(self) -> None:
        """Look at the device states again."""
        await self._jobs.idle()

    async def work(self) -> Step:
        """A part of one device."""
        topology = self._jobs.topology
        draining = {int(d.devid) for d in topology.devices.values() if d.status is DeviceState.DRAIN}
        self._cursors = {devid: fid for devid, fid in self._cursors.items() if devid in draining}
        self._resting = {
            devid: rounds - 1 for devid, rounds in self._resting.items() if devid in draining and rounds > 0
        }
        if DRAIN_MOVES.text(topology.our_settings) != "on" or not draining:
            self._text = ""
            return IDLE
        waiting = sorted(draining - set(self._resting))
        if not waiting:
            return IDLE
        async with self._jobs.leases.only_one(LEASE) as lease:
            if lease is None:
                return IDLE
            if len(await self._jobs.queues.pending_moves(QUEUE_MAX)) >= QUEUE_MAX:
                return Throttled(max(0.05, self._jobs.settings.job_idle_seconds))
            return await self._part(waiting[0])

    async def _part(self, devid: int) -> Step:
        after = self._cursors.get(devid, 0)
        fids = await self._jobs.copies.on_device(devid, after, BATCH)
        if not fids:
            self._text = f"dev{devid} is empty" if not after else f"all files of dev{devid} are queued"
            self._cursors.pop(devid, None)
            self._resting[devid] = REST_ROUNDS
            return BUSY
        fit = (site for site in self._jobs.landscape().fit if site.devid != devid)
        targets = tuple(site.devid for site in free_space_order(fit, self._jobs.randomness))
        if not targets:
            self._text = f"no device can take the files of dev{devid} now"
            return IDLE
        moves = [PendingMove(fid=fid, source=devid, destinations=targets, length=0) for fid in fids]
        await self._jobs.queues.enqueue_moves(moves, kind=MoveKind.DRAIN)
        self._cursors[devid] = fids[-1]
        self._queued += len(fids)
        self._text = f"emptying dev{devid}"
        return BUSY
