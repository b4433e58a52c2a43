"""list_keys page by page: in byte order, no row lost or doubled while keys come and go, whatever the collation of the database."""

import asyncio
import random
from collections.abc import AsyncIterator

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mogile_cli.local.postgres import EmbeddedPostgres
from mogile_tracker.store.admin import AdminStore
from mogile_tracker.store.files import key_to_db
from mogile_tracker.store.migrate import upgrade
from mogile_tracker.store.postgres import Database

UPSTREAM_FILE = """CREATE TABLE file (fid bigint NOT NULL PRIMARY KEY, dmid smallint NOT NULL, dkey varchar(255), length bigint,
    classid smallint NOT NULL, devcount smallint NOT NULL, UNIQUE (dmid, dkey))"""
ALPHABET = "aAbB_%\\-. é\xff\x00/1"
KEYS = st.text(st.sampled_from(ALPHABET), min_size=1, max_size=6)
pytestmark = [pytest.mark.every_postgres, pytest.mark.timeout(900)]


@pytest.fixture(params=["C", "en_US.UTF-8"])
async def database(postgres: EmbeddedPostgres, request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    """Ours, and one that was taken over and sorts as people do."""
    name = f"listing_{request.param[:2].lower()}"
    admin = await asyncpg.connect(postgres.dsn("postgres"))
    await admin.execute(f"CREATE DATABASE \"{name}\" TEMPLATE template0 ENCODING UTF8 LOCALE '{request.param}'")
    if request.param != "C":
        connection = await asyncpg.connect(postgres.dsn(name))
        await connection.execute(UPSTREAM_FILE)
        assert await connection.fetchval("SELECT 'a' < 'B'"), "this database would not tell"
        await connection.close()
    await upgrade(postgres.dsn(name))
    made = Database(postgres.dsn(name))
    yield made
    await made.close()
    await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await admin.close()


async def put(database: Database, keys: list[str]) -> None:
    await database.execute(
        "INSERT INTO file SELECT (SELECT coalesce(max(fid), 0) FROM file) + n, 1, k, 1, 0, 1 "
        "FROM unnest($1::text[]) WITH ORDINALITY AS t(k, n) ON CONFLICT DO NOTHING",
        [key_to_db(key) for key in keys],
    )


def in_order(keys: list[str]) -> list[str]:
    """Byte order; NUL is stored as a character after all others."""
    return sorted(set(keys), key=key_to_db)


async def pages(store: AdminStore, prefix: str, limit: int) -> AsyncIterator[list[str]]:
    after = ""
    while page := await store.list_keys(1, prefix, after, limit):
        yield page
        after = page[-1]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys=st.lists(KEYS, max_size=40), prefix=st.text(st.sampled_from(ALPHABET), max_size=2), limit=st.integers(1, 7))
async def test_pages_are_the_sorted_keys(database: Database, keys: list[str], prefix: str, limit: int) -> None:
    await database.execute("DELETE FROM file")
    await put(database, keys)
    listed = [key async for page in pages(AdminStore(database), prefix, limit) for key in page]
    assert listed == [key for key in in_order(keys) if key.startswith(prefix)]


async def test_no_key_is_lost_or_doubled_while_others_come_and_go(database: Database) -> None:
    rng = random.Random(7)

    def some(count: int, mark: str) -> list[str]:
        return ["".join(rng.choices(ALPHABET, k=rng.randint(1, 8))) + mark for _ in range(count)]

    staying = in_order(some(3000, "!"))
    await put(database, staying)
    stop = asyncio.Event()
    inserted = 0

    async def come_and_go() -> None:
        nonlocal inserted
        while not stop.is_set():
            keys = some(50, "?")
            await put(database, keys)
            await database.execute(
                "DELETE FROM file WHERE dkey = ANY ($1::text[])", [key_to_db(key) for key in keys[:25]]
            )
            inserted += 50

    tasks = [asyncio.create_task(come_and_go()) for _ in range(2)]
    store = AdminStore(database)
    for limit in (17, 100, 1000):
        before = inserted
        listed = []
        async for page in pages(store, "", limit):
            assert page == in_order(page)
            listed += page
            await asyncio.sleep(0.005)
            async with asyncio.timeout(60):
                while inserted == before:  # a listing of few pages
                    await asyncio.sleep(0.001)
        assert listed == in_order(listed), "in byte order over all pages, nothing twice"
        assert [key for key in listed if key.endswith("!")] == staying
        assert inserted > before, "keys were coming meanwhile"
    stop.set()
    await asyncio.gather(*tasks)
