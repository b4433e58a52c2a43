"""Mending files that fsck found something wrong with, under their leases.

Every recorded copy is asked for again; then, per file: a bad copy is taken out of use by the guarded removal, which needs a good one
that was seen just now; a file without a good copy is searched on every device; digests are compared where wanted; and what the policy
then lacks is queued for replication. Weak evidence changes nothing: a device that does not answer leaves its file in the queue, the last
locations of a file go only when every device has answered that it has nothing, and bytes of a wrong length stay while they are all that
is left.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mogile_core.checksum import Checksum, HashType
from mogile_core.model import DeviceState, DevId
from mogile_core.runtime.logs import get_log
from mogile_tracker.policy.from_topology import reliable_now
from mogile_tracker.policy.fsck import (
    Digesting,
    Event,
    FirstLook,
    Judgement,
    digesting,
    first_look,
    judge,
    judge_new_algorithm,
)
from mogile_tracker.policy.replication import Verdict
from mogile_tracker.store.copies import DeviceNow, FileCopies, FileNow, Removal
from mogile_tracker.store.fsck import Finding, FsckStore
from mogile_tracker.store.leases import Lease
from mogile_tracker.store.queues import Claimed
from mogile_tracker.workers.asking import DAMAGED, Answer, Asker
from mogile_tracker.workers.base import Jobs
from mogile_tracker.workers.trimming import Trimmer

SEARCH_PARALLEL = 16
URGENT, ORDINARY = 0, 1  # nexttry of files with at most one good copy, and of the others

_FALSE = frozenset({"", "0"})

log = get_log(__name__)


@dataclass(slots=True)
class Case:
    """One file while its batch is worked on."""

    row: Claimed
    file: FileCopies
    answers: dict[int, Answer] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    bad: set[int] = field(default_factory=set)
    stalled: bool = False
    found: int | None = None
    lost: tuple[int, ...] = ()
    checksum: Checksum | None = None
    recount: bool = False

    @property
    def fid(self) -> int:
        """The file's, by which its lease is named."""
        return self.row.fid

    def say(self, event: Event, devid: int | None = None) -> None:
        """Note an event."""
        self.findings.append(Finding(fid=self.file.fid, event=event, devid=devid))

    @property
    def good(self) -> list[int]:
        """Devices that answered with the right length, and whose bytes are not known to be wrong."""
        return [
            devid
            for devid, answer in self.answers.items()
            if answer.known and answer.length == self.file.length and devid not in self.bad
        ]

    @property
    def unanswered(self) -> bool:
        """A recorded device did not answer."""
        return any(not answer.known for answer in self.answers.values())

    @property
    def stored(self) -> Checksum | None:
        """The digest the database has."""
        if self.file.hashtype is None or not self.file.checksum:
            return None
        return Checksum(HashType(self.file.hashtype), self.file.checksum)


def digesting_of(jobs: Jobs, file: FileCopies) -> Digesting:
    """How the copies of a file are compared now."""
    hashtype = jobs.topology.class_by_id(file.dmid, file.classid).hashtype
    return digesting(jobs.topology.settings.get("fsck_checksum", ""), hashtype)


def happy(jobs: Jobs, file: FileCopies, holders: Sequence[int]) -> bool:
    """Neither too few copies nor too many."""
    policy, mindevcount = jobs.policy_of(file.dmid, file.classid)
    plan = policy.plan(jobs.landscape(), holders, mindevcount, jobs.randomness, failed=file.blocked)
    return plan.verdict is Verdict.HAPPY


def look_at(jobs: Jobs, file: FileCopies) -> FirstLook:
    """What the rows of a file say."""
    settings = jobs.topology.settings
    compare = digesting_of(jobs, file)
    hashtype = jobs.topology.class_by_id(file.dmid, file.classid).hashtype
    return first_look(
        copies=len(file.holders),
        devcount=file.devcount,
        happy=happy(jobs, file, file.holders),
        wants_checksum=compare.algorithm is not None and hashtype is not None and file.checksum is None,
        reads_all=compare.algorithm is not None,
        policy_only=settings.get("fsck_opt_policy_only", "") not in _FALSE,
        skip_devcount=settings.get("skip_devcount", "") not in _FALSE,
    )


class Mender:
    """Mends for one worker."""

    def __init__(self, jobs: Jobs, store: FsckStore, asker: Asker) -> None:
        self._jobs = jobs
        self._store = store
        self._asker = asker
        self._trimmer = Trimmer(jobs)
        self._events = jobs.context.registry.counter(
            "fsck_events_total", "What fsck found on this tracker, by code", ["code"]
        )

    async def mend(self, lease: Lease, cases: Sequence[Case]) -> tuple[list[Case], list[Case]]:
        """(done, to be looked at again later); every file's lease is held."""
        files = await self._jobs.copies.look([case.row.fid for case in cases])
        done = [case for case in cases if files.get(case.row.fid) is None]
        active = []
        for case in cases:
            file = files.get(case.row.fid)
            if file is not None:
                case.file = file
                active.append(case)
        await self._examine(active)
        for case in active:
            if not case.good:
                await self._search(case)
        await self._compare([case for case in active if case.good and not case.stalled])
        await self._apply(lease, active)
        stalled = [case for case in active if case.stalled]
        done += [case for case in active if not case.stalled]
        findings = [finding for case in active for finding in case.findings]
        await self._store.log(findings, checked=len(done))
        for finding in findings:
            self._events.inc(code=finding.event.value)
        return done, stalled

    # ------------------------------------------------------------------ looking

    async def _examine(self, cases: Sequence[Case]) -> None:
        """Ask every device that should have a copy, and note what its rows and its answer say."""
        devices = self._jobs.topology.devices
        wanted = [
            (case.file.fid, devid)
            for case in cases
            for devid in case.file.holders
            if (device := devices.get(DevId(devid))) is not None and device.status is not DeviceState.DEAD
        ]
        answers = await self._asker.describe(wanted)
        for case in cases:
            case.answers = {devid: answers[fid, devid] for fid, devid in wanted if fid == case.file.fid}
            look = look_at(self._jobs, case.file)
            for event in look.events:
                case.say(event)
            case.recount = Event.BAD_COUNT in look.events
            for devid, answer in case.answers.items():
                if answer.known and answer.length != case.file.length:
                    case.say(Event.MISSING if answer.length is None else Event.BAD_LENGTH, devid)
                    case.bad.add(devid)
            case.stalled = case.unanswered

    async def _search(self, case: Case) -> None:
        """No good copy is known: ask every device there is. Nothing is concluded unless all of them answer."""
        if case.unanswered:
            case.findings.clear()  # to be said once, when it is certain
            return
        case.say(Event.SEARCH)
        others = [
            int(device.devid)
            for device in self._jobs.topology.devices.values()
            if device.status is not DeviceState.DEAD and device.devid not in case.answers
        ]
        self._jobs.randomness.shuffle(others)
        complete = True
        for start in range(0, len(others), SEARCH_PARALLEL):
            part = [(case.file.fid, devid) for devid in others[start : start + SEARCH_PARALLEL]]
            for (_, devid), answer in (await self._asker.describe(part)).items():
                complete &= answer.known
                if case.found is None and self._is_the_file(case, devid, answer):
                    case.found = devid
                    case.answers[devid] = answer
            if case.found is not None:
                case.say(Event.FOUND, case.found)
                return
        if not complete:
            case.findings.clear()
            case.stalled = True
            return
        case.say(Event.GONE)
        log.error("no device has a copy of a file", fid=case.file.fid)
        missing = [devid for devid, answer in case.answers.items() if answer.known and answer.length is None]
        if len(missing) == len(case.answers):
            case.lost = tuple(missing)

    def _is_the_file(self, case: Case, devid: int, answer: Answer) -> bool:
        if not answer.known or answer.length != case.file.length or devid in case.file.blocked:
            return False
        stored, info = case.stored, answer.info
        recorded = info.md5 if info is not None else None
        return not (stored is not None and stored.hashtype is HashType.MD5 and recorded and recorded != stored.digest)

    # ------------------------------------------------------------------ digests

    async def _compare(self, cases: Sequence[Case]) -> None:
        """Read the copies where that is wanted."""
        if self._jobs.topology.settings.get("fsck_opt_policy_only", "") not in _FALSE:
            cases = [case for case in cases if case.stored is None]
        for algorithm in HashType:
            mine = [case for case in cases if digesting_of(self._jobs, case.file).algorithm is algorithm]
            if not mine:
                continue
            old = [case for case in mine if case.stored is not None and case.stored.hashtype is not algorithm]
            sums = await self._digests(mine, algorithm)
            for case in mine:
                if case not in old:
                    self._judged(case, self._judge(case, sums.get(case.file.fid, {})))
            if old:
                await self._compare_old(old, sums)

    async def _compare_old(self, cases: Sequence[Case], new: Mapping[int, dict[int, Checksum]]) -> None:
        """The stored digests are of the other algorithm: by that one the copies are judged first."""
        stored = cases[0].stored
        assert stored is not None, "only files with a stored digest come here"
        sums = await self._digests(cases, stored.hashtype)
        for case in cases:
            verdict = self._judge(case, sums.get(case.file.fid, {}))
            if verdict == Judgement():
                file_class = self._jobs.topology.class_by_id(case.file.dmid, case.file.classid)
                verdict = judge_new_algorithm(new.get(case.file.fid, {}), class_hashtype=file_class.hashtype)
            self._judged(case, verdict)

    async def _digests(self, cases: Sequence[Case], algorithm: HashType) -> dict[int, dict[int, Checksum]]:
        """Per file and device; a copy that cannot be read makes its file wait."""
        wanted = [(case.file.fid, devid) for case in cases for devid in case.good]
        found = await self._asker.digests(wanted, algorithm, {case.file.fid: case.file.length for case in cases})
        sums: dict[int, dict[int, Checksum]] = {}
        for case in cases:
            mine = {devid: found.get((case.file.fid, devid)) for devid in case.good}
            case.stalled |= any(value is None for value in mine.values())
            sums[case.file.fid] = {devid: value for devid, value in mine.items() if value is not None}
        return sums

    def _judge(self, case: Case, sums: Mapping[int, Checksum]) -> Judgement:
        file_class = self._jobs.topology.class_by_id(case.file.dmid, case.file.classid)
        everywhere = digesting_of(self._jobs, case.file).everywhere
        return judge(sums, case.stored, class_hashtype=file_class.hashtype, everywhere=everywhere)

    def _judged(self, case: Case, verdict: Judgement) -> None:
        for devid in verdict.bad:
            log.warning("copy does not match its stored digest", fid=case.file.fid, devid=devid)
        case.bad |= verdict.bad
        if verdict.store is not None and case.stalled:
            return  # all copies are to agree before their digest is believed
        for event in verdict.events:
            case.say(event)
        case.checksum = verdict.store

    # ------------------------------------------------------------------ changing rows

    async def _apply(self, lease: Lease, cases: Sequence[Case]) -> None:
        """Bad copies out, found ones in, digests and counts right, and the rest is replication's."""
        found = [(case.file.fid, case.found) for case in cases if case.found is not None]
        lost = [(case.file.fid, devid) for case in cases for devid in await self._certainly_lost(case)]
        added, forgotten = await self._store.settle(
            lease,
            found=found,
            lost=lost,
            checksums={case.file.fid: case.checksum for case in cases if case.checksum is not None},
            recount=[case.file.fid for case in cases if case.recount],
        )
        gone = forgotten | await self._remove_bad(lease, cases, added)
        urgent: list[int] = []
        ordinary: list[int] = []
        for case in cases:
            fid = case.file.fid
            left = {devid for devid in case.file.holders if (fid, devid) not in gone}
            left |= {devid for devid in (case.found,) if devid is not None and (fid, devid) in added}
            if case.found is not None and (fid, case.found) not in added:
                case.stalled = True
            if case.good and not left.isdisjoint(case.bad):
                case.stalled = True  # what is bad could not be taken out now
            if not case.good or happy(self._jobs, case.file, sorted(left)):
                continue
            (urgent if len(case.good) <= 1 else ordinary).append(fid)
            case.say(Event.REPLICATE)
        await self._jobs.queues.enqueue_replicate(urgent, nexttry=URGENT)
        await self._jobs.queues.enqueue_replicate(ordinary, nexttry=ORDINARY)

    async def _remove_bad(
        self, lease: Lease, cases: Sequence[Case], added: set[tuple[int, int]]
    ) -> set[tuple[int, int]]:
        """Only where a good copy was seen just now; the row becomes a copy delete, with the copy's id where it is known."""
        removals = []
        for case in cases:
            fid = case.file.fid
            recorded_good = frozenset(d for d in case.good if d != case.found or (fid, d) in added)
            for devid in sorted(case.bad) if recorded_good else ():
                info = case.answers[devid].info
                removals.append(
                    Removal(
                        fid=fid,
                        devid=devid,
                        copy_id=info.copy_id if info is not None else None,
                        verified=recorded_good,
                    )
                )
        taken = await self._jobs.copies.remove(
            lease, removals, _a_good_one_remains, claim_seconds=self._jobs.settings.lease_seconds
        )
        # Where nothing lies there is nothing to delete, and the device may take a new copy at once.
        empty = {
            (case.file.fid, devid)
            for case in cases
            for devid, answer in case.answers.items()
            if answer.length in (None, DAMAGED)
        }
        await self._jobs.copies.finish_deletes([row for row in taken if (row.fid, row.devid) in empty])
        await self._trimmer.delete_bytes([row for row in taken if (row.fid, row.devid) not in empty])
        return {(row.fid, row.devid) for row in taken}

    async def _certainly_lost(self, case: Case) -> list[int]:
        """Devices whose locations may go although they are the last: not those that keep the damaged copy in quarantine."""
        lost = []
        for devid in case.lost:
            host = self._jobs.topology.host_of(devid)
            if host is not None and not await self._jobs.nodes.is_damaged(host, devid, case.file.fid):
                lost.append(devid)
        return lost if len(lost) == len(case.lost) else []


def _a_good_one_remains(removal: Removal, now: FileNow, devices: Mapping[int, DeviceNow]) -> bool:
    """Inside the removing transaction: a copy verified just now is still recorded, on a device that is in use."""
    return any(
        reliable_now(devices[devid].status, devices[devid].host_status, out=devices[devid].out)
        for devid in now.holders & removal.verified
        if devid != removal.devid and devid in devices
    )
