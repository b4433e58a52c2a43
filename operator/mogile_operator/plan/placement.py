"""How strictly new storage nodes are spread, and how many may be away: arithmetic over machines.

A node's first pod is placed strictly (its volumes then pin it), later ones loosely: a strict rule would keep a pinned pod from
coming back whenever the others have shifted. Strictness is only asked for where it can be met: every usable machine carries
the zone label, and zones have equally many machines.
"""

from collections import Counter
from collections.abc import Iterable

from mogile_operator.api.v1alpha1.cluster import Pool
from mogile_operator.api.v1alpha1.common import Toleration
from mogile_operator.plan.assess import StorageNode
from mogile_operator.plan.observed import Machine
from mogile_operator.specs.storage import LOOSE, Spread


def tolerated(taint: tuple[str, str, str], tolerations: Iterable[Toleration]) -> bool:
    """Whether one of the tolerations lets a pod bear the taint."""
    key, value, effect = taint
    for toleration in tolerations:
        if toleration.effect and toleration.effect != effect:
            continue
        if toleration.operator == "Exists" and toleration.key in {"", key}:
            return True
        if toleration.operator == "Equal" and (toleration.key, toleration.value) == (key, value):
            return True
    return False


def usable(machine: Machine, pool: Pool) -> bool:
    """Whether the scheduler may put a new storage node of this pool there."""
    if not machine.ready or machine.unschedulable:
        return False
    if any(machine.labels.get(key) != value for key, value in pool.node_selector.items()):
        return False
    hard = [taint for taint in machine.taints if taint[2] in {"NoSchedule", "NoExecute"}]
    return all(tolerated(taint, pool.tolerations) for taint in hard)


def spread(machines: Iterable[Machine], pool: Pool, *, pinned: bool) -> Spread:
    """Strict where it can be met and the node has no bound volume yet, else loose."""
    if pinned:
        return LOOSE
    candidates = [machine for machine in machines if usable(machine, pool)]
    zones = Counter(machine.labels.get(pool.topology_key, "") for machine in candidates)
    zoned = bool(zones) and "" not in zones
    level = len(set(zones.values())) == 1
    return Spread(
        zones="DoNotSchedule" if zoned else "ScheduleAnyway",
        machines="DoNotSchedule" if level or not zoned else "ScheduleAnyway",
    )


def min_available(nodes: Iterable[StorageNode], *, whole: bool) -> int:
    """`minAvailable` of the storage budget.

    Nodes that are out do not count: their data has been or is being copied elsewhere. While data is whole one machine's nodes may
    go, otherwise none.
    """
    counted = [node for node in nodes if node.wanted and not any(row.out for row in node.rows)]
    if not whole:
        return len(counted)
    per_machine = Counter(node.machine_name or node.name for node in counted)
    return max(0, len(counted) - max(per_machine.values(), default=0))
