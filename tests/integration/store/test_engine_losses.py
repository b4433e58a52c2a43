"""The coalescing engine when PostgreSQL, a connection or an answer is lost, and closes in one statement, whose outcome is then open."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, NoReturn
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from mogile_core.errors import CommandError, StoreUnavailableError
from mogile_tracker.store.closing import CLOSE, Closing
from mogile_tracker.store.commits import CommitMark, settle
from mogile_tracker.store.engine import BatchKind
from mogile_tracker.store.files import FileStore, NewUpload
from mogile_tracker.store.onestatement import OneStatement
from mogile_tracker.store.postgres import connect
from testkit.stores import Stores, create

pytestmark = pytest.mark.every_postgres


class _Saboteur:
    """Makes connections and can have the server kill them at a chosen moment."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.pids: list[int] = []

    async def __call__(self) -> asyncpg.Connection:
        connection = await connect(self.dsn)
        self.pids.append(connection.get_server_pid())
        return connection

    async def kill(self, look: asyncpg.Connection) -> None:
        for pid in self.pids:
            await look.execute("SELECT pg_terminate_backend($1)", pid)


async def test_connection_killed_before_commit_is_run_again(stores: Stores) -> None:
    saboteur = _Saboteur(stores.dsn)
    runs = 0

    async def insert(connection: asyncpg.Connection, items: Sequence[int]) -> list[int]:
        nonlocal runs
        runs += 1
        await connection.execute("INSERT INTO mogile_setting VALUES ($1, 'x')", f"n{items[0]}")
        if runs == 1:
            await saboteur.kill(stores.look)
            await connection.execute("SELECT 1")
        return list(items)

    kind: BatchKind[int, int] = BatchKind(name="insert", execute=insert, locks=lambda i: (str(i),))
    engine = await stores.engine(1, connector=saboteur)
    assert await engine.submit(kind, 1) == 1
    assert runs == 2
    assert await stores.look.fetchval("SELECT count(*) FROM mogile_setting WHERE name ~ '^n'") == 1


@pytest.mark.parametrize("committed", [True, False])
async def test_connection_lost_at_commit_is_settled_by_the_database(
    stores: Stores, committed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever became of the transaction, the change is made exactly once."""
    runs = 0
    original = asyncpg.transaction.Transaction.commit

    async def commit(self: asyncpg.transaction.Transaction) -> None:
        if runs == 1:
            if committed:
                await original(self)
            self._connection.terminate()
            raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")
        await original(self)

    async def count_up(connection: asyncpg.Connection, items: Sequence[int]) -> list[str]:
        nonlocal runs
        runs += 1
        value = await connection.fetchval(
            "INSERT INTO mogile_setting VALUES ('counter', '1') "
            "ON CONFLICT (name) DO UPDATE SET value = (mogile_setting.value::int + 1)::text RETURNING value"
        )
        return [value] * len(items)

    monkeypatch.setattr(asyncpg.transaction.Transaction, "commit", commit)
    kind: BatchKind[int, str] = BatchKind(name="count", execute=count_up, locks=lambda i: (str(i),))
    engine = await stores.engine(1)
    assert await engine.submit(kind, 1) == "1"
    assert await stores.look.fetchval("SELECT value FROM mogile_setting WHERE name = 'counter'") == "1"
    assert runs == (1 if committed else 2)


def no_reply(connection: asyncpg.Connection) -> NoReturn:
    connection.terminate()
    raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")


@pytest.mark.parametrize("committed", [True, False])
async def test_a_close_without_an_answer_is_settled_with_its_results(
    stores: Stores, committed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One close of the batch is too late: that is known to the lost statement only."""
    store, runs = await stores.make(lanes=1), 0
    original = OneStatement.run

    async def run(self: OneStatement[Any, Any], connection: asyncpg.Connection, *rest: Any) -> list[int]:
        nonlocal runs
        runs += 1
        if runs == 1:
            if committed:
                await original(self, connection, *rest)
            no_reply(connection)
        return await original(self, connection, *rest)

    monkeypatch.setattr(OneStatement, "run", run)
    fids = await asyncio.gather(*[store.open(NewUpload(classid=0, dmid=1, dkey="k", devids=(1,))) for _ in range(8)])
    await stores.look.execute("DELETE FROM tempfile WHERE fid = $1", fids[3])
    closings = [Closing(fid=fid, dmid=1, dkey=f"k{fid}", length=5, devid=1) for fid in fids]
    assert await asyncio.gather(*[store.close(c) for c in closings]) == [fid != fids[3] for fid in fids]
    assert runs == (1 if committed else 2)
    assert {row[0] for row in await stores.look.fetch("SELECT fid FROM file")} == {*fids} - {fids[3]}


async def test_a_statement_that_is_overtaken_by_its_settlement_changes_nothing(stores: Stores) -> None:
    """It waits for a lock, its connection is given up, and what it was to do is found not to have been done: then it may not do it."""
    store = await stores.make(lanes=1)
    fid = await store.open(NewUpload(classid=0, dmid=1, dkey="k", devids=(1,)))
    items, mark = [Closing(fid=fid, dmid=1, dkey="k", length=5, devid=1)], CommitMark()
    lost, holder = await connect(stores.dsn), await connect(stores.dsn)
    assert await CLOSE.make(lost)
    async with holder.transaction():
        await holder.execute("SELECT pg_advisory_xact_lock(hashtextextended('1:k', 17))")
        late = asyncio.create_task(CLOSE.run(lost, items, ["1:k"], mark.lane, mark.next()))
        async with asyncio.timeout(60):
            while not await stores.look.fetchval(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            ):
                await asyncio.sleep(0.01)
            for _ in range(2):  # whoever settles may lose its connection too, and asks again
                assert await settle(lambda: connect(stores.dsn), mark) == (False, [])
    with pytest.raises(asyncpg.RaiseError, match="settled as not committed"):
        await late
    assert await store.upload(fid) is not None
    assert await stores.look.fetchval("SELECT count(*) FROM file") == 0
    assert await CLOSE.run(lost, items, ["1:k"], CommitMark().lane, 1) == [fid]
    for connection in (lost, holder):
        await connection.close()


async def test_a_database_that_does_not_answer_a_close_fails_it_in_bounded_time(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time it is settled that nothing was done; somebody else may sit on the key for ever."""

    async def run(self: OneStatement[Any, Any], connection: asyncpg.Connection, *_: Any) -> list[int]:
        await asyncio.sleep(0.3)
        no_reply(connection)

    store = await stores.make(lanes=1, retry_seconds=0.5)
    fid = await store.open(NewUpload(classid=0, dmid=1, dkey="k", devids=(1,)))
    monkeypatch.setattr(OneStatement, "run", run)
    async with asyncio.timeout(60):
        with pytest.raises(StoreUnavailableError):
            await store.close(Closing(fid=fid, dmid=1, dkey="k", length=5, devid=1))


@pytest.mark.parametrize("at_once", [True, False])
async def test_uploads_with_further_copies_are_closed_alike_in_one_statement_and_step_by_step(
    stores: Stores, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not at_once:

        async def cannot(*_: object) -> bool:
            return False

        monkeypatch.setattr(OneStatement, "make", cannot)
    store = await stores.make(lanes=1)
    fids = await asyncio.gather(*[store.open(NewUpload(classid=0, dmid=1, dkey="k", devids=(1,))) for _ in range(5)])
    plain, copied, late, gone, other = fids
    copies = {copied: (2, 3), late: (2, 3), gone: (4,)}
    for fid, devids in copies.items():
        for devid in devids:
            assert (fid, devid) == (late, 3) or await store.intend(fid, devid, 60)
    assert await store.intend(other, 2, 60), "of an upload that is not closed here"
    await stores.look.execute("DELETE FROM tempfile WHERE fid = $1", gone)
    results = await asyncio.gather(
        *[
            store.close(Closing(fid=f, dmid=1, dkey=f"k{f}", length=5, devid=1, copies=copies.get(f, ()), queue=False))
            for f in fids[:4]
        ],
        return_exceptions=True,
    )
    assert isinstance(results[2], CommandError)
    assert results[2].wire_code == "no_devices"
    assert results[:2] + results[3:] == [True, True, False]
    rows = await stores.look.fetch("SELECT fid, devcount FROM file ORDER BY fid")
    assert [tuple(row) for row in rows] == [(plain, 1), (copied, 3)]
    rows = await stores.look.fetch("SELECT fid, devid FROM file_on ORDER BY fid, devid")
    assert [tuple(row) for row in rows] == [(plain, 1), (copied, 1), (copied, 2), (copied, 3)]
    rows = await stores.look.fetch("SELECT fid, devid FROM mogile_copy_delete ORDER BY fid, devid")
    assert [tuple(row) for row in rows] == [(late, 2), (gone, 4)]
    assert [tuple(row) for row in await stores.look.fetch("SELECT fid, devid FROM mogile_copy_intent")] == [(other, 2)]
    assert {row[0] for row in await stores.look.fetch("SELECT fid FROM tempfile")} == {late, other}
    functions = await stores.look.fetchval("SELECT count(*) FROM pg_proc WHERE proname ~ '^mogile_close'")
    assert functions == int(at_once), "the first batch has one upload with copies at least"


async def test_a_server_that_takes_no_changes_any_more_is_left_for_another(stores: Stores) -> None:
    connections = 0

    async def connector() -> asyncpg.Connection:
        nonlocal connections
        connections += 1
        connection = await connect(stores.dsn)
        if connections == 1:
            assert await CLOSE.make(connection)
            await connection.execute("SET default_transaction_read_only = on")
        return connection

    opener = await stores.make(lanes=1)
    fid = await opener.open(NewUpload(classid=0, dmid=1, dkey="k", devids=(1,)))
    engine = await stores.engine(1, connector=connector)
    await engine._lanes[0].connect()
    engine._lanes[0]._can[CLOSE] = True
    assert await FileStore(engine, engine).close(Closing(fid=fid, dmid=1, dkey="k", length=5, devid=1))
    assert connections == 2, "it was no question what had become of the statement: that would have been a third"


@pytest.mark.parametrize("hindrance", ["no right to temporary objects", "another server connection"])
async def test_where_it_cannot_be_one_statement_a_close_goes_step_by_step(stores: Stores, hindrance: str) -> None:
    database = urlsplit(stores.dsn).path[1:]
    role = f"plain_{database}"
    await stores.look.execute(f"""CREATE ROLE "{role}"; GRANT ALL ON ALL TABLES IN SCHEMA public TO "{role}";
        GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO "{role}"; REVOKE TEMPORARY ON DATABASE "{database}" FROM PUBLIC""")
    try:

        async def connector() -> asyncpg.Connection:
            connection = await connect(stores.dsn)
            if hindrance == "no right to temporary objects":
                await connection.execute(f'SET ROLE "{role}"')
            return connection

        engine = await stores.engine(1, connector=connector)
        store = FileStore(engine, engine)
        await create(store, "a")
        if hindrance == "another server connection":
            connection = engine._lanes[0].connected()
            assert connection is not None
            await connection.execute("DISCARD TEMP")
        fid = await create(store, "b")
        functions = await stores.look.fetchval("SELECT count(*) FROM pg_proc WHERE proname = 'mogile_close'")
        assert functions == 0
        found = await store.lookup(1, "b")
        assert found is not None
        assert found.fid == fid
        await engine.stop()
    finally:
        await stores.look.execute(f'GRANT TEMPORARY ON DATABASE "{database}" TO PUBLIC')
        await stores.look.execute(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')


async def test_an_unreachable_database_fails_requests_in_bounded_time(stores: Stores) -> None:
    async def refused() -> asyncpg.Connection:
        raise ConnectionRefusedError("nobody is there")

    engine = await stores.engine(2, 0.3, refused)
    store = FileStore(engine, engine)
    async with asyncio.timeout(30):
        results = await asyncio.gather(*[store.lookup(1, f"k{i}") for i in range(200)], return_exceptions=True)
    assert all(isinstance(r, StoreUnavailableError) for r in results)


async def test_a_silent_database_fails_requests_in_bounded_time_and_is_found_again(stores: Stores) -> None:
    """A machine that vanishes sends no reset: packets just go nowhere."""
    parts = urlsplit(stores.dsn)
    flowing = asyncio.Event()
    flowing.set()
    pumps: list[asyncio.Task[None]] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await flowing.wait()
                writer.write(data)
            writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(parts.hostname, parts.port)
        pumps.extend(asyncio.create_task(pump(*p)) for p in ((reader, server_writer), (server_reader, writer)))

    proxy = await asyncio.start_server(accept, "127.0.20.4", 0)
    port = proxy.sockets[0].getsockname()[1]
    dsn = urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.20.4:{port}"))

    async def through_proxy() -> asyncpg.Connection:
        return await connect(dsn, command_timeout_seconds=2)

    engine = await stores.engine(2, 1.0, through_proxy)
    store = FileStore(engine, engine, batch_max=1)
    await create(store, "a")
    flowing.clear()
    async with asyncio.timeout(90):
        results = await asyncio.gather(*[store.lookup(1, "a") for _ in range(50)], return_exceptions=True)
    assert all(isinstance(r, StoreUnavailableError) for r in results), results
    flowing.set()
    async with asyncio.timeout(90):
        while True:
            with contextlib.suppress(StoreUnavailableError):
                assert await store.lookup(1, "a") is not None
                break
    await engine.stop()
    proxy.close()
    for task in pumps:
        task.cancel()


async def test_stop_finishes_what_was_accepted(stores: Stores) -> None:
    store = await stores.make(lanes=1)
    fids = await asyncio.gather(
        *[store.open(NewUpload(classid=0, dmid=1, dkey=f"k{i}", devids=(1,))) for i in range(100)]
    )
    closing = [store.close(Closing(fid=f, dmid=1, dkey="same", length=1, devid=1)) for f in fids]
    for engine in stores.engines:
        await engine.stop()
    assert await asyncio.gather(*closing) == [True] * 100
    assert await stores.look.fetchval("SELECT count(*) FROM file") == 1
