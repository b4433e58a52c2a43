"""Observed and planned → status. Pure: the same snapshot gives the same status, so that a steady state writes nothing.

Conditions are observations, all set at the first visit (Unknown where nothing is known). `lastTransitionTime` moves only when a
condition's status does. Ready sums up: everything wanted is there, healthy and up to date.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mogile_operator import naming
from mogile_operator.api.v1alpha1 import Condition, NameStatus, StorageClusterStatus
from mogile_operator.api.v1alpha1.cluster import DeviceCounts, Endpoints, FileCounts, NodeStatus
from mogile_operator.plan.actions import Note, Plan
from mogile_operator.plan.assess import READING, StorageNode, storage_nodes
from mogile_operator.plan.names import NameResult, unmanaged
from mogile_operator.plan.observed import Observed, TrackerView, format_time
from mogile_operator.specs.base import TRACKER_PORT

Truth = Literal["True", "False", "Unknown"]
TEXT_MAX = 1500


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The action at which a pass stopped."""

    reason: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A condition before it has a time."""

    type: str
    status: Truth
    reason: str
    message: str = ""


def merge(old: Iterable[Condition], findings: Iterable[Finding], now: str, generation: int) -> tuple[Condition, ...]:
    """New conditions with the transition times of the old ones where the status is the same."""
    known = {condition.type: condition for condition in old}
    out = []
    for finding in findings:
        before = known.get(finding.type)
        since = before.last_transition_time if before is not None and before.status == finding.status else now
        out.append(
            Condition(
                type=finding.type,
                status=finding.status,
                reason=finding.reason,
                message=finding.message[:TEXT_MAX],
                last_transition_time=since,
                observed_generation=generation,
            )
        )
    return tuple(out)


def ready_replicas(seen: Observed, kind: str, name: str) -> tuple[int, int, bool]:
    """(ready, wanted, rolled out) of a workload; nothing there is (0, 0, False)."""
    live = seen.live(kind, name)
    if live is None:
        return 0, 0, False
    status, spec = live.get("status", {}), live.get("spec", {})
    current = status.get("observedGeneration", 0) >= live["metadata"].get("generation", 0)
    wanted = int(spec.get("replicas", 1))
    updated = int(status.get("updatedReplicas", 0)) >= wanted
    return int(status.get("readyReplicas", 0)), wanted, current and updated


def node_state(node: StorageNode) -> str:
    """One word for one storage node."""
    if not node.wanted:
        return "Surplus"
    if node.rows and all(row.out for row in node.rows):
        return "Out"
    if node.available is False:
        return "Unavailable"
    if any(row.state == "drain" for row in node.rows):
        return "Draining"
    return "Ready" if _is_ready(node) else "Pending"


def _is_ready(node: StorageNode) -> bool:
    if node.pool is None or node.host is None or node.host.status != "alive" or node.host.address != node.address:
        return False
    if node.pod is None or not node.pod.ready or node.pod.deleting:
        return False
    if len(node.claims) < node.pool.devices.count or node.reports is None:
        return False
    for claim in node.claims:
        row, report = node.row(claim.devid), node.report(claim.devid)
        if claim.volume_id is None or row is None or row.out or row.observed not in READING:
            return False
        if report is None or report.state != "ready":
            return False
    return True


def node_statuses(nodes: Iterable[StorageNode]) -> tuple[NodeStatus, ...]:
    """The `nodes` of the status."""
    return tuple(
        NodeStatus(
            name=node.name,
            state=node_state(node),
            machine=node.machine_name,
            zone=node.zone,
            address=node.address,
            devices=tuple(sorted(row.devid for row in node.rows)),
            unavailable_since=format_time(node.unavailable_since) if node.unavailable_since else None,
        )
        for node in nodes
    )


def _missing(seen: Observed, nodes: tuple[StorageNode, ...]) -> list[tuple[str, str]]:
    """What keeps the cluster from being ready, as (reason, sentence), the most basic first."""
    name = seen.cluster.metadata.name
    out: list[tuple[str, str]] = []
    if seen.cluster.spec.database.managed is not None:
        ready, wanted, _ = ready_replicas(seen, "StatefulSet", naming.postgres(name))
        if ready < 1 or wanted < 1:
            out.append(("DatabaseNotReady", "the managed database is not ready"))
    ready, wanted, rolled = ready_replicas(seen, "Deployment", naming.tracker(name))
    if ready < seen.cluster.spec.trackers.replicas or not rolled:
        out.append(("TrackersNotReady", f"{ready} of {seen.cluster.spec.trackers.replicas} trackers are ready"))
    if seen.tracker is None:
        out.append(("TrackerUnavailable", seen.tracker_problem or "no tracker answers yet"))
    waiting = [node for node in nodes if node.wanted and not _is_ready(node)]
    if waiting:
        shown = ", ".join(f"{node.name} ({_why_waiting(node)})" for node in waiting[:4])
        out.append(
            (
                "StorageNodesNotReady",
                f"{len(waiting)} of {sum(n.wanted for n in nodes)} storage nodes are not ready: {shown}",
            )
        )
    if seen.cluster.spec.gateway.enabled:
        ready, wanted, rolled = ready_replicas(seen, "Deployment", naming.gateway(name))
        if ready < seen.cluster.spec.gateway.replicas or not rolled:
            out.append(("GatewayNotReady", f"{ready} of {seen.cluster.spec.gateway.replicas} gateway pods are ready"))
    return out


def _why_waiting(node: StorageNode) -> str:
    if node.available is False:
        return "unreachable"
    if node.pod is None:
        return "no pod"
    if node.pod.problem:
        return node.pod.problem
    bad = [report for report in (node.reports or {}).values() if report.state not in {"ready", "blank"}]
    if bad:
        return f"device {bad[0].devid} is {bad[0].state}"
    return "starting"


def _replication(tracker: TrackerView | None) -> Finding:
    kind = "ReplicationHealthy"
    if tracker is None or tracker.census is None:
        return Finding(type=kind, status="Unknown", reason="NotCounted", message="the census is not known yet")
    census = tracker.census
    if census.no_copy:
        return Finding(
            type=kind, status="False", reason="FilesLost", message=f"{census.no_copy} files have no live copy"
        )
    if census.fewer_copies:
        text = f"{census.fewer_copies} files have fewer live copies than wanted"
        return Finding(type=kind, status="False", reason="UnderReplicated", message=text)
    return Finding(
        type=kind, status="True", reason="AllCopiesPresent", message=f"{census.files} files have the copies they want"
    )


def _flag(kind: str, notes: Iterable[Note], *, known: bool) -> Finding:
    """A condition that is true exactly when there are notes for it."""
    mine = [note for note in notes if note.condition == kind]
    if mine:
        text = "; ".join(dict.fromkeys(note.message for note in mine))
        return Finding(type=kind, status="True", reason=mine[0].reason, message=text)
    if not known:
        return Finding(type=kind, status="Unknown", reason="NotObserved", message="no tracker answers yet")
    return Finding(type=kind, status="False", reason="NothingToReport")


def _troubles(nodes: Iterable[StorageNode]) -> list[Note]:
    away = [node.name for node in nodes if node.wanted and node.available is False]
    if not away:
        return []
    text = f"{len(away)} storage nodes are unreachable: {', '.join(away[:5])}"
    return [Note(condition="Degraded", reason="NodesUnavailable", message=text)]


def _rebalancing(tracker: TrackerView | None) -> Finding:
    if tracker is None or tracker.balance is None:
        return Finding(type="Rebalancing", status="Unknown", reason="NotObserved", message="no tracker answers yet")
    if tracker.balance.state == "moving":
        return Finding(type="Rebalancing", status="True", reason="Moving", message="files move to emptier devices")
    return Finding(type="Rebalancing", status="False", reason="Idle")


def _available(seen: Observed, nodes: tuple[StorageNode, ...]) -> Finding:
    serving = sum(1 for node in nodes if any(row.observed in READING for row in node.rows))
    if seen.tracker is None:
        return Finding(
            type="Available",
            status="False",
            reason="TrackerUnavailable",
            message=seen.tracker_problem or "no tracker answers yet",
        )
    if serving == 0:
        return Finding(
            type="Available", status="False", reason="NoStorage", message="no storage node serves a device yet"
        )
    if seen.cluster.spec.gateway.enabled:
        ready, _, _ = ready_replicas(seen, "Deployment", naming.gateway(seen.cluster.metadata.name))
        if ready == 0:
            return Finding(type="Available", status="False", reason="NoGateway", message="no gateway pod is ready")
    return Finding(type="Available", status="True", reason="Serving", message=f"{serving} storage nodes serve")


def _progressing(plan: Plan, failures: list[Failure], missing: list[tuple[str, str]]) -> Finding:
    held = [note for note in plan.notes if note.condition == "Progressing"]
    if failures:
        text = f"{failures[0].reason}: {failures[0].error}"
        return Finding(type="Progressing", status="True", reason="Retrying", message=text)
    if held:
        return Finding(type="Progressing", status="True", reason=held[0].reason, message=held[0].message)
    if plan.actions:
        return Finding(type="Progressing", status="True", reason="Applying", message="changes are being made")
    if missing:
        return Finding(type="Progressing", status="True", reason="Waiting", message=missing[0][1])
    return Finding(type="Progressing", status="False", reason="Settled")


def _ready(plan: Plan, failures: list[Failure], missing: list[tuple[str, str]]) -> Finding:
    if missing:
        return Finding(
            type="Ready", status="False", reason=missing[0][0], message="; ".join(text for _, text in missing)
        )
    if failures:
        text = f"{failures[0].reason}: {failures[0].error}"
        return Finding(type="Ready", status="False", reason="ActionFailed", message=text)
    if plan.actions:
        return Finding(type="Ready", status="False", reason="Applying", message="changes are being made")
    return Finding(type="Ready", status="True", reason="AsWanted", message="everything wanted is there")


def cluster_status(seen: Observed, plan: Plan, failures: list[Failure]) -> StorageClusterStatus:
    """The whole status of a cluster."""
    nodes = storage_nodes(seen)
    tracker, name = seen.tracker, seen.cluster.metadata.name
    old, generation = seen.cluster.status, seen.cluster.metadata.generation
    missing = _missing(seen, nodes)
    known = tracker is not None
    findings = [
        _ready(plan, failures, missing),
        _available(seen, nodes),
        _progressing(plan, failures, missing),
        _flag("Degraded", [*plan.notes, *_troubles(nodes)], known=known),
        _replication(tracker),
        _rebalancing(tracker),
        _flag("Draining", plan.notes, known=known),
        _flag("ScaleInBlocked", plan.notes, known=known),
        _flag("FailureBudgetExceeded", plan.notes, known=known),
        _flag("LastCopyAtRisk", plan.notes, known=known),
    ]
    namespace = seen.cluster.metadata.namespace
    gateway = f"http://{naming.gateway(name)}.{namespace}.svc" if seen.cluster.spec.gateway.enabled else ""
    wanted = [node for node in nodes if node.wanted]
    return StorageClusterStatus(
        observed_generation=generation,
        cluster_id=tracker.cluster_id if tracker is not None else old.cluster_id,
        endpoints=Endpoints(trackers=f"{naming.tracker(name)}.{namespace}.svc:{TRACKER_PORT}", gateway=gateway),
        conditions=merge(old.conditions, findings, format_time(seen.now), generation),
        devices=_devices(tracker) if tracker is not None else old.devices,
        files=_files(tracker) if tracker is not None and tracker.census is not None else old.files,
        # Without a tracker nothing new is known of the nodes, and what is known must not be forgotten.
        nodes=node_statuses(nodes) if tracker is not None else old.nodes,
        ready_nodes=f"{sum(_is_ready(node) for node in wanted)}/{len(wanted)}",
        unmanaged_domains=unmanaged(seen, tracker) if tracker is not None else old.unmanaged_domains,
    )


def _devices(tracker: TrackerView) -> DeviceCounts:
    living = [row for row in tracker.devices if row.state != "dead"]
    return DeviceCounts(
        total=len(living),
        alive=sum(row.state == "alive" and not row.out for row in living),
        dead=len(tracker.devices) - len(living),
        out=sum(row.out for row in living),
    )


def _files(tracker: TrackerView) -> FileCounts:
    census = tracker.census
    assert census is not None
    return FileCounts(
        count=census.files,
        bytes=census.bytes,
        under_replicated=census.fewer_copies,
        no_copy=census.no_copy,
        zone_violations=census.zone_violations,
    )


def name_status(result: NameResult, now: str) -> NameStatus:
    """The status of a Domain or Class."""
    generation = result.obj.metadata.generation
    findings = [
        Finding(type="Ready", status="True" if result.ready else "False", reason=result.reason, message=result.message),
        Finding(
            type="Conflict",
            status="True" if result.conflict else "False",
            reason="NameTaken" if result.conflict else "NameFree",
            message=result.message if result.conflict else "",
        ),
    ]
    return NameStatus(
        observed_generation=generation,
        name=result.obj.tracker_name,
        conditions=merge(result.obj.status.conditions, findings, now, generation),
    )


def as_plain(status: StorageClusterStatus | NameStatus) -> Mapping[str, Any]:
    """Status as it is sent: absent instead of null."""
    return status.model_dump(by_alias=True, exclude_none=True, mode="json")
