"""The queues of background work: claiming rows for a while, finishing them, putting them off.

A claim moves a row's `nexttry` a lease time ahead (FOR UPDATE SKIP LOCKED, one short transaction), so the rows of a killed worker are
due again within seconds. Finishing compares `nexttry` with the claimed value: a row that was queued again while it was worked on stays
and is looked at once more. All calls work on sets of rows. Claiming, finishing and putting off wait for no sync (`Database.run`): what a
crash of PostgreSQL undoes of them is due again and found done.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from mogile_tracker.store.postgres import Database
from mogile_tracker.store.queries import load

URGENT = 0  # nexttry of files with one copy left: with the new files, before everything else
DUE_NOW = 1  # nexttry of rows that go before everything with a time; 0 is for new files
NEVER = -1.0  # delay of rows that wait for somebody to queue them again
FAILCOUNT_MAX = 32767


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """One claimed row of the replication or the delete queue."""

    fid: int
    nexttry: int
    failcount: int
    fromdevid: int | None = None


class MoveKind(IntEnum):
    """On whose behalf a copy is moved: `file_to_queue.flags`; 0 is also what MogileFS writes."""

    REBALANCE = 0
    BALANCE = 1
    DRAIN = 2

    @property
    def job(self) -> str:
        """The job whose limits hold."""
        return self.name.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedMove:
    """One claimed move of a copy from a device to one of several others."""

    fid: int
    nexttry: int
    source: int
    destinations: tuple[int, ...]
    kind: MoveKind


@dataclass(frozen=True, slots=True, kw_only=True)
class PutOff:
    """A claimed row that shall be tried again later."""

    row: Claimed
    delay_seconds: float
    failcount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingMove:
    """A move that waits in the queue."""

    fid: int
    source: int
    destinations: tuple[int, ...]
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """How much waits, counted up to a limit."""

    to_replicate: int
    to_delete: int
    copies_to_delete: int
    to_move: int


_KINDS = {int(kind): kind for kind in MoveKind}


def _devids(text: str | None) -> tuple[int, ...]:
    words = (word.strip() for word in (text or "").split(","))
    return tuple(int(word) for word in words if word.isascii() and word.isdigit())


class Queues:
    """The queue tables."""

    def __init__(self, database: Database, *, claim_seconds: float) -> None:
        self._database = database
        self._claim_seconds = max(1, round(claim_seconds))
        self._sql = load("queues")

    # ------------------------------------------------------------------ replication

    async def claim_replicate(self, limit: int) -> list[Claimed]:
        """Due rows, most urgent first."""
        rows = await self._database.fetch(self._sql["claim_replicate"], limit, self._claim_seconds, durable=False)
        return [Claimed(**dict(row)) for row in rows]

    async def finish_replicate(self, rows: Sequence[Claimed]) -> None:
        """Drop rows, except those queued again meanwhile."""
        if rows:
            await self._database.execute(
                self._sql["finish_replicate"],
                [row.fid for row in rows],
                [row.nexttry for row in rows],
                durable=False,
            )

    async def retry_replicate(self, rows: Sequence[PutOff]) -> None:
        """Put rows off."""
        await self._put_off("retry_replicate", rows)

    async def _put_off(self, statement: str, rows: Sequence[PutOff]) -> None:
        if rows:
            await self._database.execute(
                self._sql[statement],
                [each.row.fid for each in rows],
                [each.row.nexttry for each in rows],
                [each.delay_seconds for each in rows],
                [min(each.failcount, FAILCOUNT_MAX) for each in rows],
                durable=False,
            )

    async def enqueue_replicate(self, fids: Sequence[int], *, nexttry: int = DUE_NOW) -> None:
        """Queue files for replication, or bring them forward."""
        if fids:
            await self._database.execute(self._sql["enqueue_replicate"], list(fids), [nexttry] * len(fids))

    async def enqueue_missing_replicate(self, fids: Sequence[int], *, nexttry: int = DUE_NOW) -> int:
        """Queue those files that are not queued at all; how many were."""
        if not fids:
            return 0
        return await self._database.execute(self._sql["enqueue_missing_replicate"], list(fids), [nexttry] * len(fids))

    async def bring_forward(self, limit: int) -> int:
        """Make rows due that wait after failures, however long; how many."""
        return await self._database.execute(self._sql["bring_forward"], self._claim_seconds + 1, limit)

    # ------------------------------------------------------------------ deletion

    async def claim_delete(self, limit: int) -> list[Claimed]:
        """Due rows of the delete queue."""
        rows = await self._database.fetch(self._sql["claim_delete"], limit, self._claim_seconds, durable=False)
        return [Claimed(**dict(row)) for row in rows]

    async def retry_delete(self, rows: Sequence[PutOff]) -> None:
        """Put rows off."""
        await self._put_off("retry_delete", rows)

    async def deletable(self, fids: Sequence[int]) -> dict[int, tuple[bool, tuple[int, ...]]]:
        """Per fid: whether the file still exists, and the devices with copies."""
        rows = await self._database.fetch(self._sql["deletable"], list(fids))
        return {row["fid"]: (row["exists"], tuple(row["holders"])) for row in rows}

    async def finish_delete(
        self, gone: Iterable[tuple[int, int]], emptied: Sequence[Claimed], dropped: Sequence[Claimed]
    ) -> None:
        """In one transaction: forget copies that are gone, then rows whose fids have nothing left, and rows that were a mistake."""
        copies = sorted(set(gone))
        rows = [*emptied, *dropped]

        async def work(connection: Any) -> None:
            await connection.execute(self._sql["forget_deleted"], [c[0] for c in copies], [c[1] for c in copies])
            await connection.execute(self._sql["forget_fids"], [row.fid for row in emptied])
            await connection.execute(
                self._sql["finish_delete"], [row.fid for row in rows], [row.nexttry for row in rows]
            )

        if copies or rows:
            await self._database.run(work, durable=False)

    async def expire_tempfiles(self, *, age_seconds: float, limit: int) -> int:
        """Uploads never closed go to the delete queue."""
        return await self._database.execute(self._sql["expired_tempfiles"], int(age_seconds), limit)

    async def drain_old_queues(self, limit: int) -> int:
        """MogileFS's two older delete queues move to the present one."""
        moved = await self._database.execute(self._sql["old_delete_queue"], limit)
        return moved + await self._database.execute(self._sql["old_delayed_deletes"], limit)

    # ------------------------------------------------------------------ moves

    async def claim_moves(self, limit: int) -> list[ClaimedMove]:
        """Due moves."""
        rows = await self._database.fetch(self._sql["claim_moves"], limit, self._claim_seconds, durable=False)
        return [
            ClaimedMove(
                fid=row["fid"],
                nexttry=row["nexttry"],
                source=row["devid"] or 0,
                destinations=_devids(row["arg"]),
                kind=_KINDS.get(row["flags"], MoveKind.REBALANCE),
            )
            for row in rows
        ]

    async def finish_moves(self, rows: Sequence[ClaimedMove]) -> None:
        """Drop moves."""
        if rows:
            await self._database.execute(
                self._sql["finish_moves"], [row.fid for row in rows], [row.nexttry for row in rows]
            )

    async def retry_moves(self, rows: Sequence[ClaimedMove], *, delay_seconds: float) -> None:
        """Put moves off."""
        if rows:
            await self._database.execute(
                self._sql["retry_moves"],
                [row.fid for row in rows],
                [row.nexttry for row in rows],
                [delay_seconds] * len(rows),
            )

    async def enqueue_moves(self, moves: Sequence[PendingMove], *, kind: MoveKind) -> None:
        """Queue moves; a fid has one at a time."""
        if moves:
            await self._database.execute(
                self._sql["enqueue_moves"],
                [move.fid for move in moves],
                [move.source for move in moves],
                [",".join(map(str, move.destinations)) for move in moves],
                [int(kind)] * len(moves),
            )

    async def pending_moves(self, limit: int) -> list[PendingMove]:
        """Moves that wait or are under way."""
        rows = await self._database.fetch(self._sql["pending_moves"], limit)
        return [
            PendingMove(
                fid=row["fid"], source=row["devid"] or 0, destinations=_devids(row["arg"]), length=row["length"]
            )
            for row in rows
        ]

    async def backlog(self, limit: int = 100_000) -> Backlog:
        """How much waits."""
        row = await self._database.fetchrow(self._sql["backlog"], limit)
        assert row is not None
        return Backlog(**dict(row))

    async def due(self, limit: int) -> dict[str, int]:
        """Rows that each job class has to do now, counted up to a limit."""
        row = await self._database.fetchrow(self._sql["due"], limit, self._claim_seconds + 1)
        assert row is not None
        return dict(row)
