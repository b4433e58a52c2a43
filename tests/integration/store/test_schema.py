"""The database schema: made from nothing, taken over from MogileFS, every statement valid, safe when many start at once."""

import asyncio
import dataclasses
import re
from collections.abc import AsyncIterator
from importlib import resources
from pathlib import Path

import asyncpg
import pytest

from mogile_core.errors import StoreError
from mogile_tracker.store import migrate, schema
from mogile_tracker.store.migrate import upgrade
from mogile_tracker.store.postgres import connect
from mogile_tracker.store.queries import load, topics
from mogile_tracker.store.schema import MIGRATION_NAME, due_migrations, migration_files, statements

pytestmark = pytest.mark.every_postgres

DATA = Path(__file__).parents[2] / "data"
UPSTREAM = DATA / "mogilefs-schema-17.sql"
FIRST = DATA / "mogile-schema-first.sql"

COLUMNS = """SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns
    WHERE table_schema = 'public' ORDER BY 1, 2"""
CONSTRAINTS = """SELECT conrelid::regclass::text, contype::text, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2, 3"""
INDEXES = "SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1, 2"

FILE_INDEXES = "SELECT indexname FROM pg_indexes WHERE tablename IN ('file', 'file_on', 'file_to_queue') ORDER BY 1"


@pytest.fixture
async def connection(empty_database_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    opened = await connect(empty_database_dsn)
    yield opened
    await opened.close()


async def test_upgrade_repeats_harmlessly_and_concurrently(
    empty_database_dsn: str, connection: asyncpg.Connection
) -> None:
    await asyncio.gather(*[upgrade(empty_database_dsn) for _ in range(5)])
    first = await connection.fetch(COLUMNS), await connection.fetch(INDEXES)
    identity = await connection.fetchval("SELECT id FROM mogile_cluster")
    await upgrade(empty_database_dsn)
    assert (await connection.fetch(COLUMNS), await connection.fetch(INDEXES)) == first
    assert await connection.fetch("SELECT id FROM mogile_cluster") == [(identity,)]
    assert await connection.fetchval("SELECT value FROM server_settings WHERE field = 'schema_version'") == "17"


async def test_schema_equals_migrations(
    empty_database_dsn: str, connection: asyncpg.Connection, database_dsn: str
) -> None:
    """A column added to a table that exists needs a migration too; one that is only in schema.sql fails here."""
    await connection.execute(FIRST.read_text())
    await upgrade(empty_database_dsn, rolled_out=True)
    fresh = await connect(database_dsn)
    try:
        for query in (COLUMNS, INDEXES, CONSTRAINTS):
            assert await connection.fetch(query) == await fresh.fetch(query)
    finally:
        await fresh.close()


def test_every_statement_of_the_schema_is_read() -> None:
    assert {"file", "mogile_lease", "mogile_lease_until"} <= {statement.name for statement in statements()}
    assert next(s for s in statements() if s.name == "tempfile").columns == (
        "fid", "createtime", "classid", "dmid", "dkey", "devids",
    )  # fmt: skip


def test_no_statement_is_unused_and_none_is_missing() -> None:
    """Names of statements occur in Python as they are in the .sql files; one that nobody names is dead, a missing one is a mistake."""
    package = Path(str(resources.files("mogile_tracker")))
    code = "\n".join(path.read_text() for path in package.rglob("*.py"))
    named = set(re.findall(r"""["']([a-z_]+)["']""", code))
    unused = [f"{topic}.{name}" for topic in topics() for name in load(topic) if name not in named]
    assert not unused
    asked = set(re.findall(r"""(?:SQL|FILES|_sql|queries)\[["']([a-z_]+)["']\]""", code))
    assert asked <= {name for topic in topics() for name in load(topic)}


def test_migration_names() -> None:
    assert all(MIGRATION_NAME.match(name) for name in migration_files())


@pytest.mark.parametrize("topic", topics())
async def test_every_statement_can_be_prepared(database_dsn: str, topic: str) -> None:
    connection = await connect(database_dsn)
    try:
        for name, text in load(topic).items():
            if "CONCURRENTLY" not in text:
                try:
                    await connection.prepare(text)
                except asyncpg.PostgresError as error:
                    pytest.fail(f"{topic}.{name}: {error}")
    finally:
        await connection.close()


async def test_a_mogilefs_database_is_taken_over(empty_database_dsn: str, connection: asyncpg.Connection) -> None:
    await connection.execute(UPSTREAM.read_text())
    await connection.execute("INSERT INTO domain VALUES (1, 'd1')")
    await connection.execute("INSERT INTO file VALUES (5, 1, 'b', 1, 0, 1), (6, 1, 'A', 1, 0, 1)")
    await connection.execute("INSERT INTO host (hostid, status, hostname, hostip) VALUES (1, 'alive', 'h', '10.0.0.1')")
    await connection.execute("SELECT setval('tempfile_fid_seq', 41)")
    before = await connection.fetch(FILE_INDEXES)
    await upgrade(empty_database_dsn)
    await upgrade(empty_database_dsn)
    added = [row["indexname"] for row in await connection.fetch(FILE_INDEXES) if row not in before]
    assert added == ["mogile_file_dkey_bytes"], "a large table gets one index, built without locking it"
    assert await connection.fetch("SELECT fid, dkey FROM file ORDER BY fid") == [(5, "b"), (6, "A")]
    assert await connection.fetchval("SELECT hostip FROM host") == "10.0.0.1"
    await connection.execute("UPDATE host SET hostip = '2001:db8:0:0:1:2:3:4'")
    await connection.execute("SELECT setval('tempfile_fid_seq', 3000000000)")
    fid = await connection.fetchval("INSERT INTO tempfile (createtime, classid, dmid) VALUES (0, 0, 1) RETURNING fid")
    assert fid == 3000000001
    await connection.execute("SET enable_seqscan = off")
    plan = await connection.fetch("EXPLAIN " + load("files")["list_keys"].replace("$1", "1").replace("$2", "''").replace("$3", "''")
                                  .replace("$4", "NULL").replace("$5", "10"))  # fmt: skip
    assert any("mogile_file_dkey_bytes" in row[0] for row in plan), plan


async def test_new_clusters_write_two_copies_and_adopted_ones_go_on_as_before(
    empty_database_dsn: str, connection: asyncpg.Connection
) -> None:
    value = "SELECT value FROM mogile_setting WHERE name = 'write_copies_default'"
    await upgrade(empty_database_dsn)
    assert await connection.fetchval(value) == "2"
    await connection.execute("UPDATE mogile_setting SET value = '1'")
    await upgrade(empty_database_dsn)
    assert await connection.fetchval(value) == "1", "the operator's choice stays"
    await connection.execute("DROP SCHEMA public CASCADE")
    await connection.execute("CREATE SCHEMA public")
    await connection.execute(UPSTREAM.read_text())
    await upgrade(empty_database_dsn)
    assert await connection.fetchval(value) is None


async def test_another_schema_version_is_refused(empty_database_dsn: str, connection: asyncpg.Connection) -> None:
    await connection.execute("CREATE TABLE server_settings (field varchar(50) PRIMARY KEY, value text)")
    await connection.execute("INSERT INTO server_settings VALUES ('schema_version', '14')")
    with pytest.raises(StoreError, match="schema version 14"):
        await upgrade(empty_database_dsn)
    assert not await connection.fetchval("SELECT to_regclass('file') IS NOT NULL"), "nothing was changed"


async def test_migrations_run_once_and_in_order(
    empty_database_dsn: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await upgrade(empty_database_dsn)
    texts = {
        "migrations/9001_pre_first.sql": "CREATE TABLE mogile_trial (n int)",
        "migrations/9002_post_second.sql": "INSERT INTO mogile_trial SELECT count(*) FROM mogile_trial",
    }
    original = migrate.sql_file
    monkeypatch.setattr(schema, "migration_files", lambda: [name.partition("/")[2] for name in texts])
    monkeypatch.setattr(migrate, "sql_file", lambda name: texts.get(name) or original(name))
    await upgrade(empty_database_dsn)
    assert await connection.fetch("SELECT n FROM mogile_trial") == [], (
        "a post migration waits until older trackers are gone"
    )
    for _ in range(2):
        await upgrade(empty_database_dsn, rolled_out=True)
    assert await connection.fetch("SELECT n FROM mogile_trial") == [(0,)]


def test_post_migrations_wait_for_the_last_old_tracker() -> None:
    known = ["0001_pre_a.sql", "0002_post_b.sql", "0003_post_c.sql"]
    assert due_migrations(known, frozenset(), rolled_out=False) == known[:1]
    assert due_migrations(known, frozenset(known[:1]), rolled_out=False) == []
    assert due_migrations(known, frozenset(known[:1]), rolled_out=True) == known[1:]
    later = [*known, "0004_pre_d.sql", "0005_post_e.sql"]
    assert due_migrations(later, frozenset(known[:1]), rolled_out=False) == later[1:4], (
        "of releases before: nobody skips one"
    )


async def test_a_server_that_does_not_sync_is_warned_of(connection: asyncpg.Connection) -> None:
    found = await schema.read_catalogue(connection)
    assert schema.plan_upgrade(found).warnings == ()
    assert schema.plan_upgrade(dataclasses.replace(found, fsync=False)).warnings == (schema.FSYNC_OFF,)
