"""POST: orders of trackers (pull, scrub) and of the operator (initialise)."""

from __future__ import annotations

import asyncio
import json

from mogile_storage.answers import TEXT, check_short, refuse
from mogile_storage.devices import Device
from mogile_storage.errors import BadRequestError, DeviceUnavailableError, ForbiddenError, NodeRefusal
from mogile_storage.http import Connection
from mogile_storage.marker import UUID, State
from mogile_storage.node import Node
from mogile_storage.orders import parse_orders
from mogile_storage.request import Request
from mogile_storage.targets import Target

PULL_BODY_BYTES_MAX = 2 << 20
INITIALISE_BODY_BYTES_MAX = 4096
INITIALISE_SECONDS_MAX = 5.0


def pull(node: Node, request: Request, connection: Connection, target: Target, *, known: bool) -> None:
    """Copies to fetch from peers: module pull."""
    del target
    if not known:
        raise ForbiddenError("copy orders need the id of this cluster")
    check_short(request, "a copy order", PULL_BODY_BYTES_MAX)

    def whole(body: bytes) -> None:
        try:
            orders = parse_orders(body)
        except NodeRefusal as refusal:
            refuse(connection, refusal)
            return
        node.spawn(node.puller.serve(connection, orders, node.registry))

    connection.take_body(whole)


def scrub(node: Node, request: Request, connection: Connection, target: Target, *, known: bool) -> None:
    """Read all copies of a device and compare them with what is recorded: module scrub."""
    del request
    node.known_or_full(known=known)
    device = node.device(target)
    if not device.usable().store.records:
        raise DeviceUnavailableError("nothing is recorded about the files of this device")
    node.registry.scrubbers[device.devid].order()
    connection.respond(202, TEXT, b"a scrub begins; /status tells how far it is\n")


def initialise(node: Node, request: Request, connection: Connection, target: Target, *, known: bool) -> None:
    """A blank volume becomes a device of this cluster."""
    if not known:
        raise ForbiddenError("initialising a device needs the id of this cluster")
    device = node.device(target)
    check_short(request, "initialise", INITIALISE_BODY_BYTES_MAX)

    def whole(body: bytes) -> None:
        try:
            volume_id = str(json.loads(body)["volumeId"]).lower()
        except (ValueError, KeyError, TypeError):
            volume_id = ""
        if not UUID.match(volume_id):
            refuse(connection, BadRequestError('the body must be {"volumeId": "<uuid>"}'))
            return
        node.spawn(_mark(connection, device, volume_id))

    connection.take_body(whole)


async def _mark(connection: Connection, device: Device, volume_id: str) -> None:
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
        text = (
            f"dev{device.devid} is {device.state}, volume {marker.volume_id if marker else 'none'}: {device.message}\n"
        )
        connection.respond(409, TEXT, text.encode())
