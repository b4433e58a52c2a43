"""Did it commit? A connection that is lost while COMMIT is under way leaves that open; the answer here is exact.

A transaction that must not be done twice writes a mark of its own in the same transaction: one row per connection with the number of its
batch. Whoever lost the connection upserts that row anywhere else: the upsert waits until the lost transaction has ended, and then finds
its number, or takes its place, so that one that has not left its mark yet cannot any more. A transaction id would not do: after a
failover, or a crash, another transaction may have been given the same one.
Marks of connections that are gone are swept.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple, TypeVar

import asyncpg

from mogile_core.errors import StoreError, StoreUnavailableError
from mogile_core.runtime.logs import get_log
from mogile_tracker.store.postgres import RETRIES_MAX, RETRYABLE, UNREACHABLE, Database, connect
from mogile_tracker.store.queries import load

SETTLE_PAUSE_SECONDS = 0.1
SETTLE_SECONDS_MAX = 10.0
SQL = load("engine")
T = TypeVar("T")
log = get_log(__name__)


class CommitMark:
    """The mark of one connection: `lane` names it for ever, `batch` counts its transactions."""

    __slots__ = ("batch", "lane")

    def __init__(self) -> None:
        self.lane = uuid.uuid4()
        self.batch = 0

    def next(self) -> int:
        """The number of the transaction that begins now."""
        self.batch += 1
        return self.batch


class Settled(NamedTuple):
    """`committed` False: it did not and never will. `outcome`: the numbers it left with its mark."""

    committed: bool
    outcome: list[int]


async def settle(
    connect: Callable[[], Awaitable[asyncpg.Connection]], mark: CommitMark, *, seconds: float = SETTLE_SECONDS_MAX
) -> Settled | None:
    """What became of the last transaction of a lost connection; None: not to be found out in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            connection = await connect()
        except (*UNREACHABLE, asyncpg.PostgresError):  # refused for whatever reason: wait for better days
            await asyncio.sleep(SETTLE_PAUSE_SECONDS)
            continue
        try:
            async with connection.transaction():
                row = await connection.fetchrow(SQL["settle"], mark.lane, mark.batch)
            return Settled(row["batch"] == mark.batch, row["outcome"] or [])
        except (*UNREACHABLE, *RETRYABLE):
            await asyncio.sleep(SETTLE_PAUSE_SECONDS)
        except asyncpg.PostgresError as error:
            log.warning("the outcome of a transaction cannot be looked up", error=error)
            return None
        finally:
            connection.terminate()
    return None


async def run_once(database: Database, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
    """`Database.run` for work that must not be done twice: a connection lost at COMMIT is settled, not guessed."""
    for attempt in range(1, RETRIES_MAX + 1):
        mark, results = CommitMark(), []
        try:
            async with database.transaction() as connection:
                await connection.execute(SQL["mark"], mark.lane, mark.next())
                results.append(await work(connection))
            return results[0]
        except RETRYABLE as error:
            if attempt == RETRIES_MAX:
                raise StoreError(f"{type(error).__name__}: {error}") from error
            await asyncio.sleep(0.005 * attempt)
        except StoreUnavailableError as error:
            if results:  # it was lost at COMMIT
                settled = await settle(partial(connect, database.dsn, pooled=database.pooled), mark)
                if settled is None:
                    raise StoreError("the database was lost at commit and does not know the outcome") from error
                if settled.committed:
                    return results[0]
            if attempt > 1:
                raise
        except asyncpg.PostgresError as error:
            raise StoreError(f"{type(error).__name__}: {error}") from error
    raise AssertionError("unreachable")


async def sweep(database: Database, limit: int = 1000) -> int:
    """Drop the marks of connections that are long gone."""
    return await database.execute(SQL["sweep_commits"], limit)
