"""A streaming pair of PostgreSQL servers: the primary is killed, the standby promoted; nothing acknowledged is lost or done twice.

Replication is synchronous, as it must be where an acknowledged change has to survive the loss of a server.
"""

import asyncio
import contextlib
import os
import random
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from mogile_cli.local.postgres import EmbeddedPostgres
from mogile_core.errors import CommandError, MogError, StoreUnavailableError
from mogile_tracker.store.admin import AdminStore
from mogile_tracker.store.closing import Closing
from mogile_tracker.store.commits import CommitMark, run_once, settle
from mogile_tracker.store.engine import BatchKind, Engine
from mogile_tracker.store.files import FileStore, NewUpload
from mogile_tracker.store.migrate import upgrade
from mogile_tracker.store.postgres import Database, connect
from testkit.places import server_folder
from testkit.waiting import wait_for

pytestmark = pytest.mark.timeout(900)
LEAKED = """SELECT count(*) FROM file_on o WHERE NOT EXISTS (SELECT FROM file f WHERE f.fid = o.fid)
    AND NOT EXISTS (SELECT FROM file_to_delete2 d WHERE d.fid = o.fid)"""


class Pair:
    """A primary and its standby."""

    def __init__(self, folder: Path) -> None:
        self.primary = EmbeddedPostgres(directory=folder / "one")
        self.standby = EmbeddedPostgres(directory=folder / "two")

    def start(self) -> None:
        self.primary.start()
        source = urlsplit(self.primary.dsn("postgres"))
        self.standby.directory.mkdir()
        user = self.primary._run_as
        if user:
            shutil.chown(self.standby.directory, user)
        assert self.primary.binaries is not None
        subprocess.run(
            [self.primary.binaries / "pg_basebackup", "-h", source.hostname, "-p", str(source.port), "-U", source.username,
             "-D", self.standby.directory / "data", "-R", "-X", "stream", "-c", "fast"],
            env={**os.environ, "PGPASSWORD": str(source.password)}, check=True, capture_output=True, user=user, cwd="/",
        )  # fmt: skip
        shutil.copy(self.primary.directory / "password", self.standby.directory / "password")
        self.standby.start()

    def stop(self) -> None:
        self.primary.stop(immediate=True)
        self.standby.stop(immediate=True)

    @property
    def dsn(self) -> str:
        """Both hosts; the one that takes writes is meant."""
        parts = urlsplit(self.primary.dsn("postgres"))
        user = parts.netloc.rpartition("@")[0]
        hosts = f"127.0.0.1:{self.primary.port},127.0.0.1:{self.standby.port}"
        return f"postgresql://{user}@{hosts}/postgres"

    async def on(self, server: EmbeddedPostgres, statement: str) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(server.dsn("postgres"))
        try:
            return list(await connection.fetch(statement))
        finally:
            await connection.close()

    async def synchronous(self) -> None:
        await self.on(self.primary, "ALTER SYSTEM SET synchronous_standby_names = '*'")
        await self.on(self.primary, "SELECT pg_reload_conf()")
        while not await self.on(self.primary, "SELECT FROM pg_stat_replication WHERE sync_state = 'sync'"):
            await asyncio.sleep(0.1)

    async def fail_over(self) -> None:
        await asyncio.to_thread(self.primary.stop, immediate=True)
        await self.on(self.standby, "ALTER SYSTEM SET synchronous_standby_names = ''")
        await self.on(self.standby, "SELECT pg_promote()")


@pytest.fixture
def pair() -> Iterator[Pair]:
    folder = server_folder("mogile-test-pg-")
    made = Pair(folder)
    made.start()
    asyncio.run(upgrade(made.primary.dsn("postgres")))
    yield made
    made.stop()
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.asynccontextmanager
async def engine(dsn: str, *, lanes: int = 3, retry_seconds: float = 20) -> AsyncIterator[Engine]:
    made = Engine("test", lambda: connect(dsn, command_timeout_seconds=5), lanes=lanes, retry_seconds=retry_seconds)
    await made.start()
    yield made
    await made.stop()


COUNT_UP = """INSERT INTO mogile_setting VALUES ($1, '1')
    ON CONFLICT (name) DO UPDATE SET value = (mogile_setting.value::int + 1)::text RETURNING value::int"""


async def count_up(connection: asyncpg.Connection, items: Sequence[str]) -> list[int]:
    """Not idempotent on purpose: done twice it shows."""
    return [await connection.fetchval(COUNT_UP, name) for name in items]


COUNT: BatchKind[str, int] = BatchKind(name="count", execute=count_up, keys=lambda i: (i,), locks=lambda i: (i,))


class Load:
    """Counters and overwritten keys, each with what was acknowledged."""

    def __init__(self, reads: Engine, writes: Engine) -> None:
        self.writes, self.files = writes, FileStore(reads, writes)
        self.stop = asyncio.Event()
        self.counted: dict[str, tuple[int, int]] = {}  # name -> acknowledged, unknown
        self.stored: dict[str, int] = {}
        self.open_keys: set[str] = set()
        self.names, self.keys = [f"n{n}" for n in range(8)], [f"k{n}" for n in range(8)]
        self.tasks = [asyncio.create_task(self.count(name)) for name in self.names]
        self.tasks += [asyncio.create_task(self.overwrite(key)) for key in self.keys]

    @property
    def acknowledged(self) -> int:
        return sum(done for done, _ in self.counted.values())

    async def until(self, acknowledged: int) -> None:
        async with asyncio.timeout(200):
            while self.acknowledged < acknowledged:
                for task in self.tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.1)

    async def end(self) -> None:
        self.stop.set()
        await asyncio.gather(*self.tasks)

    async def count(self, name: str) -> None:
        done = unknown = 0
        while not self.stop.is_set():
            try:
                await self.writes.submit(COUNT, name)
                done += 1
            except MogError:
                unknown += 1
            self.counted[name] = (done, unknown)
            await asyncio.sleep(random.uniform(0, 0.01))

    async def overwrite(self, key: str) -> None:
        serial = 0
        while not self.stop.is_set():
            serial += 1
            try:
                await self.store(key, serial)
                self.stored[key] = serial
                self.open_keys.discard(key)
                if serial % 7 == 0:
                    assert await self.files.delete(1, key), f"{key} was there, and nobody else deletes it"
                    del self.stored[key]
            except MogError:
                self.open_keys.add(key)
            await asyncio.sleep(random.uniform(0, 0.01))

    async def store(self, key: str, length: int) -> None:
        fid = await self.files.open(NewUpload(classid=0, dmid=1, dkey=key, devids=(1,)))
        closed = await self.files.close(Closing(fid=fid, dmid=1, dkey=key, length=length, devid=1))
        assert closed, f"no_temp_file for an upload nobody else knows: {key} {length}"


async def test_primary_killed_under_load_and_standby_promoted(pair: Pair) -> None:
    await pair.synchronous()
    async with engine(pair.dsn) as reads, engine(pair.dsn, lanes=4) as writes:
        load = Load(reads, writes)
        await load.until(100)
        await pair.fail_over()
        await load.until(load.acknowledged + 100)
        await load.end()
    rows = await pair.on(pair.standby, "SELECT name, value::int FROM mogile_setting WHERE name ~ '^n'")
    for name, value in rows:
        done, unknown = load.counted[name]
        assert done <= value <= done + unknown, (name, done, unknown, value)
    assert len(rows) == len(load.names)
    there = {row["dkey"]: row["length"] for row in await pair.on(pair.standby, "SELECT dkey, length FROM file")}
    for key in set(load.keys) - load.open_keys:
        assert there.get(key) == load.stored.get(key), key
    assert await pair.on(pair.standby, LEAKED) == [(0,)]


async def test_a_transaction_id_means_another_transaction_after_a_failover(pair: Pair) -> None:
    """Why marks and not ids: the standby missed a transaction and gave its id to another one, which committed."""
    mark = CommitMark()
    connection = await connect(pair.primary.dsn("postgres"))
    await asyncio.to_thread(pair.standby.stop)  # from here on it misses everything
    async with connection.transaction():
        await connection.execute("INSERT INTO mogile_commit VALUES ($1, $2)", mark.lane, mark.next())
        lost = await connection.fetchval("SELECT pg_current_xact_id()::text")
    connection.terminate()
    await asyncio.to_thread(pair.primary.stop, immediate=True)
    await asyncio.to_thread(pair.standby.start)
    await pair.on(pair.standby, "SELECT pg_promote()")
    another = await asyncpg.connect(pair.standby.dsn("postgres"))
    try:
        for number in range(50):
            await another.execute("INSERT INTO mogile_setting VALUES ($1, 'x')", f"other{number}")
        assert await another.fetchval("SELECT pg_xact_status($1::text::xid8)", lost) == "committed", (
            "and yet it did not"
        )
    finally:
        await another.close()
    settled = await settle(lambda: connect(pair.dsn), mark, seconds=10)
    assert settled is not None
    assert not settled.committed


async def test_a_standby_refuses_and_a_primary_turned_read_only_is_waited_for(pair: Pair) -> None:
    async with engine(pair.standby.dsn("postgres"), retry_seconds=0.5) as writes:
        with pytest.raises(StoreUnavailableError):
            await writes.submit(COUNT, "never")
    async with engine(pair.primary.dsn("postgres"), retry_seconds=20) as writes:
        assert await writes.submit(COUNT, "n") == 1
        await pair.on(pair.primary, "ALTER SYSTEM SET default_transaction_read_only = on")
        await pair.on(pair.primary, "SELECT pg_reload_conf()")

        async def read_only() -> bool:
            (told,) = await pair.on(pair.primary, "SHOW default_transaction_read_only")
            return bool(told[0] == "on")

        await wait_for(read_only, "the primary to have read its settings again")
        waiting = writes.submit(COUNT, "n")
        await asyncio.sleep(1)
        assert not waiting.done(), "25006 is no error of the command's"
        connection = await asyncpg.connect(
            pair.primary.dsn("postgres"), server_settings={"default_transaction_read_only": "off"}
        )
        await connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
        await connection.fetchval("SELECT pg_reload_conf()")
        await connection.close()
        assert await asyncio.wait_for(waiting, 90) == 2
    assert await pair.on(pair.primary, "SELECT count(*) FROM mogile_setting WHERE name = 'never'") == [(0,)]


@pytest.mark.parametrize("committed", [True, False])
async def test_an_administrative_change_lost_at_commit_is_settled(
    pair: Pair, committed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Repeated blindly, create_domain would answer domain_exists although it was this very command that made it."""
    original: Callable[..., Awaitable[None]] = asyncpg.transaction.Transaction.commit
    lost = 0

    async def commit(self: asyncpg.transaction.Transaction) -> None:
        nonlocal lost
        lost += 1
        if lost > 1:
            return await original(self)
        if committed:
            await original(self)
        self._connection.terminate()
        raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")

    database = Database(pair.dsn)
    monkeypatch.setattr(asyncpg.transaction.Transaction, "commit", commit)
    admin = AdminStore(database)
    await admin.create_domain("d1")
    with pytest.raises(CommandError, match="domain_exists"):
        await admin.create_domain("d1")
    assert await database.fetchval("SELECT count(*) FROM domain") == 1

    async def insert(connection: asyncpg.Connection) -> int:
        value: int = await connection.fetchval("INSERT INTO mogile_setting VALUES ('once', '1') RETURNING 7")
        return value

    lost = 0
    assert await run_once(database, insert) == 7
    await database.close()
