"""A scripted tracker on real TCP, a scripted storage node on real HTTP, and a way to run a tool against them in this process."""

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from mogile_cli.classic import configuration, program
from mogile_cli.classic.admin.main import mogadm
from mogile_cli.classic.program import Console, Utility
from mogile_cli.classic.stats import mogstats
from mogile_core.wire import LineBuffer, encode_error, encode_ok, from_text, parse_request, to_text

Reply = Mapping[str, object] | str  # pairs of an OK, or the code of an ERR


@dataclass(kw_only=True)
class ScriptedTracker:
    """Answers each command with what was scripted for it: a reply, a list of replies for successive requests, or a function."""

    address: str = ""
    script: dict[str, Reply | list[Reply] | Callable[[dict[str, str]], Reply]] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def reply(self, command: str, args: dict[str, str]) -> bytes:
        self.requests.append((command, {name: to_text(value) for name, value in args.items()}))
        planned = self.script.get(command, "unknown_command")
        if callable(planned):
            planned = planned(args)
        if isinstance(planned, list):
            planned = planned.pop(0) if len(planned) > 1 else planned[0]
        if isinstance(planned, str):
            return encode_error(planned)
        return encode_ok({name: from_text(str(value)) for name, value in planned.items()})

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = LineBuffer()
        try:
            while data := await reader.read(65536):
                for line in lines.feed(data):
                    request = parse_request(line)
                    if request is not None:
                        writer.write(self.reply(request.command, request.args))
        finally:
            writer.close()

    def asked(self, command: str) -> list[dict[str, str]]:
        """The arguments of every request of a command."""
        return [args for name, args in self.requests if name == command]


@pytest.fixture
async def tracker() -> AsyncIterator[ScriptedTracker]:
    scripted = ScriptedTracker()
    server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    scripted.address = f"{host}:{port}"
    yield scripted
    server.close()
    await server.wait_closed()


@dataclass(kw_only=True)
class ScriptedNode:
    """Serves `files` by path; takes PUTs into it unless told to refuse with `refuse`."""

    port: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    refuse: int = 0
    cut_after: int | None = None
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.method, request.path, dict(request.headers)))
        if self.refuse:
            return web.Response(status=self.refuse)
        if request.method == "PUT":
            self.files[request.path] = await request.read()
            return web.Response(status=201)
        if request.path not in self.files:
            return web.Response(status=404)
        body = self.files[request.path]
        if request.method == "GET" and self.cut_after is not None:
            response = web.StreamResponse(headers={"Content-Length": str(len(body))})
            await response.prepare(request)
            await response.write(body[: self.cut_after])
            assert request.transport is not None
            request.transport.abort()
            return response
        wanted = request.http_range.start
        if wanted:
            return web.Response(status=206, body=body[wanted:])
        return web.Response(body=body, headers={"Last-Modified": "Mon, 23 Nov 2026 10:00:00 GMT"})


@pytest.fixture
async def make_node() -> AsyncIterator[Callable[[], object]]:
    runners: list[web.AppRunner] = []

    async def make() -> ScriptedNode:
        node = ScriptedNode()
        app = web.Application(client_max_size=1 << 28)
        app.router.add_route("*", "/{path:.*}", node.handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        runners.append(runner)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        node.port = runner.addresses[0][1]
        return node

    yield make
    for runner in runners:
        await runner.cleanup()


@pytest.fixture
async def node(make_node: Callable) -> ScriptedNode:
    return await make_node()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    status: int
    out: str
    err: str
    raw: bytes


@pytest.fixture(autouse=True)
def no_system_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The machine's own /etc/mogilefs must not decide a test; the returned path stands for it."""
    path = tmp_path / "etc-mogilefs.conf"
    monkeypatch.setattr(configuration, "SYSTEM_FILE", path)
    return path


@pytest.fixture
def run(tmp_path: Path) -> Callable:
    """`await run(tool, *argv, stdin=b"", environ={})` -> Outcome; `tool` is a Utility or "mogadm" / "mogstats"."""
    home = tmp_path / "home"
    home.mkdir()

    async def run_tool(
        tool: Utility | str, *argv: str, stdin: bytes | io.RawIOBase = b"", environ: Mapping[str, str] | None = None
    ) -> Outcome:
        stdout, stderr = io.BytesIO(), io.BytesIO()
        source = io.BytesIO(stdin) if isinstance(stdin, bytes) else stdin
        console = Console(stdin=source, stdout=stdout, stderr=stderr)
        settings = {"HOME": str(home), **(environ or {})}

        async def entry(words: object, env: Mapping[str, str], streams: Console) -> int:
            if isinstance(tool, Utility):
                return await program.run_utility(tool, argv, env, streams)
            return await {"mogadm": mogadm, "mogstats": mogstats}[tool](argv, env, streams)

        status = await program.run(entry, argv, settings, console)
        raw = stdout.getvalue()
        return Outcome(
            status=status,
            out=raw.decode("utf-8", "surrogateescape"),
            err=stderr.getvalue().decode("utf-8", "surrogateescape"),
            raw=raw,
        )

    return run_tool
