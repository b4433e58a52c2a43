"""One storage node: a StatefulSet of one pod with two containers of one image, a Service with a stable address, its claims.

Claims are mounted as ordinary volumes at `/var/mogdata/dev<N>`; they are never owned. The update strategy is OnDelete: the
operator decides when a pod is replaced (one at a time, only while data is whole), and a change that needs no new pod (where
it may be *scheduled*) does not cost one. `REVISION` on the pod says what it was made from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mogile_operator import labels, naming
from mogile_operator.api.v1alpha1 import StorageCluster
from mogile_operator.api.v1alpha1.cluster import Pool
from mogile_operator.specs import base
from mogile_operator.specs.base import Context, Obj

DOCROOT = "/var/mogdata"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A claim and the device it holds."""

    claim: str
    devid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How strictly the scheduler keeps storage nodes even, over zones and over machines."""

    zones: Literal["DoNotSchedule", "ScheduleAnyway"]
    machines: Literal["DoNotSchedule", "ScheduleAnyway"]


LOOSE = Spread(zones="ScheduleAnyway", machines="ScheduleAnyway")


def build_service(cluster: StorageCluster, pool: str, node: str, address: str | None) -> Obj:
    """The node's address for life; `address` asks for the one that the tracker already knows."""
    name = cluster.metadata.name
    spec: Obj = {
        "type": "ClusterIP",
        "selector": labels.node_selector(name, node),
        "ports": [
            base.service_port("agent", base.AGENT_PORT),
            base.service_port("mgmt", base.MGMT_PORT),
            base.service_port("http", base.AGENT_HTTP),
            base.service_port("get", base.GET_PORT),
        ],
    }
    sealed = base.seal(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": base.meta(cluster, node, labels.storage_node(name, pool, node)),
            "spec": spec,
        }
    )
    # Outside the seal: the address is a wish at creation, not something to enforce later.
    return {**sealed, "spec": {**spec, "clusterIP": address}} if address else sealed


def build_claim(cluster: StorageCluster, pool: Pool, node: str, index: int) -> Obj:
    """One volume of the node; the label with its devid is added when the database has allocated one."""
    name = cluster.metadata.name
    spec: Obj = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": pool.devices.size}}}
    if pool.devices.storage_class_name is not None:
        spec["storageClassName"] = pool.devices.storage_class_name
    return base.seal(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": base.meta(
                cluster, naming.claim(node, index), labels.storage_node(name, pool.name, node), owned=False
            ),
            "spec": spec,
        }
    )


def _spread(cluster: str, pool: Pool, spread: Spread) -> list[Obj]:
    # Machines that refuse the pod do not count, so that a dead one does not hold the others' share down.
    common = {
        "maxSkew": 1,
        "nodeTaintsPolicy": "Honor",
        "nodeAffinityPolicy": "Honor",
        "labelSelector": {"matchLabels": labels.selector(cluster, labels.STORAGE)},
    }
    return [
        {**common, "topologyKey": pool.topology_key, "whenUnsatisfiable": spread.zones},
        {**common, "topologyKey": labels.HOSTNAME, "whenUnsatisfiable": spread.machines},
    ]


def _containers(
    cluster: StorageCluster, ctx: Context, pool: Pool, cluster_id: str, mounts: Sequence[Mount]
) -> list[Obj]:
    _, scratch = base.scratch()
    shared: Obj = {
        "image": base.image(cluster, ctx, "mogile-storage"),
        "imagePullPolicy": cluster.spec.image.pull_policy,
        "securityContext": base.container_security(),
        "resources": base.resources(pool.resources),
    }
    environment = base.env(docroot=DOCROOT, cluster_id=cluster_id, log_format="json")

    def devices(*, read_only: bool) -> list[Obj]:
        extra: Obj = {"readOnly": True} if read_only else {}
        return [{"name": f"dev{m.devid}", "mountPath": f"{DOCROOT}/dev{m.devid}", **extra} for m in mounts]

    agent = {
        "name": "agent",
        **shared,
        "command": ["mogile-storage", "agent"],
        # `manual`: only the operator may call a blank volume a new device; a volume that lost its content must not be one.
        "env": [*environment, *base.env(initialise="manual", anonymous_writes="safe", usage_interval_seconds=2)],
        "ports": [
            base.container_port("agent", base.AGENT_PORT),
            base.container_port("mgmt", base.MGMT_PORT),
            base.container_port("http", base.AGENT_HTTP),
        ],
        "startupProbe": base.http_probe("/healthz", "http", period=2, failures=60),
        "readinessProbe": base.http_probe("/readyz", "http", period=3, failures=2),
        "livenessProbe": base.http_probe("/healthz", "http", period=10, failures=6),
        "volumeMounts": [*scratch, *devices(read_only=False)],
    }
    nginx = {
        "name": "nginx",
        **shared,
        "command": ["mogile-storage", "nginx"],
        "env": environment,
        "ports": [base.container_port("get", base.GET_PORT)],
        "startupProbe": base.tcp_probe("get", period=2, failures=60),
        "readinessProbe": base.tcp_probe("get", period=3, failures=2),
        "livenessProbe": base.tcp_probe("get", period=10, failures=6),
        "volumeMounts": [*scratch, *devices(read_only=True)],
    }
    return [agent, nginx]


def build_statefulset(
    cluster: StorageCluster,
    ctx: Context,
    pool: Pool,
    node: str,
    *,
    cluster_id: str,
    mounts: Sequence[Mount],
    spread: Spread,
) -> Obj:
    """The node with the devices it has; `cluster_id` is what makes it refuse the writes of strangers."""
    name = cluster.metadata.name
    label_set = labels.storage_node(name, pool.name, node)
    volumes, _ = base.scratch()
    claims = [{"name": f"dev{m.devid}", "persistentVolumeClaim": {"claimName": m.claim}} for m in mounts]
    pod = {
        **base.pod_base(cluster),
        "containers": _containers(cluster, ctx, pool, cluster_id, mounts),
        "volumes": [*volumes, *claims],
    }
    if pool.node_selector:
        pod["nodeSelector"] = dict(pool.node_selector)
    own = [
        toleration.model_dump(by_alias=True, exclude_none=True, exclude_defaults=True)
        for toleration in pool.tolerations
    ]
    pod["tolerations"] = [*pod["tolerations"], *own]
    revision = base.digest(pod)
    pod["topologySpreadConstraints"] = _spread(name, pool, spread)
    return base.seal(
        {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": base.meta(cluster, node, label_set),
            "spec": {
                "replicas": 1,
                "serviceName": node,
                "revisionHistoryLimit": 3,
                "podManagementPolicy": "Parallel",
                "updateStrategy": {"type": "OnDelete"},
                "selector": {"matchLabels": labels.node_selector(name, node)},
                "template": {
                    "metadata": {"labels": label_set, "annotations": {naming.REVISION: revision}},
                    "spec": pod,
                },
            },
        }
    )
