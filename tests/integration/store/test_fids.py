"""Opens that do not wait for a sync, on fids reserved ahead: no fid is ever given twice, whatever crashes, and no upload is forgotten."""

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from mogile_cli.local.postgres import EmbeddedPostgres
from mogile_tracker.store import fids
from mogile_tracker.store.closing import Closing
from mogile_tracker.store.engine import Engine
from mogile_tracker.store.files import FileStore, NewUpload
from mogile_tracker.store.migrate import upgrade
from mogile_tracker.store.postgres import connect

pytestmark = pytest.mark.every_postgres

BURST = 40


@pytest.fixture(autouse=True)
def _blocks_at_any_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fids, "RATE_MIN", 0.0)
    monkeypatch.setattr(fids, "RATE_WINDOW_SECONDS", 0.05)


class Trackers:
    """FileStores on one database, as so many processes would have them."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.engines: list[Engine] = []

    async def make(self, *, pooled: bool = False) -> FileStore:
        async def lane() -> asyncpg.Connection:
            return await connect(self.dsn, pooled=pooled)

        engine = Engine("test", lane, lanes=2, retry_seconds=20, pooled=pooled)
        await engine.start()
        self.engines.append(engine)
        return FileStore(engine, engine)


@pytest.fixture
async def trackers(database_dsn: str) -> AsyncIterator[Trackers]:
    made = Trackers(database_dsn)
    yield made
    for engine in made.engines:
        await engine.stop()


@pytest.fixture
async def look(database_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect(database_dsn)
    yield connection
    await connection.close()


def new(key: str) -> NewUpload:
    return NewUpload(classid=0, dmid=1, dkey=key, devids=(1, 2))


def closing(fid: int, key: str) -> Closing:
    return Closing(fid=fid, dmid=1, dkey=key, length=5, devid=1)


async def opened(store: FileStore, count: int = BURST) -> list[int]:
    return list(await asyncio.gather(*[store.open(new(f"k{n}")) for n in range(count)]))


async def with_a_block(store: FileStore) -> None:
    """Opens until there are fids in stock."""
    async with asyncio.timeout(20):
        while not any(block.fids for block in store._blocks._blocks):
            await opened(store, 5)
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("pooled", [False, True])
async def test_an_open_from_a_block_is_an_upload_like_any_other(
    trackers: Trackers, look: asyncpg.Connection, *, pooled: bool
) -> None:
    store, other = await trackers.make(pooled=pooled), await trackers.make()
    await with_a_block(store)
    found = await opened(store)
    assert set(found) <= set(store._recent._opens), "the block was used"
    assert len(set(found)) == BURST
    assert await look.fetchval("SELECT count(*) FROM tempfile WHERE fid = ANY($1::bigint[])", found) == BURST
    upload = await other.upload(found[0])
    assert upload is not None
    assert (upload.dmid, upload.devids) == (1, (1, 2))
    assert await other.close(closing(found[0], "k0"))
    assert not await store.close(closing(found[0], "k0"))
    assert await store.close(closing(found[1], "k1"))
    assert found[1] not in store._recent
    assert await store.abandon(found[2], 1)
    assert await look.fetchval("SELECT count(*) FROM tempfile WHERE fid = ANY($1::bigint[])", found[:3]) == 0


async def test_few_opens_take_no_blocks(trackers: Trackers, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow tracker wastes no fids, and its opens are on disk when they are answered."""
    monkeypatch.setattr(fids, "RATE_MIN", 1e9)
    store = await trackers.make()
    for _ in range(5):
        found = await opened(store, 20)
        await asyncio.sleep(0.03)
    assert max(found) <= 100
    assert not store._recent._opens


async def test_a_fid_that_a_client_chose_is_skipped(trackers: Trackers) -> None:
    store = await trackers.make()
    await with_a_block(store)
    (block,) = [block for block in store._blocks._blocks if block.fids]
    first, second = block.fids[:2]
    chosen = NewUpload(classid=0, dmid=1, dkey="chosen", devids=(1,), fid=first)
    assert await store.open(chosen) == first
    assert await store.close(closing(first, "chosen"))
    assert await store.open(NewUpload(classid=0, dmid=1, dkey="open", devids=(1,), fid=second)) == second
    found = await opened(store)
    assert len(set(found)) == BURST
    assert not {first, second} & set(found)


async def test_a_block_of_another_server_is_thrown_away(trackers: Trackers, look: asyncpg.Connection) -> None:
    """A standby that was promoted may have a sequence that is behind: its own trackers were given the fids of the block, too."""
    store = await trackers.make()
    await with_a_block(store)
    server = await look.fetchval("SELECT pg_postmaster_start_time() - interval '1 us'")
    for block in store._blocks._blocks:
        block.server = server
    theirs = {fid for block in store._blocks._blocks for fid in block.fids}
    found = await opened(store)
    assert len(set(found)) == BURST
    assert not theirs & set(found)


async def test_a_block_is_thrown_away_when_a_connection_is_lost_and_when_it_is_old(
    trackers: Trackers, look: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await trackers.make()
    await with_a_block(store)
    theirs = {fid for block in store._blocks._blocks for fid in block.fids}
    await look.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"
    )
    await opened(store, 3)  # by whichever lane: it may find its connection dead only now
    assert not theirs & set(await opened(store))
    await with_a_block(store)
    theirs = {fid for block in store._blocks._blocks for fid in block.fids}
    monkeypatch.setattr(fids, "BLOCK_AGE_SECONDS_MAX", 0.0)
    assert not theirs & set(await opened(store))


async def test_what_was_closed_does_not_come_back(trackers: Trackers, look: asyncpg.Connection) -> None:
    store, other = await trackers.make(), await trackers.make()
    await with_a_block(store)
    found = await opened(store)
    await asyncio.gather(*[other.close(closing(fid, f"k{n}")) for n, fid in enumerate(found[:10])])
    await other.delete(1, "k0")
    assert await other.abandon(found[10], 1)
    await look.execute("DELETE FROM tempfile WHERE fid = $1", found[11])  # as a crash would
    assert not await store.close(closing(found[1], "elsewhere")), "looked into, and still closed by somebody else"
    left = {row["fid"] for row in await look.fetch("SELECT fid FROM tempfile WHERE fid = ANY($1::bigint[])", found)}
    assert left == set(found[11:])
    assert await store.close(closing(found[11], "again")), "it had been forgotten and came back"


async def test_a_returning_upload_waits_for_its_closer(trackers: Trackers, look: asyncpg.Connection) -> None:
    store = await trackers.make()
    await with_a_block(store)
    fid = (await opened(store, 1))[0]
    assert fid in store._recent
    closer = look.transaction()
    await closer.start()
    await look.execute("DELETE FROM tempfile WHERE fid = $1", fid)
    await look.execute("INSERT INTO file VALUES ($1, 1, 'k', 5, 0, 1)", fid)
    returning = store._writes.submit(store._reopens, None)
    while not await look.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
        await asyncio.sleep(0.01)
    await closer.commit()
    await returning
    assert await look.fetchval("SELECT count(*) FROM tempfile WHERE fid = $1", fid) == 0


# ---- the server is killed


async def _crash(server: EmbeddedPostgres) -> None:
    """No flush, no checkpoint: what is not in a file by now is gone."""
    assert server.pid is not None
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    for pid in [server.pid, *map(int, children)]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    await asyncio.to_thread(server.stop)
    deadline = time.monotonic() + 60
    while True:
        try:
            return await asyncio.to_thread(server.start)
        except Exception:  # the last of the dead still holds its memory
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)


@pytest.mark.timeout(600)
async def test_no_fid_is_given_twice_whenever_the_server_is_killed(own_postgres: EmbeddedPostgres) -> None:
    dsn = own_postgres.dsn("postgres")
    await upgrade(dsn)
    trackers, dice = Trackers(dsn), random.Random(1)
    lasting = [await trackers.make(), await trackers.make()]
    ever: list[int] = []
    forgotten = closed = 0
    for number in range(40 if os.environ.get("FULL") == "1" else 6):
        mortal = await trackers.make()  # dies with the server, so that nobody remembers its uploads
        for store in (*lasting, mortal):
            await with_a_block(store)
        bursts = [await opened(store, dice.randrange(1, BURST)) for store in (*lasting, mortal)]
        await asyncio.sleep(dice.choice([0, 0, 0.001, 0.1]))
        ever += [fid for burst in bursts for fid in burst]
        trackers.engines.remove(mortal._writes)
        for task in mortal._writes._tasks:
            task.cancel()
        await _crash(own_postgres)
        look: Any = await connect(dsn)
        known = {row["fid"] for row in await look.fetch("SELECT fid FROM tempfile")}
        await look.close()
        forgotten += len({fid for burst in bursts for fid in burst} - known)
        for store, burst in zip(lasting, bursts, strict=False):
            done = await asyncio.gather(*[store.close(closing(fid, f"r{number}/{fid}")) for fid in burst])
            assert all(done), "its tracker lives: an upload that the database forgot came back"
            closed += len(done)
    for store in lasting:
        ever += await opened(store)
    assert len(ever) == len(set(ever)), "a fid was given twice"
    assert forgotten > 0, "nothing was ever lost: the test proves nothing"
    look = await connect(dsn)
    assert await look.fetchval("SELECT count(*) FROM file") == closed
    await look.close()
    for engine in trackers.engines:
        await engine.stop()
