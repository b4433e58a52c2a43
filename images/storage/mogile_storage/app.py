"""What the agent's server asks of it: which cluster a request is meant for, its route, the common header lines, the end.

Order of checks: cluster, target, route; the rest is the route's (package routes).
"""

from __future__ import annotations

import asyncio

from mogile_storage.answers import TEXT, refuse
from mogile_storage.errors import BadRequestError, NodeRefusal, WrongClusterError
from mogile_storage.http import CommonHeaders, Connection
from mogile_storage.marker import UUID
from mogile_storage.node import Node
from mogile_storage.request import Request
from mogile_storage.routes import ROUTES
from mogile_storage.targets import parse_target

_READING = (b"GET", b"HEAD")
_NOT_SUPPORTED = (b"OPTIONS", b"PATCH")


class AgentApp:
    """The application of the agent's port."""

    def __init__(self, node: Node, version: str) -> None:
        self.node, self.version = node, version
        self.connections: set[Connection] = set()
        self.silence_seconds = node.settings.client_silence_seconds
        self.requests: dict[tuple[str, int], int] = {}
        self.stopping = False
        self._headers = CommonHeaders(f"mogile-storage/{version}")
        self._cluster_line: tuple[str, bytes] = ("", b"")

    def accepts(self) -> bool:
        return len(self.connections) <= self.node.settings.connections_max

    def answered(self, request: Request | None, status: int) -> None:
        key = (request.method.decode("latin-1") if request is not None else "-", status)
        self.requests[key] = self.requests.get(key, 0) + 1

    def common_headers(self) -> bytes:
        cluster_id = self.node.registry.cluster.id
        if cluster_id != self._cluster_line[0]:
            self._cluster_line = (cluster_id, f"X-Mogile-Cluster: {cluster_id}\r\n".encode())
        return self._headers.lines(self._cluster_line[1])

    def begin(self, request: Request, connection: Connection) -> None:
        method = request.method
        try:
            known = self._check_cluster(request)
            target = parse_target(request.target)
            route = ROUTES.get((method, target.kind))
            if route is not None:
                route(self.node, request, connection, target, known=known)
            elif method in _NOT_SUPPORTED:
                connection.respond(501, TEXT, b"not supported\n")
            else:
                raise BadRequestError("that method does not go with that path")
        except NodeRefusal as refusal:
            refuse(connection, refusal, head=method == b"HEAD")

    def _check_cluster(self, request: Request) -> bool:
        """True when the request carries the id of our cluster. A node without one joins the first that writes to it."""
        raw = request.headers.get(b"x-mogile-cluster")
        if not raw:
            return False
        cluster_id = raw.decode("latin-1").lower()
        registry = self.node.registry
        if not registry.cluster.id and UUID.match(cluster_id):
            if request.method in _READING:
                return False
            registry.claim(cluster_id)
        if cluster_id != registry.cluster.id:
            raise WrongClusterError(f"this node belongs to cluster {registry.cluster.id or 'none'}")
        return True

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
        await self.node.stop()
