"""GET and HEAD: copies, and the few things about a device that can be read."""

from __future__ import annotations

from mogile_storage.answers import TEXT, finish, read_plain, refuse
from mogile_storage.devices import Device
from mogile_storage.errors import NodeRefusal
from mogile_storage.http import Connection
from mogile_storage.node import Node
from mogile_storage.parts import conclude
from mogile_storage.pool import CallJob, Job
from mogile_storage.reading import ReadJob, send_blocks
from mogile_storage.request import Request
from mogile_storage.service import Service
from mogile_storage.targets import Target


def copy(node: Node, request: Request, connection: Connection, target: Target, *, known: bool) -> None:
    """A copy, whoever asks."""
    del known
    device = node.device(target)
    service = device.usable()
    if request.method == b"HEAD" and service.partials.named(target.name):
        node.spawn(_conclude_and_read(node, request, connection, device, target))
    else:
        _read(node, request, connection, service, target)


async def _conclude_and_read(
    node: Node, request: Request, connection: Connection, device: Device, target: Target
) -> None:
    """The size of a file that arrives in parts is asked: see module parts."""
    try:
        await conclude(device, target.name)
        _read(node, request, connection, device.usable(), target)
    except NodeRefusal as refusal:
        refuse(connection, refusal, head=True)


def _read(node: Node, request: Request, connection: Connection, service: Service, target: Target) -> None:
    head = request.method == b"HEAD"

    def done(job: Job) -> None:
        if job.error is not None:
            refuse(connection, job.error, head=head)
            return
        plan, content = job.result
        if isinstance(content, int):
            node.spawn(send_blocks(connection, service, target.name, plan, content))
        else:
            connection.respond(plan.status, plan.headers, content, plan.total)

    service.reads.submit(ReadJob(service.store, done, target.name, request.headers, head=head))


def test_file(node: Node, request: Request, connection: Connection, target: Target, *, known: bool) -> None:
    """A test file of a tracker's monitor."""
    del known
    head = request.method == b"HEAD"
    service = node.device(target).usable()
    job = CallJob(lambda j: finish(connection, j, 200, head=head), read_plain, (service, target.name))
    service.reads.submit(job)


def usage(node: Node, request: Request, connection: Connection, target: Target, *, known: bool) -> None:
    """The usage file, as the watcher made it last."""
    del known
    device = node.device(target)
    device.usable()
    _text(request, connection, device.usage)


def root(node: Node, request: Request, connection: Connection, target: Target, *, known: bool) -> None:
    """Something answers here."""
    del node, target, known
    _text(request, connection, b"mogile storage node\n")


def collection(node: Node, request: Request, connection: Connection, target: Target, *, known: bool) -> None:
    """A directory: there, and not listed."""
    del known
    node.device(target)
    _text(request, connection, b"Directory listing disabled\n")


def listing(node: Node, request: Request, connection: Connection, target: Target, *, known: bool) -> None:
    """The lists for trackers: module listing."""
    node.known_or_full(known=known)
    node.spawn(node.lister.serve(connection, request, target.kind, node.device(target)))


def _text(request: Request, connection: Connection, body: bytes) -> None:
    connection.respond(200, TEXT, b"" if request.method == b"HEAD" else body, len(body))
