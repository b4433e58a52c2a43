"""Orphan search: what lies on the disks against what the rows say, a part of a device at a time, and what a person orders about it.

A file without a row that is older than the walk's age is listed and logged (ORPH); a row without a file is queued for fsck. Nothing is
removed without an order. An order to remove never takes bytes that a file may need: what has the length of the file by that fid is adopted
instead (its digest must agree, too), and replication trims what is then too much, with all the proof that takes.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from mogile_core.checksum import Checksum, HashType
from mogile_core.errors import NodeError
from mogile_core.runtime.logs import get_log
from mogile_core.runtime.workers import BUSY, IDLE, Step, Throttled, WorkerStatus
from mogile_tracker.nodes import ListedCopy, NodeCannotListError
from mogile_tracker.policy.fsck import Event
from mogile_tracker.policy.tunables import ORPHANS_RATE
from mogile_tracker.store.copies import FileCopies
from mogile_tracker.store.fsck import Finding, FsckStore
from mogile_tracker.store.leases import Lease
from mogile_tracker.store.orphans import Orphan, OrphanStore, Progress, Walk
from mogile_tracker.workers.asking import Answer, Asker
from mogile_tracker.workers.base import Jobs

PART = 5000  # files of a device looked at in a step, or those of a second at the rate that is set
PACE = "walk:orphans"  # what all walks of all trackers are paced under
DEVICES_AT_ONCE = 4
BATCH = 100  # orders carried out in a step
LEASE_ORDERS = "orphan-orders"
CHECKS_MAX = 100_000  # queued for fsck; a walk over an emptied disk would queue millions
FID_LAST = 2**63 - 1

log = get_log(__name__)


def lease_name(devid: int) -> str:
    """The lease of the walk over a device."""
    return f"orphans:{devid}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stepped:
    """What came of a step of a walk."""

    looked: bool = False
    wait: float = 0.0  # seconds until the rate allows the next


class Orphans:
    """Walks over disks and carries out orders."""

    name = "orphans"
    job_class = "fsck"

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._store = OrphanStore(jobs.context.database)
        self._fsck = FsckStore(jobs.context.database)
        self._asker = Asker(jobs, "fsck")
        self._done = 0
        self._text = ""

    def status(self) -> WorkerStatus:
        """Files on disks looked at since the start."""
        return WorkerStatus(text=self._text, done_total=self._done)

    async def wait_for_work(self) -> None:
        """Walks and orders are found by looking."""
        await self._jobs.idle()

    async def work(self) -> Step:
        """A batch of orders, else a step of a few walks."""
        if await self._orders():
            return BUSY
        walks = [walk for walk in await self._store.walks() if walk.state == "running"]
        able = [walk for walk in walks if self._jobs.topology.readable(walk.devid)]
        due, _ = await self._fsck.queued(CHECKS_MAX)
        if due >= CHECKS_MAX:
            self._text = "waits until fsck has caught up with what is missing"
            return Throttled(self._jobs.settings.job_idle_seconds)
        steps = await asyncio.gather(*(self._one_step(walk) for walk in able[:DEVICES_AT_ONCE]))
        silent = [f"dev{walk.devid}" for walk in walks if walk not in able]
        self._text = f"{len(walks)} devices to walk" if walks else ""
        if silent:
            self._text += f", not readable now: {', '.join(silent)}"
        if any(step.looked for step in steps):
            return BUSY
        waits = [step.wait for step in steps if step.wait > 0]
        return Throttled(min(waits)) if waits else IDLE

    # ------------------------------------------------------------------ walking

    async def _one_step(self, walk: Walk) -> _Stepped:
        """A part of a walk, when the rate allows; nothing when another tracker walks here, or the device does not answer."""
        async with self._jobs.leases.only_one(lease_name(walk.devid)) as lease:
            if lease is None:
                return _Stepped()
            host = self._jobs.topology.host_of(walk.devid)
            if host is None:
                return _Stepped()
            rate = ORPHANS_RATE.number(self._jobs.topology.our_settings)
            most = min(PART, int(rate)) if rate else PART
            if (wait := await self._jobs.governor.due(PACE, rate, most)) > 0:
                return _Stepped(wait=wait)
            try:
                listed = await self._jobs.nodes.fids(host, walk.devid, after=walk.last_fid, limit=most)
            except NodeCannotListError:
                problem = "its node does not list what lies on it"
                await self._store.advance(walk, [], Progress(last_fid=walk.last_fid, finished=True, problem=problem))
                return _Stepped(looked=True)
            except NodeError as error:
                log.info("device not listed", devid=walk.devid, reason=str(error))
                return _Stepped()
            return _Stepped(looked=await self._compare(walk, listed, most))

    async def _compare(self, walk: Walk, listed: Sequence[ListedCopy], most: int) -> bool:
        """The list was made first, so rows that are read now know whatever in it has one. False: the device has stopped answering."""
        fids = [copy.fid for copy in listed]
        finished = len(listed) < most
        last = FID_LAST if finished else fids[-1]
        unknown = {row.fid: row for row in await self._store.unknown(walk.devid, fids)}
        missing = await self._store.not_there(walk.devid, walk.last_fid, last, fids, most)
        if len(missing) == most:  # an emptied disk: only as far as that for now
            finished, last = False, missing[-1]
            listed = [copy for copy in listed if copy.fid <= last]
        now = self._jobs.context.clock.now()
        old = [copy for copy in listed if copy.fid in unknown and now - copy.mtime >= walk.min_age]
        # What was deleted between the list and the rows is not there any more.
        answers = await self._asker.describe([(copy.fid, walk.devid) for copy in old])
        if any(not answer.known for answer in answers.values()):
            return False  # the same part again later
        there = [copy for copy in old if answers[copy.fid, walk.devid].length is not None]
        found = [
            Orphan(
                devid=walk.devid,
                fid=copy.fid,
                length=copy.length,
                mtime=copy.mtime,
                is_file=unknown[copy.fid].is_file,
            )
            for copy in there
        ]
        await self._fsck.enqueue(missing)
        progress = Progress(
            last_fid=max([walk.last_fid, *(copy.fid for copy in listed[-1:]), *missing[-1:]]),
            files=len(listed),
            orphans=len(found),
            missing=len(missing),
            finished=finished,
        )
        new = await self._store.advance(walk, found, progress)
        self._done += len(listed)
        await self._fsck.log([Finding(fid=fid, event=Event.ORPHAN, devid=walk.devid) for fid in new or ()])
        if found or missing:
            log.warning("device walked", devid=walk.devid, orphans=len(found), missing=len(missing))
        return True

    # ------------------------------------------------------------------ orders

    async def _orders(self) -> bool:
        """True when something was done."""
        able = [int(devid) for devid in self._jobs.topology.devices if self._jobs.topology.readable(devid)]
        if not await self._store.ordered(1, able):
            return False
        async with self._jobs.leases.only_one(LEASE_ORDERS) as alone:
            if alone is None:
                return False
            orphans = await self._store.ordered(BATCH, able)
            async with self._jobs.leases.of_files(orphans) as (lease, mine, _):
                settled = await self._carry_out(lease, mine)
            await self._store.settle(settled)
            self._count(settled)
            return bool(settled)

    def _count(self, settled: Sequence[tuple[Orphan, bool]]) -> None:
        counter = self._jobs.context.registry.counter(
            "orphan_orders_total", "Orders about orphans that were carried out, or could not be", ["todo", "result"]
        )
        for orphan, kept in settled:
            counter.inc(todo=orphan.todo or "", result="kept" if kept else "done")

    async def _carry_out(self, lease: Lease, orphans: Sequence[Orphan]) -> list[tuple[Orphan, bool]]:
        """Those that are done with; True: kept in the list. What cannot be decided now is left as it is ordered."""
        by_device: dict[int, list[int]] = defaultdict(list)
        for orphan in orphans:
            by_device[orphan.devid].append(orphan.fid)
        still = {
            (row.fid, devid) for devid, fids in by_device.items() for row in await self._store.unknown(devid, fids)
        }
        answers = await self._asker.describe([(orphan.fid, orphan.devid) for orphan in orphans])
        files = await self._jobs.copies.look([orphan.fid for orphan in orphans])
        settled: list[tuple[Orphan, bool]] = []
        adopt: list[Orphan] = []
        remove: list[Orphan] = []
        for orphan in orphans:
            copy, file = (orphan.fid, orphan.devid), files.get(orphan.fid)
            answer = answers[copy]
            if not answer.known:
                continue
            if copy not in still or answer.length is None:
                settled.append((orphan, False))  # it has a row by now, or is gone
            elif file is not None and answer.length == file.length:
                if await self._is_the_same(file, orphan, answer):
                    adopt.append(orphan)
                else:
                    settled.append((orphan, True))
            elif orphan.todo == "remove" and (file is None or file.holders):
                remove.append(orphan)
            else:
                settled.append((orphan, True))
        settled += await self._adopt(lease, adopt)
        wanted = [(orphan.fid, orphan.devid, _copy_id(answers[orphan.fid, orphan.devid])) for orphan in remove]
        taken = await self._store.remove(lease, wanted)
        return settled + [(orphan, (orphan.fid, orphan.devid) not in taken) for orphan in remove]

    async def _is_the_same(self, file: FileCopies, orphan: Orphan, answer: Answer) -> bool:
        """By the stored digest; without one by that of a holder; a file without any copy takes what has its length."""
        mine, lengths = (orphan.fid, orphan.devid), {file.fid: file.length}
        if file.hashtype is not None and file.checksum:
            stored = Checksum(HashType(file.hashtype), file.checksum)
            return (await self._asker.digests([mine], stored.hashtype, lengths)).get(mine) == stored
        readable = [devid for devid in file.holders if self._jobs.topology.readable(devid)]
        if not readable:
            return not file.holders and answer.info is not None
        other = (orphan.fid, readable[0])
        sums = await self._asker.digests([mine, other], HashType.MD5, lengths)
        return sums.get(mine) is not None and sums.get(mine) == sums.get(other)

    async def _adopt(self, lease: Lease, orphans: Sequence[Orphan]) -> list[tuple[Orphan, bool]]:
        added, _ = await self._fsck.settle(lease, found=[(orphan.fid, orphan.devid) for orphan in orphans])
        await self._jobs.queues.enqueue_replicate(sorted({fid for fid, _ in added}))
        await self._fsck.log([Finding(fid=fid, event=Event.FOUND, devid=devid) for fid, devid in sorted(added)])
        return [(orphan, (orphan.fid, orphan.devid) not in added) for orphan in orphans]


def _copy_id(answer: Answer) -> str | None:
    return answer.info.copy_id if answer.info is not None else None
