"""Brings a database to the schema this release needs: creates what is missing, adopts an existing MogileFS database, applies migrations.

What is to be done is decided by `schema` (a `Plan`); this module does it. An up-to-date database is only looked at. Otherwise everything
but the index is one transaction under one advisory lock, so several trackers may start at once and an interrupted run leaves nothing
half done; it never waits long for a table (others would queue up behind it) but lets go and tries again. `file` and `file_on` are never
altered: their only change is an index, built CONCURRENTLY outside the transaction by one program at a time; what a killed builder left is
recognised (its server process may still be at work) and built anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import asyncpg

from mogile_core.errors import StoreError, StoreUnavailableError
from mogile_core.runtime.logs import get_log
from mogile_tracker.store.postgres import UNREACHABLE, connect
from mogile_tracker.store.queries import load, sql_file
from mogile_tracker.store.schema import (
    BYTE_ORDER_INDEX,
    FID_SEQUENCE,
    SCHEMA_VERSION,
    Origin,
    Plan,
    plan_upgrade,
    read_catalogue,
)

NEW_CLUSTER_WRITE_COPIES = "2"  # adopted databases keep MogileFS's meaning of an acknowledged upload
LOCK_WAIT_MS = 300  # others wait behind us for so long at most
LOCK_TRIES_MAX = 40
LOCK_PAUSE_SECONDS = 0.5
INDEX_POLL_SECONDS = 0.5
UPSTREAM_LOOKS = 5
UPSTREAM_LOOK_SECONDS = 0.4

Tell = Callable[[str, dict[str, object]], None]
SQL = load("schema")
log = get_log(__name__)


def tell_log(what: str, figures: dict[str, object]) -> None:
    """Progress goes to the log."""
    log.info(what, **figures)


@asynccontextmanager
async def opened(dsn: str, *, pooled: bool = False) -> AsyncIterator[asyncpg.Connection]:
    """A connection for schema work, without a limit on how long a statement takes; errors in one sentence."""
    try:
        connection = await connect(
            dsn,
            pooled=pooled,
            server_settings={"statement_timeout": "0", "lock_timeout": "0"},
            command_timeout_seconds=None,
            statements_kept=0,  # types change under our hands
        )
    except UNREACHABLE as error:
        raise StoreUnavailableError(f"cannot connect to PostgreSQL: {error}") from error
    except asyncpg.PostgresError as error:
        raise StoreError(f"PostgreSQL refuses the connection: {error}") from error
    try:
        yield connection
    except asyncpg.InsufficientPrivilegeError as error:
        raise StoreError(f"the database user may not change the schema: {error}") from error
    except UNREACHABLE as error:
        raise StoreUnavailableError(f"lost PostgreSQL: {error}; run it again, it goes on where it was") from error
    except asyncpg.PostgresError as error:
        raise StoreError(f"{type(error).__name__}: {error}") from error
    finally:
        connection.terminate()


async def look(connection: asyncpg.Connection, *, rolled_out: bool = False) -> Plan:
    """The plan for this database; takes no lock."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        return plan_upgrade(await read_catalogue(connection), rolled_out=rolled_out)


async def upgrade(dsn: str, *, pooled: bool = False, rolled_out: bool = False, tell: Tell = tell_log) -> Plan:
    """Make the database at `dsn` ready; the plan that was carried out. StoreError in one sentence when it cannot be done."""
    async with opened(dsn, pooled=pooled) as connection:
        plan = await look(connection, rolled_out=rolled_out)
        _refuse(plan)
        if plan.transaction_needed:
            plan = await _apply_patiently(connection, rolled_out=rolled_out, tell=tell)
        if plan.byte_order_index:
            await build_index(dsn, connection, pooled=pooled, tell=tell)
    return plan


async def upstream_jobs(connection: asyncpg.Connection) -> list[str]:
    """Clients whose job workers of MogileFS hold named locks now and then: watched for a moment."""
    clients: set[str] = set()
    for _ in range(UPSTREAM_LOOKS):
        async with connection.transaction(readonly=True):
            clients.update(row["client"] for row in await connection.fetch(SQL["upstream_jobs"]))
        await asyncio.sleep(UPSTREAM_LOOK_SECONDS)
    return sorted(clients)


def _refuse(plan: Plan) -> None:
    if plan.refusals:
        raise StoreError("; ".join(plan.refusals))


async def _apply_patiently(connection: asyncpg.Connection, *, rolled_out: bool, tell: Tell) -> Plan:
    for attempt in range(1, LOCK_TRIES_MAX + 1):
        try:
            async with connection.transaction():
                return await _apply(connection, rolled_out=rolled_out, tell=tell)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
            if attempt == LOCK_TRIES_MAX:
                raise StoreUnavailableError(await _who_is_in_the_way(connection, error)) from error
            await asyncio.sleep(LOCK_PAUSE_SECONDS)
    raise AssertionError("unreachable")


async def _who_is_in_the_way(connection: asyncpg.Connection, error: BaseException) -> str:
    async with connection.transaction(readonly=True):
        user = await connection.fetchrow(SQL["blocking_users"])
    who = (
        f": pid {user['pid']} ({user['name']}, {user['client']}) has been busy for {user['seconds']} s" if user else ""
    )
    return f"a table that must be changed is in use ({error}){who}; end that and run it again"


async def _apply(connection: asyncpg.Connection, *, rolled_out: bool, tell: Tell) -> Plan:
    """Inside a transaction: look again under the lock, then do it."""
    await connection.execute(f"SET LOCAL lock_timeout = {LOCK_WAIT_MS}")
    await connection.execute(SQL["lock_migrations"])
    plan = plan_upgrade(await read_catalogue(connection), rolled_out=rolled_out)
    _refuse(plan)
    for name in plan.migrations:
        tell("applying migration", {"name": name})
        await connection.execute(sql_file(f"migrations/{name}"))
    for statement in plan.statements:
        await connection.execute(statement.text)
    if plan.adopt:
        await connection.execute(sql_file("adopt.sql"))
    if plan.catch_up_fids:
        catalogue = await read_catalogue(connection)
        await connection.fetchval(SQL["catch_up_fids"], FID_SEQUENCE, catalogue.highest_fid)
    await connection.executemany(SQL["mark_applied"], [(name,) for name in plan.mark_applied])
    await connection.execute(SQL["set_schema_version"], str(SCHEMA_VERSION))
    await connection.execute(SQL["make_cluster"])
    if plan.origin is Origin.NEW:
        await connection.execute(SQL["new_cluster_setting"], "write_copies_default", NEW_CLUSTER_WRITE_COPIES)
    if plan.origin is Origin.MOGILEFS:
        tell("adopted an existing MogileFS database", {})
    return plan


# ---------------------------------------------------------------------- the index


async def build_index(
    dsn: str, connection: asyncpg.Connection, *, pooled: bool = False, wait: bool = False, tell: Tell = tell_log
) -> None:
    """Build the index in byte order unless another program does so; with `wait` it is there afterwards in any case."""
    async with opened(dsn, pooled=pooled) as guard, opened(dsn, pooled=pooled) as watch:
        while await _index_needed(connection):
            async with guard.transaction():
                if await _locked(guard) and not await _building(watch):
                    await _build(connection, watch, tell)
                    continue
            if not wait:
                tell("another program builds the index in byte order; list_keys is slow until it is done", {})
                return
            await asyncio.sleep(INDEX_POLL_SECONDS)
            await _tell_progress(watch, tell)


async def _locked(guard: asyncpg.Connection) -> bool:
    """True: no other program builds. By the simple protocol only: a statement with a portal keeps its snapshot until the transaction
    ends, and the build would wait for it for ever."""
    await guard.execute(f"SET LOCAL lock_timeout = {LOCK_WAIT_MS}")
    try:
        await guard.execute(SQL["lock_index"])
    except asyncpg.LockNotAvailableError:
        return False
    return True


async def _build(connection: asyncpg.Connection, watch: asyncpg.Connection, tell: Tell) -> None:
    async with connection.transaction():
        left_over = await connection.fetchval(SQL["index_left_over"])
    if left_over:
        tell("dropping what an interrupted build left", {"index": BYTE_ORDER_INDEX})
        await connection.execute(SQL["drop_byte_order_index"])
    tell("building an index in byte order on adopted keys; the cluster works on meanwhile", {"index": BYTE_ORDER_INDEX})
    building = asyncio.ensure_future(connection.execute(SQL["byte_order_index"]))
    try:
        while not (await asyncio.wait({building}, timeout=INDEX_POLL_SECONDS))[0]:
            await _tell_progress(watch, tell)
        await building
    finally:
        building.cancel()
        await asyncio.gather(building, return_exceptions=True)


async def _tell_progress(watch: asyncpg.Connection, tell: Tell) -> None:
    for row in await _building(watch):
        if row["blocks_total"]:
            tell("index", {"phase": row["phase"], "done": row["blocks_done"], "total": row["blocks_total"]})


async def _building(watch: asyncpg.Connection) -> list[asyncpg.Record]:
    async with watch.transaction(readonly=True):
        found: list[asyncpg.Record] = await watch.fetch(SQL["index_building"])
    return found


async def _index_needed(connection: asyncpg.Connection) -> bool:
    async with connection.transaction(readonly=True):
        return bool(await connection.fetchval(SQL["needs_byte_order_index"]))
