"""PostgreSQL is killed and started again while clients store, overwrite and delete: nothing acknowledged is lost or done twice."""

import asyncio
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import asyncpg
import pytest

from mogile_cli.local.postgres import EmbeddedPostgres
from mogile_tracker.store.migrate import upgrade
from testkit.servers import no_moves, start_again
from testkit.waiting import wait_until


@pytest.fixture
def database_dsn(own_postgres: EmbeddedPostgres) -> str:
    dsn = own_postgres.dsn("postgres")
    asyncio.run(upgrade(dsn))
    asyncio.run(no_moves(dsn))
    return dsn


def kill_postmaster(dsn: str) -> None:
    async def pid() -> int:
        connection = await asyncpg.connect(dsn)
        try:
            backend = connection.get_server_pid()
            return int(Path(f"/proc/{backend}/stat").read_text().rpartition(")")[2].split()[1])
        finally:
            await connection.close()

    os.kill(asyncio.run(pid()), signal.SIGQUIT)  # immediate shutdown: no checkpoint, recovery at the next start


class Storer(threading.Thread):
    """Stores and overwrites its own keys until told to stop; remembers what was acknowledged."""

    def __init__(self, tracker: Any, number: int, stop: threading.Event) -> None:
        super().__init__()
        self.client, self.number, self.stop = tracker.client(), number, stop
        self.acknowledged: dict[str, str] = {}
        self.open_outcomes: set[str] = set()
        self.codes: set[str] = set()
        self.closed = 0
        self.problem = ""

    def run(self) -> None:
        serial = 0
        try:
            while not self.stop.is_set():
                serial += 1
                self.store(f"k{self.number}/{serial % 20}", f"{self.number}:{serial}")
        except Exception as error:
            self.problem = repr(error)

    def store(self, key: str, body: str) -> None:
        opened = self.client.ask(f"create_open domain=d1&key={key}")
        self.codes.add(opened.code)
        if not opened.ok:
            time.sleep(0.05)
            return
        fid, devid, path = (opened.args[name] for name in ("fid", "devid", "path"))
        with urlopen(Request(path, data=body.encode(), method="PUT"), timeout=90):
            pass
        closed = self.client.ask(
            f"create_close domain=d1&key={key}&fid={fid}&devid={devid}&path={path}&size={len(body)}"
        )
        self.codes.add(closed.code)
        if closed.ok:
            self.acknowledged[key] = body
            self.closed += 1
            self.open_outcomes.discard(key)
        else:
            self.open_outcomes.add(key)


@pytest.mark.timeout(900)
def test_database_restarts_under_load(three_nodes: Any, own_postgres: EmbeddedPostgres) -> None:
    cluster, tracker = three_nodes, three_nodes.trackers[0]
    tracker.client().ok("create_domain domain=d1")
    stop = threading.Event()
    storers = [Storer(tracker, number, stop) for number in range(6)]
    for storer in storers:
        storer.start()

    def stored(more: int) -> None:
        """Wait until the clients got on, however slow the machine is."""
        wanted = sum(storer.closed for storer in storers) + more
        wait_until(lambda: sum(storer.closed for storer in storers) >= wanted, f"{more} more files")

    for _ in range(3):
        time.sleep(1.5)
        stored(10)
        kill_postmaster(own_postgres.dsn("postgres"))
        time.sleep(0.5)
        start_again(own_postgres)
    time.sleep(2)
    stored(50)
    stop.set()
    for storer in storers:
        storer.join(120)
    assert not [storer.problem for storer in storers if storer.problem]
    assert set().union(*(storer.codes for storer in storers)) <= {"", "db", "no_temp_file"}
    client = tracker.client()
    compared = 0
    for storer in storers:
        for key in set(storer.acknowledged) - storer.open_outcomes:
            with urlopen(client.ok(f"get_paths domain=d1&key={key}")["path1"], timeout=90) as response:
                assert response.read().decode() == storer.acknowledged[key], key
            compared += 1
    assert compared > 20
    wait_until(lambda: not cluster.value("SELECT count(*) FROM file_to_delete2"), "replaced files to be deleted", 200)
    assert (
        cluster.value("SELECT count(*) FROM file_on o WHERE NOT EXISTS (SELECT 1 FROM file f WHERE f.fid = o.fid)") == 0
    )
