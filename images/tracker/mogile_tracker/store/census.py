"""Counting files without ever counting all of them at once, and what the balancer has to remember."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mogile_tracker.policy.balance import PlacedFile
from mogile_tracker.policy.totals import Totals
from mogile_tracker.store.postgres import Database
from mogile_tracker.store.queries import load


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """Files that share class and holders."""

    dmid: int
    classid: int
    holders: tuple[int, ...]
    files: int
    bytes: int
    last_fid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """Totals and how far they can be relied on: `complete` is False while the very first pass is under way."""

    totals: Totals
    counted_at: int
    complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceRecord:
    """What the automatic balancer has done and last saw."""

    moved_fids: int = 0
    moved_bytes: int = 0
    spread_percent: float = 0.0


class CensusStore:
    """Passes over `file`, the totals they left, the balancer's memory."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = load("census")

    async def patterns(self, after: int, limit: int) -> list[Pattern]:
        """The next `limit` files, grouped."""
        rows = await self._database.fetch(self._sql["patterns"], after, limit)
        return [Pattern(**{**dict(row), "holders": tuple(row["holders"])}) for row in rows]

    async def rows(self, after: int, limit: int) -> list[PlacedFile]:
        """The next `limit` files, one by one."""
        return _placed(await self._database.fetch(self._sql["rows"], after, limit))

    async def sample(self, devid: int, after: int, limit: int) -> list[PlacedFile]:
        """Files on a device, in order from a place, that no move is queued for."""
        return _placed(await self._database.fetch(self._sql["sample"], devid, after, limit))

    async def load(self, which: str) -> tuple[int, Totals] | None:
        """A stored census with the fid it has reached."""
        row = await self._database.fetchrow(self._sql["load"], which)
        return None if row is None else (row["last_fid"], Totals.from_data(json.loads(row["totals"])))

    async def ended_at(self, which: str) -> float | None:
        """When a stored census was written."""
        value = await self._database.fetchval(self._sql["ended_at"], which)
        return None if value is None else float(value)

    async def counted(self) -> Counted | None:
        """What can be answered without counting: the last complete pass, else the one under way, else None."""
        rows = {row["which"]: row for row in await self._database.fetch(self._sql["counted"])}
        row = rows.get("complete") or rows.get("running")
        if row is None:
            return None
        totals = Totals.from_data(json.loads(row["totals"]))
        return Counted(totals=totals, counted_at=row["counted_at"], complete="complete" in rows)

    async def save(self, which: str, last_fid: int, totals: Totals) -> None:
        """Store a census."""
        await self._database.execute(self._sql["save"], which, last_fid, json.dumps(totals.to_data()))

    async def balance(self) -> BalanceRecord:
        """The balancer's memory."""
        row = await self._database.fetchrow(self._sql["balance"])
        if row is None:
            return BalanceRecord()
        return BalanceRecord(
            moved_fids=row["moved_fids"], moved_bytes=row["moved_bytes"], spread_percent=row["spread_percent"]
        )

    async def note_spread(self, percent: float) -> None:
        """The spread that was found."""
        await self._database.execute(self._sql["note_spread"], percent)

    async def note_moved(self, fids: int, bytes_: int) -> None:
        """Moves carried out."""
        if fids:
            await self._database.execute(self._sql["note_moved"], fids, bytes_)


def _placed(rows: Sequence[Any]) -> list[PlacedFile]:
    return [PlacedFile(**{**dict(row), "holders": tuple(row["holders"])}) for row in rows]
