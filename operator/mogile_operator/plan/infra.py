"""Database, trackers, gateway, network policies, budgets: everything that is not a storage node.

Order: what others need comes first. The gateway waits for the cluster id, which is part of its configuration: it would otherwise
be rolled out twice.
"""

from collections.abc import Iterable, Iterator

from mogile_operator import naming
from mogile_operator.plan.actions import Action, Apply, CreatePassword, Delete
from mogile_operator.plan.diff import difference
from mogile_operator.plan.observed import Obj, Observed
from mogile_operator.specs import gateway, network, pdb, postgres, tracker
from mogile_operator.specs.base import Context


def apply(seen: Observed, obj: Obj, scope: str) -> Iterator[Action]:
    """The object, if the live one differs."""
    kind, name = obj["kind"], obj["metadata"]["name"]
    why = difference(obj, seen.live(kind, name))
    if why is not None:
        yield Apply(scope=scope, reason=f"{kind} {name}: {why}", obj=obj)


def apply_all(seen: Observed, objects: Iterable[Obj], scope: str) -> Iterator[Action]:
    """Several objects in order."""
    for obj in objects:
        yield from apply(seen, obj, scope)


def remove(seen: Observed, kind: str, name: str, scope: str, why: str) -> Iterator[Action]:
    """Delete an object that is there and not already going."""
    live = seen.live(kind, name)
    if live is not None and "deletionTimestamp" not in live["metadata"]:
        yield Delete(scope=scope, reason=f"{kind} {name}: {why}", kind=kind, name=name, uid=live["metadata"]["uid"])


def plan_database(seen: Observed) -> Iterator[Action]:
    """The managed database, if there is to be one."""
    managed = seen.cluster.spec.database.managed
    if managed is None:
        return
    name = naming.postgres(seen.cluster.metadata.name)
    if seen.live("Secret", name) is None:
        yield CreatePassword(scope="", reason=f"Secret {name}: it does not exist")
    yield from apply(seen, postgres.build_claim(seen.cluster, managed), "")
    yield from apply(seen, postgres.build_service(seen.cluster), "")
    yield from apply(seen, postgres.build_statefulset(seen.cluster, managed), "")


def plan_trackers(seen: Observed, ctx: Context) -> Iterator[Action]:
    """Trackers start at once; they wait for the database by themselves."""
    yield from apply_all(seen, tracker.build_services(seen.cluster), "")
    yield from apply(seen, tracker.build_deployment(seen.cluster, ctx), "")
    yield from apply(seen, pdb.build_tracker(seen.cluster), "tracker")


def plan_policies(seen: Observed, ctx: Context) -> Iterator[Action]:
    """Policies that are wanted, and removal of those that are not."""
    wanted = network.build_policies(seen.cluster, ctx)
    yield from apply_all(seen, wanted, "network")
    names = {policy["metadata"]["name"] for policy in wanted}
    for kind, name in seen.objects:
        if kind == "NetworkPolicy" and name not in names:
            yield from remove(seen, kind, name, "network", "it is not wanted any more")


def plan_gateway(seen: Observed, ctx: Context) -> Iterator[Action]:
    """The gateway, or its removal."""
    name = naming.gateway(seen.cluster.metadata.name)
    if not seen.cluster.spec.gateway.enabled:
        for kind in ("Deployment", "Service", "ConfigMap", "PodDisruptionBudget"):
            yield from remove(seen, kind, name, "gateway", "the gateway is disabled")
        return
    if seen.tracker is None:
        return
    cluster_id = seen.tracker.cluster_id
    yield from apply(seen, gateway.build_configmap(seen.cluster, ctx, cluster_id), "gateway")
    yield from apply(seen, gateway.build_service(seen.cluster), "gateway")
    yield from apply(seen, gateway.build_deployment(seen.cluster, ctx, cluster_id), "gateway")
    yield from apply(seen, pdb.build_gateway(seen.cluster), "gateway")
