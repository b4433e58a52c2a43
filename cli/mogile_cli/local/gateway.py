"""The small built-in gateway: plain HTTP in front of the store where the system has no nginx with Lua. For one machine, not for production.

It keeps the nginx gateway's table of behaviour (images/nginx-gateway/README.md); the same tests run against both. Bodies stream
through in pieces of PIECE_BYTES with back-pressure, so memory does not grow with files. An upload is answered 201 only after
create_close; a download that breaks half-way breaks the client's connection too, so that it is never taken for whole. What
reaches a storage node is a closed list of headers.

Run as `python -m mogile_cli.local.gateway --config gateway.json`; SIGTERM finishes what is under way within the drain time and exits 0.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from urllib.parse import unquote_to_bytes

import aiohttp
from aiohttp import hdrs, web

from mogile_cli.local import gateway_rules as rules
from mogile_cli.local.gateway_config import GatewayConfig, GatewayConfigError, Location, TokenFile, load
from mogile_cli.local.gateway_metrics import GatewayMetrics
from mogile_cli.local.gateway_store import PATHS_MAX, Cluster, Nodes, Place, TrackerReply, Trackers, place

logger = logging.getLogger(__name__)

PIECE_BYTES = 64 * 1024
CONNECT_SECONDS = 1.0
READ_SECONDS = 5.0  # until the first byte of a node's answer, and between two pieces
STORE_SECONDS = 120.0  # a node syncs before it answers a PUT
CLIENT_SECONDS = 60.0  # a client that sends nothing for so long has gone
TARGET_BYTES_MAX = 16 * 1024

_PASSED_ON = frozenset({200, 206, 304, 412, 416})
_NODE_ERRORS = (aiohttp.ClientError, OSError, TimeoutError)


class _Body:
    """An upload's bytes on their way through, and what went wrong with them on the client's side."""

    def __init__(self, content: aiohttp.StreamReader, bytes_max: int) -> None:
        self._content, self._bytes_max = content, bytes_max
        self.too_large = self.broken_off = False

    async def pieces(self) -> AsyncIterator[bytes]:
        total = 0
        while True:
            try:
                async with asyncio.timeout(CLIENT_SECONDS):
                    piece = await self._content.readany()
            except (*_NODE_ERRORS, web.RequestPayloadError):
                self.broken_off = True
                raise
            if not piece:
                return
            total += len(piece)
            if self._bytes_max and total > self._bytes_max:
                self.too_large = True
                raise web.RequestPayloadError("the body is larger than this gateway takes")
            yield piece


class Gateway:
    """All requests of one configuration."""

    def __init__(self, config: GatewayConfig, trackers: Trackers, http: aiohttp.ClientSession) -> None:
        self._config, self._trackers, self._http = config, trackers, http
        self._tokens = {one.token_file: TokenFile(one.token_file) for one in config.locations if one.token_file}
        self._under_way, self.idle = 0, asyncio.Event()
        self.idle.set()
        self.nodes = Nodes(http)
        self.cluster = Cluster(config.cluster_id, trackers)
        self.metrics = GatewayMetrics(trackers, self.nodes)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer and count one request."""
        begun = time.monotonic()
        location, response = rules.NOWHERE, None
        self._under_way += 1
        self.idle.clear()
        try:
            location, response = await self._route(request)
            return response
        finally:
            self._under_way -= 1
            if not self._under_way:
                self.idle.set()
            status = response.status if response is not None else 500
            received = request.content.total_bytes + sum(len(k) + len(v) + 4 for k, v in request.raw_headers)
            sent = 0 if response is None else response.body_length
            self.metrics.request(location.path, request.method, status, time.monotonic() - begun, received, sent)
            if self._config.access_log:
                logger.info("%s %s %s %d", request.remote, request.method, request.raw_path, status)

    async def _route(self, request: web.Request) -> tuple[Location, web.StreamResponse]:
        target = re.split(r"[?#]", request.raw_path, maxsplit=1)[0]
        raw = unquote_to_bytes(target.encode("utf-8", "surrogateescape"))
        if not raw.startswith(b"/") or b"\0" in raw:
            return rules.NOWHERE, rules.say(400, "the path cannot be used")
        normal = rules.normalised(raw)
        if normal is None:
            return rules.NOWHERE, rules.say(400, "the path leads out of its location")
        location = self._config.location_of(normal)
        if location is None:
            return rules.NOWHERE, rules.say(404, "nothing is served here")
        reads = request.method in ("GET", "HEAD")
        access = location.read if reads else location.write if request.method in ("PUT", "DELETE") else "off"
        if access == "off":
            return location, rules.say(405, "this method is not open here", {"Allow": location.allow})
        if access == "token":
            status = self._tokens[location.token_file].check(request.headers.get("Authorization"))
            if status == 401:
                return location, rules.say(401, "a token is needed", {"WWW-Authenticate": 'Bearer realm="mogile"'})
            if status == 403:
                return location, rules.say(403, "the token is not good here")
        prefix = location.path.encode()
        if not raw.startswith(prefix):
            return location, rules.say(400, "the path leads out of its location")
        key = raw[len(prefix) :]
        if reads:
            return location, await self._read(request, location, key)
        if request.method == "PUT":
            return location, await self._write(request, location, key)
        return location, await self._delete(location, key)

    # ---- reading

    def _etag(self, fid: str) -> str | None:
        return f'"{self.cluster.known[:8]}-{fid}"' if fid else None

    async def _lookup(self, location: Location, key: bytes) -> tuple[TrackerReply, list[Place]]:
        arguments = {"domain": location.domain, "key": key, "noverify": 1, "pathcount": PATHS_MAX}
        reply = await self._trackers.call("get_paths", arguments)
        count = reply.values.get("paths", "0")
        urls = [
            reply.values.get(f"path{i + 1}", "") for i in range(min(int(count) if count.isdecimal() else 0, PATHS_MAX))
        ]
        return reply, self.nodes.order([found for found in map(place, urls) if found is not None])

    async def _read(self, request: web.Request, location: Location, key: bytes) -> web.StreamResponse:
        if not key:
            return rules.say(404, "not found")
        reply, places = await self._lookup(location, key)
        if reply.code:
            return rules.tracker_error(reply)
        if not places:
            return rules.unavailable("no copy of this file can be reached")
        tag = self._etag(places[0].fid)
        status, headers = rules.conditions(request, tag)
        if status:
            return rules.say(status, "the condition is not met", {"ETag": tag} if tag else None)
        if self.cluster.known:
            headers["X-Mogile-Cluster"] = self.cluster.known
        tried: set[str] = set()
        only_missing, asked_again = True, False
        while True:
            for one in places:
                if one.url in tried or len(tried) >= PATHS_MAX:
                    continue
                tried.add(one.url)
                found = await self._fetch(request, one, key, headers)
                if isinstance(found, web.StreamResponse):
                    return found
                self.metrics.failover(location.path)
                only_missing = only_missing and found == 404
            if asked_again or not only_missing:
                return rules.unavailable("no copy of this file can be reached")
            asked_again = True  # all copies were gone: they may have been moved since the tracker was asked
            reply, places = await self._lookup(location, key)
            if reply.code:
                return rules.tracker_error(reply)

    async def _fetch(
        self, request: web.Request, one: Place, key: bytes, headers: dict[str, str]
    ) -> web.StreamResponse | int:
        """The answer from one copy, or the status that makes the next be tried (0: no answer)."""
        timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
        try:
            answer = await self._http.request(
                request.method, one.url, headers=headers, timeout=timeout, allow_redirects=False
            )
        except _NODE_ERRORS as error:
            logger.warning("storage node %s did not answer: %s", one.peer, error or type(error).__name__)
            self.nodes.failed(one.peer, "read")
            return 0
        async with answer:
            if answer.status not in _PASSED_ON:
                return answer.status
            return await self._pass_on(request, one, key, answer)

    async def _pass_on(
        self, request: web.Request, one: Place, key: bytes, answer: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status)
        for name in (hdrs.CONTENT_RANGE, hdrs.LAST_MODIFIED, hdrs.ACCEPT_RANGES):
            if name in answer.headers:
                response.headers[name] = answer.headers[name]
        if hdrs.CONTENT_LENGTH in answer.headers and answer.status != 304:
            response.content_length = int(answer.headers[hdrs.CONTENT_LENGTH])
        if answer.status in (200, 206, 304):
            tag = self._etag(one.fid)
            if tag:
                response.headers[hdrs.ETAG] = tag
            response.headers["X-Content-Type-Options"] = "nosniff"
            ending = key.rpartition(b".")[2].decode("latin-1").lower() if b"." in key else ""
            response.content_type = rules.CONTENT_TYPES.get(ending, "application/octet-stream")
        await response.prepare(request)
        if request.method == "HEAD" or answer.status == 304:
            return response
        try:
            async for piece in answer.content.iter_chunked(PIECE_BYTES):
                await response.write(piece)
        except _NODE_ERRORS as error:
            logger.warning("%s broke off: %s", one.url, error or type(error).__name__)
            if request.transport is not None:
                request.transport.abort()  # a half file must not look like a whole one
            return response
        await response.write_eof()
        return response

    # ---- writing

    def _refuse_upload(self, request: web.Request, key: bytes) -> web.Response | None:
        if not key:
            return rules.say(400, "the path must go on with a key")
        if "Content-Range" in request.headers:
            return rules.say(400, "a part of a file cannot be written")
        if hdrs.CONTENT_LENGTH not in request.headers and hdrs.TRANSFER_ENCODING not in request.headers:
            return rules.say(411, "Content-Length or chunked encoding is needed")
        if "Content-MD5" in request.headers and rules.md5_of(request.headers["Content-MD5"]) is None:
            return rules.say(400, "Content-MD5 must be the base64 form of an MD5 digest")
        if self._config.body_bytes_max and (request.content_length or 0) > self._config.body_bytes_max:
            return rules.say(413, "the body is larger than this gateway takes")
        return None

    async def _write(self, request: web.Request, location: Location, key: bytes) -> web.Response:
        refusal = self._refuse_upload(request, key)
        if refusal is not None:
            return refusal
        arguments = {
            "domain": location.domain,
            "class": location.class_name or None,
            "key": key,
            "multi_dest": 1,
            "size": request.content_length,
        }
        opened = await self._trackers.call("create_open", arguments)
        if opened.code:
            return rules.tracker_error(opened)
        cluster_id = await self.cluster.id()
        for one in self.nodes.order(rules.destinations(opened.values)):
            if await self.nodes.probe(one.peer, cluster_id):
                return await self._store(request, location, key, opened, one)
        return rules.unavailable("no storage node takes the file")

    async def _store(
        self, request: web.Request, location: Location, key: bytes, opened: TrackerReply, one: Place
    ) -> web.Response:
        headers = {name: request.headers[name] for name in ("Content-MD5", "Content-Length") if name in request.headers}
        if self.cluster.known:
            headers["X-Mogile-Cluster"] = self.cluster.known
        timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=STORE_SECONDS)
        body = _Body(request.content, self._config.body_bytes_max)
        try:
            if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
                await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                request.writer.output_size = 0
            async with self._http.put(
                one.url, data=body.pieces(), headers=headers, timeout=timeout, allow_redirects=False
            ) as answer:
                status = answer.status
        except (*_NODE_ERRORS, web.RequestPayloadError) as error:
            if body.too_large:
                return rules.say(413, "the body is larger than this gateway takes")
            if body.broken_off:
                return rules.say(400, "the body is short")
            logger.warning("storage node %s did not take %s: %s", one.peer, one.url, error or type(error).__name__)
            self.nodes.failed(one.peer, "write")
            return rules.say(502, "the storage node did not store the file")
        if status == HTTPStatus.BAD_REQUEST:
            return rules.say(400, "the storage node refuses the bytes: the body is short or Content-MD5 does not match")
        if status == HTTPStatus.INSUFFICIENT_STORAGE:
            return rules.say(507, "the storage node is full")
        if not 200 <= status < 300:
            logger.warning("storage node %s did not take %s: %d", one.peer, one.url, status)
            return rules.say(502, "the storage node did not store the file")
        return await self._close(request, location, key, opened, one)

    async def _close(
        self, request: web.Request, location: Location, key: bytes, opened: TrackerReply, one: Place
    ) -> web.Response:
        fid = opened.values.get("fid", "")
        md5 = rules.md5_of(request.headers.get("Content-MD5", ""))
        arguments = {
            "domain": location.domain,
            "key": key,
            "fid": fid,
            "devid": one.devid,
            "path": one.url,
            "size": request.content_length,
            "checksum": f"MD5:{md5}" if md5 else None,
            "checksumverify": 1 if md5 else None,
        }
        closed = await self._trackers.call("create_close", arguments, preferred=opened.tracker)
        if closed.code == "unreachable" and closed.uncertain:
            closed = await self._trackers.call("create_close", arguments)
        code = closed.code
        if code == "no_temp_file":  # was it committed by a create_close whose answer was lost?
            info = await self._trackers.call("file_info", {"domain": location.domain, "key": key})
            code = "" if info.values.get("fid") == fid else code
        if code:
            return rules.tracker_error(closed)
        tag = self._etag(fid)
        return rules.say(201, "created", {"ETag": tag} if tag else None)

    async def _delete(self, location: Location, key: bytes) -> web.Response:
        if not key:
            return rules.say(400, "the path must go on with a key")
        reply = await self._trackers.call("delete", {"domain": location.domain, "key": key})
        if not reply.code or (reply.code == "unknown_key" and reply.uncertain):
            return rules.say(204, "")
        return rules.tracker_error(reply)

    # ---- health

    async def healthz(self, _request: web.Request) -> web.Response:
        return rules.say(200, "ok")

    async def readyz(self, _request: web.Request) -> web.Response:
        return rules.say(200, "ready") if await self._trackers.ready() else rules.unavailable("no tracker answers")


async def _no_expect(_request: web.Request) -> None:
    """100 Continue is sent when a node is ready for the body, not before."""


async def _listen(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]], address: tuple[str, int]
) -> web.AppRunner:
    app = web.Application(client_max_size=0)
    app.router.add_route("*", r"/{path:(?s:.*)}", handler, expect_handler=_no_expect)
    runner = web.AppRunner(
        app, access_log=None, shutdown_timeout=0.5, handler_cancellation=False, max_line_size=TARGET_BYTES_MAX
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, *address, reuse_address=True, backlog=1024).start()
    except OSError as error:
        await runner.cleanup()
        raise GatewayConfigError(
            f"{address[0]}:{address[1]} cannot be listened on: {os.strerror(error.errno or 0)}"
        ) from error
    return runner


async def _drain(runner: web.AppRunner, gateway: Gateway, seconds: float) -> None:
    """Accept nothing more and let requests end. (aiohttp's own shutdown drops what a client still sends, so no upload would end in it.)"""
    for site in list(runner.sites):
        await site.stop()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await gateway.idle.wait()


async def serve(config: GatewayConfig, *, drain_seconds: float) -> None:
    """Run until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=3.0)
    trackers = Trackers(config.trackers)
    timeout = aiohttp.ClientTimeout(total=None)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(trackers.close)
        http = await stack.enter_async_context(
            aiohttp.ClientSession(
                connector=connector, timeout=timeout, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
            )
        )
        gateway = Gateway(config, trackers, http)
        runner = await _listen(gateway.handle, config.listen)
        stack.push_async_callback(runner.cleanup)

        async def side(request: web.Request) -> web.StreamResponse:
            if request.path == "/healthz":
                return await gateway.healthz(request)
            if request.path == "/readyz":
                return await gateway.readyz(request)
            if request.path == "/metrics":
                server = runner.server
                return web.Response(text=gateway.metrics.page(0 if server is None else len(server.connections)))
            return rules.say(404, "no such page: /healthz /readyz /metrics")

        metrics_runner = await _listen(side, config.metrics_listen)
        stack.push_async_callback(metrics_runner.cleanup)
        watchers = [asyncio.create_task(trackers.watch()), asyncio.create_task(gateway.cluster.watch())]
        logger.info("listening on %s:%d", *config.listen)
        await stop.wait()
        await _drain(runner, gateway, drain_seconds)
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)


def main() -> int:
    """The command line; exit code 2 and one sentence for a bad configuration or a busy port."""
    parser = argparse.ArgumentParser(prog="python -m mogile_cli.local.gateway", description="the built-in gateway")
    parser.add_argument(
        "--config", default=os.environ.get("MOGILE_GATEWAY_CONFIG", "/etc/mogile/gateway.json"), type=Path
    )
    parser.add_argument("--drain-seconds", default=5.0, type=float, help="longest time between SIGTERM and the end")
    parser.add_argument("--check", action="store_true", help="check the configuration and end")
    arguments = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        config = load(arguments.config)
        if not arguments.check:
            asyncio.run(serve(config, drain_seconds=arguments.drain_seconds))
    except GatewayConfigError as error:
        print(f"mogile-gateway: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
