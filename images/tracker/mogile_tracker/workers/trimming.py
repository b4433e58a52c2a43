"""Removing copies: verify the survivors on their nodes, prove in one transaction that enough remain, then delete the bytes.

What cannot be verified is kept. Between the verification and the proof the file's lease is held, so no other job of ours changes its
copies; the proof itself re-reads everything the database knows. A process that dies after the proof leaves a copy delete behind, which
the delete worker carries out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mogile_core.checksum import HashType
from mogile_core.errors import NodeError
from mogile_core.runtime.logs import get_log
from mogile_tracker.nodes import CopyInfo
from mogile_tracker.policy.from_topology import reliable_now
from mogile_tracker.store.copies import CopyDelete, DeviceNow, FileCopies, FileNow, Removal
from mogile_tracker.store.leases import Lease
from mogile_tracker.workers.base import Jobs
from mogile_tracker.workers.deleting import delete_copies

log = get_log(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trim:
    """A copy that may go, as far as the policy can tell from the snapshot."""

    file: FileCopies
    victim: int


class Trimmer:
    """Removes copies for one worker."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    async def remove(self, lease: Lease, trims: Sequence[Trim]) -> set[tuple[int, int]]:
        """The copies (fid, devid) that are no locations any more; their bytes are gone or will be."""
        removals = await self._verify(trims)
        if not removals:
            return set()
        taken = await self._jobs.copies.remove(
            lease, removals, _Proof(self._jobs), claim_seconds=self._jobs.settings.lease_seconds
        )
        await self.delete_bytes(taken)
        return {(row.fid, row.devid) for row in taken}

    async def _verify(self, trims: Sequence[Trim]) -> list[Removal]:
        """Ask the nodes about every copy of every file; keep those trims whose victim can be named by its copy id."""
        topology = self._jobs.topology
        asked: list[tuple[FileCopies, int]] = []
        for file in {trim.file.fid: trim.file for trim in trims}.values():
            asked += [(file, devid) for devid in file.holders if topology.readable(devid)]
        hosts = [(topology.host_of(devid), devid, file.fid) for file, devid in asked]
        answers = await self._jobs.nodes.heads([(host, devid, fid) for host, devid, fid in hosts if host is not None])
        known: dict[tuple[int, int], CopyInfo | NodeError | None] = {}
        for (file, devid), answer in zip(asked, answers, strict=True):
            known[file.fid, devid] = answer
        removals = []
        for trim in trims:
            victim = known.get((trim.file.fid, trim.victim))
            if isinstance(victim, NodeError) or (trim.file.fid, trim.victim) not in known:
                log.info("surplus copy kept, its node does not answer", fid=trim.file.fid, devid=trim.victim)
                continue
            sound = frozenset(
                devid
                for devid in trim.file.holders
                if devid != trim.victim and _sound(trim.file, known.get((trim.file.fid, devid)))
            )
            removals.append(
                Removal(
                    fid=trim.file.fid,
                    devid=trim.victim,
                    copy_id=victim.copy_id if victim is not None else None,
                    verified=sound,
                )
            )
        return removals

    async def delete_bytes(self, rows: Sequence[CopyDelete]) -> None:
        """Send the deletes that were just decided; those that fail, and those without a copy id, which take more care, stay queued for
        the delete worker."""
        named = {(row.fid, row.devid): row for row in rows if row.copy_id is not None}
        outcomes = await delete_copies(self._jobs, [(row.fid, row.devid, row.copy_id) for row in named.values()])
        for (fid, devid), outcome in outcomes.items():
            if isinstance(outcome, NodeError):
                log.info("copy not deleted yet", fid=fid, devid=devid, reason=str(outcome))
        done = [row for at, row in named.items() if not isinstance(outcomes[at], NodeError)]
        await self._jobs.copies.finish_deletes(done)


def _sound(file: FileCopies, info: CopyInfo | NodeError | None) -> bool:
    if info is None or isinstance(info, NodeError) or info.length != file.length:
        return False
    return not (file.hashtype == HashType.MD5 and file.checksum and info.md5 and info.md5 != file.checksum)


class _Proof:
    """Asked inside the removing transaction: do the verified copies that remain satisfy the policy by the states as they are now?"""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._landscape = jobs.landscape()

    def __call__(self, removal: Removal, now: FileNow, devices: Mapping[int, DeviceNow]) -> bool:
        remaining = [
            devid
            for devid in now.holders & removal.verified
            if devid != removal.devid and devid in devices and _reliable(devices[devid])
        ]
        policy, mindevcount = self._jobs.policy_of(now.dmid, now.classid)
        return bool(remaining) and policy.satisfied(self._landscape, remaining, mindevcount)


def _reliable(device: DeviceNow) -> bool:
    return reliable_now(device.status, device.host_status, out=device.out)
