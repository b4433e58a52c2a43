"""What changes names and no bytes: DELETE of one copy or many, MOVE, MKCOL."""

from __future__ import annotations

import re

from mogile_storage.answers import check_short, finish, refuse, writable
from mogile_storage.commit import Delete, Move
from mogile_storage.deletes import BODY_BYTES_MAX, parse_deletes, serve_deletes
from mogile_storage.errors import BadRequestError, NodeRefusal
from mogile_storage.http import Connection
from mogile_storage.node import Node
from mogile_storage.pool import CallJob
from mogile_storage.request import Request
from mogile_storage.targets import Target, parse_target

_COPY_ID = re.compile(rb'"([0-9a-f]{32})"\Z')


def delete(node: Node, request: Request, connection: Connection, target: Target, *, known: bool) -> None:
    """One copy; with If-Match only that one, never a newer one of the same name."""
    node.known_or_full(known=known)
    service = writable(node.device(target))
    condition = request.headers.get(b"if-match")
    copy_id = None
    if condition is not None and condition != b"*":
        match = _COPY_ID.match(condition)
        if match is None:
            raise BadRequestError('If-Match must be one copy id in quotes, such as "0123456789abcdef0123456789abcdef"')
        copy_id = match[1].decode()
    service.changes.submit(Delete(service.store, lambda j: finish(connection, j, 204), target.name, copy_id))


def delete_many(node: Node, request: Request, connection: Connection, target: Target, *, known: bool) -> None:
    """An order for many copies of one device: module deletes."""
    node.known_or_full(known=known)
    service = writable(node.device(target))
    check_short(request, "a delete order", BODY_BYTES_MAX)

    def whole(body: bytes) -> None:
        try:
            doomed = parse_deletes(body, target.devid)
        except NodeRefusal as refusal:
            refuse(connection, refusal)
            return
        node.spawn(serve_deletes(connection, service, doomed))

    connection.take_body(whole)


def delete_test_file(node: Node, request: Request, connection: Connection, target: Target, *, known: bool) -> None:
    """A test file, by anybody: there is nothing in it."""
    del request, known
    service = node.device(target).usable()
    service.reads.submit(CallJob(lambda j: finish(connection, j, 204), service.store.remove_plain, (target.name,)))


def move(node: Node, request: Request, connection: Connection, target: Target, *, known: bool) -> None:
    """A copy gets the name of another fid of its device."""
    node.known_or_full(known=known)
    service = writable(node.device(target))
    wanted = request.headers.get(b"destination")
    if wanted is None:
        raise BadRequestError("MOVE needs the header Destination")
    if wanted.startswith(b"http://"):
        wanted = b"/" + wanted[7:].partition(b"/")[2]
    new = parse_target(wanted)
    if new.kind != "fid" or new.devid != target.devid:
        raise BadRequestError("a copy can be moved to the path of another fid on the same device only")
    service.changes.submit(Move(service.store, lambda j: finish(connection, j, 201), target.name, new.name))


def make_collection(node: Node, request: Request, connection: Connection, target: Target, *, known: bool) -> None:
    """Directories come with the files in them; clients that make them first are told that they are there."""
    del request, known
    node.device(target).usable()
    connection.respond(201)
