"""One look at everything: the API server, a tracker, the storage nodes → `Observed`. Reads only.

Lists are live (not from a cache), selected by the cluster's label. A tracker that does not answer leaves `tracker=None` and its
sentence; anything else that fails ends the pass, because deciding on half a picture is how data gets lost.
"""

import asyncio
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import ValidationError

from mogile_core.errors import MogError
from mogile_core.runtime.logs import get_log
from mogile_operator import labels, naming
from mogile_operator.api.v1alpha1 import Domain, FileClass, StorageCluster
from mogile_operator.kube import Kube
from mogile_operator.nodeadmin import NodeAdmin
from mogile_operator.plan.observed import (
    Claim,
    Machine,
    Observed,
    Pod,
    TrackerView,
    read_claim,
    read_machine,
    read_pod,
)
from mogile_operator.trackeradmin import TrackerAdmin

Obj = dict[str, Any]
NAMED = TypeVar("NAMED", Domain, FileClass)
log = get_log(__name__)

LISTED = (
    "StatefulSet",
    "Deployment",
    "Service",
    "ConfigMap",
    "PersistentVolumeClaim",
    "Pod",
    "PodDisruptionBudget",
    "NetworkPolicy",
)


class Observer:
    """Takes snapshots."""

    def __init__(self, kube: Kube, nodes: NodeAdmin) -> None:
        self._kube = kube
        self._nodes = nodes

    async def look(self, cluster: StorageCluster, tracker: TrackerAdmin) -> Observed:
        """Everything about one cluster now; the first error of the parallel reads is the error of the look."""
        try:
            return await self._look(cluster, tracker)
        except ExceptionGroup as group:
            raise group.exceptions[0] from group

    async def _look(self, cluster: StorageCluster, tracker: TrackerAdmin) -> Observed:
        namespace, name = cluster.metadata.namespace, cluster.metadata.name
        async with asyncio.TaskGroup() as group:
            lists = {kind: group.create_task(self._kube.list(kind, namespace, labels.listed(name))) for kind in LISTED}
            machine_list = group.create_task(self._kube.list("Node"))
            domain_list = group.create_task(self._kube.list("Domain", namespace))
            class_list = group.create_task(self._kube.list("Class", namespace))
            secret = group.create_task(self._kube.get("Secret", namespace, naming.postgres(name)))
            view = group.create_task(_view(tracker))
        objects: dict[tuple[str, str], Obj] = {
            (kind, item["metadata"]["name"]): {"kind": kind, **item}
            for kind, task in lists.items()
            for item in task.result().items
        }
        if (found := secret.result()) is not None:
            # Of the Secret only its existence matters; its content stays out of snapshots and logs.
            objects[("Secret", naming.postgres(name))] = {"kind": "Secret", "metadata": found["metadata"]}
        pods = tuple(read_pod(item) for item in lists["Pod"].result().items)
        machines = {m.name: m for m in (read_machine(item) for item in machine_list.result().items)}
        claims = await self._claims(lists["PersistentVolumeClaim"].result().items, pods, machines)
        domains, classes = names_of(cluster.metadata.name, domain_list.result().items, class_list.result().items)
        tracker_view, problem = view.result()
        return Observed(
            now=datetime.now(UTC),
            cluster=cluster,
            objects=objects,
            claims=claims,
            pods=pods,
            machines=machines,
            tracker=tracker_view,
            tracker_problem=problem,
            reports=await self._reports(pods),
            domains=domains,
            classes=classes,
        )

    async def _reports(self, pods: Iterable[Pod]) -> Mapping[str, Any]:
        addresses = {
            pod.node: pod.address
            for pod in pods
            if pod.component == labels.STORAGE and pod.address and not pod.deleting
        }
        return await self._nodes.statuses(addresses)

    async def _claims(
        self, raw: Iterable[Obj], pods: Iterable[Pod], machines: Mapping[str, Machine]
    ) -> tuple[Claim, ...]:
        """Claims of storage nodes. Where a volume is pinned is asked only for nodes in trouble: of the others the pod tells."""
        well = {
            pod.node for pod in pods if pod.ready and not pod.deleting and (m := machines.get(pod.machine)) and m.ready
        }
        mine = [item for item in raw if (item["metadata"].get("labels") or {}).get(labels.NODE)]
        asked = {
            item["spec"]["volumeName"]
            for item in mine
            if item["spec"].get("volumeName")
            and item["metadata"]["labels"][labels.NODE] not in well
            and naming.RETIRED not in (item["metadata"].get("annotations") or {})
        }
        names = sorted(asked)
        volumes = await asyncio.gather(*(self._kube.get("PersistentVolume", "", name) for name in names))
        pinned = {name: pinned_machine(volume) for name, volume in zip(names, volumes, strict=True)}
        return tuple(read_claim(item, pinned) for item in mine)


def pinned_machine(volume: Obj | None) -> str | None:
    """The one machine a volume cannot leave, from its node affinity; None when there is no such machine."""
    if volume is None:
        return None
    terms = volume.get("spec", {}).get("nodeAffinity", {}).get("required", {}).get("nodeSelectorTerms", [])
    found = set()
    for term in terms:
        for expression in term.get("matchExpressions", []):
            if expression.get("key") == labels.HOSTNAME and expression.get("operator") == "In":
                found |= set(expression.get("values", []))
    return found.pop() if len(found) == 1 else None


def understood(model: type[NAMED], items: Iterable[Obj]) -> tuple[NAMED, ...]:
    """Domains or Classes as values. What this version of the operator does not understand (a newer one's, after a downgrade) is left
    alone and named in the log: it must not keep whole clusters from being healed."""
    out = []
    for item in items:
        try:
            out.append(model.model_validate(item))
        except ValidationError as error:
            meta, first = item["metadata"], error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            log.warning(
                "object not understood, left alone",
                kind=model.__name__, namespace=meta.get("namespace"), name=meta["name"], field=where, reason=first["msg"],
            )  # fmt: skip
    return tuple(out)


def names_of(
    cluster: str, domains: Iterable[Obj], classes: Iterable[Obj]
) -> tuple[tuple[Domain, ...], tuple[FileClass, ...]]:
    """The Domains of a cluster and the Classes of those."""
    mine = tuple(d for d in understood(Domain, domains) if d.spec.cluster_ref.name == cluster)
    known = {domain.metadata.name for domain in mine}
    return mine, tuple(c for c in understood(FileClass, classes) if c.spec.domain_ref.name in known)


async def _view(tracker: TrackerAdmin) -> tuple[TrackerView | None, str]:
    try:
        return await tracker.view(), ""
    except MogError as error:
        log.info("no tracker view", reason=error)
        return None, f"no tracker answers: {error}"
