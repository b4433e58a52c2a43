"""An existing MogileFS database of 100 000 files is taken over in place, on every PostgreSQL and collation, while it is in use.

The upgrade takes no lock on `file` or `file_on` that makes anybody wait, ends the same however often it is killed, and what it leaves is
served by a tracker.
"""

import asyncio
import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any, Self

import asyncpg
import pytest

from mogile_tracker.store import migrate
from mogile_tracker.store.migrate import build_index, look, opened, upgrade

FILES = 100_000
LOCK_SECONDS_MAX = 1.0
INDEX = "mogile_file_dkey_bytes"
COLLATIONS = ("C", "en_US libc", "en_US icu")
OPEN = "INSERT INTO tempfile (createtime, classid, dmid) VALUES (1, 0, 1) ON CONFLICT DO NOTHING RETURNING fid"
PAGE = """EXPLAIN SELECT dkey FROM file WHERE dmid = 1 AND dkey COLLATE "C" > 'a' ORDER BY dkey COLLATE "C" LIMIT 10"""
UPGRADE = """import asyncio, sys
from mogile_tracker.store.migrate import upgrade
print("go", flush=True)
asyncio.run(upgrade(sys.argv[1]))"""
GUEST = """CREATE ROLE {role} LOGIN PASSWORD 'p'; GRANT ALL ON SCHEMA public TO {role};
    GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}"""
SCHEMA = """SELECT c.relname, c.relkind::text, a.attname, format_type(a.atttypid, a.atttypmod), i.indisvalid FROM pg_class c
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 LEFT JOIN pg_index i ON i.indexrelid = c.oid
    WHERE c.relnamespace = 'public'::regnamespace ORDER BY 1, 2, 3"""
_numbers = itertools.count(1)
pytestmark = [pytest.mark.every_postgres, pytest.mark.timeout(900)]


@pytest.fixture
async def upstream(origins: Any, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """The DSN of a database of MogileFS's with 100 000 files; the parameter names its collation."""
    async for dsn in origins.cloned(getattr(request, "param", "en_US libc"), FILES):
        yield dsn


@pytest.fixture
async def small(origins: Any) -> AsyncIterator[str]:
    """The same with 1000 files."""
    async for dsn in origins.cloned("en_US libc", 1000):
        yield dsn


class InUse:
    """Readers and writers as upstream trackers are, and a look-out for anybody who waits for a lock on file or file_on."""

    SAMPLE = """SELECT a.pid, l.mode, l.granted, a.backend_type FROM pg_locks l JOIN pg_stat_activity a USING (pid)
        WHERE l.relation IN ('file'::regclass, 'file_on'::regclass) AND (NOT l.granted OR l.mode IN
            ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'))"""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.longest_lock = self.slowest = 0.0
        self.samples = self.operations = 0
        self.stop = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        jobs = (self.look_out(), self.read(), self.write(), self.write())
        self.tasks = [asyncio.create_task(job) for job in jobs]
        await asyncio.sleep(0.3)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0.3)
        self.stop.set()
        await asyncio.gather(*self.tasks)

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(self.dsn, statement_cache_size=0)
        try:
            yield connection
        finally:
            await connection.close()

    async def look_out(self) -> None:
        async with self.connected() as connection:
            since: dict[tuple[int, str, bool], float] = {}
            while not self.stop.is_set():
                now = time.monotonic()
                seen = {(row["pid"], row["mode"], row["granted"]) for row in await connection.fetch(self.SAMPLE)}
                since = {key: since.get(key, now) for key in seen}
                self.longest_lock = max([self.longest_lock, *(now - begun for begun in since.values())])
                self.samples += 1
                await asyncio.sleep(0.001)

    async def timed(self, work: Any) -> None:
        begun = time.monotonic()
        await work
        self.slowest = max(self.slowest, time.monotonic() - begun)
        self.operations += 1

    async def read(self) -> None:
        async with self.connected() as connection:
            while not self.stop.is_set():
                await self.timed(
                    connection.fetch(
                        "SELECT * FROM file JOIN file_on USING (fid) WHERE fid = $1", random.randint(1, FILES)
                    )
                )

    async def write(self) -> None:
        """What closing and deleting a file does upstream: statements of their own, not a transaction."""
        async with self.connected() as connection:
            while not self.stop.is_set():
                fid = await connection.fetchval(OPEN)
                if fid is None:
                    continue  # the sequence lags behind, as set up
                await self.timed(connection.execute("DELETE FROM tempfile WHERE fid = $1", fid))
                await self.timed(connection.execute("INSERT INTO file_on VALUES ($1, 1)", fid))
                await self.timed(connection.execute("INSERT INTO file VALUES ($1, 1, $2, 1, 0, 1)", fid, f"new{fid}"))
                await self.timed(connection.execute("UPDATE file SET devcount = 2 WHERE fid = $1", fid))
                await self.timed(connection.execute("DELETE FROM file WHERE fid = $1", fid))
                await self.timed(connection.execute("DELETE FROM file_on WHERE fid = $1", fid))


@pytest.mark.parametrize("upstream", COLLATIONS, indirect=True)
async def test_nobody_waits_for_a_lock_on_the_large_tables(upstream: str) -> None:
    async with asyncio.timeout(600), InUse(upstream) as use:
        begun = time.monotonic()
        await upgrade(upstream)
        took = time.monotonic() - begun
    print(f"upgrade {took:.2f} s; longest lock that excludes others {use.longest_lock:.3f} s in {use.samples} samples; "
          f"slowest of {use.operations} statements {use.slowest:.3f} s")  # fmt: skip
    assert use.samples > 50, "the look-out must have looked"
    assert use.longest_lock < LOCK_SECONDS_MAX
    async with opened(upstream) as connection:
        plan = await look(connection)
        assert not plan.changes, plan.changes
        assert await connection.fetchval("SELECT count(*) FROM file") == FILES
        assert await connection.fetchval("SELECT count(*) FROM file_on") == 2 * FILES
        rows = await connection.fetch(PAGE)
        assert INDEX in str(rows), rows
        assert await connection.fetchval("SELECT nextval('tempfile_fid_seq')") > FILES + 50, (
            "never a fid that is in use"
        )


async def test_the_plan_is_complete_and_changes_nothing(small: str) -> None:
    async with opened(small) as connection:
        before = await connection.fetch(SCHEMA)
        plan = await look(connection)
        text = "\n".join(change.what for change in plan.changes)
        for part in (
            "widen tempfile.fid from integer to bigint",
            "widen host.hostip",
            "create table mogile_lease",
            INDEX,
            "fid sequence",
        ):
            assert part in text
        assert not plan.refusals
        assert "queries only" in plan.notes[0]
        assert await connection.fetch(SCHEMA) == before
        await upgrade(small)
        after = await connection.fetch(SCHEMA)
    grown = [row for row in after if row not in before]
    promised = {change.what.split()[2] for change in plan.changes if change.what.startswith(("create", "build"))}
    tables = {row["relname"] for row in grown if row["relkind"] == "r" and row["relname"].startswith("mogile_")}
    assert tables
    assert tables <= promised
    assert {row["relname"] for row in grown if row["relkind"] == "r"} - tables == {"tempfile", "host"}
    on_large = {
        row["relname"] for row in grown if row["relkind"] == "i" and row["relname"].startswith(("file", "mogile_file"))
    }
    assert on_large == {INDEX} <= promised


async def test_a_busy_table_is_let_go_and_named(small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "LOCK_TRIES_MAX", 2)
    holder = await asyncpg.connect(small, server_settings={"application_name": "pg_dump"})
    try:
        async with holder.transaction():
            await holder.execute("SELECT FROM tempfile LIMIT 1")
            with pytest.raises(migrate.StoreUnavailableError, match=r"in use .*pid .*pg_dump"):
                await upgrade(small)
    finally:
        await holder.close()
    await upgrade(small)


# ---------------------------------------------------------------------- interrupted


async def ended_state(dsn: str) -> list[Any]:
    async with opened(dsn) as connection:
        assert not (await look(connection)).changes
        return list(await connection.fetch(SCHEMA))


async def test_killed_anywhere_and_run_again_ends_the_same(upstream: str) -> None:
    killed = 0
    for pause in (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", UPGRADE, upstream, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert process.stdout is not None
        await process.stdout.readline()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), pause)
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        await process.wait()
    await upgrade(upstream)
    async with opened(upstream) as connection:
        await build_index(upstream, connection, wait=True)
    state = await ended_state(upstream)
    assert killed >= 2
    assert all(row["indisvalid"] is not False for row in state)
    identities = await asyncpg.connect(upstream)
    assert await identities.fetchval("SELECT count(*) FROM mogile_cluster") == 1
    await identities.close()


async def test_an_unfinished_index_is_replaced(small: str) -> None:
    """The build waits for an old transaction; its server process is ended there, which leaves an index that nobody may use."""
    await upgrade(small)
    async with opened(small) as connection, opened(small) as holder, opened(small) as builder:
        await connection.execute(f"DROP INDEX {INDEX}")
        await holder.execute("BEGIN; UPDATE file SET devcount = 3 WHERE fid = 1")
        pid = builder.get_server_pid()
        building = asyncio.ensure_future(builder.execute(migrate.SQL["byte_order_index"]))
        while not await connection.fetch("SELECT FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting%'"):
            await asyncio.sleep(0.02)
        told: list[str] = []
        await build_index(small, connection, tell=lambda what, _: told.append(what))
        assert told == ["another program builds the index in byte order; list_keys is slow until it is done"]
        await connection.execute("SELECT pg_terminate_backend($1)", pid)
        await asyncio.gather(building, return_exceptions=True)
        await holder.execute("ROLLBACK")
        assert await connection.fetchval(migrate.SQL["index_left_over"])
        assert [change.what for change in (await look(connection)).changes] == [
            f"build index {INDEX} on file (dmid, dkey in byte order)"
        ]
    await upgrade(small)
    assert INDEX in str(await ended_state(small))


async def test_a_killed_builder_whose_server_process_works_on_is_waited_for(small: str) -> None:
    await upgrade(small)
    async with opened(small) as connection, opened(small) as holder, opened(small) as builder:
        await connection.execute(f"DROP INDEX {INDEX}")
        await holder.execute("BEGIN; UPDATE file SET devcount = 3 WHERE fid = 1")
        building = asyncio.ensure_future(builder.execute(migrate.SQL["byte_order_index"]))
        while not await connection.fetch("SELECT FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting%'"):
            await asyncio.sleep(0.02)
        builder.terminate()  # the client is gone; its server process goes on
        await asyncio.gather(building, return_exceptions=True)
        waiting = asyncio.ensure_future(build_index(small, connection, wait=True))
        await asyncio.sleep(0.2)
        await holder.execute("ROLLBACK")
        await waiting
    assert INDEX in str(await ended_state(small))


# ---------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        ("UPDATE server_settings SET value = '14'", "schema version 14, this tracker needs 17"),
        ("ALTER TABLE file DROP COLUMN devcount", "table file has no column devcount"),
        ("ALTER TABLE file ALTER fid TYPE int", "file.fid is integer, not bigint"),
        ("ALTER TABLE tempfile ALTER fid DROP DEFAULT; DROP SEQUENCE tempfile_fid_seq", "sequence tempfile_fid_seq"),
        (
            "CREATE ROLE {role}; GRANT CREATE ON SCHEMA public TO {role}; ALTER TABLE host OWNER TO {role}; ALTER ROLE {role} LOGIN",
            None,
        ),
    ],
)
async def test_what_cannot_be_safe_is_refused_and_nothing_changed(small: str, spoil: str, sentence: str | None) -> None:
    role = f"owner_{next(_numbers)}_{os.getpid()}"
    connection = await asyncpg.connect(small)
    try:
        await connection.execute(spoil.format(role=role))
        before = await connection.fetch(SCHEMA)
        if sentence is None:  # a superuser may alter everybody's tables
            await upgrade(small)
            await connection.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")
            return
        with pytest.raises(migrate.StoreError, match=sentence):
            await upgrade(small)
        assert await connection.fetch(SCHEMA) == before
    finally:
        await connection.close()


async def test_a_user_who_does_not_own_the_tables_is_told_so(small: str) -> None:
    role = f"guest_{next(_numbers)}_{os.getpid()}"
    connection = await asyncpg.connect(small)
    try:
        await connection.execute(GUEST.format(role=role))
        rest = small.partition("@")[2]
        with pytest.raises(migrate.StoreError, match=r"does not own checksum, class, device.*connect as their owner"):
            await upgrade(f"postgresql://{role}:p@{rest}")
    finally:
        await connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
        await connection.close()
