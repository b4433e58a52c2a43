"""One storage node at a time: what belongs to it, where it runs, whether anybody reaches it, and since when not.

A node is *available* when the operator got its status with a ready device, or a tracker reads one of its devices. It is
*unavailable* only when neither does: a silent kubelet with a working data path costs nothing. Nodes that never held a device
are neither (None).
"""

from dataclasses import dataclass
from datetime import datetime

from mogile_operator import labels, naming
from mogile_operator.api.v1alpha1.cluster import Pool
from mogile_operator.plan.observed import Claim, DeviceReport, DeviceRow, HostRow, Machine, Observed, Pod, parse_time

READING = frozenset({"writeable", "readable"})


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageNode:
    """Everything known about one storage node."""

    name: str
    pool_name: str
    index: int
    pool: Pool | None
    """None when the node is surplus: not wanted any more."""
    address: str
    host: HostRow | None
    rows: tuple[DeviceRow, ...]
    """Device rows of its host that are not dead."""
    dead_rows: tuple[DeviceRow, ...]
    claims: tuple[Claim, ...]
    """Claims that are in use: neither retired nor of a dead device."""
    all_claims: tuple[Claim, ...]
    pod: Pod | None
    machine: Machine | None
    machine_name: str
    zone: str
    reports: dict[int, DeviceReport] | None
    available: bool | None
    unavailable_since: datetime | None

    @property
    def wanted(self) -> bool:
        """Whether spec asks for it."""
        return self.pool is not None

    @property
    def domain(self) -> str:
        """Its failure domain: the zone, else the machine, else itself."""
        return self.zone or self.machine_name or self.name

    def row(self, devid: int | None) -> DeviceRow | None:
        """The living row of a device."""
        return next((row for row in self.rows if row.devid == devid), None)

    def report(self, devid: int | None) -> DeviceReport | None:
        """What the node says of a device."""
        return self.reports.get(devid) if self.reports is not None and devid is not None else None


def storage_nodes(seen: Observed) -> tuple[StorageNode, ...]:
    """All wanted nodes, and all that exist in any form, in a stable order."""
    cluster = seen.cluster.metadata.name
    pools = {pool.name: pool for pool in seen.cluster.spec.storage.pools}
    names: dict[str, tuple[str, int]] = {}
    for pool in pools.values():
        names |= {naming.node(cluster, pool.name, i): (pool.name, i) for i in range(pool.nodes)}
    for name in _existing(seen):
        parsed = naming.parse_node(cluster, name)
        if parsed is not None:
            names.setdefault(name, parsed)
    nodes = []
    for name, (pool_name, index) in sorted(names.items(), key=lambda item: item[1]):
        home = pools.get(pool_name)
        nodes.append(_node(seen, name, pool_name, index, home if home is not None and index < home.nodes else None))
    return tuple(nodes)


def _existing(seen: Observed) -> set[str]:
    """Nodes that exist as StatefulSet, Service, or host row with claims of ours.

    A claim alone makes none (retired volumes stay behind), and neither does a host row: somebody may have made it by hand.
    """
    out = set()
    for (kind, name), obj in seen.objects.items():
        label_set = obj.get("metadata", {}).get("labels", {}) or {}
        if kind in {"StatefulSet", "Service"} and label_set.get(labels.COMPONENT) == labels.STORAGE:
            out.add(name)
    if seen.tracker is not None:
        out |= set(seen.tracker.hosts) & {claim.node for claim in seen.claims}
    return out


def _node(seen: Observed, name: str, pool_name: str, index: int, pool: Pool | None) -> StorageNode:
    tracker = seen.tracker
    host = tracker.hosts.get(name) if tracker is not None else None
    rows = tuple(row for row in tracker.devices if host and row.hostid == host.hostid) if tracker is not None else ()
    dead = {row.devid for row in rows if row.state == "dead"}
    all_claims = tuple(claim for claim in seen.claims if claim.node == name)
    pod = next((pod for pod in seen.pods if pod.node == name), None)
    pinned = next((claim.pinned_to for claim in all_claims if claim.pinned_to and not claim.retired), None)
    machine_name = (pod.machine if pod is not None else "") or pinned or ""
    machine = seen.machines.get(machine_name)
    reports = seen.reports.get(name)
    zone_key = pool.topology_key if pool is not None else labels.ZONE
    zone = machine.labels.get(zone_key, "") if machine is not None else ""
    if not zone and tracker is not None:
        zone = tracker.zones.get(name, "")
    living = tuple(row for row in rows if row.state != "dead")
    claims = tuple(claim for claim in all_claims if not claim.retired and claim.devid not in dead)
    available = _available(host, living, claims, reports)
    service = seen.live("Service", name)
    return StorageNode(
        name=name,
        pool_name=pool_name,
        index=index,
        pool=pool,
        address=(service or {}).get("spec", {}).get("clusterIP", "") or "",
        host=host,
        rows=living,
        dead_rows=tuple(row for row in rows if row.state == "dead"),
        claims=claims,
        all_claims=all_claims,
        pod=pod,
        machine=machine,
        machine_name=machine_name,
        zone=zone,
        reports={report.devid: report for report in reports} if reports is not None else None,
        available=available,
        unavailable_since=_since(seen, name) if available is False else None,
    )


def _available(
    host: HostRow | None,
    rows: tuple[DeviceRow, ...],
    claims: tuple[Claim, ...],
    reports: tuple[DeviceReport, ...] | None,
) -> bool | None:
    if host is None or not rows or not any(claim.volume_id for claim in claims):
        return None
    if reports is not None and any(report.state == "ready" for report in reports):
        return True
    # The trackers do not probe a host that is down: what they last saw of it says nothing.
    return host.status != "down" and any(row.observed in READING for row in rows)


def _since(seen: Observed, name: str) -> datetime:
    known = next((node.unavailable_since for node in seen.cluster.status.nodes if node.name == name), None)
    return parse_time(known) or seen.now
