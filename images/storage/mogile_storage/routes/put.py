"""PUT: copies, in memory, streamed or in parts, and test files.

Order of checks: device, permission, length, room, headers, then the body.
"""

from __future__ import annotations

from mogile_storage.answers import (
    TEXT,
    UploadSink,
    accel_line,
    check_short,
    content_md5,
    finish,
    refuse,
    writable,
    write_test,
)
from mogile_storage.commit import SmallPut
from mogile_storage.copies import Stored
from mogile_storage.devices import Device
from mogile_storage.errors import ForbiddenError, LengthRequiredError, NodeRefusal, NoSpaceError
from mogile_storage.http import SMALL_BODY_BYTES, Connection
from mogile_storage.node import Node
from mogile_storage.partials import Arrived, ContentRange, parse_content_range
from mogile_storage.parts import PartUpload
from mogile_storage.pool import CallJob, Job
from mogile_storage.request import Request
from mogile_storage.service import Service
from mogile_storage.targets import Target
from mogile_storage.uploads import Outcome, Upload

TEST_WRITE_BYTES_MAX = 64 << 10
_SUCCESS = {"created": 201, "replaced": 201, "repeated": 200}


def copy(node: Node, request: Request, connection: Connection, target: Target, *, known: bool) -> None:
    """A copy: answered when it is on disk."""
    headers = request.headers
    device = node.device(target)
    service = writable(device)
    replace = b"x-mogile-replace" in headers
    if replace and not known:
        raise ForbiddenError("replacing a copy needs the id of this cluster")
    length = request.length
    if length is None and not request.chunked:
        raise LengthRequiredError("PUT needs Content-Length or chunked encoding")
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
        replace_empty = known or node.settings.anonymous_writes == "full"
        _part(connection, device, service, target.name, part, md5, outcome, replace_empty=replace_empty)
    elif length is not None and length <= SMALL_BODY_BYTES and node.buffered + length <= node.buffered_max:
        _small(node, connection, device, service, target.name, md5, outcome, length=length, replace=replace)
    else:
        upload = Upload(device, service, target.name, outcome, expected=length, md5=md5, replace=replace)
        connection.stream_body(UploadSink(connection, upload))


def _small(
    node: Node,
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
    node.buffered += length

    def release() -> None:
        node.buffered -= length
        connection.on_lost = None

    def done(job: Job) -> None:
        node.buffered -= length
        device.taken += length
        outcome(job.result if job.error is None else None, job.error)

    def whole(body: bytes) -> None:
        connection.on_lost = None
        try:
            changes.submit(SmallPut(store, done, name, body, md5, replace=replace))
        except NodeRefusal as refusal:
            node.buffered -= length
            refuse(connection, refusal)

    connection.on_lost = release
    connection.take_body(whole)


def _part(
    connection: Connection,
    device: Device,
    service: Service,
    name: str,
    part: ContentRange,
    md5: bytes | None,
    outcome: Outcome,
    *,
    replace_empty: bool,
) -> None:
    if not service.store.records:
        connection.respond(501, TEXT, b"this device keeps no attributes, so files cannot arrive in parts\n")
        return

    def arrived(what: Arrived) -> None:
        connection.respond(202, f"X-Mogile-Received: {what.text()}\r\n".encode())

    upload = PartUpload(
        device, service, name, outcome, on_arrived=arrived, part=part, md5=md5, replace_empty=replace_empty
    )
    connection.stream_body(UploadSink(connection, upload))


def test_file(node: Node, request: Request, connection: Connection, target: Target, *, known: bool) -> None:
    """A test file of a tracker's monitor: small, and not synced."""
    del known
    service = writable(node.device(target))
    check_short(request, "a test file", TEST_WRITE_BYTES_MAX)
    md5 = content_md5(request.headers.get(b"content-md5"))

    def whole(body: bytes) -> None:
        try:
            job = CallJob(lambda j: finish(connection, j, 201), write_test, (service, target.name, body, md5))
            service.streams.submit(job)
        except NodeRefusal as refusal:
            refuse(connection, refusal)

    connection.take_body(whole)
