"""What the agent does for each method and kind of target.

A route is `(node, request, connection, target, *, known)`; `known`: the request shows the id of our cluster. It answers through the
connection, now or later, or raises a `NodeRefusal` before any answer. Routes run on the event loop and never touch a device themselves:
they look at what the watchers left (state, room) and hand work to the pools of the device.
"""

from __future__ import annotations

from typing import Final, Protocol

from mogile_storage.http import Connection
from mogile_storage.node import Node
from mogile_storage.request import Request
from mogile_storage.routes import get, names, post, put
from mogile_storage.targets import Target


class Route(Protocol):
    """A function of one of the modules here."""

    def __call__(
        self, node: Node, request: Request, connection: Connection, target: Target, /, *, known: bool
    ) -> None: ...


ROUTES: Final[dict[tuple[bytes, str], Route]] = {
    (b"GET", "fid"): get.copy,
    (b"HEAD", "fid"): get.copy,
    (b"GET", "test"): get.test_file,
    (b"HEAD", "test"): get.test_file,
    (b"GET", "usage"): get.usage,
    (b"HEAD", "usage"): get.usage,
    (b"GET", "root"): get.root,
    (b"HEAD", "root"): get.root,
    (b"GET", "collection"): get.collection,
    (b"HEAD", "collection"): get.collection,
    (b"GET", "fids"): get.listing,
    (b"GET", "damaged"): get.listing,
    (b"PUT", "fid"): put.copy,
    (b"PUT", "test"): put.test_file,
    (b"MKCOL", "fid"): names.make_collection,
    (b"MKCOL", "collection"): names.make_collection,
    (b"MOVE", "fid"): names.move,
    (b"DELETE", "fid"): names.delete,
    (b"DELETE", "test"): names.delete_test_file,
    (b"POST", "delete"): names.delete_many,
    (b"POST", "pull"): post.pull,
    (b"POST", "initialise"): post.initialise,
    (b"POST", "scrub"): post.scrub,
}
