"""Reading the census costs the same at any number of files."""

import json
import re
import time
from collections.abc import AsyncIterator

import pytest

from mogile_core.model import Device, DeviceState, DevId, Host, HostId, HostState
from mogile_tracker.commands.census import LIVE_FILES_MAX, counted_now
from mogile_tracker.policy.totals import Totals
from mogile_tracker.store.census import CensusStore
from mogile_tracker.store.postgres import Database
from mogile_tracker.store.queries import load
from mogile_tracker.topology import Topology

FILES = 300_000
LARGE = f"""INSERT INTO file SELECT n, 1, 'k' || n, 1, 0, 1 FROM generate_series(1, {FILES}) n;
    INSERT INTO file_on SELECT n, 1 FROM generate_series(1, {FILES}) n; ANALYZE file; ANALYZE file_on"""
TOPOLOGY = Topology(
    hosts=[Host(hostid=HostId(1), hostname="h", status=HostState.ALIVE, hostip="10.0.0.1", http_port=7500)],
    devices=[Device(devid=DevId(1), hostid=HostId(1), status=DeviceState.ALIVE)],
)


@pytest.fixture
async def database(database_dsn: str) -> AsyncIterator[Database]:
    made = Database(database_dsn)
    yield made
    await made.close()


async def test_a_large_store_is_answered_without_touching_its_files(database: Database) -> None:
    store = CensusStore(database)
    large = Totals(files=LIVE_FILES_MAX + 1, bytes=7, devices={1: (5, 6)}, short={"1:0:1": (2, 3)})
    await store.save("complete", 99, large)
    await store.save("running", 3, Totals(files=3))
    other = Database(database.dsn)
    async with other.transaction() as holder:
        await holder.execute("LOCK TABLE file, file_on IN ACCESS EXCLUSIVE MODE")
        found = await counted_now(store, TOPOLOGY, 0)
    await other.close()
    assert found.totals == large
    assert found.complete
    assert abs(found.counted_at - time.time()) < 60


async def test_the_first_pass_is_answered_as_unfinished_at_a_bounded_price(database: Database) -> None:
    await database.run(lambda connection: connection.execute(LARGE))
    store = CensusStore(database)
    nothing = await counted_now(store, TOPOLOGY, 5)
    assert (nothing.totals.files, nothing.complete) == (0, False), "too many to count now, nothing counted yet"
    await store.save("running", 4000, Totals(files=4000, bytes=1))
    partly = await counted_now(store, TOPOLOGY, 5)
    assert (partly.totals.files, partly.complete) == (4000, False)
    text = load("census")["patterns"].replace("$1", "0").replace("$2", str(LIVE_FILES_MAX + 1))
    (plan,) = json.loads(await database.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {text}"))
    read = [int(rows) for rows in re.findall(r"'Actual Rows': (\d+)", str(plan))]
    assert read
    assert max(read) <= LIVE_FILES_MAX + 1, plan


async def test_a_small_store_is_counted_as_it_is_now(database: Database) -> None:
    await database.execute("INSERT INTO file VALUES (1, 1, 'a', 10, 0, 1), (2, 1, 'b', 5, 0, 0)")
    await database.execute("INSERT INTO file_on VALUES (1, 1)")
    store = CensusStore(database)
    await store.save("complete", 0, Totals(files=3))
    found = await counted_now(store, TOPOLOGY, 5)
    assert (found.totals.files, found.totals.bytes, found.complete, found.counted_at) == (2, 15, True, 5)
    assert found.totals.short["1:0:0"][0] >= 1
