"""kill -9 in a loop, of whole trackers, of single server and jobs processes, of whole storage nodes, of their agents and nginx processes,
of PostgreSQL and its backends, under mixed load.

Every client owns its keys and remembers what each may mean: exactly what was acknowledged last, or more than one thing while the outcome
of a request is unknown. Reads are compared under way and all files at the end; then the queues must drain, every file have its copies, and
the disks hold exactly what the rows say.
"""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mogile_cli.local.postgres import EmbeddedPostgres
from mogile_core.client import TrackerClient
from mogile_core.errors import CommandError, MogError, TrackerOutcomeUnknownError, TransferError
from mogile_tracker.store.migrate import upgrade
from testkit.servers import no_moves, start_again
from testkit.waiting import wait_for

KILLS = 200 if os.environ.get("FULL") else 20
CLIENTS, KEYS_EACH = 8, 12
ABSENT = None
DID_NOTHING = frozenset({"draining", "no_devices", "unknown_key", "key_exists", "size_verify_error"})
GET_PORT = 7580


@pytest.fixture
def database_dsn(own_postgres: EmbeddedPostgres) -> str:
    """A server of this test's own, that it can kill."""
    dsn = own_postgres.dsn("postgres")
    asyncio.run(upgrade(dsn))
    asyncio.run(no_moves(dsn))
    return dsn


class Owner:
    """One client and the keys that nobody else touches."""

    def __init__(self, trackers: str, number: int) -> None:
        self.client = TrackerClient(trackers)
        self.dice = random.Random(number)
        self.may_mean: dict[str, set[bytes | None]] = {f"{number}/{n}": {ABSENT} for n in range(KEYS_EACH)}
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []

    async def run(self, stop: asyncio.Event) -> None:
        actions = (self.store, self.store, self.store, self.read, self.read, self.delete, self.rename)
        while not stop.is_set():
            try:
                await self.dice.choice(actions)(self.dice.choice(list(self.may_mean)))
            except Exception as error:
                self.problems.append(f"{type(error).__name__}: {error}")
                return

    async def change(self, work: Any, effects: dict[str, set[bytes | None]]) -> None:
        """Do something that, when it succeeds, makes the keys mean these; when nobody knows, either."""
        try:
            await work
        except TrackerOutcomeUnknownError:
            self.counts["unknown"] += 1
        except CommandError as error:
            if error.wire_code in DID_NOTHING:
                self.check_refusal(error.wire_code, effects)
                return
            self.counts[f"ERR {error.wire_code}"] += 1
            if error.wire_code != "db":
                raise
        except MogError as error:  # no tracker at all, or the bytes did not get there
            self.counts[type(error).__name__] += 1
        else:
            self.counts["done"] += 1
            self.may_mean.update(effects)
            return
        for key, meanings in effects.items():
            self.may_mean[key] |= meanings

    def check_refusal(self, code: str, effects: dict[str, set[bytes | None]]) -> None:
        self.counts[f"ERR {code}"] += 1
        key = next(iter(effects))
        if code == "unknown_key":
            assert ABSENT in self.may_mean[key], f"{key} is gone"

    async def store(self, key: str) -> None:
        body = f"{key}#{self.dice.random()}".encode() + self.dice.randbytes(self.dice.choice([10, 3000, 60_000]))
        await self.change(self.client.upload("d", key, body, class_name="c"), {key: {body}})

    async def delete(self, key: str) -> None:
        await self.change(self.client.delete("d", key), {key: {ABSENT}})

    async def rename(self, key: str) -> None:
        target = self.dice.choice([k for k in self.may_mean if k != key])
        effects = {key: {ABSENT}, target: self.may_mean[key] - {ABSENT}}
        if effects[target]:
            await self.change(self.client.rename("d", key, target), effects)

    async def read(self, key: str) -> None:
        try:
            body = await self.client.fetch("d", key)
        except CommandError as error:
            if error.wire_code == "unknown_key":
                assert ABSENT in self.may_mean[key], f"{key} is gone"
            elif error.wire_code != "db":
                raise
        except TransferError as error:
            self.counts["unreadable for a moment"] += 1
            self.counts[str(error)[:40]] += 1
        except MogError as error:
            self.counts[type(error).__name__] += 1
        else:
            assert body in self.may_mean[key], f"{key} has wrong bytes: {body[:40]!r}"
            self.counts["read"] += 1

    async def settle(self) -> int:
        """All is calm: what every key means now must be one of what it may mean; how many exist."""
        found = 0
        for key, meanings in self.may_mean.items():
            try:
                body: bytes | None = await self.client.fetch("d", key)
            except CommandError as error:
                if error.wire_code != "unknown_key":
                    raise
                body = ABSENT
            assert body in meanings, (key, body and body[:40], [each and each[:40] for each in meanings])
            self.counts["certain" if len(meanings) == 1 else "of several"] += 1
            found += body is not ABSENT
        await self.client.close()
        return found


class Mogstored:
    """A whole storage node as `mogstored` starts it, agent and read nginx under one parent, started again whenever that parent ends."""

    def __init__(self, agent: Any) -> None:
        self.agent = agent
        self.environment = agent.environment | {
            "MOGILE_GET_PORT": str(GET_PORT),
            "MOGILE_RUN_DIR": str(agent.docroot.parent / f"run{agent.hostid}"),
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.agent.docroot / "mogstored.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", "from mogile_storage.mogstored import main; main()", "--skipconfig"],
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def pids(self) -> list[int]:
        """Of everything that belongs to the node: parent, agent and its workers, nginx, its master and its workers."""
        assert self.process is not None
        found, waiting = [], [self.process.pid]
        while waiting:
            found.append(pid := waiting.pop())
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                waiting += children(pid)
        return found

    def kill(self) -> None:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    async def keep(self) -> None:
        """What systemd or Kubernetes does."""
        while True:
            assert self.process is not None
            if self.process.poll() is not None:
                self.kill()
                self.start()
            await asyncio.sleep(0.2)


@pytest.fixture
async def nodes(two_zones: Any) -> AsyncIterator[list[Mogstored]]:
    """The cluster's nodes with a read nginx each."""
    made = []
    for agent in two_zones.agents.values():
        agent.kill()
        made.append(Mogstored(agent))
        made[-1].start()
    await two_zones.database.execute("UPDATE host SET http_get_port = $1", GET_PORT)
    await two_zones.ready()
    keeping = [asyncio.create_task(node.keep()) for node in made]
    yield made
    for task in keeping:
        task.cancel()
    await asyncio.gather(*keeping, return_exceptions=True)
    for node in made:
        node.kill()


class Killer:
    """Chooses what dies next and brings it back."""

    def __init__(self, trackers: list[Any], nodes: list[Mogstored], postgres: EmbeddedPostgres) -> None:
        self.trackers, self.nodes, self.postgres = trackers, nodes, postgres
        self.dice = random.Random(5)
        self.counts: Counter[str] = Counter()

    async def strike(self) -> None:
        what, how = self.dice.choices(
            [
                ("tracker", self.tracker), ("child", self.child), ("node", self.node), ("process of a node", self.process_of_node),
                ("backend", self.backend), ("postgres", self.database),
            ],
            weights=[4, 4, 3, 5, 1, 1],
        )[0]  # fmt: skip
        self.counts[what] += 1
        await how()

    async def tracker(self) -> None:
        victim = self.dice.choice(self.trackers)
        victim.signal(signal.SIGKILL)
        await asyncio.sleep(self.dice.uniform(0, 0.5))
        victim.start()

    async def child(self) -> None:
        pids = self.dice.choice(self.trackers).children()
        if pids:
            kill(self.dice.choice(pids))

    async def node(self) -> None:
        self.dice.choice(self.nodes).kill()

    async def process_of_node(self) -> None:
        """An agent (the parent ends with it), an nginx master or worker, or the parent alone."""
        kill(self.dice.choice(self.dice.choice(self.nodes).pids()))

    async def backend(self) -> None:
        """PostgreSQL ends all its sessions and recovers."""
        assert self.postgres.pid is not None
        backends = [pid for pid in children(self.postgres.pid) if b"postgres: mogile" in command_line(pid)]
        if backends:
            kill(self.dice.choice(backends))

    async def database(self) -> None:
        assert self.postgres.pid is not None
        kill(self.postgres.pid)
        await asyncio.sleep(0.2)
        await asyncio.to_thread(start_again, self.postgres)


async def left_over(cluster: Any) -> dict[str, list[str]]:
    """What still waits, and what the workers say."""
    tables = ("file_to_replicate", "file_to_delete2", "mogile_copy_delete", "mogile_copy_intent", "mogile_lease")
    found = {t: [str(dict(r)) for r in await cluster.database.fetch(f"SELECT * FROM {t} LIMIT 5")] for t in tables}
    found["now"] = [str(await cluster.database.fetchval("SELECT extract(epoch FROM now())::int"))]
    found["logs"] = [
        line for path in cluster.folder.glob("tracker*.log") for line in path.read_text().splitlines()[-8:]
    ]
    return found


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command_line(pid: int) -> bytes:
    """Nothing when the process has ended meanwhile."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


async def work_of(owners: list[Owner], wanted: int) -> None:
    """Wait until the clients have got that much done; on a slow machine kills that come by the clock would leave them no time for it."""

    async def done() -> bool:
        assert not [problem for owner in owners for problem in owner.problems]
        return sum(owner.counts["done"] for owner in owners) > wanted

    await wait_for(done, f"more than {wanted} changes", 300)


@pytest.mark.slow
@pytest.mark.timeout(6000 if KILLS > 50 else 900)
async def test_nothing_acknowledged_is_lost_whatever_is_killed(
    two_zones: Any, nodes: list[Mogstored], three_trackers: list[Any], own_postgres: EmbeddedPostgres
) -> None:
    for tracker in three_trackers:
        await tracker.up()
    where = ",".join(tracker.where for tracker in three_trackers)
    owners, killer, stop = (
        [Owner(where, n) for n in range(CLIENTS)],
        Killer(three_trackers, nodes, own_postgres),
        asyncio.Event(),
    )
    async with asyncio.TaskGroup() as group:
        for owner in owners:
            group.create_task(owner.run(stop))
        for strikes in range(KILLS):
            await asyncio.sleep(killer.dice.uniform(0.2, 1.5))
            await work_of(owners, 10 * strikes)
            await killer.strike()
        await work_of(owners, 10 * KILLS + 100)  # much of it in calm: what nobody knew is known again
        stop.set()
    assert not [problem for owner in owners for problem in owner.problems]
    for tracker in three_trackers:
        await tracker.up()
    await two_zones.ready()

    async def drained() -> bool:
        """Also of uploads whose client gave up, which somebody may even now begin for it."""
        await two_zones.database.execute("UPDATE tempfile SET createtime = 1")
        return await two_zones.count("tempfile") == 0 and await two_zones.quiet()

    try:
        await two_zones.wait_for(drained, "all queues to drain", 300)
    except AssertionError as error:
        raise AssertionError(f"{error}: {await left_over(two_zones)}") from error
    found = sum([await owner.settle() for owner in owners])
    counts = sum((owner.counts for owner in owners), Counter())
    print(f"{KILLS} kills {dict(killer.counts)}; clients {dict(counts)}; {found} files")
    assert counts["done"] > 10 * KILLS
    assert counts["certain"] > counts["of several"]

    rows = await two_zones.database.fetch("SELECT fid, length, devcount FROM file")
    assert len(rows) == found
    locations = await two_zones.locations()
    assert two_zones.stray_files() == locations, "bytes without a row or rows without bytes"
    assert {fid for _, fid in locations} == {row["fid"] for row in rows}
    for row in rows:
        devids = await two_zones.holders(row["fid"])
        assert len(devids) == row["devcount"] == 2, (row, devids)
        assert two_zones.zones(devids) == {"a", "b"}, (row, devids)
        first, second = (two_zones.disk(devid, row["fid"]).read_bytes() for devid in devids)
        assert first == second
        assert len(first) == row["length"]
