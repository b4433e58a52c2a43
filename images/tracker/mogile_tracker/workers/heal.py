"""Healing: copies that their node has put into quarantine are fetched again from a good copy, onto the same device.

The node lists them (`/devN/damaged`) and counts them in its usage file, which the monitor reads. A file's location stays as it is, since
the bytes come back to the same place; nothing is deleted, the damaged bytes stay in quarantine. What cannot be healed in place (the device
takes no writes, or has no room) is left to fsck, which takes the location out and has the copy made elsewhere. The last copy of a file
keeps its location whatever happened to it. Entries of files that are gone are cleared.
"""

import time
from collections.abc import Mapping, Sequence

from mogile_core.checksum import HashType
from mogile_core.errors import NodeError
from mogile_core.model import DeviceState, DevId, Host
from mogile_core.paths import fid_url
from mogile_core.runtime.logs import get_log
from mogile_core.runtime.workers import IDLE, Busy, Step, WorkerStatus
from mogile_tracker.nodes import DamagedCopy, NodeCannotListError, PullItem, PullResult
from mogile_tracker.store.copies import FileCopies
from mogile_tracker.store.fsck import FsckStore
from mogile_tracker.store.orphans import OrphanStore
from mogile_tracker.workers.asking import Asker
from mogile_tracker.workers.base import Jobs
from mogile_tracker.workers.copying import ORDER_BYTES_MAX, ORDER_ITEMS_MAX
from mogile_tracker.workers.pacing import Load

JOB = "heal"  # whose limits hold
PAGE = 100
TOLD_MAX = 10_000  # files remembered that fsck has been told of
TELL_AGAIN_STEPS = 240  # of the first retry delay: an hour

Item = tuple[PullItem, Load]

log = get_log(__name__)


class Heal:
    """Heals damaged copies."""

    name = "heal"
    job_class = "replicate"

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._fsck = FsckStore(jobs.context.database)
        self._orphans = OrphanStore(jobs.context.database)
        self._asker = Asker(jobs, JOB)
        self._results = jobs.context.registry.counter(
            "heal_copies_total", "Damaged copies fetched again onto their devices, or why not", ["result"]
        )
        self._done = 0
        self._urgent = False  # the present unit met a file with a single sound copy
        self._helpless: dict[int, int] = {}  # devid -> copies of the last pass that could not be healed
        self._place: dict[int, int] = {}  # devid -> last fid of the page before
        self._rest: dict[int, float] = {}  # devid -> when to look again
        self._told: dict[int, float] = {}  # fid -> when fsck may be told again

    def status(self) -> WorkerStatus:
        """Copies healed since the start; the backlog is what the nodes count."""
        damaged = {d.devid: d.damaged for d in self._jobs.topology.observations.devices.values() if d.damaged}
        text = "held back by its limits" if self._jobs.governor.held_back(JOB) else self._helpless_text()
        return WorkerStatus(text=text, backlog=sum(damaged.values()), done_total=self._done)

    def _helpless_text(self) -> str:
        helpless = [f"dev{devid}: {count}" for devid, count in sorted(self._helpless.items()) if count]
        return f"not healed now, fsck looks for copies: {', '.join(helpless)}" if helpless else ""

    async def wait_for_work(self) -> None:
        """The counts come with the monitor's rounds."""
        await self._jobs.idle()

    async def work(self) -> Step:
        """A page of every device that has damaged copies."""
        now = time.monotonic()
        busy = self._urgent = False
        for devid, seen in list(self._jobs.topology.observations.devices.items()):
            if seen.damaged and self._rest.get(devid, 0.0) <= now and self._jobs.topology.readable(devid):
                busy |= await self._device(devid)
        return Busy(self._urgent) if busy else IDLE

    async def _device(self, devid: int) -> bool:
        """True when there may be more at once."""
        host = self._jobs.topology.host_of(devid)
        async with self._jobs.leases.only_one(f"heal:{devid}") as alone:
            if alone is None or host is None:
                return False
            try:
                page = await self._jobs.nodes.damaged(host, devid, after=self._place.get(devid, 0), limit=PAGE)
            except (NodeCannotListError, NodeError) as error:
                log.info("damaged copies not listed", devid=devid, reason=str(error))
                page = []
            healed = await self._page(host, devid, page)
        if self._place.get(devid, 0) == 0:
            self._helpless[devid] = 0
        self._helpless[devid] += len(page) - healed
        if len(page) == PAGE:
            self._place[devid] = page[-1].fid
            return True
        self._place[devid] = 0
        self._rest[devid] = time.monotonic() + self._jobs.settings.retry_base_seconds
        return False

    async def _page(self, host: Host, devid: int, page: Sequence[DamagedCopy]) -> int:
        """How many of the entries are settled now. Files are leased while something is done to them, not while it waits for its limits."""
        async with self._jobs.leases.of_files(page) as (_, mine, _busy):
            files = await self._jobs.copies.look([copy.fid for copy in mine])
            nobodys = {row.fid for row in await self._orphans.unknown(devid, [copy.fid for copy in mine])}
            clear = [copy for copy in mine if copy.fid in nobodys and self._may_clear(copy, files.get(copy.fid))]
            cleared = await self._clear(host, devid, clear)
        wanted = [file for copy in mine if (file := files.get(copy.fid)) is not None and devid in file.holders]
        return cleared + await self._heal(host, devid, wanted)

    def _may_clear(self, copy: DamagedCopy, file: FileCopies | None) -> bool:
        """No row is about this copy. Where the file lives on, only a DELETE that names the copy cannot hit a newer one."""
        return file is None or (copy.copy_id is not None and bool(file.holders))

    async def _clear(self, host: Host, devid: int, copies: Sequence[DamagedCopy]) -> int:
        """Entries that belong to no file, in one order; how many are gone."""
        if not copies:
            return 0
        outcomes = await self._jobs.nodes.delete_many(host, devid, [(copy.fid, copy.copy_id) for copy in copies])
        cleared = 0
        for copy, outcome in zip(copies, outcomes, strict=True):
            if isinstance(outcome, NodeError):
                reason = str(outcome)
                log.info("entry of a damaged copy not cleared yet", fid=copy.fid, devid=devid, reason=reason)
            else:
                log.info("damaged copy belonged to no file any more", fid=copy.fid, devid=devid)
                cleared += 1
        return cleared

    # ------------------------------------------------------------------ fetching again

    async def _heal(self, host: Host, devid: int, files: Sequence[FileCopies]) -> int:
        device = self._jobs.topology.devices[DevId(devid)]
        in_place = device.status is DeviceState.ALIVE and self._jobs.topology.writeable(devid)
        items = await self._items(devid, files) if in_place else {}
        await self._tell_fsck([file.fid for file in files if file.fid not in items])
        results = await self._pull_all(host, devid, items) if items else []
        healed = [result.fid for result in results if result.ok]
        for fid in healed:
            log.warning("damaged copy healed", fid=fid, devid=devid, source=items[fid][0].source)
        for result in results:
            if not result.ok:
                log.info("copy not healed", fid=result.fid, devid=devid, reason=result.reason, detail=result.message)
        for result in results:
            self._results.inc(result="healed" if result.ok else str(result.reason))
        # With another source it may still come to this device; everything else is the device's fault.
        await self._tell_fsck([r.fid for r in results if r.reason is not None and not r.reason.blames_source])
        self._done += len(healed)
        return len(healed)

    async def _pull_all(self, host: Host, devid: int, items: Mapping[int, Item]) -> list[PullResult]:
        """What the node reports, order by order, each when the limits let it through."""
        orders = list(items.values())
        loads = [load for _, load in orders]
        results: list[PullResult] = []
        parts = self._jobs.governor.parts(JOB, loads, items_max=ORDER_ITEMS_MAX, bytes_max=ORDER_BYTES_MAX)
        for part in parts:
            wanted = [orders[index][0] for index in part]
            async with (
                self._jobs.governor.admitted(JOB, [loads[index] for index in part]),
                self._jobs.leases.of_files(wanted) as (_, mine, _busy),
            ):
                wanted = await self._still_wanted(devid, mine)
                if not wanted:
                    continue
                try:
                    async for result in self._jobs.nodes.pull(host, wanted):
                        results.append(result)  # noqa: PERF401 - what came before an error counts
                except NodeError as error:
                    log.info("healing interrupted", devid=devid, reason=str(error))
                    break
        return results

    async def _still_wanted(self, devid: int, items: Sequence[PullItem]) -> list[PullItem]:
        """Under the lease: a tracker that was slow or frozen meanwhile must not bring back what has gone from the device."""
        files = await self._jobs.copies.look([item.fid for item in items])
        return [item for item in items if (file := files.get(item.fid)) is not None and devid in file.holders]

    async def _items(self, devid: int, files: Sequence[FileCopies]) -> dict[int, Item]:
        """An order per file that has a sound copy elsewhere, and what it costs."""
        asked = [(file.fid, other) for file in files for other in file.holders if other != devid]
        answers = await self._asker.describe(asked)
        items: dict[int, Item] = {}
        for file in files:
            stored = file.checksum if file.hashtype == HashType.MD5 else None
            sound = []
            for other in file.holders:
                info = answers[file.fid, other].info if other != devid else None
                if info is not None and info.length == file.length and (not stored or info.md5 in (None, stored)):
                    sound.append((other, info))
            if not sound:
                continue
            self._urgent |= len(sound) == 1
            source, info = self._jobs.randomness.choice(sound)
            source_host = self._jobs.topology.host_of(source)
            md5 = stored or info.md5
            if source_host is not None:
                item = PullItem(
                    fid=file.fid,
                    devid=devid,
                    source=fid_url(source_host.hostip, source_host.read_port, source, file.fid),
                    length=file.length,
                    md5=md5.hex() if md5 else None,
                    replace=True,
                )
                items[file.fid] = (item, Load((source, devid), file.length))
        return items

    async def _tell_fsck(self, fids: Sequence[int]) -> None:
        """Have files checked that cannot be healed in place, each once in a while."""
        now = time.monotonic()
        new = [fid for fid in fids if self._told.get(fid, 0.0) <= now]
        if len(self._told) + len(new) > TOLD_MAX:
            self._told.clear()
        again = now + TELL_AGAIN_STEPS * self._jobs.settings.retry_base_seconds
        self._told |= dict.fromkeys(new, again)
        await self._fsck.enqueue(new)
