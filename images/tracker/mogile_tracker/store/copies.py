"""Copies of files: making them without bytes that no row knows, and removing them without ever removing too much.

*Making.* An intent row goes first (`intend`); a copy that is there turns it into a location (`made`), anything else turns it into a
copy delete (`not_made`, or `expire_intents` when the maker died). Where an older copy of the same fid waits to be deleted no intent is
given, so the late DELETE of that copy cannot meet a newer one.

*Removing.* `remove` is the most dangerous call of the tracker. One transaction: the lease is fenced, the files' rows are locked, the
device states are held still; then, in statements of their own and hence with fresh snapshots, locations and states are read again and
the caller's proof is asked about them; only then do locations become copy deletes. Never one statement with several parts: all its parts
would see the snapshot from before the locks, and two trimmers would each keep the copy the other one drops. Bytes are deleted by the
caller after the commit, with the copy id, and by the delete worker if the caller dies first.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mogile_core.model import DeviceState, HostState
from mogile_tracker.store.leases import Lease, fid_name
from mogile_tracker.store.postgres import Database
from mogile_tracker.store.queries import load


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCopies:
    """A file as a copying job sees it."""

    fid: int
    dmid: int
    classid: int
    length: int
    holders: tuple[int, ...]
    blocked: tuple[int, ...]  # devices where a copy is being deleted or made: no destination now
    hashtype: int | None = None
    checksum: bytes | None = None
    devcount: int | None = None  # as the file's row says


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A copy that is durable on its device."""

    fid: int
    devid: int
    copy_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """A copy that should go; `verified` are the devices whose copies were found sound on their nodes just before."""

    fid: int
    devid: int
    copy_id: str | None
    verified: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceNow:
    """The states of a device inside the removing transaction."""

    devid: int
    hostid: int
    status: DeviceState
    host_status: HostState
    out: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FileNow:
    """A file inside the removing transaction."""

    fid: int
    dmid: int
    classid: int
    holders: frozenset[int]


LOST_CODE = "GONE"  # fsck's word for a file that is on no device any more

Proof = Callable[[Removal, FileNow, Mapping[int, DeviceNow]], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyDelete:
    """A claimed copy delete."""

    fid: int
    devid: int
    copy_id: str | None
    nexttry: int
    failcount: int
    deleted: bool
    location: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyDeleteAgain:
    """A copy delete that shall be tried again later."""

    row: CopyDelete
    delay_seconds: float
    failcount: int
    deleted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """A walk over the files of a device that went `out` or came `back`."""

    devid: int
    why: str
    last_fid: int
    finished: bool
    again: bool  # a second one follows
    due: bool  # it may begin


class Copies:
    """Locations, intents and copy deletes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = load("copies")

    async def look(self, fids: Sequence[int]) -> dict[int, FileCopies | None]:
        """The files with their copies; None for those that are gone."""
        rows = await self._database.fetch(self._sql["look"], list(fids))
        return {row["fid"]: None if row["dmid"] is None else _file_copies(row) for row in rows}

    # ------------------------------------------------------------------ making

    async def intend(self, lease: Lease, copies: Sequence[tuple[int, int, float]]) -> set[tuple[int, int]]:
        """Announce copies (fid, devid, seconds they may take unattended); only those returned may be made."""

        async def work(connection: Any) -> set[tuple[int, int]]:
            await lease.fence(connection, (fid_name(fid) for fid, _, _ in copies))
            rows = await connection.fetch(self._sql["intend"], *_columns(copies))
            return {(row["fid"], row["devid"]) for row in rows}

        return await self._database.run(work) if copies else set()

    async def prolong(self, copies: Sequence[tuple[int, int, float]]) -> set[tuple[int, int]]:
        """The maker's heartbeat: copies under way may take that much longer from now; those whose intent still stands."""
        rows = await self._database.fetch(self._sql["prolong_intents"], *_columns(copies)) if copies else []
        return {(row["fid"], row["devid"]) for row in rows}

    async def made(
        self, lease: Lease, copies: Sequence[Made], checksums: Mapping[int, tuple[int, bytes]] | None = None
    ) -> set[tuple[int, int]]:
        """Copies become locations (returned); those of files that are gone, or whose intent has run out, are deleted again."""
        sums = sorted((checksums or {}).items())

        async def work(connection: Any) -> set[tuple[int, int]]:
            fids = sorted({copy.fid for copy in copies})
            await lease.fence(connection, map(fid_name, fids))
            await connection.fetch(self._sql["lock_files"], fids)
            rows = await connection.fetch(
                self._sql["made"],
                [copy.fid for copy in copies],
                [copy.devid for copy in copies],
                [copy.copy_id for copy in copies],
            )
            await connection.execute(self._sql["count_copies"], fids)
            if sums:
                await connection.execute(
                    self._sql["store_checksums"],
                    [fid for fid, _ in sums],
                    [hashtype for _, (hashtype, _) in sums],
                    [digest for _, (_, digest) in sums],
                )
            return {(row["fid"], row["devid"]) for row in rows}

        return await self._database.run(work) if copies else set()

    async def not_made(self, copies: Sequence[tuple[int, int, float]]) -> None:
        """Copies (fid, devid, delay) that failed: what there may be of them is deleted after the delay."""
        if copies:
            await self._database.execute(self._sql["not_made"], *_columns(copies))

    async def expire_intents(self, limit: int) -> int:
        """Intents of makers that died become copy deletes."""
        return await self._database.execute(self._sql["expire_intents"], limit)

    # ------------------------------------------------------------------ removing

    async def remove(
        self, lease: Lease, removals: Sequence[Removal], proof: Proof, *, claim_seconds: float
    ) -> list[CopyDelete]:
        """Take those copies away for which the proof holds on what is true now; the rows returned are the caller's to carry out."""

        async def work(connection: Any) -> list[CopyDelete]:
            fids = sorted({removal.fid for removal in removals})
            await lease.fence(connection, map(fid_name, fids))
            files = {row["fid"]: row for row in await connection.fetch(self._sql["lock_files"], fids)}
            await connection.fetch(self._sql["lock_devices"])
            holders: dict[int, set[int]] = {fid: set() for fid in files}
            for row in await connection.fetch(self._sql["locations"], sorted(files)):
                holders[row["fid"]].add(row["devid"])
            devices = {row["devid"]: _device_now(row) for row in await connection.fetch(self._sql["device_states"])}
            proven = []
            for removal in removals:
                on = holders.get(removal.fid, set())
                if removal.devid not in on:
                    continue
                row = files[removal.fid]
                now = FileNow(fid=removal.fid, dmid=row["dmid"], classid=row["classid"], holders=frozenset(on))
                if len(on) >= 2 and proof(removal, now, devices):
                    proven.append(removal)
                    on.discard(removal.devid)
            return await self._take(connection, proven, claim_seconds)

        return await self._database.run(work) if removals else []

    async def _take(self, connection: Any, proven: Sequence[Removal], claim_seconds: float) -> list[CopyDelete]:
        if not proven:
            return []
        rows = await connection.fetch(
            self._sql["take_locations"],
            [removal.fid for removal in proven],
            [removal.devid for removal in proven],
            [removal.copy_id for removal in proven],
            max(1, round(claim_seconds)),
        )
        await connection.execute(self._sql["count_copies"], sorted({removal.fid for removal in proven}))
        copy_ids = {(removal.fid, removal.devid): removal.copy_id for removal in proven}
        return [
            CopyDelete(
                fid=row["fid"],
                devid=row["devid"],
                copy_id=copy_ids[row["fid"], row["devid"]],
                nexttry=row["nexttry"],
                failcount=0,
                deleted=False,
                location=False,
            )
            for row in rows
        ]

    async def claim_deletes(self, limit: int, *, claim_seconds: float) -> list[CopyDelete]:
        """Due copy deletes."""
        rows = await self._database.fetch(self._sql["claim_copy_deletes"], limit, max(1, round(claim_seconds)))
        return [CopyDelete(**dict(row)) for row in rows]

    async def name_copy(self, row: CopyDelete, copy_id: str | None) -> bool:
        """Record which copy the order is about, as long as the claim holds; without that nothing may be deleted.

        While the row stands there is no newer copy at its place, so what was found since the claim is the copy that is meant.
        """
        named = self._sql["name_copy"]
        return await self._database.execute(named, row.fid, row.devid, row.nexttry, copy_id) > 0

    async def finish_deletes(self, rows: Sequence[CopyDelete]) -> None:
        """These copies are gone."""
        if rows:
            await self._database.execute(
                self._sql["finish_copy_deletes"],
                [row.fid for row in rows],
                [row.devid for row in rows],
                [row.nexttry for row in rows],
            )

    async def retry_deletes(self, again: Sequence[CopyDeleteAgain]) -> None:
        """Put copy deletes off."""
        if again:
            await self._database.execute(
                self._sql["retry_copy_deletes"],
                [each.row.fid for each in again],
                [each.row.devid for each in again],
                [each.row.nexttry for each in again],
                [each.delay_seconds for each in again],
                [min(each.failcount, 32767) for each in again],
                [each.deleted for each in again],
            )

    # ------------------------------------------------------------------ whole devices

    async def on_device(self, devid: int, after: int, limit: int) -> list[int]:
        """Fids on a device, in order."""
        rows = await self._database.fetch(self._sql["on_device"], devid, after, limit)
        return [row["fid"] for row in rows]

    async def urgency(self, fids: Sequence[int], not_counting: Iterable[int]) -> dict[int, int]:
        """Copies left elsewhere, for those of the fids that are files."""
        rows = await self._database.fetch(self._sql["urgency"], list(fids), sorted(not_counting))
        return {row["fid"]: row["copies"] for row in rows if row["exists"]}

    async def forget_dead(self, devid: int, fids: Sequence[int], dead: Iterable[int]) -> int:
        """Drop locations on a dead device, never a file's last one elsewhere; how many went."""

        async def work(connection: Any) -> int:
            await connection.fetch(self._sql["lock_files"], sorted(fids))
            await connection.fetch(self._sql["lock_devices"])
            rows = await connection.fetch(self._sql["forget_dead_copies"], devid, list(fids), sorted(dead))
            await connection.execute(self._sql["count_copies"], [row["fid"] for row in rows])
            return len(rows)

        return await self._database.run(work) if fids else 0

    async def lost_on(self, devid: int, limit: int) -> list[int]:
        """Files on a device that have no location on any device that is not dead."""
        rows = await self._database.fetch(self._sql["lost_on_device"], devid, limit)
        return [row["fid"] for row in rows]

    async def forget_lost(self, devid: int, fids: Sequence[int]) -> int:
        """Drop such locations on a dead device and write the loss into the log of fsck, in one transaction; how many went."""
        fsck = load("fsck")

        async def work(connection: Any) -> int:
            await connection.fetch(self._sql["lock_files"], sorted(fids))
            await connection.fetch(self._sql["lock_devices"])
            rows = await connection.fetch(self._sql["forget_lost_copies"], devid, list(fids))
            gone = sorted(row["fid"] for row in rows)
            await connection.execute(self._sql["count_copies"], gone)
            await connection.execute(fsck["lock_log"])
            await connection.execute(fsck["log"], gone, [LOST_CODE] * len(gone), [devid] * len(gone))
            return len(gone)

        return await self._database.run(work) if fids else 0

    async def walks(self) -> dict[int, Walk]:
        """Walks over devices by devid."""
        return {row["devid"]: Walk(**row) for row in await self._database.fetch(self._sql["walks"])}

    async def start_walk(self, devid: int, why: str, *, again_in_seconds: float) -> None:
        """Begin a walk, to be made a second time."""
        await self._database.execute(self._sql["start_walk"], devid, why, again_in_seconds)

    async def start_last_walk(self, devid: int, why: str) -> None:
        """Begin the second walk, if the first one is finished."""
        await self._database.execute(self._sql["start_last_walk"], devid, why)

    async def advance_walk(self, devid: int, why: str, last_fid: int, *, finished: bool) -> None:
        """Remember the place a walk has reached."""
        await self._database.execute(self._sql["advance_walk"], devid, why, last_fid, finished)

    async def end_walk(self, devid: int, why: str) -> None:
        """Forget a walk."""
        await self._database.execute(self._sql["end_walk"], devid, why)

    # ------------------------------------------------------------------ what the monitor measured

    async def record_space(self, space: Mapping[int, tuple[int, int]]) -> None:
        """devid -> (mb_total, mb_used)."""
        if space:
            await self._database.execute(
                self._sql["record_space"],
                list(space),
                [total for total, _ in space.values()],
                [used for _, used in space.values()],
            )

    async def record_volumes(self, volumes: Mapping[int, str]) -> None:
        """devid -> volume id; the first one stays."""
        if volumes:
            await self._database.execute(self._sql["record_volumes"], list(volumes), list(volumes.values()))

    async def volumes(self) -> dict[int, str]:
        """The volume every device is known by."""
        rows = await self._database.fetch(self._sql["volumes"])
        return {row["devid"]: str(row["volume_id"]) for row in rows}


def _columns(copies: Sequence[tuple[int, int, float]]) -> tuple[list[int], list[int], list[int]]:
    return [fid for fid, _, _ in copies], [devid for _, devid, _ in copies], [round(s) for _, _, s in copies]


def _file_copies(row: Any) -> FileCopies:
    return FileCopies(
        fid=row["fid"],
        dmid=row["dmid"],
        classid=row["classid"],
        length=row["length"] or 0,
        holders=tuple(row["holders"]),
        blocked=tuple({*row["busy_deleting"], *row["busy_copying"]}),
        hashtype=row["hashtype"],
        checksum=row["checksum"],
        devcount=row["devcount"],
    )


def _device_now(row: Any) -> DeviceNow:
    return DeviceNow(
        devid=row["devid"],
        hostid=row["hostid"],
        status=DeviceState(row["status"]),
        host_status=HostState(row["host_status"]),
        out=row["out"],
    )
