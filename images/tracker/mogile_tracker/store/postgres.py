"""Connections to PostgreSQL and what their failures mean. The only module (with `migrate` and `engine`) that knows the driver.

`Database` is a small pool for work that is not coalesced: topology, admin commands, background jobs. Every method is one transaction.
Failures are sorted into three: UNREACHABLE (the server is gone, starting, or read-only: connect again), RETRYABLE (serialization,
deadlock, lost race on a unique key: run the transaction again) and the rest (a bug or bad data: StoreError).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

from mogile_core.errors import SettingError, StoreError, StoreUnavailableError
from mogile_core.runtime.logs import get_log
from mogile_core.runtime.workers import progress

CONNECT_TIMEOUT_SECONDS = 5.0
COMMAND_TIMEOUT_SECONDS = 30.0
LANE_TIMEOUT_SECONDS = 10.0  # a batch takes milliseconds: silence means that the server or the way to it is gone
IDLE_IN_TRANSACTION_SECONDS = 10  # no transaction of ours waits for anything but the database
STATEMENTS_KEPT = 200  # prepared per connection
RETRIES_MAX = 5

UNREACHABLE: tuple[type[BaseException], ...] = (
    OSError,
    TimeoutError,
    ssl.SSLError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.IdleSessionTimeoutError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.TransactionTimeoutError,
    asyncpg.TooManyConnectionsError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.TargetServerAttributeNotMatched,
)
RETRYABLE: tuple[type[BaseException], ...] = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.UniqueViolationError,
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
    asyncpg.InvalidCachedStatementError,  # an upgrade changed a column's type under a prepared statement
)

T = TypeVar("T")


def is_bad_value(error: BaseException) -> bool:
    """The driver could not even send a value: its error is an InterfaceError too, but the connection is fine and so is the database."""
    return isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError)


log = get_log(__name__)


def checked_dsn(dsn: str, password: str | None) -> str:
    """The DSN with the password put in; SettingError when it is no libpq URL."""
    if not dsn:
        raise SettingError("MOGILE_DB_DSN is missing: postgresql://user@host:5432/database")
    parts = urlsplit(dsn)
    if parts.scheme not in ("postgresql", "postgres"):
        raise SettingError(
            "MOGILE_DB_DSN must be a URL such as postgresql://user@host:5432/database (in mogilefsd.conf: DBI:Pg:..., only PostgreSQL)"
        )
    if password is None:
        return dsn
    user_info, _, address = parts.netloc.rpartition("@")
    user = user_info.partition(":")[0]
    if not user:
        raise SettingError("MOGILE_DB_DSN needs a user name when the password is given apart")
    return urlunsplit(parts._replace(netloc=f"{user}:{quote(password, safe='')}@{address}"))


async def connect(
    dsn: str,
    *,
    pooled: bool = False,
    server_settings: dict[str, str] | None = None,
    command_timeout_seconds: float | None = COMMAND_TIMEOUT_SECONDS,
    statements_kept: int = STATEMENTS_KEPT,
) -> asyncpg.Connection:
    """One connection to a server that takes writes, on terms that do not depend on what is usual there (`_insist`). `pooled`: behind a
    transaction-mode pooler, so nothing may stick to the session; ConnectionError where that would have to.
    """
    settings = {"application_name": "mogile-tracker"}
    if not pooled:
        # A tracker that is frozen inside a transaction (a stopped process, a paused machine) must not keep its row locks from the others.
        settings["idle_in_transaction_session_timeout"] = f"{IDLE_IN_TRANSACTION_SECONDS * 1000}"
        settings.update(server_settings or {})
    connection = await asyncpg.connect(
        dsn,
        timeout=CONNECT_TIMEOUT_SECONDS,
        command_timeout=command_timeout_seconds,
        statement_cache_size=0 if pooled else statements_kept,
        target_session_attrs="read-write",
        server_settings=settings,
    )
    try:
        await _insist(connection, pooled=pooled)
    except BaseException:
        connection.terminate()
        raise
    return connection


async def _insist(connection: asyncpg.Connection, *, pooled: bool) -> None:
    """Two things may be usual for a server, a database or a user with which our promises would not hold.

    `synchronous_commit` off is a favourite way to make a database of MogileFS's faster. A crash then takes back uploads that were
    acknowledged, and rows of copies whose bytes have been deleted since. Other values than off are the operator's choice and stay.
    An isolation above read committed has all statements of a transaction look at one snapshot, so the one that removes a copy would
    still count copies that others have just removed (tried: 100 of 100 files without any).
    """
    found = await connection.fetchrow(
        "SELECT current_setting('synchronous_commit') AS syncs, current_setting('default_transaction_isolation') AS isolation",
        timeout=CONNECT_TIMEOUT_SECONDS,
    )
    wanted = {}
    if found["syncs"] == "off":
        wanted["synchronous_commit"] = "on"
    if found["isolation"] != "read committed":
        wanted["default_transaction_isolation"] = "'read committed'"
    if wanted and pooled:
        fix = "; ".join(f"ALTER ROLE ... SET {name} = {value}" for name, value in wanted.items())
        raise ConnectionError(
            f"{' and '.join(wanted)} of this database user would lose files, and behind a pooler it is set at the server only: {fix}"
        )
    for name, value in wanted.items():
        await connection.execute(f"SET {name} = {value}", timeout=CONNECT_TIMEOUT_SECONDS)


class Database:
    """A bounded pool. Broken connections are replaced; an operation that lost its connection before COMMIT is run again."""

    def __init__(self, dsn: str, *, connections: int = 4, pooled: bool = False) -> None:
        self.dsn = dsn
        self.pooled = pooled
        self._free: list[asyncpg.Connection] = []
        self._slots = asyncio.Semaphore(connections)
        self._closed = False

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection of the pool; StoreUnavailableError when there is none to be had."""
        async with self._slots:
            connection = await self._take()
            try:
                yield connection
            except UNREACHABLE as error:
                if is_bad_value(error):
                    raise StoreError(str(error)) from error
                connection.terminate()
                raise StoreUnavailableError(f"lost PostgreSQL: {error}") from error
            finally:
                if self._closed or connection.is_closed() or connection.is_in_transaction():
                    connection.terminate()
                else:
                    self._free.append(connection)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection inside a transaction that commits at the end of the block."""
        async with self.connection() as connection, connection.transaction():
            yield connection

    async def run(self, work: Callable[[asyncpg.Connection], Awaitable[T]], *, durable: bool = True) -> T:
        """`work` in one transaction, again after a deadlock, a lost race or (at most once) a lost connection; StoreError otherwise.

        A connection lost at COMMIT leaves the outcome open, so `work` must be harmless to repeat. Without `durable` COMMIT waits for no
        sync: a crash of PostgreSQL may undo what was committed within the last second, unless a durable commit came after it. That is for
        what merely says who works on what, where the undone state leads to the same work again; so commands wait for fewer syncs of others.
        """
        for attempt in range(1, RETRIES_MAX + 1):
            try:
                async with self.transaction() as connection:
                    if not durable:
                        await connection.execute("SET LOCAL synchronous_commit = off")
                    result = await work(connection)
                progress()
                return result
            except RETRYABLE as error:
                if attempt == RETRIES_MAX:
                    raise StoreError(f"{type(error).__name__}: {error}") from error
                await asyncio.sleep(0.005 * attempt)
            except StoreUnavailableError:
                if attempt > 1:
                    raise
            except asyncpg.PostgresError as error:
                raise StoreError(f"{type(error).__name__}: {error}") from error
        raise AssertionError("unreachable")

    async def fetch(self, query: str, *args: object, durable: bool = True) -> list[asyncpg.Record]:
        """All rows of one statement."""
        return await self.run(lambda connection: connection.fetch(query, *args), durable=durable)

    async def fetchrow(self, query: str, *args: object) -> asyncpg.Record | None:
        """The first row of one statement."""
        return await self.run(lambda connection: connection.fetchrow(query, *args))

    async def fetchval(self, query: str, *args: object) -> Any:
        """The first column of the first row."""
        return await self.run(lambda connection: connection.fetchval(query, *args))

    async def execute(self, query: str, *args: object, durable: bool = True) -> int:
        """Run one statement; the number of rows it touched."""
        status: str = await self.run(lambda connection: connection.execute(query, *args), durable=durable)
        count = status.rpartition(" ")[2]
        return int(count) if count.isdigit() else 0

    async def close(self) -> None:
        """Drop all connections; those in use go when their block ends."""
        self._closed = True
        while self._free:
            await self._free.pop().close(timeout=2)

    async def _take(self) -> asyncpg.Connection:
        while self._free:
            connection = self._free.pop()
            if not connection.is_closed():
                return connection
        try:
            return await connect(self.dsn, pooled=self.pooled)
        except UNREACHABLE as error:
            raise StoreUnavailableError(f"cannot connect to PostgreSQL: {error}") from error
        except asyncpg.PostgresError as error:
            raise StoreUnavailableError(f"PostgreSQL refuses the connection: {error}") from error
