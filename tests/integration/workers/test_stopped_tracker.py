"""A whole tracker stopped with SIGSTOP between the transaction that takes a copy out of use and the DELETE of its bytes."""

import asyncio
import contextlib
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mogile_core.errors import StoreUnavailableError
from mogile_tracker.workers.copydeletes import DeleteCopies
from mogile_tracker.workers.replicate import Replicate

DELETE_OF_ONE = re.compile(rb"DELETE /dev1/\S*/(\d{10})\.fid .*^if-match: \"([0-9a-f]{32})\"", re.I | re.S | re.M)
DELETE_OF_MANY = re.compile(rb"POST /dev1/delete .*\r\n\r\n(\d+) ([0-9a-f]{32})\n\d+ [0-9a-f]{32}\n", re.S)
ROUNDS = 60  # each sends what is waited for with a chance of a half at least


class Gate:
    """Stands in front of a node's agent and holds back the first request of a form until it may go on."""

    PORT = 7599

    def __init__(self, agent: Any) -> None:
        self.agent = agent
        self.form: re.Pattern[bytes] | None = None
        self.held, self.answered, self.release = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.request, self.answer = b"", b""
        self.passed: Counter[bytes] = (
            Counter()
        )  # method and last part of the path of what was let through, for whoever waits in vain
        self.tasks: set[asyncio.Task[None]] = set()
        self.writers: list[asyncio.StreamWriter] = []

    async def open(self) -> None:
        self.server = await asyncio.start_server(self._client, self.agent.address, self.PORT)

    async def close(self) -> None:
        self.server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for writer in self.writers:
            writer.transport.abort()
        await asyncio.sleep(0)  # they take note of it

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        node_reader, node_writer = await asyncio.open_connection(self.agent.address, 7500)
        self.writers += writer, node_writer
        mine = asyncio.Event()
        for pump in (self._to_node(reader, node_writer, mine), self._to_client(node_reader, writer, mine)):
            self.tasks.add(asyncio.create_task(pump))

    async def _to_node(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, mine: asyncio.Event) -> None:
        while data := await reader.read(65536):
            while _missing(data) and (more := await reader.read(65536)):
                data += more
            if self.form is not None and self.form.match(data) and not self.held.is_set():
                self.request = data
                mine.set()
                self.held.set()
                await self.release.wait()
            self.passed[data.partition(b" ")[0] + b" " + data.partition(b" HTTP/")[0].rpartition(b"/")[2][:20]] += 1
            writer.write(data)
        writer.close()

    async def _to_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, mine: asyncio.Event) -> None:
        while data := await reader.read(65536):
            if mine.is_set() and not self.answered.is_set():
                self.answer += data
                if not _missing(self.answer):
                    self.answered.set()
            writer.write(data)
        writer.close()


def _missing(message: bytes) -> bool:
    """A part of its head or, where that gives a length, of its body."""
    head, end, body = message.partition(b"\r\n\r\n")
    length = re.search(rb"^content-length: (\d+)", head, re.I | re.M)
    return not end or (length is not None and len(body) < int(length[1]))


@pytest.fixture
async def gate(two_zones: Any) -> AsyncIterator[Gate]:
    """In front of node 1."""
    made = Gate(two_zones.agents[1])
    await made.open()
    await two_zones.database.execute("UPDATE host SET http_port = $1 WHERE hostid = 1", Gate.PORT)
    await two_zones.look()
    yield made
    await made.close()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("form", [DELETE_OF_ONE, DELETE_OF_MANY], ids=["one copy", "an order of many"])
async def test_a_tracker_stopped_before_its_delete_does_not_hit_the_copy_that_was_made_again(
    two_zones: Any, gate: Gate, three_trackers: list[Any], form: re.Pattern[bytes]
) -> None:
    stopped, *others = three_trackers
    for tracker in others:
        tracker.signal(signal.SIGKILL)
    await stopped.up()
    gate.form = form
    for _ in range(ROUNDS):  # a copy too many each; about half of the surplus is on device 1
        fids = [await two_zones.put([1, 2, 3], queue=False) for _ in range(1 if form is DELETE_OF_ONE else 20)]
        await two_zones.database.execute(
            "INSERT INTO file_to_replicate (fid, nexttry) SELECT unnest($1::bigint[]), 0", fids
        )

        async def held_or_trimmed() -> bool:
            return gate.held.is_set() or await two_zones.quiet()

        await two_zones.wait_for(held_or_trimmed, "the surplus to be trimmed")
        if gate.held.is_set():
            break
    stopped.signal(signal.SIGSTOP)
    found = form.match(gate.request)
    assert found, f"no delete of this form was sent, but {gate.passed}"
    fid = int(found[1])
    assert await two_zones.holders(fid) == [2, 3], "taken out of use, but the bytes are still there"
    assert two_zones.disk(1, fid).exists()

    async def deleted_by_another() -> bool:
        with contextlib.suppress(
            StoreUnavailableError
        ):  # a row lock the stopped one holds, until the database ends its transaction
            await DeleteCopies(two_zones.jobs).work()
        return not two_zones.disk(1, fid).exists()

    await two_zones.wait_for(deleted_by_another, "another tracker to delete the copy")
    for devid in (2, 4):
        await two_zones.patiently(lambda d=devid: two_zones.set_device(d, "readonly"), f"device {devid} to be readonly")
    await two_zones.database.execute("DELETE FROM file_on WHERE fid = $1 AND devid = 2", fid)
    await two_zones.database.execute(
        "INSERT INTO file_to_replicate (fid, nexttry) VALUES ($1, 0) ON CONFLICT DO NOTHING", fid
    )
    await two_zones.look()

    async def made_again() -> bool:
        with contextlib.suppress(StoreUnavailableError):
            await Replicate(two_zones.jobs).work()
        return bool(await two_zones.holders(fid) == [1, 3])

    await two_zones.wait_for(made_again, "the copy to be made again on the same device")
    assert two_zones.disk(1, fid).read_bytes() == two_zones.content[fid]

    stopped.signal(signal.SIGCONT)
    gate.release.set()
    await asyncio.wait_for(gate.answered.wait(), 90)
    refused = b"HTTP/1.1 412 " if form is DELETE_OF_ONE else b"\r\n\r\n%d other\n" % fid
    assert refused in gate.answer, gate.answer
    for devid in (2, 4):
        await two_zones.set_device(devid, "alive")
    await two_zones.wait_for(two_zones.quiet, "all queues to drain")
    assert 1 in await two_zones.holders(fid)
    await two_zones.check_files()


async def test_a_deleter_stopped_before_it_asks_which_copy_lies_there_does_not_hit_a_newer_one(
    two_zones: Any, gate: Gate
) -> None:
    """The order does not name its copy (its outcome was never known): the id is asked for, and must be that of the copy it was about."""
    gate.form = re.compile(rb"HEAD ")
    stopped = DeleteCopies(await two_zones.make_jobs("stopped", lease_seconds=1))
    other = DeleteCopies(await two_zones.make_jobs("other", lease_seconds=1))
    await two_zones.look()
    fid = await two_zones.put([1, 2, 3], queue=False)
    await two_zones.database.execute("DELETE FROM file_on WHERE fid = $1 AND devid = 1", fid)
    await two_zones.database.execute("INSERT INTO mogile_copy_delete (fid, devid, nexttry) VALUES ($1, 1, 0)", fid)
    working = asyncio.create_task(stopped.work())
    await asyncio.wait_for(gate.held.wait(), 30)

    async def deleted_by_another() -> bool:
        await other.work()
        return await two_zones.count("mogile_copy_delete") == 0

    await two_zones.wait_for(deleted_by_another, "another tracker to delete the copy")
    assert not two_zones.disk(1, fid).exists()
    for devid in (2, 4):
        await two_zones.set_device(devid, "readonly")
    await two_zones.database.execute("DELETE FROM file_on WHERE fid = $1 AND devid = 2", fid)
    await two_zones.database.execute("INSERT INTO file_to_replicate (fid, nexttry) VALUES ($1, 0)", fid)
    await two_zones.look()
    await Replicate(two_zones.jobs).work()
    assert await two_zones.holders(fid) == [1, 3], "made again on the same device"

    gate.release.set()
    await asyncio.wait_for(working, 30)
    assert two_zones.disk(1, fid).read_bytes() == two_zones.content[fid]
    await two_zones.check_files([fid])
