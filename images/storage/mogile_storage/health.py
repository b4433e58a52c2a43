"""Health, metrics and status of the agent (port 7502). Readiness is the node's, not one disk's: a sick device is reported, not fatal.

The routes run on the node's own server (module http): a second one for four paths would be a sixth of the memory of an idle node.
"""

from __future__ import annotations

import asyncio
import json
import time
from urllib.parse import parse_qs

from mogile_core.runtime.metrics import CONTENT_TYPE, render
from mogile_core.runtime.metrics import Registry as Metrics
from mogile_storage.answers import TEXT
from mogile_storage.app import AgentApp
from mogile_storage.commit import GroupCommitter
from mogile_storage.devices import Device
from mogile_storage.http import CommonHeaders, Connection
from mogile_storage.marker import State
from mogile_storage.registry import Registry
from mogile_storage.request import Request
from mogile_storage.scrub import Scrubber
from mogile_storage.usage import usage_fields

LOOK_SECONDS = 0.1
WAIT_SECONDS_MAX = 5.0
CONNECTIONS_MAX = 256
METRICS = f"Content-Type: {CONTENT_TYPE}\r\n".encode()
JSON = b"Content-Type: application/json\r\n"


def device_status(device: Device, scrubber: Scrubber) -> dict[str, object]:
    """One device of `/status`."""
    marker, space = device.marker, device.space
    hung = device.hung
    service = device.service
    store = service.store if service is not None else None
    return {
        "devid": device.devid,
        "state": State.FAILED if hung else device.state,
        "message": "the device does not answer" if hung else device.message,
        "clusterId": marker.cluster_id if marker else "",
        "volumeId": marker.volume_id if marker else "",
        "syncMode": device.sync_mode,
        "syncReason": device.sync_reason,
        "dataProbe": service.probe.way if service is not None else "",
        "totalBytes": space.total if space else 0,
        "usedBytes": space.used if space else 0,
        "availableBytes": space.available if space else 0,
        "readOnly": device.read_only,
        "usage": usage_fields(device.usage),
        "latency": {"read": device.read_latency.summary(), "sync": device.sync_latency.summary()},
        "utilization": device.utilization,
        "errors": dict(device.errors),
        "quarantined": device.quarantined,
        "damaged": store.damaged.count if store else 0,
        "quarantineFiles": store.quarantined_files if store else 0,
        "scrub": scrubber.status(),
        "quarantineBytes": store.quarantined_bytes if store else 0,
    }


class Health:
    """The application of the health port: collects the figures when asked."""

    silence_seconds = 10.0

    def __init__(self, app: AgentApp, registry: Registry) -> None:
        self._app, self._registry = app, registry
        self.connections: set[Connection] = set()
        self._headers = CommonHeaders(f"mogile-storage/{app.version}")
        self._metrics = Metrics()
        self._requests = self._metrics.counter("storage_requests_total", "Answers given", ["method", "status"])
        self._connections = self._metrics.gauge("storage_connections", "Client connections now")
        self._pulled = self._metrics.counter("storage_pulled_files_total", "Files copied from other nodes")
        self._pulled_bytes = self._metrics.counter("storage_pulled_bytes_total", "Bytes copied from other nodes")
        self._pull_failures = self._metrics.counter("storage_pull_failures_total", "Copies that failed", ["reason"])
        self._state = self._metrics.gauge(
            "storage_device_state", "1 for the state the device is in", ["devid", "state"]
        )
        self._total = self._metrics.gauge("storage_device_total_bytes", "Size of the device", ["devid"])
        self._used = self._metrics.gauge("storage_device_used_bytes", "Used on the device", ["devid"])
        self._busy = self._metrics.gauge("storage_device_busy_percent", "Share of time the disk was busy", ["devid"])
        self._available = self._metrics.gauge(
            "storage_device_available_bytes", "Left for uploads on the device", ["devid"]
        )
        self._read_only = self._metrics.gauge(
            "storage_device_read_only", "1 while the file system is mounted read-only", ["devid"]
        )
        self._latency = self._metrics.histogram(
            "storage_device_seconds", "Time of reads and syncs of the device", ["devid", "kind"]
        )
        self._slow = self._metrics.counter(
            "storage_device_slow_total", "Reads and syncs that took a second or more", ["devid", "kind"]
        )
        self._errors = self._metrics.counter("storage_device_errors_total", "I/O errors", ["devid", "error"])
        self._batches = self._metrics.counter("storage_sync_batches_total", "Group commits", ["devid"])
        self._changes = self._metrics.counter(
            "storage_sync_changes_total", "Changes made durable by group commits", ["devid"]
        )
        self._waiting = self._metrics.gauge("storage_device_waiting_jobs", "Work waiting for the device", ["devid"])
        self._quarantined = self._metrics.counter(
            "storage_quarantined_files_total", "Files put into quarantine", ["devid"]
        )
        self._damaged = self._metrics.gauge(
            "storage_damaged_copies", "Damaged copies that wait for a good one", ["devid"]
        )
        self._kept = self._metrics.gauge("storage_quarantine_bytes", "Bytes kept in quarantine", ["devid"])
        self._scrubbed = self._metrics.counter("storage_scrub_files_total", "Copies read by scrubs", ["devid"])
        self._scrubbed_bytes = self._metrics.counter("storage_scrub_bytes_total", "Bytes read by scrubs", ["devid"])
        self._scrub_damaged = self._metrics.counter(
            "storage_scrub_damaged_copies_total", "Damaged copies found by scrubs", ["devid"]
        )
        self._scrub_finished = self._metrics.gauge(
            "storage_scrub_finished_seconds", "When the last whole scrub ended; 0: never", ["devid"]
        )
        self._metrics.on_collect(self._collect)

    # -- what the server asks --------------------------------------------------------------------------------------------------

    def accepts(self) -> bool:
        return len(self.connections) <= CONNECTIONS_MAX

    def answered(self, request: Request | None, status: int) -> None:
        """Not counted."""

    def common_headers(self) -> bytes:
        return self._headers.lines(b"")

    def begin(self, request: Request, connection: Connection) -> None:
        path, _, query = request.target.decode("latin-1").partition("?")
        if request.method not in (b"GET", b"HEAD"):
            connection.respond(405, b"Allow: GET, HEAD\r\n" + TEXT, b"only GET and HEAD are known here\n")
        elif path == "/status":
            self._app.node.spawn(self._answer_status(request, connection, parse_qs(query)))
        elif path == "/metrics":
            _answer(request, connection, 200, METRICS, render([self._metrics.snapshot()]))
        elif path == "/healthz":
            _answer(request, connection, 200, TEXT, "ok\n")
        elif path == "/readyz":
            stopping = self._app.stopping
            _answer(request, connection, 503 if stopping else 200, TEXT, "stopping\n" if stopping else "ok\n")
        else:
            _answer(request, connection, 404, TEXT, "there are /healthz, /readyz, /metrics and /status\n")

    def close(self) -> None:
        """End the connections; what was answered is still sent."""
        for connection in list(self.connections):
            connection.transport.close()

    # -- the answers -----------------------------------------------------------------------------------------------------------

    async def _answer_status(self, request: Request, connection: Connection, query: dict[str, list[str]]) -> None:
        await self._wait_for_news(query.get("known", [""])[0], query.get("wait", [""])[0])
        _answer(request, connection, 200, JSON, json.dumps(self.status()))

    def status(self) -> dict[str, object]:
        """The JSON of `/status`."""
        return {
            "version": self._app.version,
            "view": self._view,
            "clusterId": self._registry.cluster.id,
            "devices": [
                device_status(device, self._registry.scrubbers[devid])
                for devid, device in sorted(self._registry.devices.items())
            ],
        }

    @property
    def _view(self) -> str:
        """What the read nginx must know, in one word: it differs when a device came or went, or the cluster was learned."""
        ready = (
            d for d, device in sorted(self._registry.devices.items()) if device.state is State.READY and not device.hung
        )
        return f"{self._registry.cluster.id}/{len(self._registry.devices)}/{'.'.join(map(str, ready))}"

    async def _wait_for_news(self, known: str, wait: str) -> None:
        """`?known=<view>&wait=<seconds>`: answer when the view is another one, or after that time."""
        deadline = time.monotonic() + (
            min(float(wait), WAIT_SECONDS_MAX) if wait.replace(".", "", 1).isdigit() else 0.0
        )
        # That a device hangs is seen by the clock alone: there is nobody who could set an event.
        while known == self._view and time.monotonic() < deadline and not self._app.stopping:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_SECONDS)

    def _collect(self) -> None:
        for (method, status), count in self._app.requests.items():
            self._requests.values[(method, str(status))] = count
        self._connections.set(len(self._app.connections))
        puller = self._app.node.puller
        self._pulled.values[()] = puller.copied_files
        self._pulled_bytes.values[()] = puller.copied_bytes
        for reason, count in puller.failed.items():
            self._pull_failures.values[(reason,)] = count
        self._state.clear()
        for devid, device in self._registry.devices.items():
            label = (str(devid),)
            self._state.set(1, devid=devid, state=State.FAILED if device.hung else device.state)
            for error, count in device.errors.items():
                self._errors.values[(str(devid), error)] = count
            self._quarantined.values[label] = device.quarantined
            if device.space is not None:
                self._total.set(device.space.total, devid=devid)
                self._used.set(device.space.used, devid=devid)
                self._available.set(device.space.available, devid=devid)
                self._read_only.set(int(device.read_only), devid=devid)
            if device.utilization is not None:
                self._busy.set(device.utilization, devid=devid)
            for kind, latency in (("read", device.read_latency), ("sync", device.sync_latency)):
                self._latency.values[(str(devid), kind)] = list(latency.series)
                self._slow.values[(str(devid), kind)] = latency.slow
            scrubber = self._registry.scrubbers[devid]
            self._scrubbed.values[label] = scrubber.files
            self._scrubbed_bytes.values[label] = scrubber.bytes
            self._scrub_damaged.values[label] = scrubber.damaged
            self._scrub_finished.set(scrubber.finished, devid=devid)
            service = device.service
            if service is not None:
                self._damaged.set(service.store.damaged.count, devid=devid)
                self._kept.set(service.store.quarantined_bytes, devid=devid)
                self._waiting.set(service.pending, devid=devid)
                if isinstance(service.changes, GroupCommitter):
                    self._batches.values[label] = service.changes.batches
                    self._changes.values[label] = service.changes.changes


def _answer(request: Request, connection: Connection, status: int, headers: bytes, text: str) -> None:
    body = text.encode()
    connection.respond(status, headers, b"" if request.method == b"HEAD" else body, len(body))
