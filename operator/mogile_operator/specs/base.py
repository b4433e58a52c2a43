"""What all builders share: context, metadata, sealing, the restricted pod, probes, images.

Every pod meets the `restricted` Pod Security Standard: non-root, read-only root, no capabilities, RuntimeDefault seccomp, no
service account token. Writable places are emptyDirs and claims, nothing else.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Final

from mogile_operator import labels, naming
from mogile_operator.api.v1alpha1 import GROUP, VERSION, StorageCluster
from mogile_operator.api.v1alpha1.common import Resources

Obj = dict[str, Any]

USER: Final = 10001
POSTGRES_USER: Final = 999
TRACKER_PORT: Final = 7001
TRACKER_HTTP: Final = 7002
AGENT_PORT: Final = 7500
MGMT_PORT: Final = 7501
AGENT_HTTP: Final = 7502
GET_PORT: Final = 7580
GATEWAY_PORT: Final = 8080
GATEWAY_HTTP: Final = 8081
POSTGRES_PORT: Final = 5432
LEAVE_DEAD_MACHINE_SECONDS: Final = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the builders need to know of the place they build for."""

    registry: str
    tag: str
    operator_namespace: str
    resolver: str
    cluster_domain: str


def image(cluster: StorageCluster, ctx: Context, name: str) -> str:
    """Full reference of one of our images."""
    registry = cluster.spec.image.registry or ctx.registry
    tag = cluster.spec.image.tag or ctx.tag
    return f"{registry.rstrip('/')}/{name}:{tag}" if registry else f"{name}:{tag}"


def owner(cluster: StorageCluster) -> list[Obj]:
    """The ownerReference of everything that may go when the StorageCluster goes."""
    return [
        {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "StorageCluster",
            "name": cluster.metadata.name,
            "uid": cluster.metadata.uid,
            "controller": True,
        }
    ]


def meta(cluster: StorageCluster, name: str, label_set: dict[str, str], *, owned: bool = True) -> Obj:
    """Metadata of an object of this cluster; what holds data is never owned."""
    out: Obj = {"name": name, "namespace": cluster.metadata.namespace, "labels": dict(label_set)}
    if owned:
        out["ownerReferences"] = owner(cluster)
    return out


def digest(value: Any) -> str:
    """Short stable hash of plain data."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def seal(obj: Obj) -> Obj:
    """The object with the hash of itself, by which the next pass sees that nothing has to be applied."""
    annotations = {**obj["metadata"].get("annotations", {}), naming.INTENT: digest(obj)}
    return {**obj, "metadata": {**obj["metadata"], "annotations": annotations}}


def resources(value: Resources) -> Obj:
    """Container resources; empty parts are left out."""
    out: Obj = {}
    if value.requests:
        out["requests"] = {key: str(amount) for key, amount in value.requests.items()}
    if value.limits:
        out["limits"] = {key: str(amount) for key, amount in value.limits.items()}
    return out


def container_security() -> Obj:
    """The restricted profile of every container."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def pod_security(user: int) -> Obj:
    """The restricted profile of every pod; volumes belong to the group of its user."""
    return {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": user,
        "fsGroup": user,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def leave_dead_machines() -> list[Obj]:
    """Pods leave a machine that is gone after half a minute instead of five."""
    return [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": LEAVE_DEAD_MACHINE_SECONDS}
        for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
    ]


def http_probe(path: str, port: str, *, period: int, failures: int) -> Obj:
    """An HTTP probe; the timeout is below the period so that probes never pile up."""
    return {
        "httpGet": {"path": path, "port": port},
        "periodSeconds": period,
        "timeoutSeconds": max(1, period - 1),
        "failureThreshold": failures,
    }


def tcp_probe(port: str, *, period: int, failures: int) -> Obj:
    """A probe that only connects."""
    return {
        "tcpSocket": {"port": port},
        "periodSeconds": period,
        "timeoutSeconds": max(1, period - 1),
        "failureThreshold": failures,
    }


def env(**values: str | int) -> list[Obj]:
    """Environment `MOGILE_<NAME>` from keyword arguments."""
    return [{"name": f"MOGILE_{name.upper()}", "value": str(value)} for name, value in values.items()]


def scratch() -> tuple[list[Obj], list[Obj]]:
    """(volumes, mounts) of /run and /tmp, bounded so that a runaway process cannot fill the machine's disk."""
    volumes: list[Obj] = [
        {"name": "run", "emptyDir": {"sizeLimit": "64Mi"}},
        {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
    ]
    mounts: list[Obj] = [{"name": "run", "mountPath": "/run"}, {"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108
    return volumes, mounts


def pod_base(cluster: StorageCluster, *, user: int = USER, grace_seconds: int = 30) -> Obj:
    """The fields every pod has; pull secrets reach all of them."""
    out: Obj = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(user),
        "terminationGracePeriodSeconds": grace_seconds,
        "tolerations": leave_dead_machines(),
    }
    secrets = cluster.spec.image.pull_secrets
    if secrets:
        out["imagePullSecrets"] = [{"name": secret.name} for secret in secrets]
    return out


def even_spread(cluster: str, component: str) -> list[Obj]:
    """Preference for different zones and machines, for pods that may run anywhere."""
    selector = {"matchLabels": labels.selector(cluster, component)}
    return [
        {"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": selector}
        for key in (labels.ZONE, labels.HOSTNAME)
    ]


def service_port(name: str, port: int, target: str | None = None) -> Obj:
    """One TCP port of a Service."""
    return {"name": name, "port": port, "targetPort": target or name, "protocol": "TCP"}


def container_port(name: str, port: int) -> Obj:
    """One TCP port of a container."""
    return {"name": name, "containerPort": port, "protocol": "TCP"}
