"""Trackers behind PgBouncer in transaction mode, any version, with MOGILE_DB_POOLED=1: jobs, schema work, concurrent changes.

The commands themselves are played through it by the tests of protocol and by test_model.
"""

import threading
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import asyncpg
import pytest

from mogile_tracker.store.migrate import look, opened, upgrade
from testkit.waiting import wait_until

UPSTREAM = Path(__file__).parents[2] / "data" / "mogilefs-schema-17.sql"
pytestmark = pytest.mark.timeout(900)
LEAKED = "SELECT count(*) FROM file_on o WHERE NOT EXISTS (SELECT FROM file f WHERE f.fid = o.fid)"
SHORT = "SELECT count(*) FROM file f WHERE (SELECT count(*) FROM file_on o WHERE o.fid = f.fid) < 2"
FEW_ALIVE = """SELECT count(*) FROM file f WHERE
    (SELECT count(*) FROM file_on o JOIN device d USING (devid) WHERE o.fid = f.fid AND d.status = 'alive') < 2"""


def store(client: Any, key: str, body: bytes) -> None:
    opened_ = client.ok(f"create_open domain=d1&key={key}")
    with urlopen(Request(opened_["path"], data=body, method="PUT"), timeout=90):
        pass
    client.ok(
        f"create_close domain=d1&key={key}&fid={opened_['fid']}&devid={opened_['devid']}&path={opened_['path']}&size={len(body)}"
    )


@pytest.mark.parametrize("cluster", ["pgbouncer"], indirect=True)
def test_jobs_and_concurrent_overwrites_through_a_pooler(three_nodes: Any) -> None:
    cluster = three_nodes
    first, second = cluster.trackers[0], cluster.tracker(retry_base_seconds=0.5)
    first.client().ok("create_domain domain=d1")
    second.client().ok("clear_cache")
    problems: list[BaseException] = []

    def work(number: int, tracker: Any) -> None:
        client = tracker.client()
        try:
            for serial in range(12):
                store(client, f"k{serial % 6}", f"{number}/{serial}".encode() * 50)
                client.ok(f"get_paths domain=d1&key=k{serial % 6}&noverify=1")
                store(client, f"own{number}/{serial}", b"x" * 100)
                if serial % 3 == 0:
                    client.ok(f"delete domain=d1&key=own{number}/{serial}")
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(n, tracker)) for n, tracker in enumerate((first, second) * 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert not problems
    for query in (SHORT, "SELECT count(*) FROM file_to_delete2", LEAKED):
        wait_until(lambda query=query: not cluster.value(query), f"nothing of: {query}", 200)
    first.client().ok("set_state host=node1&device=1&state=dead")
    for query in (FEW_ALIVE, "SELECT count(*) FROM file_on WHERE devid = 1", "SELECT count(*) FROM mogile_copy_intent"):
        wait_until(lambda query=query: not cluster.value(query), f"nothing of: {query}", 200)
    assert cluster.value("SELECT count(*) FROM file") == 6 + 6 * 8
    log = first.log() + second.log()
    assert "prepared statement" not in log
    assert "rror" not in log.replace("errors", "").replace("last_error", ""), log[-3000:]


async def test_a_database_is_taken_over_through_a_pooler(empty_database_dsn: str, tmp_path: Path, pooler: Any) -> None:
    connection = await asyncpg.connect(empty_database_dsn)
    await connection.execute(UPSTREAM.read_text())
    await connection.execute("INSERT INTO file SELECT n, 1, 'k' || n, 1, 0, 1 FROM generate_series(1, 1000) n")
    await connection.close()
    through = pooler(empty_database_dsn, tmp_path / "pgbouncer").dsn
    for _ in range(2):
        await upgrade(through, pooled=True)
    async with opened(empty_database_dsn) as direct:
        assert not (await look(direct)).changes
