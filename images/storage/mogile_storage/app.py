"""What the agent answers: verbs on targets, who may do what, and refusals before a body is read.

Runs on the event loop and never touches a device itself: it looks at what the watchers left (state, room) and hands work to the pools
of the device. Order of checks: cluster, target, device, permission, length, room, then the body.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Coroutine
from typing import Any

from mogile_core.runtime.logs import get_log
from mogile_storage.answers import (
    TEXT,
    UploadSink,
    accel_line,
    content_md5,
    finish,
    read_plain,
    refuse,
    writable,
    write_test,
)
from mogile_storage.commit import Delete, Move, SmallPut
from mogile_storage.copies import Stored
from mogile_storage.deletes import BODY_BYTES_MAX, parse_deletes, serve_deletes
from mogile_storage.devices import Device
from mogile_storage.errors import (
    BadRequestError,
    DeviceUnavailableError,
    ForbiddenError,
    MissingError,
    NodeRefusal,
    NoSpaceError,
    WrongClusterError,
)
from mogile_storage.http import SMALL_BODY_BYTES, CommonHeaders, Connection
from mogile_storage.listing import LISTS, Lister
from mogile_storage.marker import State
from mogile_storage.orders import parse_orders
from mogile_storage.partials import Arrived, ContentRange, parse_content_range
from mogile_storage.parts import PartUpload, conclude
from mogile_storage.pool import CallJob, Job
from mogile_storage.pull import Puller
from mogile_storage.reading import ReadJob, send_blocks
from mogile_storage.registry import Registry
from mogile_storage.request import Request
from mogile_storage.service import Service
from mogile_storage.settings import AgentSettings
from mogile_storage.targets import Target, parse_target
from mogile_storage.uploads import Outcome, Upload

log = get_log(__name__)

PULL_BODY_BYTES_MAX = 2 << 20
TEST_WRITE_BYTES_MAX = 64 << 10
INITIALISE_SECONDS_MAX = 5.0
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_COPY_ID = re.compile(rb'"([0-9a-f]{32})"\Z')
_SUCCESS = {"created": 201, "replaced": 201, "repeated": 200}


class AgentApp:
    """The routes of the agent."""

    def __init__(self, settings: AgentSettings, registry: Registry, version: str) -> None:
        self.settings, self.registry, self.version = settings, registry, version
        self.connections: set[Connection] = set()
        self.silence_seconds = settings.client_silence_seconds
        self.requests: dict[tuple[str, int], int] = {}
        self.stopping = False
        self.buffered = 0  # bytes of small uploads, from their head to their answer
        self._buffered_max = settings.small_uploads_mb << 20
        self._tasks: set[asyncio.Task[None]] = set()
        self._headers = CommonHeaders(f"mogile-storage/{version}")
        self._cluster_line: tuple[str, bytes] = ("", b"")
        self.puller = Puller(settings.pull_concurrency)
        self._lister = Lister()

    # -- what the server asks --------------------------------------------------------------------------------------------------

    def accepts(self) -> bool:
        return len(self.connections) <= self.settings.connections_max

    def answered(self, request: Request | None, status: int) -> None:
        key = (request.method.decode("latin-1") if request is not None else "-", status)
        self.requests[key] = self.requests.get(key, 0) + 1

    def common_headers(self) -> bytes:
        cluster_id = self.registry.cluster.id
        if cluster_id != self._cluster_line[0]:
            self._cluster_line = (cluster_id, f"X-Mogile-Cluster: {cluster_id}\r\n".encode())
        return self._headers.lines(self._cluster_line[1])

    def begin(self, request: Request, connection: Connection) -> None:
        try:
            known = self._check_cluster(request)
            target = parse_target(request.target)
            self._route(request, connection, target, known=known)
        except NodeRefusal as refusal:
            refuse(connection, refusal, head=request.method == b"HEAD")

    # -- who may -----------------------------------------------------------------------------------------------------------------

    def _check_cluster(self, request: Request) -> bool:
        """True when the request carries the id of our cluster. A node without one joins the first that writes to it."""
        raw = request.headers.get(b"x-mogile-cluster")
        if not raw:
            return False
        cluster_id = raw.decode("latin-1").lower()
        cluster = self.registry.cluster
        if not cluster.id and UUID.match(cluster_id):
            if request.method in (b"GET", b"HEAD"):
                return False
            self.registry.claim(cluster_id)
        if cluster_id != cluster.id:
            raise WrongClusterError(f"this node belongs to cluster {cluster.id or 'none'}")
        return True

    def _device(self, target: Target) -> Device:
        device = self.registry.devices.get(target.devid)
        if device is None:
            raise MissingError(f"there is no dev{target.devid} on this node")
        return device

    # -- routes ----------------------------------------------------------------------------------------------------------------

    def _route(self, request: Request, connection: Connection, target: Target, *, known: bool) -> None:
        method, kind = request.method, target.kind
        if method == b"GET" and kind in LISTS:
            self._list(request, connection, target, known=known)
        elif method in (b"GET", b"HEAD"):
            self._read(request, connection, target)
        elif method in (b"OPTIONS", b"PATCH"):
            connection.respond(501, TEXT, b"not supported\n")
        elif (handler := _ROUTES.get((method, kind))) is not None:
            handler(self, request, connection, target, known=known)
        else:
            raise BadRequestError("that method does not go with that path")

    def _known_or_full(self, *, known: bool) -> None:
        if not known and self.settings.anonymous_writes == "safe":
            raise ForbiddenError

    def _list(self, request: Request, connection: Connection, target: Target, *, known: bool) -> None:
        self._known_or_full(known=known)
        self.spawn(self._lister.serve(connection, request, target.kind, self._device(target)))

    def _delete_test(self, _: Request, connection: Connection, target: Target, *, known: bool) -> None:
        service = self._device(target).usable()
        job = CallJob(lambda j: finish(connection, j, 204), service.store.remove_plain, (target.name,))
        service.reads.submit(job)

    def _make_collection(self, _: Request, connection: Connection, target: Target, *, known: bool) -> None:
        self._device(target).usable()
        connection.respond(201)

    def _scrub(self, _: Request, connection: Connection, target: Target, *, known: bool) -> None:
        self._known_or_full(known=known)
        device = self._device(target)
        if not device.usable().store.records:
            raise DeviceUnavailableError("nothing is recorded about the files of this device")
        self.registry.scrubbers[device.devid].order()
        connection.respond(202, TEXT, b"a scrub begins; /status tells how far it is\n")

    def _read(self, request: Request, connection: Connection, target: Target) -> None:
        head = request.method == b"HEAD"
        if target.kind == "fid":
            device = self._device(target)
            service = device.usable()
            if head and service.partials.named(target.name):
                self.spawn(self._conclude_and_read(request, connection, device, target))
            else:
                self._read_copy(request, connection, service, target)
            return
        if target.kind == "test":
            service = self._device(target).usable()
            service.reads.submit(
                CallJob(lambda j: finish(connection, j, 200, head=head), read_plain, (service, target.name))
            )
            return
        if target.kind == "root":
            body = b"mogile storage node\n"
        elif target.kind == "usage":
            device = self._device(target)
            device.usable()
            body = device.usage
        elif target.kind == "collection":
            self._device(target)
            body = b"Directory listing disabled\n"
        else:
            raise BadRequestError("that method does not go with that path")
        connection.respond(200, TEXT, b"" if head else body, len(body))

    async def _conclude_and_read(
        self, request: Request, connection: Connection, device: Device, target: Target
    ) -> None:
        """The size of a file that arrives in parts is asked: see module parts."""
        try:
            await conclude(device, target.name)
            self._read_copy(request, connection, device.usable(), target)
        except NodeRefusal as refusal:
            refuse(connection, refusal, head=True)

    def _read_copy(self, request: Request, connection: Connection, service: Service, target: Target) -> None:
        head = request.method == b"HEAD"

        def done(job: Job) -> None:
            if job.error is not None:
                refuse(connection, job.error, head=head)
                return
            plan, content = job.result
            if isinstance(content, int):
                self.spawn(send_blocks(connection, service, target.name, plan, content))
            else:
                connection.respond(plan.status, plan.headers, content, plan.total)

        service.reads.submit(ReadJob(service.store, done, target.name, request.headers, head=head))

    # -- PUT -------------------------------------------------------------------------------------------------------------------

    def _put(self, request: Request, connection: Connection, target: Target, *, known: bool) -> None:
        headers = request.headers
        device = self._device(target)
        service = writable(device)
        replace = b"x-mogile-replace" in headers
        if replace and not known:
            raise ForbiddenError("replacing a copy needs the id of this cluster")
        length = request.length
        if length is None and not request.chunked:
            connection.respond(411, TEXT, b"PUT needs Content-Length or chunked encoding\n")
            return
        if (length or 0) > device.room():
            raise NoSpaceError(f"dev{device.devid} has no room for {length or 0} bytes")
        md5 = content_md5(headers.get(b"content-md5"))
        after = accel_line(headers.get(b"x-mogile-after"))

        def outcome(stored: Stored | None, refusal: NodeRefusal | None) -> None:
            if stored is None:
                refuse(connection, refusal or NodeRefusal())
                return
            lines = f'ETag: "{stored.copy_id}"\r\nX-Mogile-Length: {stored.length}\r\nX-Mogile-MD5: {stored.md5}\r\n'
            connection.respond(_SUCCESS[stored.outcome], lines.encode() + after)

        if (given := headers.get(b"content-range")) is not None:
            part = parse_content_range(given, length)
            self._put_part(connection, device, service, target.name, part, md5, outcome, known=known)
            return
        if length is not None and length <= SMALL_BODY_BYTES and self.buffered + length <= self._buffered_max:
            self._put_small(connection, device, service, target.name, md5, outcome, length=length, replace=replace)
            return
        upload = Upload(device, service, target.name, outcome, expected=length, md5=md5, replace=replace)
        connection.stream_body(UploadSink(connection, upload))

    def _put_small(
        self,
        connection: Connection,
        device: Device,
        service: Service,
        name: str,
        md5: bytes | None,
        outcome: Outcome,
        *,
        length: int,
        replace: bool,
    ) -> None:
        """A body that is kept in memory until its batch is on disk. All of them together have a limit: beyond it small bodies are
        streamed like large ones, which costs more work and no memory."""
        changes, store = service.changes, service.store
        self.buffered += length

        def release() -> None:
            self.buffered -= length
            connection.on_lost = None

        def done(job: Job) -> None:
            self.buffered -= length
            device.taken += length
            outcome(job.result if job.error is None else None, job.error)

        def whole(body: bytes) -> None:
            connection.on_lost = None
            try:
                changes.submit(SmallPut(store, done, name, body, md5, replace=replace))
            except NodeRefusal as refusal:
                self.buffered -= length
                refuse(connection, refusal)

        connection.on_lost = release
        connection.take_body(whole)

    def _put_part(
        self,
        connection: Connection,
        device: Device,
        service: Service,
        name: str,
        part: ContentRange,
        md5: bytes | None,
        outcome: Outcome,
        *,
        known: bool,
    ) -> None:
        if not service.store.records:
            connection.respond(501, TEXT, b"this device keeps no attributes, so files cannot arrive in parts\n")
            return

        def arrived(what: Arrived) -> None:
            lines = f"X-Mogile-Received: {what.text()}\r\n".encode()
            connection.respond(202, lines)

        upload = PartUpload(
            device, service, name, outcome, on_arrived=arrived, part=part, md5=md5,
            replace_empty=known or self.settings.anonymous_writes == "full",
        )  # fmt: skip
        connection.stream_body(UploadSink(connection, upload))

    def _put_test(self, request: Request, connection: Connection, target: Target, *, known: bool) -> None:
        service = writable(self._device(target))
        if request.length is None:
            connection.respond(411, TEXT, b"PUT needs Content-Length here\n")
            return
        if request.length > TEST_WRITE_BYTES_MAX:
            connection.respond(413, TEXT, b"too large for a test file\n")
            return
        md5 = content_md5(request.headers.get(b"content-md5"))

        def whole(body: bytes) -> None:
            try:
                job = CallJob(lambda j: finish(connection, j, 201), write_test, (service, target.name, body, md5))
                service.streams.submit(job)
            except NodeRefusal as refusal:
                refuse(connection, refusal)

        connection.take_body(whole)

    # -- DELETE ----------------------------------------------------------------------------------------------------------------

    def _delete(self, request: Request, connection: Connection, target: Target, *, known: bool) -> None:
        self._known_or_full(known=known)
        device = self._device(target)
        service = writable(device)
        condition = request.headers.get(b"if-match")
        copy_id = None
        if condition is not None and condition != b"*":
            match = _COPY_ID.match(condition)
            if match is None:
                raise BadRequestError(
                    'If-Match must be one copy id in quotes, such as "0123456789abcdef0123456789abcdef"'
                )
            copy_id = match[1].decode()
        job = Delete(service.store, lambda j: finish(connection, j, 204), target.name, copy_id)
        service.changes.submit(job)

    def _delete_many(self, request: Request, connection: Connection, target: Target, *, known: bool) -> None:
        self._known_or_full(known=known)
        service = writable(self._device(target))
        if request.length is None or request.length > BODY_BYTES_MAX:
            status = 411 if request.length is None else 413
            connection.respond(status, TEXT, b"a delete order needs a Content-Length of at most 64 KiB\n")
            return

        def whole(body: bytes) -> None:
            try:
                doomed = parse_deletes(body, target.devid)
            except NodeRefusal as refusal:
                refuse(connection, refusal)
                return
            self.spawn(serve_deletes(connection, service, doomed))

        connection.take_body(whole)

    def _move(self, request: Request, connection: Connection, target: Target, *, known: bool) -> None:
        self._known_or_full(known=known)
        service = writable(self._device(target))
        wanted = request.headers.get(b"destination")
        if wanted is None:
            raise BadRequestError("MOVE needs the header Destination")
        if wanted.startswith(b"http://"):
            wanted = b"/" + wanted[7:].partition(b"/")[2]
        new = parse_target(wanted)
        if new.kind != "fid" or new.devid != target.devid:
            raise BadRequestError("a copy can be moved to the path of another fid on the same device only")
        service.changes.submit(Move(service.store, lambda j: finish(connection, j, 201), target.name, new.name))

    # -- orders ----------------------------------------------------------------------------------------------------------------

    def _pull(self, request: Request, connection: Connection, _: Target, *, known: bool) -> None:
        if not known:
            raise ForbiddenError("copy orders need the id of this cluster")
        if request.length is None:
            connection.respond(411, TEXT, b"POST needs Content-Length\n")
            return
        if request.length > PULL_BODY_BYTES_MAX:
            connection.respond(413, TEXT, b"too many orders at once\n")
            return

        def whole(body: bytes) -> None:
            try:
                orders = parse_orders(body)
            except NodeRefusal as refusal:
                refuse(connection, refusal)
                return
            self.spawn(self.puller.serve(connection, orders, self.registry))

        connection.take_body(whole)

    def _initialise(self, request: Request, connection: Connection, target: Target, *, known: bool) -> None:
        if not known:
            raise ForbiddenError("initialising a device needs the id of this cluster")
        device = self._device(target)
        if request.length is None or request.length > 4096:
            connection.respond(411 if request.length is None else 413, TEXT, b"a small JSON body is needed\n")
            return

        def whole(body: bytes) -> None:
            try:
                volume_id = str(json.loads(body)["volumeId"]).lower()
            except (ValueError, KeyError, TypeError):
                volume_id = ""
            if not UUID.match(volume_id):
                refuse(connection, BadRequestError('the body must be {"volumeId": "<uuid>"}'))
                return
            self.spawn(self._mark(connection, device, volume_id))

        connection.take_body(whole)

    async def _mark(self, connection: Connection, device: Device, volume_id: str) -> None:
        fresh = device.state is State.BLANK
        if fresh:
            device.initialise(volume_id)
            for _ in range(round(INITIALISE_SECONDS_MAX / 0.02)):
                if device.state is not State.BLANK and (device.state is not State.READY or device.marker is not None):
                    break
                await asyncio.sleep(0.02)
        marker = device.marker
        if device.state is State.READY and marker is not None and marker.volume_id == volume_id:
            connection.respond(201 if fresh else 200)
        else:
            text = f"dev{device.devid} is {device.state}, volume {marker.volume_id if marker else 'none'}: {device.message}\n"
            connection.respond(409, TEXT, text.encode())

    # -- tasks -----------------------------------------------------------------------------------------------------------------

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run the rest of an answer; its failure ends the task and is logged, nothing else."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._reap)

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            log.error("an answer was cut short", reason=repr(failure))

    async def drain(self, seconds: float) -> None:
        """Let running requests end, at most this long, then cut the rest."""
        self.stopping = True
        deadline = asyncio.get_running_loop().time() + seconds
        while self.connections and asyncio.get_running_loop().time() < deadline:
            for connection in list(self.connections):
                connection.finish_up()
            await asyncio.sleep(0.02)
        for connection in list(self.connections):
            connection.transport.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.puller.close()


_ROUTES: dict[tuple[bytes, str], Callable[..., None]] = {
    (b"PUT", "fid"): AgentApp._put,
    (b"PUT", "test"): AgentApp._put_test,
    (b"DELETE", "fid"): AgentApp._delete,
    (b"POST", "delete"): AgentApp._delete_many,
    (b"MOVE", "fid"): AgentApp._move,
    (b"DELETE", "test"): AgentApp._delete_test,
    (b"MKCOL", "fid"): AgentApp._make_collection,
    (b"MKCOL", "collection"): AgentApp._make_collection,
    (b"POST", "pull"): AgentApp._pull,
    (b"POST", "initialise"): AgentApp._initialise,
    (b"POST", "scrub"): AgentApp._scrub,
}
