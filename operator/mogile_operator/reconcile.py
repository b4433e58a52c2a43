"""One pass over one cluster: observe → plan → execute → status. The only place that puts the four together.

A key is (namespace, cluster); the key (namespace, "") is the pass over Domains and Classes that belong to no cluster. Errors that
a later pass may not meet are raised to the queue, which backs off; what is wrong with the objects themselves becomes a condition.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from mogile_core.errors import MogError
from mogile_core.runtime.logs import get_log
from mogile_operator import naming
from mogile_operator.api.v1alpha1 import GROUP, VERSION, Domain, FileClass, StorageCluster
from mogile_operator.conditions import as_plain, cluster_status, name_status
from mogile_operator.events import Recorder
from mogile_operator.execute import Executor
from mogile_operator.kube import Kube, KubeError
from mogile_operator.observe import Observer, understood
from mogile_operator.plan.cluster import plan_cluster
from mogile_operator.plan.names import NameResult
from mogile_operator.plan.observed import format_time
from mogile_operator.specs.base import TRACKER_PORT, Context
from mogile_operator.trackeradmin import TrackerAdmin

Key = tuple[str, str]
log = get_log(__name__)


class SpecError(MogError):
    """A stored object cannot be understood by this version of the operator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """When to look again."""

    steady_seconds: float
    unsettled_seconds: float


class Reconciler:
    """Passes."""

    def __init__(
        self,
        kube: Kube,
        observer: Observer,
        executor: Executor,
        recorder: Recorder,
        *,
        context: Context,
        pace: Pace,
        tracker_address: str = "",
    ) -> None:
        self._kube = kube
        self._observer = observer
        self._executor = executor
        self._recorder = recorder
        self._context = context
        self._pace = pace
        self._tracker_address = tracker_address

    async def clusters(self, namespaces: list[str]) -> list[Key]:
        """Keys of everything there is: all clusters, and each namespace that has any of our objects."""
        keys: set[Key] = set()
        for namespace in namespaces:
            for item in (await self._kube.list("StorageCluster", namespace)).items:
                keys.add((item["metadata"]["namespace"], item["metadata"]["name"]))
            for kind in ("Domain", "Class"):
                for item in (await self._kube.list(kind, namespace)).items:
                    keys.add((item["metadata"]["namespace"], ""))
        return sorted(keys)

    async def run(self, key: Key) -> float | None:
        """One pass; returns after how many seconds to look again, None for not without an event."""
        namespace, name = key
        if not name:
            await self._orphans(namespace)
            return None
        raw = await self._kube.get("StorageCluster", namespace, name)
        if raw is None:
            await self._orphans(namespace)
            return None
        try:
            cluster = StorageCluster.model_validate(raw)
        except ValidationError as error:
            raise SpecError(f"StorageCluster {namespace}/{name}: {error.errors()[0]['msg']}") from error
        return await self._pass(cluster)

    async def _pass(self, cluster: StorageCluster) -> float:
        namespace, name = cluster.metadata.namespace, cluster.metadata.name
        address = (
            self._tracker_address
            or f"{naming.tracker(name)}.{namespace}.svc.{self._context.cluster_domain}:{TRACKER_PORT}"
        )
        async with TrackerAdmin(address) as tracker:
            seen = await self._observer.look(cluster, tracker)
            plan, names = plan_cluster(seen, self._context)
            outcomes, failures = await self._executor.run(cluster, tracker, plan.actions)
        await self._recorder.record(cluster, outcomes)
        for result in names:
            await self._write_name(result)
        if cluster.metadata.deletion_timestamp is not None:
            return self._pace.unsettled_seconds
        status = cluster_status(seen, plan, failures)
        await self._write_status("StorageCluster", cluster, as_plain(cluster.status), as_plain(status))
        ready = any(condition.type == "Ready" and condition.status == "True" for condition in status.conditions)
        return self._pace.steady_seconds if ready and not plan.actions else self._pace.unsettled_seconds

    async def _write_name(self, result: NameResult) -> None:
        status = name_status(result, format_time(datetime.now(UTC)))
        await self._write_status(result.kind, result.obj, as_plain(result.obj.status), as_plain(status))

    async def _write_status(self, kind: str, obj: StorageCluster | Domain | FileClass, old: Any, new: Any) -> None:
        """Only if it changed, and only on that very object."""
        if old == new:
            return
        meta = {"name": obj.metadata.name, "namespace": obj.metadata.namespace, "uid": obj.metadata.uid}
        body = {"apiVersion": f"{GROUP}/{VERSION}", "kind": kind, "metadata": meta, "status": new}
        try:
            await self._kube.apply_status(body)
        except KubeError as error:
            if error.status not in {404, 409}:
                raise

    async def _orphans(self, namespace: str) -> None:
        """Domains without a cluster, Classes without a Domain or whose cluster is missing: say so, and let deleted ones go."""
        clusters = {item["metadata"]["name"] for item in (await self._kube.list("StorageCluster", namespace)).items}
        domains = understood(Domain, (await self._kube.list("Domain", namespace)).items)
        classes = understood(FileClass, (await self._kube.list("Class", namespace)).items)
        homes = {domain.metadata.name: domain.spec.cluster_ref.name for domain in domains}
        for domain in domains:
            home = domain.spec.cluster_ref.name
            if home not in clusters:
                await self._orphan(
                    "Domain", domain, "ClusterNotFound", f"there is no StorageCluster {home} in this namespace"
                )
        for item in classes:
            ref = item.spec.domain_ref.name
            if ref not in homes:
                await self._orphan("Class", item, "DomainNotFound", f"there is no Domain {ref} in this namespace")
            elif homes[ref] not in clusters:
                await self._orphan(
                    "Class", item, "ClusterNotFound", f"there is no StorageCluster {homes[ref]} in this namespace"
                )

    async def _orphan(self, kind: str, obj: Domain | FileClass, reason: str, message: str) -> None:
        if obj.metadata.deletion_timestamp is not None:
            if naming.FINALIZER in obj.metadata.finalizers:
                await self._kube.finalizer(kind, obj.metadata.namespace, obj.metadata.name, obj.metadata.uid, [])
            return
        await self._write_name(
            NameResult(kind=kind, obj=obj, ready=False, conflict=False, reason=reason, message=message)
        )
