"""Asking nodes about many copies: lengths by pipelined side channel, descriptions by HEAD, digests; bounded, and not held up by the silent.

Questions count for the concurrency of their job, digests also for its bytes and for those of the device (`workers.pacing`).

A device that did not answer is not asked again for a moment: its copies are unknown at once, so that one dead disk among many costs a
batch one time limit and not one per file. Unknown is never taken for missing.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mogile_core.checksum import Checksum, HashType
from mogile_core.errors import NodeError, NodeUnreachableError
from mogile_core.model import Host
from mogile_core.runtime.logs import get_log
from mogile_tracker.nodes import CopyInfo
from mogile_tracker.workers.base import Jobs
from mogile_tracker.workers.pacing import QUESTION, Load

PARALLEL = 64
DIGESTS_PER_DEVICE = 1
SILENT_RETRIES = 1.0  # of the first retry delay: so long a silent device is left alone

log = get_log(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is known of one copy. `known` False: the device did not answer; length None: it said that there is nothing."""

    known: bool
    length: int | None = None
    info: CopyInfo | None = None


UNKNOWN = Answer(known=False)
DAMAGED = -1  # a length no file has: bytes that their node refuses to give out
Copy = tuple[int, int]  # fid, devid


class Asker:
    """Asks for one worker, within the limits of a job."""

    def __init__(self, jobs: Jobs, job: str) -> None:
        self._jobs = jobs
        self._job = job
        self._silent: dict[int, float] = {}  # devid -> until when it is left alone
        self._digesting: dict[int, asyncio.Semaphore] = {}

    def silent_text(self) -> str:
        """The devices that did not answer lately, in words."""
        now = time.monotonic()
        silent = sorted(devid for devid, until in self._silent.items() if until > now)
        return f"no answer from {', '.join(f'dev{devid}' for devid in silent)}" if silent else "for a device"

    def _host(self, devid: int) -> Host | None:
        """The host to ask; None for devices that cannot be asked now."""
        if not self._jobs.topology.readable(devid):
            self._note_silent(devid, "not readable now")
            return None
        if self._silent.get(devid, 0.0) > time.monotonic():
            return None
        return self._jobs.topology.host_of(devid)

    def _note_silent(self, devid: int, reason: str) -> None:
        now = time.monotonic()
        if self._silent.get(devid, 0.0) <= now:
            host = self._jobs.topology.host_of(devid)
            address = host.hostip if host is not None else "no host"
            log.warning("Connectivity problem reaching device", devid=devid, host=address, reason=reason)
        self._silent[devid] = now + SILENT_RETRIES * self._jobs.settings.retry_base_seconds

    async def sizes(self, copies: Sequence[Copy]) -> dict[Copy, Answer]:
        """Lengths, the quick way; an answer of this kind never is reason enough to change a row."""
        gate = asyncio.Semaphore(PARALLEL)

        async def one(fid: int, devid: int) -> Answer:
            async with gate, self._jobs.governor.slots(self._job, [QUESTION]):
                host = self._host(devid)
                if host is None:
                    return UNKNOWN
                try:
                    return Answer(known=True, length=await self._jobs.nodes.size(host, devid, fid))
                except NodeUnreachableError as error:
                    self._note_silent(devid, str(error))
                except NodeError as error:
                    # It answers but cannot tell: a damaged copy, to be looked at properly.
                    log.info("size not told", fid=fid, devid=devid, reason=str(error))
                    return Answer(known=True, length=DAMAGED)
                return UNKNOWN

        answers = await asyncio.gather(*(one(fid, devid) for fid, devid in copies))
        return dict(zip(copies, answers, strict=True))

    async def describe(self, copies: Sequence[Copy]) -> dict[Copy, Answer]:
        """Length and copy id as the agent itself tells, which names its cluster in the same answer.

        That there is nothing is believed only of a device whose usage can be read right after: a lost disk has nothing either.
        """
        gate = asyncio.Semaphore(PARALLEL)

        async def one(fid: int, devid: int) -> Answer:
            async with gate, self._jobs.governor.slots(self._job, [QUESTION]):
                host = self._host(devid)
                return UNKNOWN if host is None else await self._describe(host, devid, fid)

        answers = await asyncio.gather(*(one(fid, devid) for fid, devid in copies))
        empty = {
            devid for (_, devid), found in zip(copies, answers, strict=True) if found.known and found.length is None
        }
        there = {devid for devid in empty if await self._is_there(devid)}
        return {
            copy: UNKNOWN if answer.known and answer.length is None and copy[1] not in there else answer
            for copy, answer in zip(copies, answers, strict=True)
        }

    async def _is_there(self, devid: int) -> bool:
        """The device is up and is the one that is meant."""
        host = self._host(devid)
        if host is None:
            return False
        try:
            usage = await self._jobs.nodes.usage(host, devid, timeout_seconds=self._jobs.settings.node_timeout_seconds)
        except NodeError as error:
            self._note_silent(devid, str(error))
            return False
        ours = usage.cluster_id in (None, self._jobs.topology.cluster_id) and usage.devid in (None, devid)
        if not ours:
            self._note_silent(devid, "not the device that is known by this number")
        return ours

    async def _describe(self, host: Host, devid: int, fid: int) -> Answer:
        try:
            info = await self._jobs.nodes.head(host, devid, fid)
        except NodeUnreachableError as error:
            self._note_silent(devid, str(error))
            return UNKNOWN
        except NodeError:
            # Our agent refuses a damaged copy, and keeps it in quarantine from then on; other nodes may still tell a length.
            try:
                length = await self._jobs.nodes.size(host, devid, fid)
            except NodeError as error:
                log.warning("copy cannot be described", fid=fid, devid=devid, reason=str(error))
                return UNKNOWN
            return Answer(known=True, length=DAMAGED if length is None else length)
        return Answer(known=True, length=None if info is None else info.length, info=info)

    async def digests(
        self, copies: Sequence[Copy], hashtype: HashType, lengths: Mapping[int, int]
    ) -> dict[Copy, Checksum | None]:
        """The digests of the bytes as the nodes read them now; copies that could not be read are left out, None is missing.

        `lengths`: of the files by fid, which is what reading a copy of them costs.
        """

        async def one(fid: int, devid: int) -> tuple[bool, Checksum | None]:
            gate = self._digesting.setdefault(devid, asyncio.Semaphore(DIGESTS_PER_DEVICE))
            if self._host(devid) is None:
                return False, None  # what cannot be read now does not wait for a limit, and is not paid for
            async with gate, self._jobs.governor.admitted(self._job, [Load((devid,), lengths[fid])]):
                host = self._host(devid)
                if host is None:
                    return False, None
                try:
                    return True, await self._jobs.nodes.digest(host, devid, fid, hashtype, reason="fsck")
                except NodeUnreachableError as error:
                    self._note_silent(devid, str(error))
                except NodeError as error:
                    log.warning("copy cannot be read", fid=fid, devid=devid, reason=str(error))
                return False, None

        answers = await asyncio.gather(*(one(fid, devid) for fid, devid in copies))
        return {copy: found for copy, (known, found) in zip(copies, answers, strict=True) if known}
