"""Copy orders: their form in the body of `POST /pull`, and what an answer of their source must look like."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from mogile_core.paths import fid_path
from mogile_storage.errors import BadRequestError, LengthMismatchError, MissingError, NodeRefusal, NoSpaceError
from mogile_storage.registry import Registry

ITEMS_MAX = 1000
_MD5 = re.compile(r"[0-9a-f]{32}\Z")
_SOURCE = re.compile(
    r"http://(?:\[([0-9a-f:.]{2,45})\]|([a-z0-9._-]{1,253}))(?::([1-9]\d{0,4}))?(/dev\d{1,5}/\d/\d{3}/\d{3}/\d{10,19}\.fid)\Z",
    re.ASCII | re.IGNORECASE,
)


class SourceForeignError(NodeRefusal):
    """The source does not belong to our cluster."""

    reason = "source_foreign"


class SourceUnreachableError(NodeRefusal):
    """The source cannot be read from."""

    reason = "source_unreachable"


class Order(NamedTuple):
    """One file to copy."""

    fid: int
    devid: int
    host: str
    port: int
    path: str
    length: int
    digest: bytes | None
    replace: bool

    @property
    def name(self) -> str:
        """Where it goes, relative to the device."""
        path = fid_path(self.devid, self.fid)
        return path[path.index("/", 1) + 1 :]


def parse_orders(body: bytes) -> list[Order]:
    """The orders of a request; BadRequestError naming the first bad one."""
    try:
        items = json.loads(body)["items"]
    except (ValueError, KeyError, TypeError):
        raise BadRequestError('the body must be {"items": [...]}') from None
    if not isinstance(items, list) or len(items) > ITEMS_MAX:
        raise BadRequestError(f"items must be a list of at most {ITEMS_MAX}")
    return [_order(index, item) for index, item in enumerate(items)]


def _order(index: int, item: Any) -> Order:
    def bad(why: str) -> BadRequestError:
        return BadRequestError(f"items[{index}]: {why}")

    if not isinstance(item, dict):
        raise bad("must be an object")
    numbers: list[Any] = [item.get(name) for name in ("fid", "devid", "length")]
    if not all(type(n) is int and 0 <= n < 1 << 63 for n in numbers):
        raise bad("fid, devid and length must be whole numbers")
    fid, devid, length = map(int, numbers)
    md5 = item.get("md5")
    if md5 is not None and not (isinstance(md5, str) and _MD5.match(md5.lower())):
        raise bad("md5 must be 32 hex digits or null")
    source = _SOURCE.match(str(item.get("source")))
    port = int(source[3] or 80) if source is not None else 0
    if source is None or port > 65535:
        raise bad("source must be http://<host>:<port>/dev<N>/.../<fid>.fid")
    digest = bytes.fromhex(md5) if md5 else None
    return Order(
        fid, devid, (source[1] or source[2]).lower(), port, source[4], length, digest, bool(item.get("replace"))
    )


def room_for(order: Order, registry: Registry) -> None:
    """NodeRefusal when the copy's device cannot take it now."""
    device = registry.devices.get(order.devid)
    if device is None:
        raise NodeRefusal(f"there is no dev{order.devid} on this node")
    device.usable()
    if order.length > device.room():
        raise NoSpaceError


def check_answer(order: Order, status: int, source_cluster: str, length: int, cluster_id: str) -> None:
    """NodeRefusal unless the source is of our cluster and has what was ordered."""
    if source_cluster != cluster_id or status == 421:
        raise SourceForeignError(f"{order.host}:{order.port} does not belong to our cluster")
    if status == 404:
        raise MissingError(f"{order.host}:{order.port} has no {order.path}")
    if status != 200:
        raise SourceUnreachableError(f"{order.host}:{order.port} answered {status}")
    if length != order.length:
        raise LengthMismatchError(f"the source has {length} bytes, not {order.length}")
