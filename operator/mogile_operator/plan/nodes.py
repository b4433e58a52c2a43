"""Making storage nodes: address, host row, claims, device rows, pod, initialisation, zone. Each step waits for what it needs.

Order per node: Service (its address is asked for again if a host row knows it) → host row → claims → a devid per claim, allocated
by the database and written on the claim → StatefulSet → blank volumes initialised. A devid is never used for a second volume: a
row that lost its claim before anything was stored is taken again, every other one is left to `failure`.
"""

from collections.abc import Iterator

from mogile_operator import naming
from mogile_operator.plan.actions import Action, Apply, Evict, Initialise, MarkClaim, Note, Tell
from mogile_operator.plan.assess import StorageNode
from mogile_operator.plan.diff import difference, quantity
from mogile_operator.plan.infra import apply
from mogile_operator.plan.observed import HostRow, Observed, TrackerView
from mogile_operator.plan.placement import spread
from mogile_operator.specs import base, storage
from mogile_operator.specs.base import Context
from mogile_operator.specs.storage import Mount


def parked(hostid: int) -> str:
    """An address that no host can have (a benchmarking range), for a host row whose address another one needs."""
    return f"198.18.{hostid // 256 % 256}.{hostid % 256}"


def plan_addresses(seen: Observed, node: StorageNode) -> Iterator[Action]:
    """The node's Service."""
    pool = node.pool_name
    known = node.host.address if node.host is not None else None
    if known is None or known.startswith("198.18."):
        known = next((old.address for old in seen.cluster.status.nodes if old.name == node.name and old.address), None)
    live = seen.live("Service", node.name)
    wanted = storage.build_service(seen.cluster, pool, node.name, known if live is None else None)
    yield from apply(seen, wanted, node.name)


def plan_host(seen: Observed, tracker: TrackerView, node: StorageNode) -> Iterator[Action]:
    """The host row: created alive, its address kept equal to the Service's."""
    if not node.address:
        return
    wanted = {
        "host": node.name,
        "ip": node.address,
        "port": str(base.AGENT_PORT),
        "getport": str(base.GET_PORT),
    }
    host = node.host
    if host is not None and (host.address, host.port, host.get_port) == (node.address, base.AGENT_PORT, base.GET_PORT):
        return
    holder = next(
        (row for row in tracker.hosts.values() if row.address == node.address and row.name != node.name), None
    )
    if holder is not None and _is_stale(seen, holder):
        park = {"host": holder.name, "ip": parked(holder.hostid)}
        yield Tell(
            scope=node.name, reason=f"{holder.name}: its address went to {node.name}", command="update_host", args=park
        )
    if host is None:
        why = f"{node.name}: not in the tracker"
        yield Tell(
            scope=node.name,
            reason=why,
            command="create_host",
            args={**wanted, "status": "alive"},
            fine=frozenset({"host_exists"}),
        )
    else:
        why = f"{node.name}: address {host.address} becomes {node.address}"
        yield Tell(scope=node.name, reason=why, command="update_host", args=wanted)


def _is_stale(seen: Observed, holder: HostRow) -> bool:
    """Whether a host row's address is not that of its own Service any more."""
    service = seen.live("Service", holder.name)
    return service is None or service.get("spec", {}).get("clusterIP") != holder.address


def plan_claims(seen: Observed, node: StorageNode) -> Iterator[Action]:
    """As many claims in use as wanted; new ones get numbers never used before; existing ones grow."""
    assert node.pool is not None
    used = {naming.claim_index(node.name, claim.name) for claim in node.all_claims}
    missing = node.pool.devices.count - len(node.claims)
    index = 0
    while missing > 0:
        if index not in used:
            obj = storage.build_claim(seen.cluster, node.pool, node.name, index)
            yield Apply(scope=node.name, reason=f"{node.name}: a device is missing", obj=obj)
            missing -= 1
        index += 1


def plan_growth(seen: Observed, node: StorageNode) -> Iterator[Action]:
    """Claims smaller than wanted are asked to grow; last in the pass, because storage may refuse it."""
    assert node.pool is not None
    want = quantity(node.pool.devices.size) or 0
    for claim in node.claims:
        live = seen.live("PersistentVolumeClaim", claim.name) or {}
        have = quantity(str(live.get("spec", {}).get("resources", {}).get("requests", {}).get("storage", ""))) or 0
        index = naming.claim_index(node.name, claim.name)
        if claim.phase == "Bound" and 0 < have < want and index is not None:
            obj = storage.build_claim(seen.cluster, node.pool, node.name, index)
            yield Apply(scope=f"{node.name} growth", reason=f"{claim.name}: {have:.0f} to {want:.0f} bytes", obj=obj)


def next_devid(seen: Observed, tracker: TrackerView) -> int:
    """A devid that neither the tracker nor any volume has ever had."""
    known = [row.devid for row in tracker.devices] + [claim.devid for claim in seen.claims if claim.devid is not None]
    return max(known, default=0) + 1


def plan_devids(tracker: TrackerView, node: StorageNode, first_free: int) -> tuple[list[Action], int]:
    """A device row for each claim in use; returns the actions and the next free devid."""
    actions: list[Action] = []
    if node.host is None:
        return actions, first_free
    held = {claim.devid for claim in node.all_claims}
    orphans = sorted(row.devid for row in node.rows if row.devid not in held and row.files == 0)
    known = {row.devid for row in tracker.devices}
    for claim in node.claims:
        if claim.devid is None and orphans:
            actions.append(_label(node, claim.name, claim.uid, orphans.pop(0)))
        elif claim.devid is None:
            actions.append(_create(node, first_free))
            actions.append(_label(node, claim.name, claim.uid, first_free))
            first_free += 1
        elif claim.devid not in known and _is_ours(tracker, node, claim.devid, initialised=claim.volume_id is not None):
            actions.append(_create(node, claim.devid))
    return actions, first_free


def _is_ours(tracker: TrackerView, node: StorageNode, devid: int, *, initialised: bool) -> bool:
    """A device the tracker does not know may only join if it is new, or its marker names this cluster."""
    if not initialised:
        return True
    report = node.report(devid)
    return report is not None and report.state == "ready" and report.cluster_id == tracker.cluster_id


def _create(node: StorageNode, devid: int) -> Tell:
    args = {"devid": str(devid), "hostname": node.name, "state": "alive"}
    return Tell(scope=node.name, reason=f"{node.name}: device {devid} joins", command="create_device", args=args)


def _label(node: StorageNode, claim: str, uid: str, devid: int) -> MarkClaim:
    return MarkClaim(
        scope=node.name,
        reason=f"{claim}: holds device {devid}",
        name=claim,
        uid=uid,
        labels={naming.DEVID_LABEL: str(devid)},
    )


def plan_pod(seen: Observed, tracker: TrackerView, ctx: Context, node: StorageNode) -> Iterator[Action]:
    """The StatefulSet, once every claim in use has its devid; a changed template waits for its turn in `plan_rollout`."""
    assert node.pool is not None
    if not tracker.cluster_id or not node.claims or any(claim.devid is None for claim in node.claims):
        return
    if len(node.claims) < node.pool.devices.count:
        return
    mounts = sorted(
        (Mount(claim=claim.name, devid=claim.devid) for claim in node.claims if claim.devid is not None),
        key=lambda mount: mount.devid,
    )
    pinned = any(claim.volume for claim in node.claims)
    wanted = storage.build_statefulset(
        seen.cluster,
        ctx,
        node.pool,
        node.name,
        cluster_id=tracker.cluster_id,
        mounts=mounts,
        spread=_spread(seen, node, pinned=pinned),
    )
    why = difference(wanted, seen.live("StatefulSet", node.name))
    if why is not None:
        yield Apply(scope=node.name, reason=f"StatefulSet {node.name}: {why}", obj=wanted)


def _spread(seen: Observed, node: StorageNode, *, pinned: bool) -> storage.Spread:
    assert node.pool is not None
    return spread(seen.machines.values(), node.pool, pinned=pinned)


def outdated(seen: Observed, node: StorageNode) -> bool:
    """Whether the node's pod was made from another template than the StatefulSet has now."""
    live = seen.live("StatefulSet", node.name)
    if live is None or node.pod is None or node.pod.deleting:
        return False
    template = live["spec"]["template"]["metadata"].get("annotations", {}) or {}
    return node.pod.revision != template.get(naming.REVISION)


def plan_rollout(seen: Observed, nodes: tuple[StorageNode, ...], *, whole: bool) -> tuple[list[Action], list[Note]]:
    """Replace outdated pods: those that serve nothing at once, the others one at a time while everything else is well."""
    waiting = [node for node in nodes if node.wanted and outdated(seen, node)]
    idle = [node for node in waiting if not (node.pod and node.pod.ready)]
    actions: list[Action] = [_evict(node) for node in idle]
    serving = [node for node in waiting if node not in idle]
    if not serving:
        return actions, []
    # Nodes that are out do not hold others up: their files have their copies elsewhere, or `whole` says otherwise.
    others = [n for n in nodes if n.wanted and n is not serving[0] and not (n.rows and all(row.out for row in n.rows))]
    troubled = [node.name for node in others if node.pod is None or not node.pod.ready or node.available is False]
    if troubled or not whole:
        why = f"{', '.join(troubled[:3])} not ready" if troubled else "files lack copies"
        return actions, [
            Note(
                condition="Progressing", reason="RolloutHeld", message=f"{len(serving)} pods wait to be replaced: {why}"
            )
        ]
    return [*actions, _evict(serving[0])], []


def _evict(node: StorageNode) -> Evict:
    assert node.pod is not None
    return Evict(
        scope=f"{node.name} pod",
        reason=f"{node.pod.name}: its template has changed",
        name=node.pod.name,
        uid=node.pod.uid,
    )


def plan_initialise(tracker: TrackerView, node: StorageNode) -> Iterator[Action]:
    """Blank volumes of claims that were never initialised become devices; a marker that is there already is remembered."""
    if node.pod is None or not node.pod.address or node.reports is None:
        return
    for claim in node.claims:
        report = node.report(claim.devid)
        if claim.volume_id is not None or claim.devid is None or report is None:
            continue
        if report.state == "ready" and report.cluster_id == tracker.cluster_id and report.volume_id:
            yield MarkClaim(
                scope=node.name,
                reason=f"{claim.name}: initialised",
                name=claim.name,
                uid=claim.uid,
                annotations={naming.VOLUME_ID: report.volume_id},
            )
        elif report.state == "blank":
            yield Initialise(
                scope=node.name,
                reason=f"{claim.name}: blank volume becomes device {claim.devid}",
                address=node.pod.address,
                devid=claim.devid,
                cluster_id=tracker.cluster_id,
                claim=claim.name,
                claim_uid=claim.uid,
            )


def plan_zone(tracker: TrackerView, node: StorageNode) -> Iterator[Action]:
    """The machine's zone label becomes the zone of the host."""
    if node.host is None or node.machine is None or node.pool is None:
        return
    zone = node.machine.labels.get(node.pool.topology_key, "")
    if zone != tracker.zones.get(node.name, ""):
        args = {"host": node.name, "zone": zone}
        yield Tell(
            scope=node.name, reason=f"{node.name}: zone {zone or '(none)'}", command="mogile_set_zone", args=args
        )
