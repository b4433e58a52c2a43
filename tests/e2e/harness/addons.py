"""What every cluster gets right after its API server answers: default storage class and cluster DNS."""

from __future__ import annotations

from typing import Any

from harness.api import ApiClient
from harness.images import COREDNS
from harness.layout import DNS_DOMAIN, DNS_SERVICE_ADDRESS

PROVISIONER = "harness.mogile.storage/loop"
STORAGE_CLASS = "loop"

COREFILE = f""".:53 {{
    errors
    health :8080
    ready :8181
    kubernetes {DNS_DOMAIN} in-addr.arpa {{
        pods insecure
        ttl 5
    }}
    cache 5
}}
"""


def storage_class() -> dict[str, Any]:
    """The default class: a volume is made where its pod is scheduled, and may grow."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": STORAGE_CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": PROVISIONER,
        "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": True,
        "reclaimPolicy": "Delete",
    }


def dns_objects() -> list[tuple[str, dict[str, Any]]]:
    """CoreDNS: path in the API and object."""
    namespace = "kube-system"
    labels = {"k8s-app": "kube-dns"}
    meta = {"name": "coredns", "namespace": namespace}
    rules = [
        {
            "apiGroups": [""],
            "resources": ["endpoints", "services", "pods", "namespaces"],
            "verbs": ["list", "watch"],
        },
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    container = {
        "name": "coredns",
        "image": COREDNS.reference,
        "imagePullPolicy": "Never",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "ports": [
            {"name": "dns", "containerPort": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "containerPort": 53, "protocol": "TCP"},
        ],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns"}],
    }
    # Stories cut and kill machines: one answering server must survive each of them, soon.
    tolerations = [
        {"key": f"node.kubernetes.io/{reason}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 10}
        for reason in ("not-ready", "unreachable")
    ]
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": labels},
    }
    pod = {
        "serviceAccountName": "coredns",
        "dnsPolicy": "Default",
        "priorityClassName": "system-cluster-critical",
        "tolerations": tolerations,
        "topologySpreadConstraints": [spread],
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
    }
    spec = {"replicas": 2, "selector": {"matchLabels": labels}}
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]
    subject = {"kind": "ServiceAccount", "name": "coredns", "namespace": namespace}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "coredns"}
    core = f"/api/v1/namespaces/{namespace}"
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    return [
        (f"{core}/serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta}),
        (f"{rbac}/clusterroles", _rbac("ClusterRole", rules=rules)),
        (f"{rbac}/clusterrolebindings", _rbac("ClusterRoleBinding", subjects=[subject], roleRef=role)),
        (
            f"{core}/configmaps",
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"Corefile": COREFILE}},
        ),
        (
            f"{core}/services",
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "kube-dns", "namespace": namespace},
                "spec": {"clusterIP": DNS_SERVICE_ADDRESS, "selector": labels, "ports": ports},
            },
        ),
        (
            f"/apis/apps/v1/namespaces/{namespace}/deployments",
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": meta,
                "spec": {**spec, "template": {"metadata": {"labels": labels}, "spec": pod}},
            },
        ),
    ]


def _rbac(kind: str, **parts: Any) -> dict[str, Any]:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": "coredns"},
        **parts,
    }


def install(client: ApiClient) -> None:
    """Apply storage class and DNS."""
    client.apply(f"/apis/storage.k8s.io/v1/storageclasses/{STORAGE_CLASS}", storage_class())
    for path, body in dns_objects():
        client.apply(f"{path}/{body['metadata']['name']}", body)
