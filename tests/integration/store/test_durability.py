"""What a transaction waits for at its end."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from mogile_core.errors import StoreUnavailableError
from mogile_tracker.store.copies import Copies
from mogile_tracker.store.leases import Leases
from mogile_tracker.store.migrate import upgrade
from mogile_tracker.store.postgres import Database, connect
from mogile_tracker.store.queues import Queues

RECORDED = ("file_to_replicate", "file_to_delete2", "mogile_lease", "mogile_copy_intent")
RECORD = """CREATE TABLE seen (place serial, what text, synced text);
    CREATE FUNCTION record() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO seen (what, synced) VALUES (TG_TABLE_NAME || ' ' || TG_OP, current_setting('synchronous_commit'));
        RETURN NULL;
    END $$;"""


@pytest.fixture
async def database(database_dsn: str) -> AsyncIterator[Database]:
    made = Database(database_dsn, connections=1)
    yield made
    await made.close()


async def show(connection: asyncpg.Connection) -> str:
    return str(await connection.fetchval("SHOW synchronous_commit"))


async def test_a_transaction_without_a_sync_leaves_the_next_one_as_it_was(database: Database) -> None:
    assert await database.run(show) == "on"
    assert await database.run(show, durable=False) == "off"
    assert await database.run(show) == "on"


async def test_who_works_on_what_waits_for_no_sync_and_what_others_rely_on_does(database: Database) -> None:
    for statement in (RECORD, "INSERT INTO file VALUES (1, 1, 'k', 1, 0, 1)"):
        await database.run(lambda connection, text=statement: connection.execute(text))
    for table in RECORDED:
        await database.execute(
            f"CREATE TRIGGER record AFTER INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION record()"
        )
    queues, leases = Queues(database, claim_seconds=15), Leases(database, owner="me")
    await queues.enqueue_replicate([1])
    rows = await queues.claim_replicate(10)
    async with leases.of_files(rows) as (lease, mine, _busy):
        await Copies(database).intend(lease, [(1, 7, 30.0)])
        await queues.finish_replicate(mine)
    await database.execute("INSERT INTO file_to_delete2 (fid, nexttry) VALUES (2, 0)")
    await queues.finish_delete([], await queues.claim_delete(10), [])
    seen = [tuple(row) for row in await database.fetch("SELECT what, synced FROM seen ORDER BY place")]
    assert seen == [
        ("file_to_replicate INSERT", "on"),
        ("file_to_replicate UPDATE", "off"),
        ("mogile_lease INSERT", "off"),
        ("mogile_copy_intent INSERT", "on"),
        ("file_to_replicate DELETE", "off"),
        ("mogile_lease DELETE", "off"),
        ("file_to_delete2 INSERT", "on"),
        ("file_to_delete2 UPDATE", "off"),
        ("file_to_delete2 DELETE", "off"),
    ]


async def usual(dsn: str, setting: str) -> None:
    """Make it the default of the test's database."""
    connection = await asyncpg.connect(dsn)
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f'ALTER DATABASE "{name}" SET {setting}')
    await connection.close()


async def terms(connection: asyncpg.Connection) -> tuple[str, str]:
    return await show(connection), str(await connection.fetchval("SHOW transaction_isolation"))


async def test_what_is_usual_at_the_server_does_not_weaken_our_promises(database_dsn: str) -> None:
    await usual(database_dsn, "synchronous_commit = off")
    await usual(database_dsn, "default_transaction_isolation = 'repeatable read'")
    database = Database(database_dsn, connections=1)
    assert await database.run(terms, durable=False) == ("off", "read committed")
    assert await database.run(terms) == ("on", "read committed")
    await database.close()
    lane = await connect(database_dsn)
    assert await terms(lane) == ("on", "read committed")
    lane.terminate()


@pytest.mark.parametrize("setting", ["synchronous_commit = off", "default_transaction_isolation = 'serializable'"])
async def test_behind_a_pooler_such_a_server_is_refused_with_the_fix(database_dsn: str, setting: str) -> None:
    await usual(database_dsn, setting)
    name = setting.partition(" ")[0]
    database = Database(database_dsn, connections=1, pooled=True)
    with pytest.raises(StoreUnavailableError, match=f"ALTER ROLE ... SET {name} = "):
        await database.run(show)
    with pytest.raises(StoreUnavailableError, match=f"{name} of this database user would lose files"):
        await upgrade(database_dsn, pooled=True)


async def test_what_a_server_does_beyond_a_sync_stays(database_dsn: str) -> None:
    await usual(database_dsn, "synchronous_commit = remote_apply")
    lane = await connect(database_dsn)
    assert await show(lane) == "remote_apply"
    lane.terminate()
