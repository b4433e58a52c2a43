"""Every label set, once. `app.kubernetes.io/instance` is left out on purpose: GitOps tools use it to track what *they* made."""

from typing import Final

CLUSTER: Final = "mogile.storage/cluster"
COMPONENT: Final = "app.kubernetes.io/component"
NODE: Final = "mogile.storage/node"
POOL: Final = "mogile.storage/pool"
CLIENT: Final = "mogile.storage/client"
MANAGED_BY: Final = "app.kubernetes.io/managed-by"
NAME: Final = "app.kubernetes.io/name"
OPERATOR: Final = "mogile-operator"
ZONE: Final = "topology.kubernetes.io/zone"
HOSTNAME: Final = "kubernetes.io/hostname"

TRACKER: Final = "tracker"
STORAGE: Final = "storage"
GATEWAY: Final = "gateway"
POSTGRES: Final = "postgres"


def selector(cluster: str, component: str) -> dict[str, str]:
    """What finds the pods of a component; immutable in Deployments, so it never grows."""
    return {CLUSTER: cluster, COMPONENT: component}


def node_selector(cluster: str, node: str) -> dict[str, str]:
    """What finds the pod of one storage node."""
    return {**selector(cluster, STORAGE), NODE: node}


def common(cluster: str, component: str) -> dict[str, str]:
    """Labels of every object of a component."""
    return {**selector(cluster, component), NAME: f"mogile-{component}", MANAGED_BY: OPERATOR}


def storage_node(cluster: str, pool: str, node: str) -> dict[str, str]:
    """Labels of every object of a storage node."""
    return {**common(cluster, STORAGE), POOL: pool, NODE: node}


def listed(cluster: str) -> str:
    """Label selector that lists everything of a cluster."""
    return f"{CLUSTER}={cluster}"


def listed_all() -> str:
    """Label selector of the informers: everything of any cluster."""
    return CLUSTER
