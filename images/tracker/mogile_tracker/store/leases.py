"""Leases: who works on what until when, on the database's clock.

A claim has a random token. While its owner works, a heartbeat renews it; the transaction that writes the result locks the lease rows
and checks the token (`Lease.fence`), so an owner that was stopped and came back late changes nothing. No transaction is held while
anything but the database is waited for, and nothing here is tied to a session, so a pooler in transaction mode does no harm. Claims wait
for no sync: a crash of PostgreSQL that undoes one lets somebody else claim the same, and the fence stops the first; what was committed
durably under a claim has made the claim durable, too, because it came before in the log.

Names: `fid:<n>` for one file (replication, moves and deletes exclude each other on it), plain words for jobs that one tracker does.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from mogile_core.errors import StoreError
from mogile_core.runtime import workers
from mogile_core.runtime.logs import get_log
from mogile_tracker.store import commits
from mogile_tracker.store.postgres import Database
from mogile_tracker.store.queries import load

LEASE_SECONDS_DEFAULT = 15.0
HEARTBEATS_PER_LEASE = 3

log = get_log(__name__)


class OfFile(Protocol):
    """A row about one file."""

    @property
    def fid(self) -> int: ...


ROW = TypeVar("ROW", bound=OfFile)


class LeaseLostError(StoreError):
    """A lease ran out before its work was written; somebody else may have taken over."""

    retryable = True


def fid_name(fid: int) -> str:
    """The lease of one file."""
    return f"fid:{fid}"


class Lease:
    """What one claim obtained; renewed while it is entered as a context."""

    def __init__(self, database: Database, *, token: str, names: frozenset[str], seconds: float) -> None:
        self._database = database
        self._token = token
        self._seconds = seconds
        self._beat: asyncio.Task[None] | None = None
        self.names = names

    def holds_fid(self, fid: int) -> bool:
        """True when the claim obtained this file."""
        return fid_name(fid) in self.names

    async def fence(self, connection: Any, names: Iterable[str]) -> None:
        """Inside the transaction that writes: lock the lease rows; LeaseLostError unless all of them are still ours."""
        wanted = sorted(set(names))
        rows = await connection.fetch(load("leases")["fence"], self._token, wanted)
        if len(rows) != len(wanted):
            raise LeaseLostError

    async def __aenter__(self) -> Self:
        if self.names:
            self._beat = asyncio.create_task(self._heartbeat(), name="lease heartbeat")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._beat is not None:
            self._beat.cancel()
            await asyncio.gather(self._beat, return_exceptions=True)
        if self.names:
            try:
                await self._database.execute(load("leases")["release"], self._token, durable=False)
            except StoreError as problem:
                log.warning("lease not given back, it will run out", reason=str(problem))

    async def _heartbeat(self) -> None:
        workers.apart()
        while True:
            await asyncio.sleep(self._seconds / HEARTBEATS_PER_LEASE)
            try:
                await self._database.execute(load("leases")["renew"], self._token, self._seconds, durable=False)
            except StoreError as problem:
                # The fence decides whether the lease held; a missed beat alone is no reason to stop.
                log.warning("lease not renewed", reason=str(problem))


class Leases:
    """Takes leases for one owner."""

    def __init__(self, database: Database, *, owner: str, seconds: float = LEASE_SECONDS_DEFAULT) -> None:
        self._database = database
        self._owner = owner
        self.seconds = seconds

    async def take(self, names: Iterable[str]) -> Lease:
        """Those of the names that nobody holds; enter the result to keep them renewed."""
        token = str(uuid.uuid4())
        wanted = sorted(set(names))
        rows = []
        if wanted:
            rows = await self._database.fetch(
                load("leases")["acquire"], wanted, self._owner, token, self.seconds, durable=False
            )
        return Lease(self._database, token=token, names=frozenset(row["what"] for row in rows), seconds=self.seconds)

    async def take_fids(self, fids: Iterable[int]) -> Lease:
        """Leases on files."""
        return await self.take(fid_name(fid) for fid in fids)

    @asynccontextmanager
    async def of_files(self, rows: Sequence[ROW]) -> AsyncIterator[tuple[Lease, list[ROW], list[ROW]]]:
        """Work on the files of claimed rows: the lease, the rows whose files it holds, and those whose files somebody else works on."""
        lease = await self.take_fids(row.fid for row in rows)
        async with lease:
            mine = [row for row in rows if lease.holds_fid(row.fid)]
            yield lease, mine, [row for row in rows if not lease.holds_fid(row.fid)]

    @asynccontextmanager
    async def only_one(self, what: str) -> AsyncIterator[Lease | None]:
        """A job that one tracker at a time does: the lease, or None when another tracker has it."""
        lease = await self.take([what])
        async with lease:
            yield lease if lease.names else None

    async def sweep(self, limit: int = 1000) -> int:
        """Drop rows of owners that died, and marks of connections that are gone."""
        await commits.sweep(self._database, limit)
        return await self._database.execute(load("leases")["sweep"], limit)
