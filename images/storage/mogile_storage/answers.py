"""What the routes of the agent share: answers to jobs and refusals, checks of header values, the way of a body to an upload."""

from __future__ import annotations

import base64
import binascii
import re

from mogile_core.checksum import HashType, new_digest
from mogile_core.runtime.logs import get_log
from mogile_storage.devices import Device
from mogile_storage.errors import (
    BadRequestError,
    DeviceUnavailableError,
    LengthRequiredError,
    MissingError,
    NodeRefusal,
    TooLargeError,
)
from mogile_storage.http import Connection
from mogile_storage.pool import Job
from mogile_storage.request import Request
from mogile_storage.service import Service
from mogile_storage.uploads import Upload

log = get_log(__name__)

TEXT = b"Content-Type: text/plain\r\n"
_ACCEL_PATH = re.compile(rb"/[\x21-\x7e]{0,255}\Z")


class UploadSink:
    """Between a connection and an upload: flow control and the answer."""

    def __init__(self, connection: Connection, upload: Upload) -> None:
        self._connection, self._upload = connection, upload
        upload.on_space = connection.resume

    def feed(self, data: bytes) -> None:
        if not self._upload.feed(data):
            self._connection.pause()

    def end(self) -> None:
        self._upload.end()

    def lost(self, why: str) -> None:
        log.info("upload broken off", reason=why)
        self._upload.cancel()


def refuse(connection: Connection, refusal: NodeRefusal, *, head: bool = False) -> None:
    """Answer with a refusal in one sentence."""
    headers = TEXT + b"Retry-After: 1\r\n" if refusal.retryable else TEXT
    body = b"" if head else f"{refusal}\n".encode()
    connection.respond(refusal.status, headers, body)


def finish(connection: Connection, job: Job, status: int, *, head: bool = False) -> None:
    """Answer with the result of a job (bytes become the body)."""
    if job.error is not None:
        refuse(connection, job.error, head=head)
        return
    body = job.result if isinstance(job.result, bytes) else b""
    connection.respond(status, b"", b"" if head else body, len(body))


def check_short(request: Request, what: str, limit: int) -> None:
    """A body that will be kept in memory says its length (else LengthRequiredError), and not more than `limit` (TooLargeError)."""
    if request.length is None:
        raise LengthRequiredError(f"{what} needs a Content-Length")
    if request.length > limit:
        raise TooLargeError(f"{what} may have {limit} bytes at most")


def writable(device: Device) -> Service:
    service = device.usable()
    if device.read_only:
        raise DeviceUnavailableError(f"dev{device.devid} is read-only")
    if device.stalled:
        raise DeviceUnavailableError(f"dev{device.devid}: writes do not come back")
    return service


def read_plain(service: Service, name: str) -> bytes:
    try:
        return service.store.read_plain(name)
    except FileNotFoundError:
        raise MissingError from None


def write_test(service: Service, name: str, body: bytes, md5: bytes | None) -> None:
    digest = new_digest(HashType.MD5)
    digest.update(body)
    if md5 is not None and digest.digest() != md5:
        raise BadRequestError("Content-MD5 does not match the body")
    service.store.write_plain(name, body)


def content_md5(value: bytes | None) -> bytes | None:
    if value is None:
        return None
    try:
        digest = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != 16:
        raise BadRequestError("Content-MD5 must be the base64 form of 16 bytes")
    return digest


def accel_line(value: bytes | None) -> bytes:
    if value is None:
        return b""
    if _ACCEL_PATH.match(value) is None:
        raise BadRequestError("X-Mogile-After must be a path")
    return b"X-Accel-Redirect: %b\r\n" % value
