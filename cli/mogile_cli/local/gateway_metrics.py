"""The built-in gateway's counters, with the names and labels of the nginx gateway's.

Cardinality is bounded: locations are those configured, methods, commands and phases are closed lists.
"""

from mogile_cli.local.gateway_store import Nodes, Trackers
from mogile_core.runtime.metrics import Registry, render

BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_METHODS = frozenset({"GET", "HEAD", "PUT", "DELETE"})


class GatewayMetrics:
    """Counts requests and renders the page."""

    def __init__(self, trackers: Trackers, nodes: Nodes) -> None:
        self._trackers, self._nodes = trackers, nodes
        self._registry = registry = Registry()
        place = ("location",)
        both = ("location", "method")
        self._requests = registry.counter("gateway_requests_total", "Requests answered.", (*both, "code"))
        self._seconds = registry.histogram(
            "gateway_request_duration_seconds", "Time to answer a request.", both, BUCKETS_SECONDS
        )
        self._received = registry.counter("gateway_received_bytes_total", "Bytes of requests, headers included.", place)
        self._sent = registry.counter("gateway_sent_bytes_total", "Bytes of the bodies of answers.", place)
        self._failovers = registry.counter("gateway_failovers_total", "Reads that went on to another copy.", place)
        self._commands = registry.counter(
            "gateway_tracker_requests_total", "Commands to trackers: ok, error or unreachable.", ("command", "result")
        )
        self._failures = registry.counter(
            "gateway_node_failures_total",
            "Storage nodes that refused, hung or failed: read, probe or write.",
            ("phase",),
        )
        self._up = registry.gauge("gateway_tracker_up", "1 when the tracker answered lately.", ("tracker",))
        self._connections = registry.gauge("gateway_connections", "Client connections by state.", ("state",))
        trackers.on_result = lambda command, result: self._commands.inc(command=command, result=result)
        nodes.on_failure = lambda phase: self._failures.inc(phase=phase)

    def request(self, location: str, method: str, status: int, seconds: float, received: int, sent: int) -> None:
        """Count one finished request."""
        method = method if method in _METHODS else "other"
        self._requests.inc(location=location, method=method, code=status)
        self._seconds.observe(seconds, location=location, method=method)
        self._received.inc(received, location=location)
        self._sent.inc(sent, location=location)

    def failover(self, location: str) -> None:
        """Count a read that went on to another copy."""
        self._failovers.inc(location=location)

    def page(self, connections: int) -> str:
        """Prometheus text."""
        self._connections.set(connections, state="active")
        self._up.clear()
        for name, good in self._trackers.health().items():
            self._up.set(int(good), tracker=name)
        return render([self._registry.snapshot()])
