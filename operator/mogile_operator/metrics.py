"""Metrics of the operator itself: passes, queue, watches, leadership, API calls."""

import time

from mogile_core.runtime.metrics import Registry, render
from mogile_operator.informers import Informers
from mogile_operator.kube import Kube
from mogile_operator.leader import Leader
from mogile_operator.reconcile import Key
from mogile_operator.workqueue import WorkQueue

BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class OperatorMetrics:
    """Counts passes; reads the rest when asked."""

    def __init__(self, kube: Kube, queue: WorkQueue[Key], informers: Informers, leader: Leader | None) -> None:
        self.registry = Registry()
        self._kube, self._queue, self._informers, self._leader = kube, queue, informers, leader
        add = self.registry
        self._passes = add.counter("operator_reconcile_total", "passes by result", ["result"])
        self._seconds = add.histogram("operator_reconcile_seconds", "duration of passes", (), BUCKETS)
        self._active = add.gauge(
            "operator_reconcile_oldest_start_time_seconds", "start of the oldest pass under way, 0 for none"
        )
        self._depth = add.gauge("operator_queue_depth", "keys that are due")
        self._oldest = add.gauge("operator_queue_oldest_seconds", "age of the oldest due key")
        self._ages = add.gauge("operator_watch_age_seconds", "since the last sign of life of a watch", ["kind"])
        self._leads = add.gauge("operator_leader", "1 while this replica leads")
        self._calls = add.counter(
            "operator_api_requests_total", "requests to the API server since the start", ["method", "code"]
        )
        self._running: dict[Key, float] = {}
        add.on_collect(self._collect)

    def begin(self, key: Key) -> float:
        """A pass starts."""
        self._running[key] = time.time()
        return time.monotonic()

    def end(self, key: Key, started: float, result: str) -> None:
        """A pass has ended as ok or error."""
        self._running.pop(key, None)
        self._passes.inc(result=result)
        self._seconds.observe(time.monotonic() - started)

    def _collect(self) -> None:
        self._active.set(min(self._running.values(), default=0.0))
        self._depth.set(self._queue.depth())
        self._oldest.set(self._queue.oldest_seconds())
        self._leads.set(1.0 if self._leader is None or self._leader.leading() else 0.0)
        for kind, age in self._informers.ages().items():
            self._ages.set(age, kind=kind)
        for (method, status), count in self._kube.calls.items():
            self._calls.values[(method, str(status))] = count

    async def text(self) -> str:
        """Prometheus text."""
        return render([self.registry.snapshot()])
