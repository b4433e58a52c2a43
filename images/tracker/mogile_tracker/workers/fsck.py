"""Fsck: while `fsck_host` is set, queue all files (of the run's limits) for a check, a part at a time; and check what is queued.

Any tracker queues when nobody else does (a lease), so a run goes on at the stored place when its tracker dies; `fsck_host` then names the
new one. Every tracker checks. A batch is looked at by its rows first; sizes are asked of the nodes without any lock; only files with
something to mend are taken under their lease, looked at again and mended (`workers.mending`). A device that does not answer leaves its
files in the queue and does not hold up the others.
"""

import platform

from mogile_core.checksum import HashType
from mogile_core.runtime.logs import get_log
from mogile_core.runtime.workers import BUSY, IDLE, Step, Throttled, WorkerStatus
from mogile_tracker.policy.backoff import UNREACHABLE_STEPS, replication_delay_seconds
from mogile_tracker.policy.fsck import FirstLook
from mogile_tracker.store.copies import FileCopies
from mogile_tracker.store.fsck import FsckStore, Part, State
from mogile_tracker.store.queues import Claimed, PutOff
from mogile_tracker.workers.asking import Asker
from mogile_tracker.workers.base import Jobs
from mogile_tracker.workers.mending import Case, Mender, look_at
from mogile_tracker.workers.pacing import Load

LEASE = "fsck"
JOB = "fsck"  # whose limits hold
RATE_DEFAULT, RATE_MAX = 1000, 100_000  # files queued at a step, that is by default a second
QUEUE_DEFAULT, QUEUE_MAX = 20_000, 1_000_000
FID_MAX = 2**63 - 1
WAITING_PER_DUE = 10  # so many times the queue may wait for devices that do not answer
BATCH = 200
BATCH_READING = 20  # when every copy is read: a batch must not take much longer than its claim lasts
QUEUE_COUNT_MAX = 100_000

log = get_log(__name__)


class Fsck:
    """Fills the queue of checks."""

    name = "fsck"
    job_class = "fsck"

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._store = FsckStore(jobs.context.database)
        self._queued = 0
        self._text = ""
        self._backlog: int | None = None

    def status(self) -> WorkerStatus:
        """Files queued since the start; the backlog is what the run has yet to queue, in fids."""
        return WorkerStatus(text=self._text, backlog=self._backlog, done_total=self._queued)

    async def wait_for_work(self) -> None:
        """Look at the settings again."""
        await self._jobs.idle()

    async def work(self) -> Step:
        """One part."""
        if not self._jobs.topology.settings.get("fsck_host"):
            self._text, self._backlog = "", None
            return IDLE
        async with self._jobs.leases.only_one(LEASE) as lease:
            if lease is None:
                return IDLE
            state = await self._store.state()
            if not state.settings.get("fsck_host"):
                return IDLE
            most = min(_number(state, "queue_size_for_fsck", QUEUE_DEFAULT), QUEUE_MAX)
            due, waiting = await self._store.queued(most * WAITING_PER_DUE)
            # What waits for a dead device must not hold up the rest, but is bounded, too.
            if due >= most or waiting >= most * WAITING_PER_DUE:
                self._text = f"{due} checks are queued, {waiting} wait for a device"
                return Throttled(self._jobs.settings.job_idle_seconds)
            return await self._part(state)

    async def _part(self, state: State) -> Step:
        after, end = _number(state, "fsck_highest_fid_checked", 0), _number(state, "fsck_fid_at_end", 0)
        rate = min(_number(state, "queue_rate_for_fsck", RATE_DEFAULT), RATE_MAX)
        part = await self._store.next_part(after, end, rate, state.scope)
        settings: dict[str, str | None] = {"fsck_host": platform.node() or "mogile"}
        finished = part.last_fid is None or part.scanned < rate
        if finished:
            settings = {"fsck_host": None, "fsck_stop_time": str(state.now)}
        settings["fsck_highest_fid_checked"] = str(end if finished else part.last_fid)
        if not await self._store.queue_part(part, after, settings):
            return IDLE
        return await self._after(part, rate, end, finished=finished)

    async def _after(self, part: Part, rate: int, end: int, *, finished: bool) -> Step:
        self._queued += len(part.fids)
        if finished:
            log.info("fsck has queued its last file", fids_queued=self._queued)
            await self._jobs.context.announce_change()
            return IDLE
        self._backlog = end - (part.last_fid or 0)
        self._text = f"queued up to fid {part.last_fid} of {end}"
        # The rate limits checks, not the passing over of files that are not wanted.
        pause = self._jobs.settings.job_idle_seconds * len(part.fids) / rate
        return Throttled(pause) if pause else BUSY


def _number(state: State, name: str, default: int) -> int:
    text = state.settings.get(name, "")
    number = int(text) if text.isascii() and text.isdigit() else 0
    return min(number, FID_MAX) or default


class FsckCheck:
    """Checks queued files."""

    name = "fsck-check"
    job_class = "fsck"

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._store = FsckStore(jobs.context.database)
        self._asker = Asker(jobs, JOB)
        self._mender = Mender(jobs, self._store, self._asker)
        self._done = 0
        self._text = ""
        self._backlog: int | None = None

    def status(self) -> WorkerStatus:
        """Files checked since the start."""
        text = "held back by its limits" if self._jobs.governor.held_back(JOB) else self._text
        return WorkerStatus(text=text, backlog=self._backlog, done_total=self._done)

    async def wait_for_work(self) -> None:
        """Queue rows are found by looking."""
        await self._jobs.idle()

    async def work(self) -> Step:
        """One batch."""
        settings = self._jobs.topology.settings
        reading = settings.get("fsck_checksum", "").upper() in {kind.wire_name for kind in HashType}
        limit = BATCH_READING if reading else BATCH
        rows = await self._store.claim(limit, claim_seconds=self._jobs.settings.lease_seconds)
        if not rows:
            self._text, self._backlog = "", 0
            return IDLE
        files = await self._jobs.copies.look([row.fid for row in rows])
        gone = [row for row in rows if files.get(row.fid) is None]
        cases = [Case(row, file) for row in rows if (file := files.get(row.fid)) is not None]
        looks = [(case, look_at(self._jobs, case.file)) for case in cases]
        suspects = [case for case, look in looks if look.fix]
        sound, stalled, unsound = await self._sizes(looks)
        await self._store.log([], checked=len(sound) + len(gone))
        await self._store.finish([*gone, *(case.row for case in sound)])
        await self._put_off(stalled)
        await self._mend([*suspects, *unsound])
        self._done += len(gone) + len(sound)
        due, waiting = await self._store.queued(QUEUE_COUNT_MAX)
        self._backlog = due + waiting
        self._text = f"{waiting} wait: {self._asker.silent_text()}" if waiting else ""
        return BUSY

    async def _sizes(self, looks: list[tuple[Case, FirstLook]]) -> tuple[list[Case], list[Case], list[Case]]:
        """(sound, a device did not answer, something is wrong) of the files that need no mending by their rows."""
        easy = [(case, look.sizes) for case, look in looks if not look.fix]
        asked = [(case.file.fid, devid) for case, sizes in easy if sizes for devid in case.file.holders]
        found = await self._asker.sizes(asked)
        sound, stalled, unsound = [], [], []
        for case, sizes in easy:
            answers = [found[case.file.fid, devid] for devid in case.file.holders] if sizes else []
            wrong = any(answer.known and answer.length != case.file.length for answer in answers)
            if wrong:
                unsound.append(case)
            elif any(not answer.known for answer in answers):
                stalled.append(case)
            else:
                sound.append(case)
        return sound, stalled, unsound

    async def _mend(self, cases: list[Case]) -> None:
        if not cases:
            return
        # Digests take as long as the files are long: few files at a time are kept from the other jobs.
        size = BATCH_READING if any(_reads(self._jobs, case.file) for case in cases) else BATCH
        cases = await self._within_limits(cases)
        for start in range(0, len(cases), size):
            part = cases[start : start + size]
            async with self._jobs.leases.of_files(part) as (lease, mine, busy):
                delay = self._jobs.settings.busy_retry_seconds
                await self._store.retry(
                    [PutOff(row=case.row, delay_seconds=delay, failcount=case.row.failcount) for case in busy]
                )
                done, stalled = await self._mender.mend(lease, mine)
                await self._store.finish([case.row for case in done])
                await self._put_off(stalled)
                self._done += len(done)

    async def _within_limits(self, cases: list[Case]) -> list[Case]:
        """Those whose copies may be read about at once; the rest is due again: no file is kept while others wait."""
        loads = [
            [Load((devid,), case.file.length) for devid in case.file.holders] if _reads(self._jobs, case.file) else []
            for case in cases
        ]
        many = self._jobs.governor.at_once(JOB, loads)
        rest = [PutOff(row=case.row, delay_seconds=0, failcount=case.row.failcount) for case in cases[many:]]
        await self._store.retry(rest)
        return cases[:many]

    async def _put_off(self, cases: list[Case]) -> None:
        await self._store.retry([self._later(case.row) for case in cases])

    def _later(self, row: Claimed) -> PutOff:
        base = self._jobs.settings.retry_base_seconds
        delay = replication_delay_seconds(row.failcount + 1, base_seconds=base, jitter=self._jobs.randomness.random())
        return PutOff(row=row, delay_seconds=min(delay, UNREACHABLE_STEPS * base), failcount=row.failcount + 1)


def _reads(jobs: Jobs, file: FileCopies) -> bool:
    setting = jobs.topology.settings.get("fsck_checksum", "")
    return setting.lower() != "off" and (
        bool(setting) or jobs.topology.class_by_id(file.dmid, file.classid).hashtype is not None
    )
