"""Every name of every object that the operator makes, and the way back from a name to what it means.

Names are derived, never stored: a restarted operator computes the same ones. Length: cluster <= 25, pool <= 15, node index <= 3
digits (CEL refuses more), so that `<cluster>-<pool>-<n>` plus a controller hash stays within a label's 63 characters.
"""

import re
from typing import Final

LEASE: Final = "mogile-operator"
FINALIZER: Final = "mogile.storage/cleanup"

DEVID_LABEL: Final = "mogile.storage/devid"
VOLUME_ID: Final = "mogile.storage/volume-id"
"""Annotation of a claim: the random id written into the marker of the volume. Present = this volume has been initialised."""
RETIRED: Final = "mogile.storage/retired"
"""Annotation of a claim that is never mounted again: the reason."""
OUT_SINCE: Final = "mogile.storage/out-since"
"""Annotation of a claim: when the operator took its device out."""
DRAINING: Final = "mogile.storage/draining"
"""Annotation of a claim: since when the operator drains its device because its storage node is surplus."""
DEVICE_LOST: Final = "mogile.storage/device-lost"
"""Annotation of a claim set by a person: `confirmed` gives the device up at once."""
INTENT: Final = "mogile.storage/intent"
"""Annotation of everything the operator applies: hash of what it applied."""
REVISION: Final = "mogile.storage/revision"
"""Annotation of storage pods: hash of that part of the template whose change needs a new pod."""

_NODE = re.compile(r"^(?P<pool>[a-z](?:[-a-z0-9]*[a-z0-9])?)-(?P<index>[0-9]{1,3})$")


def tracker(cluster: str) -> str:
    """Deployment and Service of the trackers."""
    return f"{cluster}-tracker"


def tracker_peers(cluster: str) -> str:
    """Headless Service with every tracker, ready or not."""
    return f"{cluster}-tracker-peers"


def gateway(cluster: str) -> str:
    """Deployment, Service and ConfigMap of the gateway."""
    return f"{cluster}-gateway"


def postgres(cluster: str) -> str:
    """StatefulSet, Service, claim and Secret of the managed database."""
    return f"{cluster}-postgres"


def node(cluster: str, pool: str, index: int) -> str:
    """A storage node: StatefulSet, Service and MogileFS host."""
    return f"{cluster}-{pool}-{index}"


def claim(node_name: str, index: int) -> str:
    """The volume claim number `index` of a storage node."""
    return f"{node_name}-d{index}"


def pod(node_name: str) -> str:
    """The only pod of a storage node's StatefulSet."""
    return f"{node_name}-0"


def parse_node(cluster: str, name: str) -> tuple[str, int] | None:
    """(pool, index) of a storage node's name; None when it is not one of this cluster."""
    match = _NODE.match(name.removeprefix(f"{cluster}-")) if name.startswith(f"{cluster}-") else None
    return (match["pool"], int(match["index"])) if match else None


def claim_index(node_name: str, claim_name: str) -> int | None:
    """Number of a claim of that node; None when it is not one."""
    tail = claim_name.removeprefix(f"{node_name}-d") if claim_name.startswith(f"{node_name}-d") else ""
    return int(tail) if tail.isdigit() else None
