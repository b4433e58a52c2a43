"""`mog db` and mogdbsetup on real servers: plan first, then done; set up from nothing; given back so that MogileFS could go on."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

UPSTREAM = (Path(__file__).parents[2] / "data" / "mogilefs-schema-17.sql").read_text()
COLUMNS = """SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND a.attnum > 0 AND NOT a.attisdropped
    AND c.relname NOT LIKE 'mogile%' ORDER BY 1, 2"""


def sql(dsn: str, query: str) -> list[asyncpg.Record]:
    async def run() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(dsn, server_settings={"application_name": "test"})
        try:
            if query.lstrip().upper().startswith("SELECT"):
                return list(await connection.fetch(query))
            await connection.execute(query)
            return []
        finally:
            await connection.close()

    return asyncio.run(run())


def tool(module: str, *words: str, answer: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MOGILE_")}
    return subprocess.run(
        [sys.executable, "-c", f"import sys; from {module} import main; sys.exit(main())", *words],
        env=kept | variables, input=answer, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip


def mog(dsn: str, *words: str) -> subprocess.CompletedProcess[str]:
    return tool("mogile_cli.main", "db", *words, MOGILE_DB_DSN=dsn)


def setup(*words: str, answer: str = "") -> subprocess.CompletedProcess[str]:
    return tool("mogile_cli.classic.dbsetup", *words, answer=answer)


@pytest.fixture
def upstream(empty_database_dsn: str) -> str:
    sql(empty_database_dsn, UPSTREAM)
    sql(empty_database_dsn, "INSERT INTO domain VALUES (1, 'd1')")
    sql(empty_database_dsn, "INSERT INTO file VALUES (5, 1, 'b', 1, 0, 1), (6, 1, 'A', 1, 0, 1)")
    sql(empty_database_dsn, "INSERT INTO host (hostid, status, hostname, hostip) VALUES (1, 'alive', 'h', '10.0.0.1')")
    return empty_database_dsn


def test_upgrade_shows_its_plan_and_does_it_only_when_told(upstream: str) -> None:
    before = sql(upstream, COLUMNS)
    for words in (("upgrade",), ("upgrade", "--dry-run"), ("upgrade", "--dry-run", "--yes")):
        shown = mog(upstream, *words)
        assert shown.returncode == 0, shown.stderr
        assert "a database of MogileFS, not taken over yet" in shown.stdout
        assert "widen tempfile.fid from integer to bigint" in shown.stdout
        assert "may answer queries only" in " ".join(shown.stdout.split())
        assert "run it again with --yes" in shown.stdout
    assert sql(upstream, COLUMNS) == before
    done = mog(upstream, "upgrade", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["done"] is True
    assert found["origin"] == "mogilefs"
    again = mog(upstream, "upgrade", "--yes")
    assert "Nothing has to be changed." in again.stdout
    assert {"file": "bigint", "tempfile": "bigint"}.items() <= {
        row["relname"]: row["format_type"] for row in sql(upstream, COLUMNS) if row["attname"] == "fid"
    }.items()


def test_upgrade_is_refused_while_job_workers_of_mogilefs_are_at_work(upstream: str) -> None:
    """They take named locks of two words; only a session that lives holds one."""

    async def run() -> subprocess.CompletedProcess[str]:
        worker = await asyncpg.connect(upstream)
        try:
            assert await worker.fetchval("SELECT pg_try_advisory_lock(4711, 1234)")
            return await asyncio.to_thread(mog, upstream, "upgrade", "--yes")
        finally:
            await worker.close()

    refused = asyncio.run(run())
    assert refused.returncode == 1
    assert "job workers of MogileFS are at work (127.0.0.1): stop them" in refused.stderr
    assert not sql(upstream, "SELECT 1 WHERE to_regclass('mogile_lease') IS NOT NULL")


def test_refusals_and_mistakes_are_one_sentence(upstream: str) -> None:
    sql(upstream, "UPDATE server_settings SET value = '14'")
    refused = mog(upstream, "upgrade", "--yes")
    assert refused.returncode == 1
    assert refused.stderr.startswith("mog: the database has MogileFS schema version 14")
    assert refused.stderr.count("\n") == 1
    parts = urlsplit(upstream)
    for dsn, status, sentence in (
        ("", 2, "which database?"),
        ("mysql://x/y", 2, "MOGILE_DB_DSN must be a URL"),
        (f"postgresql://mogile:wrong@{parts.hostname}:{parts.port}/postgres", 1, "password authentication failed"),
        ("postgresql://mogile@127.0.0.1:1/postgres", 1, "cannot connect to PostgreSQL"),
    ):
        failed = mog(dsn, "upgrade")
        assert (failed.returncode, failed.stderr.count("\n")) == (status, 1), failed.stderr
        assert sentence in failed.stderr


def test_given_back_a_database_is_as_mogilefs_left_it_but_for_the_wider_columns(upstream: str) -> None:
    before = {(row[0], row[1]): row[2] for row in sql(upstream, COLUMNS)}
    assert mog(upstream, "upgrade", "--yes").returncode == 0
    sql(
        upstream,
        "INSERT INTO file_to_queue (fid, devid, type, nexttry, flags, arg) VALUES (5, 1, 2, 0, 1, '2'), (6, 1, 2, 0, 0, '2')",
    )
    sql(upstream, "INSERT INTO mogile_lease VALUES ('fid:5', 'x', gen_random_uuid(), now())")
    sql(upstream, "INSERT INTO server_settings VALUES ('fsck_host', 'tracker-of-ours')")
    for spoil, mend, sentence in (
        (
            "INSERT INTO mogile_copy_delete (fid, devid, nexttry) VALUES (5, 1, 0)",
            "DELETE FROM mogile_copy_delete",
            "1 copies wait",
        ),
        ("INSERT INTO mogile_device VALUES (7, 1)", "DELETE FROM mogile_device", "devices 7 are out"),
        (
            "UPDATE host SET hostip = '2001:db8::1'",
            "UPDATE host SET hostip = '10.0.0.1'",
            "hosts h have a name or address",
        ),
    ):
        sql(upstream, spoil)
        refused = mog(upstream, "handback", "--yes")
        assert refused.returncode == 1, sentence
        assert sentence in refused.stderr
        sql(upstream, mend)
    assert "run it again with --yes" in mog(upstream, "handback").stdout
    assert sql(upstream, "SELECT count(*) FROM file_to_queue") == [(2,)], "shown only"
    done = mog(upstream, "handback", "--yes", "--drop-tables")
    assert done.returncode == 0, done.stderr
    after = {(row[0], row[1]): row[2] for row in sql(upstream, COLUMNS)}
    assert before.keys() == after.keys()
    assert {key: (before[key], after[key]) for key in before if before[key] != after[key]} == {
        ("tempfile", "fid"): ("integer", "bigint"),
        ("host", "hostip"): ("character varying(15)", "text"),
        ("host", "altip"): ("character varying(15)", "text"),
        ("host", "altmask"): ("character varying(18)", "text"),
        ("host", "hostname"): ("character varying(40)", "character varying(255)"),
    }
    assert sql(upstream, "SELECT relname FROM pg_class WHERE relname LIKE 'mogile%'") == []
    assert sql(upstream, "SELECT field, value FROM server_settings") == [("schema_version", "17")]
    assert sql(upstream, "SELECT fid FROM file_to_queue") == [(6,)]
    # what MogileFS's own statements do with it
    sql(upstream, "INSERT INTO tempfile (createtime, classid, dmid, dkey, devids) VALUES (1, 0, 1, 'k', '1,2')")
    assert sql(upstream, "SELECT fid, devids FROM tempfile") == [(7, "1,2")]
    assert mog(upstream, "upgrade", "--yes").returncode == 0, "and taken over again"


def test_handback_needs_stopped_trackers_and_keeps_our_tables_unless_told(upstream: str) -> None:
    assert mog(upstream, "upgrade", "--yes").returncode == 0

    async def run() -> subprocess.CompletedProcess[str]:
        tracker = await asyncpg.connect(upstream, server_settings={"application_name": "mogile-tracker"})
        try:
            return await asyncio.to_thread(mog, upstream, "handback", "--yes")
        finally:
            await tracker.close()

    refused = asyncio.run(run())
    assert refused.returncode == 1
    assert "stop them all first" in refused.stderr
    identity = sql(upstream, "SELECT id FROM mogile_cluster")
    assert mog(upstream, "handback", "--yes").returncode == 0
    assert mog(upstream, "upgrade", "--yes").returncode == 0
    assert sql(upstream, "SELECT id FROM mogile_cluster") == identity


# ---------------------------------------------------------------------- mogdbsetup


def flags(dsn: str, name: str) -> Sequence[str]:
    parts = urlsplit(dsn)
    return (
        f"--dbhost={parts.hostname}", f"--dbport={parts.port}", f"--dbname={name}", f"--dbuser=user_{name}", "--dbpassword=s3 cr@t/%",
        f"--dbrootuser={parts.username}", f"--dbrootpassword={parts.password}", "--type=Postgres",
    )  # fmt: skip


def test_mogdbsetup_makes_user_database_and_tables(empty_database_dsn: str) -> None:
    name = f"made_{os.getpid()}"
    words = flags(empty_database_dsn, name)
    try:
        assert setup(*words, answer="n\n").returncode == 255
        made = setup(*words, "--yes", "--verbose")
        assert made.returncode == 0, made.stderr
        assert "creating the database" in made.stdout
        parts = urlsplit(empty_database_dsn)
        own = f"postgresql://user_{name}:s3%20cr%40t%2F%25@{parts.hostname}:{parts.port}/{name}"
        assert sql(own, "SELECT value FROM server_settings WHERE field = 'schema_version'") == [("17",)]
        assert sql(own, "SELECT tableowner FROM pg_tables WHERE tablename = 'file'") == [(f"user_{name}",)]
        again = setup(*[word for word in words if "root" not in word], answer="y\n")
        assert (again.returncode, again.stderr) == (0, ""), "the administrator is needed once only"
        through_mog = tool("mogile_cli.main", "db", "setup", *words, "--yes")
        assert through_mog.returncode == 0, through_mog.stderr
    finally:
        admin = urlsplit(empty_database_dsn)._replace(path="/postgres").geturl()
        sql(admin, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        sql(admin, f"DROP ROLE IF EXISTS user_{name}")


def test_mogdbsetup_leaves_an_existing_schema_when_told_and_refuses_what_it_cannot(upstream: str) -> None:
    parts = urlsplit(upstream)
    words = (
        f"--dbhost={parts.hostname}", f"--dbport={parts.port}", f"--dbname={parts.path[1:]}", f"--dbuser={parts.username}",
        f"--dbpassword={parts.password}", "--yes",
    )  # fmt: skip
    before = sql(upstream, COLUMNS)
    assert setup(*words, "--noschemabump").returncode == 0
    assert sql(upstream, COLUMNS) == before
    assert "only Postgres is supported" in setup(*words, "--type=MySQL").stderr
    assert setup("--help").stdout.startswith("Usage: mogdbsetup")
    assert setup(*words).returncode == 0
    assert sql(upstream, COLUMNS) != before
