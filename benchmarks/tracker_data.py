"""Databases for the tracker's benchmark: filled by SQL, counted at the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import asyncpg

from mogile_cli.local.postgres import EmbeddedPostgres
from mogile_tracker.store.migrate import upgrade

T = TypeVar("T")

BULK_FILES = 2_000_000  # from here on indexes are made after the rows
INDEXES = """SELECT c.oid::regclass::text AS "table", i.indexrelid::regclass::text AS name, pg_get_indexdef(i.indexrelid) AS definition,
    (SELECT conname FROM pg_constraint k WHERE k.conindid = i.indexrelid) AS of, (SELECT pg_get_constraintdef(k.oid) FROM pg_constraint k
    WHERE k.conindid = i.indexrelid) AS rule
    FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid WHERE c.relname IN ('file', 'file_on')"""
# Bytes nobody knows of: copies whose file is gone and which no queue will ever delete.
LEAKED = """SELECT count(*) FROM file_on o WHERE NOT EXISTS (SELECT 1 FROM file f WHERE f.fid = o.fid)
    AND NOT EXISTS (SELECT 1 FROM file_to_delete2 d WHERE d.fid = o.fid)"""


def ask(dsn: str, work: Callable[[Any], Awaitable[T]]) -> T:
    """Something done on a connection of its own."""

    async def run() -> T:
        connection = await asyncpg.connect(dsn)
        try:
            return await work(connection)
        finally:
            await connection.close()

    return asyncio.run(run())


def number(dsn: str, query: str, *args: object) -> int:
    """The one number a query gives."""
    return int(ask(dsn, lambda connection: connection.fetchval(query, *args)))


def execute(dsn: str, *statements: str) -> None:
    """Statements one after the other."""

    async def work(connection: Any) -> None:
        for statement in statements:
            await connection.execute(statement)

    ask(dsn, work)


def new_database(server: EmbeddedPostgres, name: str) -> str:
    """An empty database with the tracker's schema; its DSN."""
    execute(server.dsn("postgres"), f"CREATE DATABASE {name}")
    dsn = server.dsn(name)
    asyncio.run(upgrade(dsn))
    execute(
        dsn,
        "INSERT INTO domain VALUES (1, 'd')",
        "INSERT INTO class (dmid, classid, classname, mindevcount) VALUES (1, 1, 'one', 1)",
    )
    return dsn


def drop_database(server: EmbeddedPostgres, name: str) -> None:
    """Give its space back."""
    execute(server.dsn("postgres"), f"DROP DATABASE {name} WITH (FORCE)")


def add_host(dsn: str, hostid: int, address: str, devids: list[int], get_port: int | None = None) -> None:
    """A storage node with its devices."""
    port = get_port or "NULL"
    execute(
        dsn,
        "INSERT INTO host (hostid, status, hostname, hostip, http_get_port)"
        f" VALUES ({hostid}, 'alive', 'n{hostid}', '{address}', {port})",
        *(f"INSERT INTO device (devid, hostid, status) VALUES ({devid}, {hostid}, 'alive')" for devid in devids),
    )


def fill(dsn: str, files: int) -> float:
    """Files `file/0`... with a copy on device 1 or 2 and one on 3 or 4; fids from 1. The seconds it took."""

    async def work(connection: Any) -> None:
        indexes = await connection.fetch(INDEXES) if files >= BULK_FILES else []
        for index in indexes:
            drop = (
                f'ALTER TABLE {index["table"]} DROP CONSTRAINT "{index["of"]}"'
                if index["of"]
                else f"DROP INDEX {index['name']}"
            )
            await connection.execute(drop)
        await connection.execute("SET maintenance_work_mem = '1GB'")
        await connection.execute(
            "INSERT INTO file (fid, dmid, dkey, length, classid, devcount)"
            f" SELECT n + 1, 1, 'file/' || n, 4096, 0, 2 FROM generate_series(0, {files} - 1) n",
            timeout=3600,
        )
        await connection.execute(
            f"INSERT INTO file_on SELECT n + 1, d + n % 2 FROM generate_series(0, {files} - 1) n, (VALUES (1), (3)) AS v(d)",
            timeout=3600,
        )
        for index in indexes:
            make = (
                f'ALTER TABLE {index["table"]} ADD CONSTRAINT "{index["of"]}" {index["rule"]}'
                if index["of"]
                else index["definition"]
            )
            await connection.execute(make, timeout=3600)
        await connection.execute(f"SELECT setval('tempfile_fid_seq', {files} + 10)")
        await connection.execute("VACUUM ANALYZE", timeout=3600)
        await connection.execute("CHECKPOINT", timeout=3600)

    began = time.monotonic()
    ask(dsn, work)
    return time.monotonic() - began


def warm(dsn: str) -> None:
    """Bring what look-ups read into the server's buffers, as weeks of look-ups would: a pass along the indexes."""
    execute(
        dsn,
        "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off; SET max_parallel_workers_per_gather = 0;"
        "SELECT max(length) FROM (SELECT length FROM file WHERE dmid = 1 ORDER BY dkey) AS f;"
        "SELECT max(devid) FROM (SELECT devid FROM file_on ORDER BY fid) AS o",
    )


def wait_empty(dsn: str, query: str, seconds: float) -> float:
    """Seconds until EXISTS(query) is false; SystemExit when that takes too long."""

    async def work(connection: Any) -> float:
        began = time.monotonic()
        while await connection.fetchval(f"SELECT EXISTS ({query})"):
            if time.monotonic() - began > seconds:
                left = await connection.fetchval(f"SELECT count(*) FROM ({query}) AS q")
                raise SystemExit(f"after {seconds:.0f} s there is still {left} of: {query}")
            await asyncio.sleep(0.1)
        return time.monotonic() - began

    return ask(dsn, work)
