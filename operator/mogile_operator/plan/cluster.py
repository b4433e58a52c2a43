"""The whole plan of one cluster: which decisions are asked, in which order, and how their answers are put together.

The order is the order of need: database, trackers, then (once a tracker answers) addresses, hosts, volumes, pods; failures before
scale-in, so that a lost node is not mistaken for a drained one; growth of volumes last, because storage may refuse it.
"""

from collections.abc import Iterable

from mogile_operator import labels, naming
from mogile_operator.plan import infra, nodes
from mogile_operator.plan.actions import Action, Delete, Note, Plan, SetFinalizer, Tell
from mogile_operator.plan.assess import StorageNode, storage_nodes
from mogile_operator.plan.failure import plan_failures
from mogile_operator.plan.names import NameResult, Names
from mogile_operator.plan.observed import Observed, TrackerView
from mogile_operator.plan.placement import min_available
from mogile_operator.plan.scalein import plan_scale_in
from mogile_operator.specs import pdb
from mogile_operator.specs.base import Context


class _Draft:
    """Actions and notes while they are collected."""

    def __init__(self) -> None:
        self.actions: list[Action] = []
        self.notes: list[Note] = []

    def take(self, items: Iterable[Action | Note]) -> None:
        for item in items:
            if isinstance(item, Note):
                self.notes.append(item)
            else:
                self.actions.append(item)


def plan_cluster(seen: Observed, ctx: Context) -> tuple[Plan, tuple[NameResult, ...]]:
    """Everything to do now for one cluster, and what to say of its domains and classes."""
    draft = _Draft()
    names = Names(seen)
    names.plan()
    if seen.cluster.metadata.deletion_timestamp is not None:
        _delete(seen, draft)
        draft.take(names.actions)
        return Plan(actions=tuple(draft.actions), notes=tuple(draft.notes)), tuple(names.results)
    _keep_finalizer(seen, draft)
    draft.take(infra.plan_database(seen))
    draft.take(infra.plan_trackers(seen, ctx))
    draft.take(infra.plan_policies(seen, ctx))
    draft.take(names.actions)
    if seen.tracker is not None:
        _plan_storage(seen, seen.tracker, ctx, draft)
        draft.take(infra.plan_gateway(seen, ctx))
        _plan_balance(seen, seen.tracker, draft)
    return Plan(actions=tuple(draft.actions), notes=tuple(draft.notes)), tuple(names.results)


def _plan_storage(seen: Observed, tracker: TrackerView, ctx: Context, draft: _Draft) -> None:
    all_nodes = storage_nodes(seen)
    wanted = [node for node in all_nodes if node.wanted]
    for node in wanted:
        draft.take(nodes.plan_addresses(seen, node))
    for node in wanted:
        draft.take(nodes.plan_host(seen, tracker, node))
        draft.take(nodes.plan_zone(tracker, node))
    draft.take(plan_failures(seen, tracker, all_nodes))
    draft.take(plan_scale_in(seen, tracker, all_nodes))
    free = nodes.next_devid(seen, tracker)
    for node in wanted:
        draft.take(nodes.plan_claims(seen, node))
        actions, free = nodes.plan_devids(tracker, node, free)
        draft.take(actions)
        draft.take(nodes.plan_pod(seen, tracker, ctx, node))
        draft.take(nodes.plan_initialise(tracker, node))
    whole = data_is_whole(tracker, all_nodes)
    rollout, notes = nodes.plan_rollout(seen, all_nodes, whole=whole)
    draft.take([*rollout, *notes])
    draft.take(infra.apply(seen, pdb.build_storage(seen.cluster, min_available(all_nodes, whole=whole)), "budget"))
    for node in wanted:
        draft.take(nodes.plan_growth(seen, node))


def data_is_whole(tracker: TrackerView, all_nodes: Iterable[StorageNode]) -> bool:
    """Whether copies may be taken away for a while.

    Files lack copies for a moment after every write; that alone is no reason to hold a rollout or tighten a budget. They count
    only together with a node or device in trouble.
    """
    if tracker.census is not None and tracker.census.fewer_copies == 0:
        return True
    trouble = any(
        node.available is False
        or (node.host is not None and node.host.status != "alive")
        or any(row.out for row in node.rows)
        or any(row.files for row in node.dead_rows)
        for node in all_nodes
    )
    return not trouble


def _plan_balance(seen: Observed, tracker: TrackerView, draft: _Draft) -> None:
    if tracker.balance is None:
        return
    mode, spread = seen.cluster.spec.rebalance.mode.lower(), seen.cluster.spec.rebalance.spread_percent
    if (tracker.balance.mode, tracker.balance.spread) != (mode, spread):
        args = {"mode": mode, "spread": str(spread)}
        draft.take(
            [Tell(scope="balance", reason=f"rebalance {mode}, {spread} points", command="mogile_balance", args=args)]
        )


def _keep_finalizer(seen: Observed, draft: _Draft) -> None:
    """Ours is on the cluster only while deleting it means deleting volumes, which nothing else would do."""
    cluster = seen.cluster
    needed = cluster.spec.deletion_policy == "Delete"
    if needed != (naming.FINALIZER in cluster.metadata.finalizers):
        why = "deletionPolicy is Delete" if needed else "deletionPolicy is Retain"
        draft.take(
            [
                SetFinalizer(
                    scope="finalizer",
                    reason=why,
                    kind="StorageCluster",
                    name=cluster.metadata.name,
                    uid=cluster.metadata.uid,
                    present=needed,
                )
            ]
        )


def _delete(seen: Observed, draft: _Draft) -> None:
    """A deleted cluster: children go by ownerReference; volumes and the Secret only when deletionPolicy says so."""
    cluster = seen.cluster
    if naming.FINALIZER not in cluster.metadata.finalizers:
        return
    if cluster.spec.deletion_policy == "Delete":
        for (kind, name), obj in sorted(seen.objects.items()):
            data = kind in {"PersistentVolumeClaim", "Secret"}
            mine = (obj["metadata"].get("labels") or {}).get(labels.CLUSTER) == cluster.metadata.name
            if data and mine and "deletionTimestamp" not in obj["metadata"]:
                uid = obj["metadata"]["uid"]
                draft.take(
                    [Delete(scope="", reason=f"{kind} {name}: deletionPolicy is Delete", kind=kind, name=name, uid=uid)]
                )
    draft.take(
        [
            SetFinalizer(
                scope="",
                reason="volumes are being deleted",
                kind="StorageCluster",
                name=cluster.metadata.name,
                uid=cluster.metadata.uid,
                present=False,
            )
        ]
    )
