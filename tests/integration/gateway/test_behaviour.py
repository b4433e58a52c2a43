"""The table of behaviour: what a plain HTTP client sees while nothing is broken. Both gateways must agree on every row."""

import asyncio
import base64
import hashlib
import io
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from testkit.waiting import wait_for

Http = aiohttp.ClientSession


@pytest.fixture
async def gateway(shared_gateway: Any, trackers: Any) -> Any:
    """The module's gateway, once it has found this test's trackers."""
    async with aiohttp.ClientSession() as session, asyncio.timeout(90):
        while True:
            async with session.get(shared_gateway.metrics_url + "/readyz") as answer:
                if answer.status == 200:
                    break
            await asyncio.sleep(0.05)
    for tracker in trackers:
        tracker.seen.clear()
    return shared_gateway


@pytest.fixture
async def own_gateway(start_gateway: Any, trackers: Any) -> Any:
    return await start_gateway([f"{tracker.address}:{tracker.port}" for tracker in trackers])


async def put(http: Http, url: str, data: Any, headers: dict[str, str] | None = None) -> int:
    async with http.put(URL(url, encoded=True), data=data, headers=headers) as answer:
        await answer.read()
        return answer.status


async def get(http: Http, url: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    async with http.get(URL(url, encoded=True), headers=headers) as answer:
        return answer.status, await answer.read()


async def test_put_get_head_delete(gateway: Any, store: Any, http: Http, authorised: dict[str, str]) -> None:
    url = gateway.url + "/images/a/b.png"
    data = bytes(range(256)) * 1000
    async with http.put(url, data=data, headers=authorised) as answer:
        assert answer.status == 201, await answer.text()
        tag = answer.headers["ETag"]
    assert store.data(b"a/b.png") == data
    async with http.get(url) as answer:
        assert (answer.status, await answer.read()) == (200, data)
        assert answer.headers["Content-Type"] == "image/png"
        assert answer.headers["ETag"] == tag
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert not [name for name in answer.headers if name.lower().startswith(("x-mogile", "x-accel"))]
    async with http.head(url) as answer:
        assert (answer.status, answer.headers["Content-Length"], await answer.read()) == (200, "256000", b"")
    async with http.delete(url, headers=authorised) as answer:
        assert (answer.status, await answer.read()) == (204, b"")
    assert (await get(http, url))[0] == 404
    async with http.delete(url, headers=authorised) as answer:
        assert answer.status == 404


@pytest.mark.parametrize("size", [0, 1, 4096, 3_000_000])
@pytest.mark.parametrize("chunked", [False, True])
async def test_every_kind_of_body(gateway: Any, store: Any, http: Http, size: int, chunked: bool) -> None:
    data = bytes(size)

    async def pieces() -> Any:
        for start in range(0, size, 50_000):
            yield data[start : start + 50_000]

    assert await put(http, gateway.url + "/open/k", pieces() if chunked else io.BytesIO(data)) == 201
    assert store.data(b"k") == data
    assert await get(http, gateway.url + "/images/k") == (200, data)


async def test_expect_continue(gateway: Any, store: Any, http: Http) -> None:
    async with http.put(gateway.url + "/open/k", data=b"x" * 100_000, expect100=True) as answer:
        assert answer.status == 201
    assert store.data(b"k") == b"x" * 100_000


async def test_body_without_length_is_refused(gateway: Any, trackers: Any) -> None:
    host, port = gateway.config["listen"].split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"PUT /open/k HTTP/1.1\r\nHost: g\r\n\r\n")
    assert b" 411 " in await reader.readline()
    writer.close()
    assert not trackers[0].commands("create_open") + trackers[1].commands("create_open")


@pytest.mark.parametrize(
    ("method", "path", "with_token", "status"),
    [
        ("POST", "/open/k", False, 405),
        ("OPTIONS", "/images/k", False, 405),
        ("PUT", "/docs/k", True, 405),
        ("DELETE", "/docs/k", True, 405),
        ("PUT", "/images/k", False, 401),
        ("DELETE", "/images/k", False, 401),
        ("GET", "/docs/k", False, 401),
        ("HEAD", "/docs/k", False, 401),
        ("GET", "/docs/k", True, 404),
        ("GET", "/images/unknown", False, 404),
        ("GET", "/images/", False, 404),
        ("PUT", "/open/", False, 400),
        ("GET", "/nowhere/k", False, 404),
        ("GET", "/", False, 404),
        ("PUT", "/elsewhere", False, 404),
        ("GET", "/images", False, 404),
        ("GET", "/.mogile-gateway/close", False, 404),
    ],
)
async def test_refusals(
    gateway: Any, http: Http, authorised: dict[str, str], method: str, path: str, with_token: bool, status: int
) -> None:
    headers = authorised if with_token else {}
    async with http.request(
        method, gateway.url + path, headers=headers, data=b"x" if method == "PUT" else None
    ) as answer:
        assert answer.status == status, await answer.text()
        if status == 405:
            assert answer.headers["Allow"] == {
                "/open/k": "GET, HEAD, PUT, DELETE",
                "/images/k": "GET, HEAD, PUT, DELETE",
            }.get(path, "GET, HEAD")
        if status == 401:
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        if method != "HEAD":
            assert await answer.text() != ""


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("Bearer correct-horse", 201),
        ("bearer correct-horse", 201),
        ("Bearer wrong", 403),
        ("Bearer correct-horseX", 403),
        ("Bearer correct-hors", 403),
        ("Bearer ", 401),
        ("Basic Y29ycmVjdC1ob3JzZQ==", 401),
        ("correct-horse", 401),
    ],
)
async def test_tokens(gateway: Any, http: Http, header: str, status: int) -> None:
    assert await put(http, gateway.url + "/images/k", b"x", {"Authorization": header}) == status


async def test_token_is_read_again_when_it_changes(own_gateway: Any, http: Http, token_file: Path) -> None:
    url = own_gateway.url + "/images/k"

    async def until(token: str, status: int) -> None:
        async with asyncio.timeout(90):
            while await put(http, url, b"x", {"Authorization": f"Bearer {token}"}) != status:
                await asyncio.sleep(0.1)

    await until("correct-horse", 201)
    token_file.write_text("old\nnew\n")
    await until("correct-horse", 403)
    await until("old", 201)
    await until("new", 201)
    token_file.unlink()
    await until("new", 403)


KEYS = [
    b"plain",
    b"a b+c",
    b"a&domain=docs&key=x",
    b"q?x=1#y",
    b"100%",
    b"%41",
    b"a//b",
    b"/leading",
    b"trailing/",
    b"\xc3\xa9t\xc3\xa9/\xe6\x97\xa5",
    b"\xff\xfe",
    b"semi;colon,comma=\"quote'`<>|\\^{}[]",
    b"...",
    b".hidden",
    b"a/..b/c.",
    b"~!$()*",
    b"tab\there",
    b"line\nbreak\r",
]


async def test_any_key_round_trips(gateway: Any, store: Any, http: Http) -> None:
    for key in KEYS:
        await _round_trip(gateway, store, http, key)


async def _round_trip(gateway: Any, store: Any, http: Http, key: bytes) -> None:
    escaped = "".join(f"%{byte:02X}" for byte in key)
    assert await put(http, gateway.url + "/open/" + escaped, b"the bytes of " + key) == 201
    assert list(store.files) == [(b"images", key)]
    assert await get(http, gateway.url + "/images/" + escaped) == (200, b"the bytes of " + key)
    async with http.delete(URL(gateway.url + "/open/" + escaped, encoded=True)) as answer:
        assert answer.status == 204
    assert store.files == {}


async def test_query_is_no_part_of_the_key(gateway: Any, store: Any, http: Http) -> None:
    store.put(b"k+1", b"data")
    assert await get(http, gateway.url + "/images/k+1?width=3&key=other") == (200, b"data")


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/images/../docs/k", 400),
        ("/images/x/%2e%2e/%2e%2e/docs/k", 400),
        ("/docs/../images/k", 400),
        ("/images/../../k", 400),
    ],
)
async def test_dot_segments_never_cross_a_location(gateway: Any, store: Any, target: str, status: int) -> None:
    store.put(b"k", b"secret", domain=b"docs")
    store.put(b"../docs/k", b"strange")
    host, port = gateway.config["listen"].split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"GET {target} HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer correct-horse\r\nConnection: close\r\n\r\n".encode()
    )
    answer = await reader.read()
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer
    writer.close()


async def test_ranges_and_conditions(gateway: Any, store: Any, http: Http) -> None:
    store.put(b"k.txt", b"0123456789")
    url = gateway.url + "/images/k.txt"
    async with http.get(url) as answer:
        tag = answer.headers["ETag"]
        modified = answer.headers["Last-Modified"]
    assert tag != '"copy-1"'
    assert await get(http, url, {"Range": "bytes=2-4"}) == (206, b"234")
    assert await get(http, url, {"Range": "bytes=2-4", "If-Range": tag}) == (206, b"234")
    assert await get(http, url, {"Range": "bytes=2-4", "If-Range": '"other"'}) == (200, b"0123456789")
    asked = sum(len(node.requests("GET")) for node in store.nodes)
    assert await get(http, url, {"If-None-Match": tag}) == (304, b"")
    assert await get(http, url, {"If-None-Match": f'"x", W/{tag}'}) == (304, b"")
    assert (await get(http, url, {"If-Match": '"other"'}))[0] == 412
    assert sum(len(node.requests("GET")) for node in store.nodes) == asked
    assert (await get(http, url, {"If-Match": tag}))[0] == 200
    assert (await get(http, url, {"If-None-Match": '"other"', "If-Modified-Since": modified}))[0] == 200
    assert (await get(http, url, {"If-Modified-Since": modified}))[0] == 304


async def test_content_md5_is_checked(gateway: Any, store: Any, trackers: Any, http: Http) -> None:
    data = b"checked"
    good = base64.b64encode(hashlib.md5(data).digest()).decode()
    assert await put(http, gateway.url + "/open/k", data, {"Content-MD5": good}) == 201
    closes = [arguments for tracker in trackers for name, arguments in tracker.seen if name == "create_close"]
    assert closes[0][b"checksum"] == b"MD5:" + hashlib.md5(data).hexdigest().encode()
    assert closes[0][b"checksumverify"] == b"1"
    assert any(headers.get("Content-MD5") == good for node in store.nodes for headers in node.requests("PUT"))
    assert await put(http, gateway.url + "/open/k2", data, {"Content-MD5": "nonsense"}) == 400
    for tracker in trackers:
        tracker.fail["create_close"] = "checksum_mismatch"
    assert await put(http, gateway.url + "/open/k3", data, {"Content-MD5": good}) == 400
    for node in store.nodes:
        node.mode = 400
    assert await put(http, gateway.url + "/open/k4", data, {"Content-MD5": good}) == 400


async def test_class_and_size_reach_the_tracker(start_gateway: Any, trackers: Any, http: Http) -> None:
    locations = [{"path": "/c/", "domain": "docs", "class": "scans", "read": "off", "write": "open"}]
    gateway = await start_gateway([f"{trackers[0].address}:{trackers[0].port}"], locations=locations)
    assert await put(http, gateway.url + "/c/k", b"12345") == 201
    assert (await get(http, gateway.url + "/c/k"))[0] == 405
    opens = [arguments for name, arguments in trackers[0].seen if name == "create_open"]
    assert opens == [{b"domain": b"docs", b"class": b"scans", b"key": b"k", b"multi_dest": b"1", b"size": b"5"}]


async def test_longest_location_wins_and_root_can_be_one(
    start_gateway: Any, store: Any, trackers: Any, http: Http
) -> None:
    locations = [
        {"path": "/", "domain": "images", "read": "open"},
        {"path": "/p/", "domain": "docs", "read": "open", "write": "off"},
    ]
    gateway = await start_gateway([f"{trackers[0].address}:{trackers[0].port}"], locations=locations)
    store.put(b"k", b"from images")
    store.put(b"k", b"from docs", domain=b"docs")
    assert await get(http, gateway.url + "/k") == (200, b"from images")
    assert await get(http, gateway.url + "/p/k") == (200, b"from docs")
    assert await put(http, gateway.url + "/k", b"x") == 405


async def test_nothing_of_a_clients_private_headers_passes(gateway: Any, store: Any, http: Http) -> None:
    store.put(b"k", b"data")
    spoofed = {
        "X-Mogile-After": "/docs/secret",
        "X-Mogile-Replace": "1",
        "X-Mogile-Cluster": "00000000-0000-0000-0000-000000000000",
        "X-Accel-Redirect": "/x",
        "Cookie": "c=1",
        "Authorization": "Bearer correct-horse",
    }
    assert await put(http, gateway.url + "/images/new", b"new", spoofed) == 201
    assert await get(http, gateway.url + "/images/k", spoofed) == (200, b"data")
    assert store.data(b"new") == b"new"
    reads = [headers for node in store.nodes for headers in node.requests("GET")]
    writes = [headers for node in store.nodes for headers in node.requests("PUT")]
    assert reads
    assert writes
    for headers in reads + writes:
        assert not {"X-Mogile-Replace", "X-Accel-Redirect", "Cookie", "Authorization"} & set(headers)
        assert headers.get("X-Mogile-After") != "/docs/secret"
        assert headers.get("X-Mogile-Cluster") == "6f1f3a52-3b1c-4f0e-9d53-0d2f4a6f9c11"
    assert not any("X-Mogile-After" in headers for headers in reads)


async def test_configured_cluster_id_is_sent(start_gateway: Any, store: Any, trackers: Any, http: Http) -> None:
    own = "11111111-2222-3333-4444-555555555555"
    gateway = await start_gateway([f"{trackers[0].address}:{trackers[0].port}"], clusterId=own)
    assert await put(http, gateway.url + "/open/k", b"x") == 201
    assert [headers["X-Mogile-Cluster"] for node in store.nodes for headers in node.requests("PUT")] == [own]
    assert "mogile_cluster" not in trackers[0].commands()


async def test_partial_put_is_refused(gateway: Any, http: Http) -> None:
    assert await put(http, gateway.url + "/open/k", b"x", {"Content-Range": "bytes 0-0/2"}) == 400


async def test_body_limit(start_gateway: Any, store: Any, trackers: Any, http: Http) -> None:
    limits = {"connectionsPerClient": 0, "maxBodyBytes": 1000}
    gateway = await start_gateway([f"{trackers[0].address}:{trackers[0].port}"], limits=limits)
    assert await put(http, gateway.url + "/open/k", b"x" * 1000) == 201
    assert await put(http, gateway.url + "/open/k2", b"x" * 1001) == 413

    async def pieces() -> Any:
        for _ in range(20):
            yield b"x" * 100
            await asyncio.sleep(0)

    assert await put(http, gateway.url + "/open/k3", pieces()) == 413
    assert set(store.files) == {(b"images", b"k")}


async def test_metrics_and_health(own_gateway: Any, store: Any, http: Http, authorised: dict[str, str]) -> None:
    gateway = own_gateway
    store.put(b"k", b"data")
    await get(http, gateway.url + "/images/k")
    await get(http, gateway.url + "/images/missing")
    await put(http, gateway.url + "/images/new", b"12345", authorised)
    assert await get(http, gateway.metrics_url + "/healthz") == (200, b"ok\n")
    assert await get(http, gateway.metrics_url + "/readyz") == (200, b"ready\n")

    async def counted() -> dict[Any, float]:
        """The samples by name and labels; a request is counted a moment after its answer."""
        status, page = await get(http, gateway.metrics_url + "/metrics")
        found = samples(page.decode())
        return found if status == 200 and sample("requests_total", method="PUT", code="201") in found else {}

    def sample(name: str, **labels: str) -> Any:
        return (f"mogile_gateway_{name}", *sorted({"location": "/images/", **labels}.items()))

    found = await wait_for(counted, "the upload to be counted")
    assert found[sample("requests_total", method="GET", code="200")] == 1
    assert found[sample("requests_total", method="GET", code="404")] == 1
    assert found[sample("requests_total", method="PUT", code="201")] == 1
    assert found[sample("request_duration_seconds_bucket", method="GET", le="+Inf")] == 2
    assert found[sample("request_duration_seconds_count", method="GET")] == 2
    assert found[sample("sent_bytes_total")] > 4
    assert found[sample("received_bytes_total")] >= 5
    for result in ("ok", "error"):
        asked = ("mogile_gateway_tracker_requests_total", ("command", "get_paths"), ("result", result))
        assert found[asked] == 1
    assert [value for name, value in found.items() if name[0] == "mogile_gateway_tracker_up"] == [1, 1]
    assert found["mogile_gateway_connections", ("state", "active")] >= 1


def samples(page: str) -> dict[Any, float]:
    """(name, (label, value), ...) -> value, the labels sorted: their order on the page means nothing."""
    found = {}
    for line in page.splitlines():
        if not line.startswith("#"):
            series, value = line.rsplit(" ", 1)
            name, _, labels = series.partition("{")
            found[name, *sorted(re.findall(r'(\w+)="([^"]*)"', labels))] = float(value)
    return found


@pytest.mark.parametrize("kind", ["nginx"], indirect=True)
async def test_connection_limit_and_several_workers(start_gateway: Any, store: Any, trackers: Any, http: Http) -> None:
    limits = {"connectionsPerClient": 2, "maxBodyBytes": 0}
    gateway = await start_gateway([f"{trackers[0].address}:{trackers[0].port}"], limits=limits, workers=3)
    store.put(b"k", b"data")
    go_on, arrived = asyncio.Event(), asyncio.Semaphore(0)
    for node in store.nodes:
        node.on_body = lambda _size: arrived.release()

    async def pieces() -> Any:
        yield b"x" * 1000
        await go_on.wait()
        yield b"y"

    uploads = [asyncio.create_task(put(http, f"{gateway.url}/open/{n}", pieces())) for n in range(2)]
    for _ in uploads:
        await asyncio.wait_for(arrived.acquire(), 90)
    assert (await get(http, gateway.url + "/images/k"))[0] == 429
    go_on.set()
    assert await asyncio.gather(*uploads) == [201, 201]
    async with asyncio.timeout(90):
        while await get(http, gateway.url + "/images/k") != (200, b"data"):
            await asyncio.sleep(0.05)
