"""Files on disks that no row accounts for: the walks that look for them, what they found, and taking it away.

A walk lists a part of a device first and reads the rows after, so bytes that were given a row meanwhile are known by then; whoever walks
asks the node again about what is left, so bytes that were deleted meanwhile are gone by then. Only what is seen in all three is an orphan.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mogile_tracker.store.leases import Lease, fid_name
from mogile_tracker.store.postgres import Database
from mogile_tracker.store.queries import load

LISTED_MAX = 10_000  # per device; those beyond are counted, and listed by the next walk


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """A walk over one device."""

    devid: int
    last_fid: int
    min_age: int
    files: int
    orphans: int
    missing: int
    state: str
    problem: str
    started: int
    ended: int | None
    listed: int
    pending: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphan:
    """A file on a disk that no row accounts for."""

    devid: int
    fid: int
    length: int
    mtime: int
    is_file: bool
    todo: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """A fid on a disk without a row; `length` is that of the file by that fid, if there is one."""

    fid: int
    is_file: bool
    length: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What one step of a walk came to."""

    last_fid: int
    files: int = 0
    orphans: int = 0
    missing: int = 0
    finished: bool = False
    problem: str = ""


class OrphanStore:
    """Walks and lists."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = load("orphans")

    async def walks(self) -> list[Walk]:
        """All of them, by device."""
        return [Walk(**dict(row)) for row in await self._database.fetch(self._sql["walks"])]

    async def start(self, devids: Iterable[int], *, min_age: int) -> None:
        """Walk over devices from the first fid; what an earlier walk listed is forgotten."""
        wanted = sorted(devids)

        async def work(connection: Any) -> None:
            await connection.execute(self._sql["start"], wanted, min_age)
            await connection.execute(self._sql["forget_listed"], wanted)

        await self._database.run(work)

    async def stop(self, devids: Iterable[int]) -> None:
        """Leave walks where they are."""
        await self._database.execute(self._sql["stop"], sorted(devids))

    async def unknown(self, devid: int, fids: Sequence[int]) -> list[Unknown]:
        """Those of the fids on a device that no row accounts for."""
        rows = await self._database.fetch(self._sql["unknown"], devid, list(fids)) if fids else []
        return [Unknown(**dict(row)) for row in rows]

    async def not_there(self, devid: int, after: int, last: int, there: Sequence[int], limit: int) -> list[int]:
        """The first files recorded on a device between two fids that are not among those that lie there."""
        rows = await self._database.fetch(self._sql["not_there"], devid, after, last, list(there), limit)
        return [row["fid"] for row in rows]

    async def advance(self, walk: Walk, found: Sequence[Orphan], progress: Progress) -> list[int] | None:
        """List what was found and remember the place, in one transaction: the fids listed anew, None when the walk was begun anew."""

        async def work(connection: Any) -> list[int] | None:
            status: str = await connection.execute(
                self._sql["advance"],
                walk.devid,
                walk.last_fid,
                progress.last_fid,
                progress.files,
                progress.orphans,
                progress.missing,
                progress.finished,
                progress.problem,
            )
            if status.endswith(" 0"):
                return None
            rows = await connection.fetch(
                self._sql["list"],
                walk.devid,
                [orphan.fid for orphan in found],
                [orphan.length for orphan in found],
                [orphan.mtime for orphan in found],
                [orphan.is_file for orphan in found],
                LISTED_MAX,
            )
            return [row["fid"] for row in rows]

        return await self._database.run(work)

    async def page(self, devid: int | None, after: tuple[int, int], limit: int) -> list[Orphan]:
        """Listed orphans after (devid, fid)."""
        rows = await self._database.fetch(self._sql["page"], devid, *after, limit)
        return [Orphan(**dict(row)) for row in rows]

    async def order(self, devid: int | None, todo: str) -> int:
        """Have listed orphans removed or adopted; how many."""
        return await self._database.execute(self._sql["order"], devid, todo)

    async def ordered(self, limit: int, devids: Iterable[int]) -> list[Orphan]:
        """Orphans on these devices that something shall be done about."""
        rows = await self._database.fetch(self._sql["ordered"], limit, sorted(devids))
        return [Orphan(**dict(row)) for row in rows]

    async def settle(self, orphans: Sequence[tuple[Orphan, bool]]) -> None:
        """What was ordered is done: they leave the list, or (True) stay in it because it cannot be done."""
        if orphans:
            await self._database.execute(
                self._sql["settle"],
                [orphan.devid for orphan, _ in orphans],
                [orphan.fid for orphan, _ in orphans],
                [kept for _, kept in orphans],
            )

    async def remove(self, lease: Lease, copies: Sequence[tuple[int, int, str | None]]) -> set[tuple[int, int]]:
        """Orphans (fid, devid, copy id) become copy deletes, unless they have a row by now; those that did."""
        fids = sorted({fid for fid, _, _ in copies})

        async def work(connection: Any) -> set[tuple[int, int]]:
            await lease.fence(connection, map(fid_name, fids))
            await connection.fetch(load("copies")["lock_files"], fids)
            rows = await connection.fetch(
                self._sql["remove"],
                [fid for fid, _, _ in copies],
                [devid for _, devid, _ in copies],
                [copy_id for _, _, copy_id in copies],
            )
            return {(row["fid"], row["devid"]) for row in rows}

        return await self._database.run(work) if copies else set()
