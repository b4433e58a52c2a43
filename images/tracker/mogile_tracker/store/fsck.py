"""Fsck's state, queue and log.

The state of a run is in MogileFS's own settings (`fsck_*`), so that its tools see it; what a run is limited to is ours (`mogile_fsck`).
Changes of the state take the lock of the rebalance settings, because the two must not run at once. Events are logged and counted in one
transaction.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mogile_core.checksum import Checksum
from mogile_tracker.policy.fsck import Event
from mogile_tracker.store.leases import Lease, fid_name
from mogile_tracker.store.postgres import Database
from mogile_tracker.store.queries import load
from mogile_tracker.store.queues import FAILCOUNT_MAX, Claimed, PutOff

COUNT_PREFIX = "fsck_sum_evcount_"
LOG_PAGE_MAX = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a run is limited to; None is no limit. The prefix is as `file.dkey` has it."""

    dmid: int | None = None
    classid: int | None = None
    prefix: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One event."""

    fid: int
    event: Event
    devid: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a run: `fids` are wanted among `scanned` files up to `last_fid` (None: there was nothing left)."""

    scanned: int
    last_fid: int | None
    fids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """What a decision about the state of fsck comes to: settings to change (None unsets), counts to forget, a scope to set."""

    settings: Mapping[str, str | None]
    forget_counts: bool = False
    scope: Scope | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What such a decision is made from."""

    settings: Mapping[str, str]
    scope: Scope
    max_fid: int
    max_logid: int
    now: int


class FsckStore:
    """One per process that checks or is asked about it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = load("fsck")

    # ------------------------------------------------------------------ state of a run

    async def state(self) -> State:
        """Everything at this moment."""
        return await self._database.run(self._state)

    async def _state(self, connection: Any) -> State:
        settings = {row["field"]: row["value"] for row in await connection.fetch(self._sql["settings"])}
        scope = await connection.fetchrow(self._sql["scope"])
        return State(
            settings=settings,
            scope=Scope(**dict(scope)) if scope is not None else Scope(),
            max_fid=await connection.fetchval(self._sql["max_fid"]),
            max_logid=await connection.fetchval(self._sql["max_logid"]),
            now=await connection.fetchval(self._sql["database_time"]),
        )

    async def change(self, decide: Callable[[State], Begin]) -> None:
        """Read the state and change it, alone; what `decide` raises leaves everything as it is."""

        async def work(connection: Any) -> None:
            await connection.execute(load("rebalance")["lock"])
            await connection.execute(self._sql["lock_log"])
            begin = decide(await self._state(connection))
            if begin.forget_counts:
                await connection.execute(self._sql["forget_counts"])
            if begin.scope is not None:
                scope = begin.scope
                await connection.execute(self._sql["set_scope"], scope.dmid, scope.classid, scope.prefix)
            await self._store(connection, begin.settings)

        await self._database.run(work)

    async def _store(self, connection: Any, settings: Mapping[str, str | None]) -> None:
        rebalance = load("rebalance")
        for field, value in settings.items():
            if value is not None:
                await connection.execute(rebalance["set"], field, value)
        unset = [field for field, value in settings.items() if value is None]
        if unset:
            await connection.execute(rebalance["unset"], unset)

    async def next_part(self, after: int, last: int, limit: int, scope: Scope) -> Part:
        """The next files of a run."""
        row = await self._database.fetchrow(
            self._sql["next_part"], after, last, limit, scope.dmid, scope.classid, scope.prefix
        )
        assert row is not None
        return Part(scanned=row["scanned"], last_fid=row["last_fid"], fids=tuple(row["fids"]))

    async def queue_part(self, part: Part, after: int, settings: Mapping[str, str | None]) -> bool:
        """Queue a part and remember the place, in one transaction; False when the run was stopped or has moved meanwhile."""

        async def work(connection: Any) -> bool:
            await connection.execute(load("rebalance")["lock"])
            found = {row["field"]: row["value"] for row in await connection.fetch(self._sql["settings"])}
            if not found.get("fsck_host") or (found.get("fsck_highest_fid_checked") or "0") != str(after):
                return False
            await connection.execute(self._sql["enqueue"], list(part.fids))
            await self._store(connection, settings)
            return True

        return await self._database.run(work)

    # ------------------------------------------------------------------ queue

    async def enqueue(self, fids: Sequence[int]) -> None:
        """Have files checked, whether a run is under way or not."""
        if fids:
            await self._database.execute(self._sql["enqueue"], list(fids))

    async def queued(self, limit: int) -> tuple[int, int]:
        """Checks that are due or under way, and those that wait for a device, each counted up to a limit."""
        row = await self._database.fetchrow(self._sql["queued"], limit)
        assert row is not None
        return row["due"], row["waiting"]

    async def claim(self, limit: int, *, claim_seconds: float) -> list[Claimed]:
        """Due checks."""
        rows = await self._database.fetch(self._sql["claim"], limit, max(1, round(claim_seconds)))
        return [Claimed(**dict(row)) for row in rows]

    async def finish(self, rows: Sequence[Claimed]) -> None:
        """Checked."""
        if rows:
            await self._database.execute(self._sql["finish"], [row.fid for row in rows], [row.nexttry for row in rows])

    async def retry(self, rows: Sequence[PutOff]) -> None:
        """To be checked again later."""
        if rows:
            await self._database.execute(
                self._sql["retry"],
                [each.row.fid for each in rows],
                [each.row.nexttry for each in rows],
                [each.delay_seconds for each in rows],
                [min(each.failcount, FAILCOUNT_MAX) for each in rows],
            )

    # ------------------------------------------------------------------ log

    async def log(self, findings: Sequence[Finding], *, checked: int = 0) -> None:
        """Log events and count them, and the files that were checked."""
        if not findings and not checked:
            return
        counts = Counter(COUNT_PREFIX + finding.event for finding in findings)
        if checked:
            counts["fsck_fids_checked"] = checked

        async def work(connection: Any) -> None:
            await connection.execute(self._sql["lock_log"])
            if findings:
                await connection.execute(
                    self._sql["log"],
                    [finding.fid for finding in findings],
                    [finding.event.value for finding in findings],
                    [finding.devid for finding in findings],
                )
                await connection.execute(self._sql["log_is_counted"])
            await connection.execute(self._sql["add_counts"], list(counts), list(counts.values()))

        await self._database.run(work)

    async def read_log(self, after: int) -> list[Mapping[str, object]]:
        """A page of events."""
        rows = await self._database.fetch(self._sql["read_log"], after, LOG_PAGE_MAX)
        return [dict(row) for row in rows]

    async def clear_log(self) -> None:
        """Forget all events; their counts stay."""
        await self._database.execute(self._sql["clear_log"])

    # ------------------------------------------------------------------ what a check changes

    async def settle(
        self,
        lease: Lease,
        *,
        found: Sequence[tuple[int, int]] = (),
        lost: Sequence[tuple[int, int]] = (),
        checksums: Mapping[int, Checksum] | None = None,
        recount: Iterable[int] = (),
    ) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
        """In one fenced transaction: add copies that were found, forget locations of lost files, store digests, correct counts.

        Returns the (fid, devid) really added and really forgotten.
        """
        sums = sorted((checksums or {}).items())
        fids = sorted({fid for fid, _ in (*found, *lost)} | {fid for fid, _ in sums} | set(recount))
        copies = load("copies")

        async def work(connection: Any) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
            await lease.fence(connection, map(fid_name, fids))
            await connection.fetch(copies["lock_files"], fids)
            await connection.fetch(copies["lock_devices"])
            added, gone = [
                {(row["fid"], row["devid"]) for row in await connection.fetch(self._sql[name], *_columns(pairs))}
                for name, pairs in (("add_locations", found), ("forget_lost", lost))
            ]
            if sums:
                await connection.execute(
                    self._sql["set_checksums"],
                    [fid for fid, _ in sums],
                    [int(checksum.hashtype) for _, checksum in sums],
                    [checksum.digest for _, checksum in sums],
                )
            await connection.execute(copies["count_copies"], fids)
            return added, gone

        return await self._database.run(work) if fids else (set(), set())


def _columns(pairs: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    return [fid for fid, _ in pairs], [devid for _, devid in pairs]
