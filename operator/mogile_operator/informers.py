"""Watches of the operator's children and of machines: they only say *that* something happened, and to which cluster.

Nothing is cached but a digest per machine; passes read live. A watch that breaks, for whatever reason, is begun again after a
pause that grows to `PAUSE_MAX_SECONDS` and never for good: list, then watch from there. `age_seconds` is what the health check
looks at: the server ends every watch within `WATCH_SECONDS`, so a longer silence means a dead one.
"""

import asyncio
import random
from collections.abc import Callable, Iterable
from typing import Any

from mogile_core.runtime.logs import get_log
from mogile_operator import labels
from mogile_operator.kube import WATCH_SILENCE_SECONDS, Kube, KubeError
from mogile_operator.plan.observed import read_machine

PAUSE_FIRST_SECONDS = 0.5
PAUSE_MAX_SECONDS = 30.0
STALE_SECONDS = WATCH_SILENCE_SECONDS + 2 * PAUSE_MAX_SECONDS
CHILDREN = ("StatefulSet", "Deployment", "PersistentVolumeClaim", "Pod")

Obj = dict[str, Any]
log = get_log(__name__)


class Informer:
    """One kind in one namespace (or all)."""

    def __init__(self, kube: Kube, kind: str, namespace: str, selector: str, seen: Callable[[Obj], None]) -> None:
        self._kube = kube
        self.kind = kind
        self._namespace = namespace
        self._selector = selector
        self._seen = seen
        self._alive_at: float | None = None

    async def run(self) -> None:
        """For ever."""
        failures = 0
        self._alive_at = _now()
        while True:
            try:
                await self._once()
                failures = 0
            except KubeError as error:
                failures = 0 if error.status == 410 else failures + 1
                log.info("watch begins again", kind=self.kind, status=error.status, error=error)
            pause = min(PAUSE_MAX_SECONDS, PAUSE_FIRST_SECONDS * 2.0 ** min(failures, 10))
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads reconnects

    async def _once(self) -> None:
        page = await self._kube.list(self.kind, self._namespace, self._selector)
        self._alive_at = _now()
        for item in page.items:
            self._seen(item)
        version = page.version
        while True:
            async for event in self._kube.watch(self.kind, self._namespace, self._selector, version):
                self._alive_at = _now()
                item = event.get("object", {})
                version = item.get("metadata", {}).get("resourceVersion", version)
                if event.get("type") != "BOOKMARK":
                    self._seen(item)
            self._alive_at = _now()

    def age_seconds(self) -> float:
        """Since the last sign of life."""
        return _now() - self._alive_at if self._alive_at is not None else 0.0


class Informers:
    """All of them. `touched(namespace, cluster)` for children, `machines_changed()` when machines come, go or change state."""

    def __init__(
        self,
        kube: Kube,
        namespaces: Iterable[str],
        touched: Callable[[str, str], None],
        machines_changed: Callable[[], None],
    ) -> None:
        self._touched = touched
        self._machines_changed = machines_changed
        self._machines: dict[str, tuple[object, ...]] = {}
        self._all = [
            Informer(kube, kind, namespace, labels.listed_all(), self._child)
            for kind in CHILDREN
            for namespace in namespaces
        ]
        self._all.append(Informer(kube, "Node", "", "", self._machine))

    async def run(self) -> None:
        """For ever; an error nobody expected ends the process, which is restarted."""
        async with asyncio.TaskGroup() as group:
            for informer in self._all:
                group.create_task(informer.run(), name=f"informer {informer.kind}")

    def stale(self) -> list[str]:
        """Kinds whose watch shows no sign of life."""
        return sorted({informer.kind for informer in self._all if informer.age_seconds() > STALE_SECONDS})

    def ages(self) -> dict[str, float]:
        """Seconds since the last sign of life, the oldest per kind."""
        out: dict[str, float] = {}
        for informer in self._all:
            out[informer.kind] = max(out.get(informer.kind, 0.0), informer.age_seconds())
        return out

    def _child(self, item: Obj) -> None:
        meta = item.get("metadata", {})
        cluster = (meta.get("labels") or {}).get(labels.CLUSTER)
        if cluster:
            self._touched(meta.get("namespace", ""), cluster)

    def _machine(self, item: Obj) -> None:
        """Machines report every few seconds; only what a plan looks at counts as a change."""
        machine = read_machine(item)
        gone = "deletionTimestamp" in item["metadata"]
        label_set = tuple(sorted(machine.labels.items()))
        digest = (machine.ready, machine.unschedulable, machine.taints, label_set, gone, item["metadata"].get("uid"))
        if self._machines.get(machine.name) != digest:
            self._machines[machine.name] = digest
            self._machines_changed()


def _now() -> float:
    return asyncio.get_running_loop().time()
