"""Four clients per key close uploads at once at three whole trackers: of the original's 600, 38 lost their connection and 327 leaked.

Here every acknowledged close is either the current file of its key or its bytes are deleted, nothing is left over, and no client loses
its connection.
"""

import asyncio
import os
import random
from typing import Any

import aiohttp
import pytest

from mogile_core.wire import Reply, parse_reply
from testkit.waiting import wait_for

CLOSES = 60_000 if os.environ.get("FULL") else 1_800
KEYS, CLOSERS_PER_KEY = 6, 4


class Line:
    """One connection to one tracker for the whole of the test; losing it is a failure."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, tracker: Any) -> "Line":
        return cls(*await asyncio.open_connection(tracker.ADDRESS, tracker.port))

    async def ask(self, request: str) -> Reply:
        self.writer.write(f"{request}\r\n".encode())
        answer = await self.reader.readline()
        assert answer.endswith(b"\r\n"), f"the connection was lost at {request!r} after {answer!r}"
        return parse_reply(answer.decode("latin-1"))

    async def ok(self, request: str) -> dict[str, str]:
        reply = await self.ask(request)
        assert reply.ok, (request, reply)
        return reply.args


async def ready(trackers: list[Any]) -> None:
    """Every tracker offers devices."""
    for tracker in trackers:
        await tracker.up()
        line = await Line.to(tracker)

        async def offers(line: Line = line) -> bool:
            return (await line.ask("create_open domain=d&key=probe&class=c")).ok

        await wait_for(offers, "the tracker to offer devices")
        line.writer.close()


async def put(http: aiohttp.ClientSession, url: str, body: bytes) -> None:
    """Again when the node is too busy for it (503), as clients do."""

    async def stored() -> bool:
        async with http.put(url, data=body) as response:
            assert response.status in (200, 201, 503), await response.text()
            return response.status != 503

    await wait_for(stored, f"PUT {url}")


@pytest.mark.slow
@pytest.mark.timeout(6000 if CLOSES > 10_000 else 900)
async def test_closers_of_the_same_keys_leak_nothing_and_lose_no_connection(
    two_zones: Any, three_trackers: list[Any]
) -> None:
    await ready(three_trackers)
    acknowledged: dict[int, int] = {}  # fid -> number of the key

    async def closer(number: int, http: aiohttp.ClientSession) -> None:
        line, dice, key = await Line.to(three_trackers[number % 3]), random.Random(number), number % KEYS
        for _ in range(CLOSES // (KEYS * CLOSERS_PER_KEY)):
            opened = await line.ok(f"create_open domain=d&key=hot{key}&class=c")
            body = f"{key}:{opened['fid']}:".encode() + dice.randbytes(dice.randrange(200))
            await put(http, opened["path"], body)
            await line.ok(
                f"create_close domain=d&key=hot{key}&fid={opened['fid']}&devid={opened['devid']}"
                f"&path={opened['path']}&size={len(body)}"
            )
            assert int(opened["fid"]) not in acknowledged, "a fid was given twice"
            acknowledged[int(opened["fid"])] = key
        line.writer.close()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=32)) as http, asyncio.TaskGroup() as clients:
        for number in range(KEYS * CLOSERS_PER_KEY):
            clients.create_task(closer(number, http))
    assert len(acknowledged) == CLOSES // (KEYS * CLOSERS_PER_KEY) * KEYS * CLOSERS_PER_KEY

    rows = await two_zones.database.fetch("SELECT fid, dkey FROM file")
    current = {row["fid"]: int(row["dkey"].removeprefix("hot")) for row in rows}
    assert sorted(current.values()) == list(range(KEYS)), "every key means exactly one file"
    assert all(acknowledged[fid] == key for fid, key in current.items())

    async def drained() -> bool:
        """Also of the uploads that only asked for a place: first of them, for what is swept goes into a queue."""
        await two_zones.database.execute("UPDATE tempfile SET createtime = 1")
        return await two_zones.count("tempfile") == 0 and await two_zones.quiet()

    await two_zones.wait_for(drained, "all replaced files to be deleted", 200 + CLOSES / 50)
    located = {fid for _, fid in await two_zones.locations()}
    assert located == set(current), "locations without a file, neither current nor queued for deletion: leaked"
    assert two_zones.stray_files() == await two_zones.locations(), "bytes without a row or rows without bytes"
    for fid, key in current.items():
        devids = await two_zones.holders(fid)
        assert two_zones.zones(devids) == {"a", "b"}, (fid, devids)
        assert all(two_zones.disk(devid, fid).read_bytes().startswith(f"{key}:{fid}:".encode()) for devid in devids)
