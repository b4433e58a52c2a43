"""What breaks around the gateway, and what a client sees of it: the failure table both gateways must keep."""

import asyncio
import contextlib
import io
import os
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from testkit.waiting import wait_for

Http = aiohttp.ClientSession
DOWN_SECONDS = 6  # both gateways ask a tracker that was silent again after this


async def fetch(http: Http, url: str) -> tuple[int, bytes, float]:
    begun = time.monotonic()
    async with http.get(url) as answer:
        return answer.status, await answer.read(), time.monotonic() - begun


async def send(http: Http, url: str, data: Any = b"data") -> int:
    async with http.put(url, data=data) as answer:
        await answer.read()
        return answer.status


async def forever(total: int, go_on: asyncio.Event | None = None) -> Any:
    """A body of `total` bytes that stops half-way until it may go on."""
    half = total // 2
    yield b"a" * half
    if go_on is not None:
        await go_on.wait()
    yield b"b" * (total - half)


def arrival(store: Any) -> asyncio.Event:
    """Set as soon as a node has got bytes of an upload."""
    reached = asyncio.Event()
    for node in store.nodes:
        node.on_body = lambda _size: reached.set()
    return reached


# --- trackers ---------------------------------------------------------------------------------------------------------------------


async def test_one_tracker_refused(gateway: Any, store: Any, trackers: Any, http: Http) -> None:
    store.put(b"k", b"data")
    await trackers[0].stop()
    times = []
    for _ in range(4):
        status, data, seconds = await fetch(http, gateway.url + "/images/k")
        assert (status, data) == (200, b"data")
        times.append(seconds)
    assert sorted(times)[1] < 1, times
    assert await send(http, gateway.url + "/open/new") == 201
    await trackers[1].stop()
    await trackers[0].start()
    assert (await fetch(http, gateway.url + "/images/k"))[:2] == (200, b"data")


async def test_both_trackers_refused(gateway: Any, store: Any, trackers: Any, http: Http) -> None:
    store.put(b"k", b"data")
    for tracker in trackers:
        await tracker.stop()
    async with http.get(gateway.url + "/images/k") as answer:
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) >= 1
    assert await send(http, gateway.url + "/open/k2") == 503
    async with http.delete(gateway.url + "/open/k") as answer:
        assert answer.status == 503
    async with asyncio.timeout(90):
        while (await fetch(http, gateway.metrics_url + "/readyz"))[0] != 503:
            await asyncio.sleep(0.1)
    assert (await fetch(http, gateway.metrics_url + "/healthz"))[0] == 200
    for tracker in trackers:
        await tracker.start()
    assert (await fetch(http, gateway.url + "/images/k"))[:2] == (200, b"data")


async def test_no_body_travels_when_no_tracker_answers(gateway: Any, trackers: Any) -> None:
    for tracker in trackers:
        await tracker.stop()
    host, port = gateway.config["listen"].split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"PUT /open/k HTTP/1.1\r\nHost: g\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n")
    assert b" 503 " in await asyncio.wait_for(reader.readline(), 90)
    writer.close()


async def test_hung_tracker_costs_one_timeout_then_is_skipped(
    gateway: Any, store: Any, trackers: Any, http: Http
) -> None:
    store.put(b"k", b"data")
    trackers[0].mode = "hang"
    times = []
    for _ in range(12):
        status, data, seconds = await fetch(http, gateway.url + "/images/k")
        assert (status, data) == (200, b"data")
        times.append(seconds)
    asked = len(trackers[0].commands("get_paths"))
    assert asked <= 1 + sum(times) // DOWN_SECONDS, (asked, times)
    assert sorted(times)[5] < 0.5, times
    assert max(times) < 15, times


async def test_hung_tracker_comes_back(gateway: Any, store: Any, trackers: Any, http: Http) -> None:
    store.put(b"k", b"data")
    trackers[0].mode = "hang"
    await fetch(http, gateway.url + "/images/k")
    await fetch(http, gateway.url + "/images/k")
    await trackers[0].stop()
    trackers[0].mode = "ok"
    await trackers[0].start()
    trackers[0].seen.clear()
    async with asyncio.timeout(90):
        while "get_paths" not in trackers[0].commands():
            assert (await fetch(http, gateway.url + "/images/k"))[0] == 200
            await asyncio.sleep(0.1)


async def test_garbage_and_database_errors_go_to_the_next_tracker(
    gateway: Any, store: Any, trackers: Any, http: Http
) -> None:
    store.put(b"k", b"data")
    trackers[0].mode = "garbage"
    for _ in range(4):
        assert (await fetch(http, gateway.url + "/images/k"))[:2] == (200, b"data")
    trackers[0].mode = "ok"
    trackers[0].fail = {"get_paths": "db", "create_open": "draining"}
    for _ in range(4):
        assert (await fetch(http, gateway.url + "/images/k"))[:2] == (200, b"data")
        assert await send(http, gateway.url + "/open/new") == 201
    trackers[1].fail = {"get_paths": "db"}
    assert (await fetch(http, gateway.url + "/images/k"))[0] == 503


async def test_a_tracker_that_has_not_seen_the_devices_yet_is_passed_over(
    gateway: Any, store: Any, trackers: Any, http: Http
) -> None:
    asked = 0
    for tracker in trackers:
        tracker.fail = {"create_open": "no_devices", "create_close": "no_devices"}
        for number in range(6):
            assert await send(http, f"{gateway.url}/open/k{number}") == 201
        asked += len(tracker.commands("create_open"))
        tracker.fail = {}
    assert asked > 0
    assert sum(len(tracker.commands("file_info")) for tracker in trackers) == 0, (
        "nothing was done, so nothing is in doubt"
    )


async def test_tracker_errors_of_an_upload(gateway: Any, store: Any, trackers: Any, http: Http) -> None:
    for command, code, status in (
        ("create_open", "no_devices", 503),
        ("create_open", "unreg_domain", 404),
        ("create_open", "unreg_class", 502),
        ("create_close", "size_mismatch", 502),
        ("create_close", "no_temp_file", 502),
        ("create_close", "no_devices", 503),
    ):
        for tracker in trackers:
            tracker.fail = {command: code}
        assert await send(http, gateway.url + "/open/k") == status, (command, code)
        assert store.files == {}


@pytest.mark.parametrize("body", ["sized", "chunked"])
async def test_trackers_die_mid_put(gateway: Any, store: Any, trackers: Any, http: Http, body: str) -> None:
    reached, go_on = arrival(store), asyncio.Event()
    headers = {"Content-Length": "400000"} if body == "sized" else {}
    upload = asyncio.create_task(_status(http, gateway.url + "/open/k", forever(400_000, go_on), headers))
    await reached.wait()
    for tracker in trackers:
        await tracker.stop()
    go_on.set()
    assert await upload == 503
    for tracker in trackers:
        await tracker.start()
    assert (await fetch(http, gateway.url + "/images/k"))[0] == 404


async def _status(http: Http, url: str, data: Any, headers: dict[str, str] | None = None) -> int:
    async with http.put(url, data=data, headers=headers) as answer:
        return answer.status


async def test_tracker_dies_mid_put_and_the_other_closes(gateway: Any, store: Any, trackers: Any, http: Http) -> None:
    reached, go_on = arrival(store), asyncio.Event()
    upload = asyncio.create_task(_status(http, gateway.url + "/open/k", forever(400_000, go_on)))
    await reached.wait()
    opener = next(tracker for tracker in trackers if tracker.commands("create_open"))
    await opener.stop()
    go_on.set()
    assert await upload == 201
    assert len(store.data(b"k")) == 400_000


async def test_lost_answer_of_create_close_is_looked_up(gateway: Any, store: Any, trackers: Any, http: Http) -> None:
    for tracker in trackers:
        tracker.on_command = lambda command: _lose_first_close(command, trackers)
    assert await send(http, gateway.url + "/open/k") == 201
    assert sum(len(tracker.commands("create_close")) for tracker in trackers) == 2
    assert sum(len(tracker.commands("file_info")) for tracker in trackers) == 1
    assert store.data(b"k") == b"data"


def _lose_first_close(command: str, trackers: Any) -> None:
    if command == "create_close":
        first = sum(len(tracker.commands("create_close")) for tracker in trackers) == 1
        for tracker in trackers:
            tracker.lose_answer = {"create_close"} if first else set()


async def test_lost_answer_of_delete_is_success(gateway: Any, store: Any, trackers: Any, http: Http) -> None:
    store.put(b"k", b"data")

    def lose(command: str) -> None:
        if command == "delete":
            first = sum(len(tracker.commands("delete")) for tracker in trackers) == 1
            for tracker in trackers:
                tracker.lose_answer = {"delete"} if first else set()

    for tracker in trackers:
        tracker.on_command = lose
    async with http.delete(gateway.url + "/open/k") as answer:
        assert answer.status == 204
    assert store.files == {}


# --- storage nodes, reading ---------------------------------------------------------------------------------------------------------


async def test_first_node_refused(gateway: Any, store: Any, http: Http) -> None:
    store.put(b"k", b"data")
    await store.nodes[0].stop()
    await store.nodes[1].stop()
    times = []
    for _ in range(4):
        status, data, seconds = await fetch(http, gateway.url + "/images/k")
        assert (status, data) == (200, b"data")
        times.append(seconds)
    assert sorted(times)[1] < 1, times


async def test_first_node_hung_costs_one_timeout_then_is_skipped(gateway: Any, store: Any, http: Http) -> None:
    store.put(b"k", b"data")
    store.nodes[0].mode = "hang"
    status, data, seconds = await fetch(http, gateway.url + "/images/k")
    assert (status, data) == (200, b"data")
    assert seconds < 20
    asked = len(store.nodes[0].requests("GET"))
    status, data, seconds = await fetch(http, gateway.url + "/images/k")
    assert (status, data) == (200, b"data")
    assert len(store.nodes[0].requests("GET")) == asked, "the hung one is not asked again"


async def test_first_node_refuses_to_serve(gateway: Any, store: Any, http: Http) -> None:
    store.put(b"k", b"data")
    for answer in (404, 403, 421, 500, 503):
        store.nodes[0].mode = answer
        assert (await fetch(http, gateway.url + "/images/k"))[:2] == (200, b"data"), answer
        async with http.get(gateway.url + "/images/k", headers={"Range": "bytes=1-2"}) as partial:
            assert (partial.status, await partial.read()) == (206, b"at"), answer
        async with http.head(gateway.url + "/images/k") as head:
            assert (head.status, head.headers["Content-Length"]) == (200, "4"), answer
    assert len(store.nodes[0].requests("GET")) >= 10


async def test_no_copy_can_be_reached(gateway: Any, store: Any, http: Http) -> None:
    store.put(b"k", b"data")
    for answer in (404, 500):
        for node in store.nodes:
            node.mode = answer
        assert (await fetch(http, gateway.url + "/images/k"))[0] == 503, answer


async def test_all_nodes_refused(gateway: Any, store: Any, http: Http) -> None:
    store.put(b"k", b"data")
    for node in store.nodes:
        await node.stop()
    assert (await fetch(http, gateway.url + "/images/k"))[0] == 503


async def test_file_without_copies(gateway: Any, store: Any, http: Http) -> None:
    store.files[b"images", b"k"] = (1, [])
    assert (await fetch(http, gateway.url + "/images/k"))[0] == 503


async def test_copies_that_moved_are_looked_up_again(gateway: Any, store: Any, trackers: Any, http: Http) -> None:
    fid = store.put(b"k", b"data", on=[store.nodes[0]])
    old = store.nodes[0].files.pop(store.nodes[0].path(fid))
    store.nodes[2].files[store.nodes[2].path(fid)] = old
    asked = []

    def move(command: str) -> None:
        if command == "get_paths":
            asked.append(command)
            if len(asked) == 2:
                store.files[b"images", b"k"] = (fid, [store.nodes[0].url(fid), store.nodes[2].url(fid)])

    for tracker in trackers:
        tracker.on_command = move
    assert (await fetch(http, gateway.url + "/images/k"))[:2] == (200, b"data")
    assert len(asked) == 2


async def test_broken_download_is_never_a_whole_one(gateway: Any, store: Any, http: Http) -> None:
    fid = store.put(b"k", b"x" * 1000, on=[store.nodes[0]])

    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 500)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(half, "127.0.23.31", 0)
    port = server.sockets[0].getsockname()[1]
    store.files[b"images", b"k"] = (fid, [f"http://127.0.23.31:{port}{store.nodes[0].path(fid)}"])
    with pytest.raises(aiohttp.ClientPayloadError):
        await fetch(http, gateway.url + "/images/k")
    server.close()
    await server.wait_closed()


# --- storage nodes, writing ---------------------------------------------------------------------------------------------------------


async def test_upload_goes_to_the_next_device_when_the_first_refuses(gateway: Any, store: Any, http: Http) -> None:
    await store.nodes[0].stop()
    for number in range(3):
        assert await send(http, f"{gateway.url}/open/k{number}") == 201
        assert store.data(f"k{number}".encode()) == b"data"


async def test_upload_goes_to_the_next_device_when_the_first_hangs(gateway: Any, store: Any, http: Http) -> None:
    store.nodes[0].mode = "hang"
    begun = time.monotonic()
    assert await send(http, gateway.url + "/open/k") == 201
    assert time.monotonic() - begun < 20
    assert store.data(b"k") == b"data"


async def test_no_device_takes_the_upload(gateway: Any, store: Any, http: Http) -> None:
    for node in store.nodes:
        await node.stop()
    assert await send(http, gateway.url + "/open/k") == 503


async def test_node_refuses_the_upload(gateway: Any, store: Any, http: Http) -> None:
    for answer, status in ((507, 507), (409, 502), (421, 502), (500, 502), (503, 502)):
        for node in store.nodes:
            node.mode = answer
        assert await send(http, gateway.url + "/open/k") == status, answer
        assert store.files == {}


async def test_node_dies_mid_put(gateway: Any, store: Any, trackers: Any, http: Http) -> None:
    for node in store.nodes:
        node.die_after = 200_000
    assert await send(http, gateway.url + "/open/k", forever(400_000)) == 502
    assert (await fetch(http, gateway.url + "/images/k"))[0] == 404
    assert not [name for tracker in trackers for name in tracker.commands("create_close")]


@pytest.mark.parametrize("sized", [True, False])
async def test_client_aborts_mid_put(gateway: Any, store: Any, trackers: Any, http: Http, sized: bool) -> None:
    arrived = arrival(store)
    host, port = gateway.config["listen"].split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    framing = b"Content-Length: 100000" if sized else b"Transfer-Encoding: chunked"
    writer.write(
        b"PUT /open/k HTTP/1.1\r\nHost: g\r\n"
        + framing
        + b"\r\n\r\n"
        + (b"" if sized else b"10000\r\n")
        + b"x" * 50_000
    )
    await writer.drain()
    await asyncio.wait_for(arrived.wait(), 90)
    writer.transport.abort()
    await asyncio.sleep(0.5)
    assert (await fetch(http, gateway.url + "/images/k"))[0] == 404
    assert not [name for tracker in trackers for name in tracker.commands("create_close")]


async def test_foreign_nodes_and_trackers(start_gateway: Any, store: Any, trackers: Any, http: Http) -> None:
    """Nodes that know no X-Mogile-After (mogstored, any DAV server) and trackers that know no mogile_cluster."""
    store.cluster = None
    for node in store.nodes:
        node.ours = False
    gateway = await start_gateway([f"{tracker.address}:{tracker.port}" for tracker in trackers])
    big = os.urandom(3_000_000)
    assert await send(http, gateway.url + "/open/k", io.BytesIO(big)) == 201
    assert store.data(b"k") == big
    assert (await fetch(http, gateway.url + "/images/k"))[:2] == (200, big)
    puts = [headers for node in store.nodes for headers in node.requests("PUT")]
    assert puts
    assert not any("X-Mogile-Cluster" in headers for headers in puts)
    for node in store.nodes:
        node.mode = 400
    assert await send(http, gateway.url + "/open/k2") == 400
    for node in store.nodes:
        node.mode, node.die_after = "ok", 200_000
    assert await send(http, gateway.url + "/open/k3", forever(400_000)) == 502
    assert set(store.files) == {(b"images", b"k")}


# --- load and life ------------------------------------------------------------------------------------------------------------------


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and all below it."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
            if int(fields["Pid"]) == pid or int(fields["PPid"]) == pid:
                total += int(fields.get("VmRSS", "0 kB").split()[0]) * 1024
    return total


async def test_parallel_uploads_in_constant_memory(gateway: Any, store: Any, http: Http) -> None:
    for node in store.nodes:
        node.keep_bodies = False
    uploads, size, piece = 50, 8_000_000, b"z" * 50_000
    assert await send(http, gateway.url + "/open/warm") == 201
    before = resident_bytes(_worker_parent(gateway))
    peak = before

    async def body() -> Any:
        for _ in range(size // len(piece)):
            yield piece

    async def watch() -> None:
        nonlocal peak
        while True:
            peak = max(peak, resident_bytes(_worker_parent(gateway)))
            await asyncio.sleep(0.1)

    watcher = asyncio.create_task(watch())
    results = await asyncio.gather(*(send(http, f"{gateway.url}/open/k{n}", body()) for n in range(uploads)))
    watcher.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watcher
    assert results == [201] * uploads
    assert len(store.files) == uploads + 1
    # 50 uploads of 8 MB are 400 MB; a gateway that held bodies would show it
    assert peak - before < 60_000_000, (before, peak)
    left = [path for path in gateway.directory.rglob("*") if path.is_file() and path.stat().st_size > 1_000_000]
    assert left == []


def _worker_parent(gateway: Any) -> int:
    if gateway.kind == "builtin":
        return int(gateway.process.pid)
    return int((gateway.directory / "run" / "nginx.pid").read_text())


async def test_sigterm_finishes_what_is_under_way(gateway: Any, store: Any, trackers: Any, http: Http) -> None:
    reached, go_on = arrival(store), asyncio.Event()
    upload = asyncio.create_task(_status(http, gateway.url + "/open/k", forever(400_000, go_on)))
    await reached.wait()
    gateway.process.terminate()

    async def refuses() -> bool:
        try:
            async with aiohttp.ClientSession() as other, other.get(gateway.url + "/images/k"):
                return False
        except aiohttp.ClientConnectorError:
            return True

    await wait_for(refuses, "new connections to be refused")
    go_on.set()
    assert await upload == 201
    assert await asyncio.to_thread(gateway.process.wait, 90) == 0
    assert len(store.data(b"k")) == 400_000


async def test_sigterm_has_a_deadline(start_gateway: Any, store: Any, trackers: Any, http: Http, kind: str) -> None:
    gateway = await start_gateway([f"{trackers[0].address}:{trackers[0].port}"])
    reached, never = arrival(store), asyncio.Event()
    upload = asyncio.create_task(_status(http, gateway.url + "/open/k", forever(400_000, never)))
    await reached.wait()
    gateway.process.terminate()
    begun = time.monotonic()
    assert await asyncio.to_thread(gateway.process.wait, 90) == 0
    assert time.monotonic() - begun < 40
    never.set()
    with contextlib.suppress(aiohttp.ClientError):
        assert await upload != 201
    assert store.files == {}
