"""A scripted tracker and a scripted storage node for failure injection, and the two gateways as child processes.

The stand-ins speak the real protocols and can be told to hang, refuse, lie or die at a given point: what a real tracker does
only when a machine breaks. What needs no broken machine is tested with the real parts in `test_end_to_end.py`. Both gateways
run the same table of behaviour.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from testkit.ports import free_port
from testkit.waiting import EVENT_SECONDS, wait_until

ROOT = Path(__file__).resolve().parents[3]
ENTRY = ROOT / "images" / "nginx-gateway" / "mogile-gateway"
CLUSTER = "6f1f3a52-3b1c-4f0e-9d53-0d2f4a6f9c11"
ADDRESS = "127.0.23.1"
TOKEN = "correct-horse"


def nginx_with_lua() -> str | None:
    """The reason why the nginx gateway cannot run here, or None."""
    if not any(os.access(Path(folder) / "nginx", os.X_OK) for folder in (*os.environ["PATH"].split(":"), "/usr/sbin")):
        return "nginx is not installed (scripts/setup-tests installs it)"
    if not list(Path("/usr/lib/nginx/modules").glob("ngx_http_lua_module.so")):
        return "nginx has no Lua module (scripts/setup-tests installs libnginx-mod-http-lua)"
    return None


def require_nginx() -> None:
    """Skip on a developer machine without nginx, fail in CI."""
    reason = nginx_with_lua()
    if reason is None:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@dataclass(slots=True, kw_only=True)
class Store:
    """What the stand-in trackers share: keys, open uploads, devices."""

    nodes: list["Node"] = field(default_factory=list)
    files: dict[tuple[bytes, bytes], tuple[int, list[str]]] = field(default_factory=dict)
    opened: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    next_fid: int = 1
    cluster: str | None = CLUSTER

    def put(self, key: bytes, data: bytes, *, domain: bytes = b"images", on: list["Node"] | None = None) -> int:
        """Store a file as if it had been uploaded before."""
        fid = self.next_fid
        self.next_fid += 1
        nodes = on if on is not None else self.nodes
        for node in nodes:
            node.files[node.path(fid)] = data
        self.files[domain, key] = (fid, [node.url(fid) for node in nodes])
        return fid

    def data(self, key: bytes, domain: bytes = b"images") -> bytes:
        fid, _ = self.files[domain, key]
        return next(node.files[node.path(fid)] for node in self.nodes if node.path(fid) in node.files)


def encode(pairs: dict[str, object]) -> bytes:
    return "&".join(
        f"{name}={urllib.parse.quote_plus(str(value), safe=':/.-_')}" for name, value in pairs.items()
    ).encode()


class Tracker:
    """The tracker's line protocol over `Store`.

    `mode`: ok, hang or garbage; `fail`: command to error code; `die_at`: close instead of carrying out; `lose_answer`: close after it.
    """

    def __init__(self, store: Store, address: str, port: int = 0) -> None:
        self.store, self.address, self.port = store, address, port
        self.mode = "ok"
        self.fail: dict[str, str] = {}
        self.die_at: set[str] = set()
        self.lose_answer: set[str] = set()
        self.on_command: Callable[[str], None] = lambda _command: None
        self.seen: list[tuple[str, dict[bytes, bytes]]] = []
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    def commands(self, *names: str) -> list[str]:
        return [command for command, _ in self.seen if not names or command in names]

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, self.address, self.port, limit=2**20)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for writer in list(self._writers):
                writer.transport.abort()
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while line := await reader.readline():
                command, _, rest = line.rstrip(b"\r\n").partition(b" ")
                await self._answer(command.decode(), rest, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _answer(self, command: str, rest: bytes, writer: asyncio.StreamWriter) -> None:
        arguments = {
            urllib.parse.unquote_to_bytes(name.replace(b"+", b" ")): urllib.parse.unquote_to_bytes(
                value.replace(b"+", b" ")
            )
            for name, _, value in (piece.partition(b"=") for piece in rest.split(b"&") if piece)
        }
        self.seen.append((command, arguments))
        self.on_command(command)
        if self.mode == "hang":
            await asyncio.sleep(3600)
        if command in self.die_at:
            raise ConnectionResetError
        if self.mode == "garbage":
            writer.write(b"SPAM\r\n")
        elif command in self.fail:
            writer.write(f"ERR {self.fail[command]} said+so\r\n".encode())
        else:
            answer = getattr(self, f"_{command}", self._unknown)(arguments)
            if command in self.lose_answer:
                raise ConnectionResetError
            writer.write(answer + b"\r\n")
        await writer.drain()

    def _unknown(self, _arguments: dict[bytes, bytes]) -> bytes:
        return b"ERR unknown_command Unknown+server+command"

    def _noop(self, _arguments: dict[bytes, bytes]) -> bytes:
        return b"OK "

    def _mogile_cluster(self, arguments: dict[bytes, bytes]) -> bytes:
        if self.store.cluster is None:
            return self._unknown(arguments)
        return b"OK " + encode({"cluster_id": self.store.cluster, "version": "0.1.0", "schema_version": 17})

    def _get_paths(self, arguments: dict[bytes, bytes]) -> bytes:
        if arguments[b"domain"] not in {b"images", b"docs"}:
            return b"ERR unreg_domain Domain+name+invalid%2Fnot+found"
        found = self.store.files.get((arguments[b"domain"], arguments[b"key"]))
        if found is None:
            return b"ERR unknown_key unknown_key"
        urls = found[1][: int(arguments.get(b"pathcount", b"2"))]
        return b"OK " + encode({"paths": len(urls), **{f"path{index}": url for index, url in enumerate(urls, 1)}})

    def _create_open(self, arguments: dict[bytes, bytes]) -> bytes:
        if not self.store.nodes:
            return b"ERR no_devices No+devices+found+to+store+file"
        fid = self.store.next_fid
        self.store.next_fid += 1
        self.store.opened[fid] = (arguments[b"domain"], arguments[b"key"])
        pairs: dict[str, object] = {"fid": fid, "dev_count": len(self.store.nodes)}
        for index, node in enumerate(self.store.nodes, 1):
            pairs |= {f"devid_{index}": node.devid, f"path_{index}": node.url(fid)}
        return b"OK " + encode(pairs)

    def _create_close(self, arguments: dict[bytes, bytes]) -> bytes:
        fid = int(arguments[b"fid"])
        if self.store.opened.pop(fid, None) is None:
            return b"ERR no_temp_file No+tempfile+or+file+already+closed"
        node = next(node for node in self.store.nodes if node.devid == int(arguments[b"devid"]))
        if arguments[b"path"].decode() != node.url(fid):
            return b"ERR bogus_args bogus_args"
        length = node.lengths.get(node.path(fid))
        if length is None:
            return b"ERR size_verify_error missing"
        if b"size" in arguments and int(arguments[b"size"]) != length:
            return b"ERR size_mismatch size_mismatch"
        self.store.files[arguments[b"domain"], arguments[b"key"]] = (fid, [node.url(fid)])
        return b"OK "

    def _file_info(self, arguments: dict[bytes, bytes]) -> bytes:
        found = self.store.files.get((arguments[b"domain"], arguments[b"key"]))
        return b"ERR unknown_key unknown_key" if found is None else b"OK " + encode({"fid": found[0], "length": 1})

    def _delete(self, arguments: dict[bytes, bytes]) -> bytes:
        found = self.store.files.pop((arguments[b"domain"], arguments[b"key"]), None)
        return b"ERR unknown_key unknown_key" if found is None else b"OK "


class Node:
    """A storage node. `mode`: ok, hang, or a status to answer everything with; `ours`: knows X-Mogile-After and names its cluster."""

    def __init__(self, devid: int, address: str, *, ours: bool = True) -> None:
        self.devid, self.address, self.port, self.ours = devid, address, 0, ours
        self.mode: str | int = "ok"
        self.keep_bodies = True
        self.die_after: int | None = None
        self.on_body: Callable[[int], None] = lambda _size: None
        self.files: dict[str, bytes] = {}
        self.lengths: dict[str, int] = {}
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self._runner: web.AppRunner | None = None

    def path(self, fid: int) -> str:
        return f"/dev{self.devid}/0/000/000/{fid:010d}.fid"

    def url(self, fid: int) -> str:
        return f"http://{self.address}:{self.port}{self.path(fid)}"

    def requests(self, method: str) -> list[dict[str, str]]:
        return [headers for one, path, headers in self.seen if one == method and path != "/"]

    async def start(self) -> None:
        app = web.Application(client_max_size=2**40)
        app.router.add_route("*", "/{rest:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.address, self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.method, request.path, dict(request.headers)))
        if self.mode == "hang":
            await asyncio.sleep(3600)
        headers = {"X-Mogile-Cluster": CLUSTER} if self.ours else {}
        if isinstance(self.mode, int) and request.path != "/":
            return web.Response(status=self.mode, headers=headers)
        if request.path == "/":
            return web.Response(text="", headers=headers)
        if request.method == "PUT":
            return await self._put(request, headers)
        data = self.files.get(request.path)
        if data is None:
            return web.Response(status=404, headers=headers)
        return self._get(request, data, headers)

    def _get(self, request: web.Request, data: bytes, headers: dict[str, str]) -> web.Response:
        headers |= {
            "ETag": f'"copy-{self.devid}"',
            "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT",
            "X-Accel-Redirect": "/docs/secret",
        }
        if "If-Modified-Since" in request.headers:
            return web.Response(status=304, headers=headers)
        wanted = request.http_range
        if wanted.start is None and wanted.stop is None:
            return web.Response(body=data, headers=headers)
        start, stop, _ = wanted.indices(len(data))
        return web.Response(
            status=206,
            body=data[start:stop],
            headers=headers | {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"},
        )

    async def _put(self, request: web.Request, headers: dict[str, str]) -> web.Response:
        parts, size = [], 0
        async for part in request.content.iter_chunked(65536):
            size += len(part)
            self.on_body(size)
            if self.die_after is not None and size >= self.die_after:
                assert request.transport is not None
                request.transport.abort()
                await asyncio.sleep(0)
                raise web.HTTPInternalServerError
            if self.keep_bodies:
                parts.append(part)
        self.files[request.path], self.lengths[request.path] = b"".join(parts), size
        after = request.headers.get("X-Mogile-After")
        if self.ours and after is not None:
            headers["X-Accel-Redirect"] = after
        return web.Response(status=201 if self.ours else 200, text="stored", headers=headers)


@dataclass(slots=True, kw_only=True)
class Gateway:
    """A running gateway under test."""

    kind: str
    config: dict[str, Any]
    directory: Path
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://{self.config['listen']}"

    @property
    def metrics_url(self) -> str:
        return f"http://{self.config['metricsListen']}"

    def log(self) -> str:
        return (self.directory / "log").read_text()


def command(kind: str, directory: Path) -> list[str]:
    config = str(directory / "gateway.json")
    if kind == "nginx":
        return [str(ENTRY), "--config", config, "--run-dir", str(directory / "run"), "--drain-seconds", "5"]
    return [sys.executable, "-m", "mogile_cli.local.gateway", "--config", config]


@pytest.fixture(params=["nginx", "builtin"], scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "nginx":
        require_nginx()
    return str(request.param)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    return path


def wait_healthy(gateway: Gateway) -> None:
    def healthy() -> bool:
        assert gateway.process.poll() is None, gateway.log()
        with urllib.request.urlopen(gateway.metrics_url + "/healthz", timeout=10):
            return True

    wait_until(healthy, f"the gateway in {gateway.directory}")


def launch(kind: str, directory: Path, trackers: list[str], token_file: Path, changes: dict[str, Any]) -> Gateway:
    """Start a gateway in an empty directory and wait until it answers."""
    token = {"tokenFile": str(token_file)}
    config: dict[str, Any] = {
        "listen": f"{ADDRESS}:{free_port(ADDRESS)}",
        "metricsListen": f"{ADDRESS}:{free_port(ADDRESS)}",
        "trackers": trackers,
        "locations": [
            {"path": "/images/", "domain": "images", "class": "", "read": "open", "write": "token", **token},
            {"path": "/open/", "domain": "images", "read": "open", "write": "open"},
            {"path": "/docs/", "domain": "docs", "class": "scans", "read": "token", "write": "off", **token},
            {"path": "/nowhere/", "domain": "nowhere", "read": "open", "write": "off"},
        ],
    } | changes
    (directory / "gateway.json").write_text(json.dumps(config))
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command(kind, directory), stdout=log, stderr=log, cwd=ROOT)
    gateway = Gateway(kind=kind, config=config, directory=directory, process=process)
    try:
        wait_healthy(gateway)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return gateway


def finish(gateway: Gateway) -> None:
    """SIGTERM must end a gateway with code 0."""
    if gateway.process.poll() is None:
        gateway.process.send_signal(signal.SIGTERM)
        try:
            code = gateway.process.wait(timeout=EVENT_SECONDS)
        except subprocess.TimeoutExpired:
            gateway.process.kill()
            gateway.process.wait()
            raise
        assert code == 0, gateway.log()


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    """Three nodes of ours."""
    store = Store()
    for devid in (1, 2, 3):
        node = Node(devid, f"127.0.23.{20 + devid}")
        await node.start()
        store.nodes.append(node)
    everyone = list(store.nodes)
    yield store
    for node in {*everyone, *store.nodes}:
        await node.stop()


@pytest.fixture(scope="module")
def tracker_ports() -> dict[str, int]:
    """The two trackers' addresses, the same for all tests of a module that share a gateway."""
    return {address: free_port(address) for address in ("127.0.23.11", "127.0.23.12")}


@pytest.fixture
async def trackers(store: Store, tracker_ports: dict[str, int]) -> AsyncIterator[list[Tracker]]:
    """Two trackers over one store."""
    both = [Tracker(store, address, port) for address, port in tracker_ports.items()]
    for tracker in both:
        await tracker.start()
    yield both
    for tracker in both:
        await tracker.stop()


@pytest.fixture
def start_gateway(tmp_path: Path, token_file: Path, kind: str) -> Iterator[Callable[..., Any]]:
    """Start a gateway with a configuration; several in one test are fine. All are stopped with SIGTERM and must end with code 0."""
    running: list[Gateway] = []

    async def start(trackers: list[str], **changes: Any) -> Gateway:
        directory = tmp_path / f"gateway{len(running)}"
        directory.mkdir()
        gateway = await asyncio.to_thread(launch, kind, directory, trackers, token_file, changes)
        running.append(gateway)
        return gateway

    yield start
    for gateway in running:
        finish(gateway)


@pytest.fixture(scope="module")
def shared_gateway(
    kind: str, tmp_path_factory: pytest.TempPathFactory, tracker_ports: dict[str, int]
) -> Iterator[Gateway]:
    """One gateway for all tests of a module that break nothing it would remember."""
    directory = tmp_path_factory.mktemp("shared")
    token_file = directory / "token"
    token_file.write_text(TOKEN + "\n")
    gateway = launch(kind, directory, [f"{address}:{port}" for address, port in tracker_ports.items()], token_file, {})
    yield gateway
    finish(gateway)


@pytest.fixture
async def gateway(start_gateway: Callable[..., Any], trackers: list[Tracker]) -> Gateway:
    started: Gateway = await start_gateway([f"{tracker.address}:{tracker.port}" for tracker in trackers])
    return started


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=200), auto_decompress=False) as session:
        yield session


@pytest.fixture
def authorised() -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def gateway_entry() -> Path:
    """The gateway's start script, for tests of its command line; needs nginx with Lua."""
    require_nginx()
    return ENTRY


@pytest.fixture
def tracker_class() -> type[Tracker]:
    """For tests that need trackers at addresses of their own."""
    return Tracker
