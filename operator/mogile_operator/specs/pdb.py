"""Disruption budgets: one per component, with absolute numbers.

That of the storage nodes is computed by the plan from the state of the data: it forbids disruption while files lack copies,
lets one whole machine be drained otherwise, and does not count nodes whose data has already been copied elsewhere, so that a
dead disk with clean data blocks nobody.
"""

from mogile_operator import labels, naming
from mogile_operator.api.v1alpha1 import StorageCluster
from mogile_operator.specs import base
from mogile_operator.specs.base import Obj


def _budget(cluster: StorageCluster, name: str, component: str, limit: Obj) -> Obj:
    cluster_name = cluster.metadata.name
    return base.seal(
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": base.meta(cluster, name, labels.common(cluster_name, component)),
            "spec": {
                **limit,
                "unhealthyPodEvictionPolicy": "AlwaysAllow",
                "selector": {"matchLabels": labels.selector(cluster_name, component)},
            },
        }
    )


def build_storage(cluster: StorageCluster, min_available: int) -> Obj:
    """The budget of the storage nodes."""
    return _budget(cluster, f"{cluster.metadata.name}-storage", labels.STORAGE, {"minAvailable": min_available})


def build_tracker(cluster: StorageCluster) -> Obj:
    """At most one tracker at a time."""
    return _budget(cluster, naming.tracker(cluster.metadata.name), labels.TRACKER, {"maxUnavailable": 1})


def build_gateway(cluster: StorageCluster) -> Obj:
    """At most one gateway pod at a time."""
    return _budget(cluster, naming.gateway(cluster.metadata.name), labels.GATEWAY, {"maxUnavailable": 1})
