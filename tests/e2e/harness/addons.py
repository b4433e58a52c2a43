"""What every cluster gets right after its API server answers: default storage class and cluster DNS (addons.yaml)."""

from __future__ import annotations

from pathlib import Path
from string import Template
from typing import Any

import yaml

from harness.api import ApiClient
from harness.images import COREDNS
from harness.layout import DNS_DOMAIN, DNS_SERVICE_ADDRESS

PROVISIONER = "harness.mogile.storage/loop"
STORAGE_CLASS = "loop"

_MANIFEST = Path(__file__).with_name("addons.yaml")
_PLURALS = {
    "StorageClass": "storageclasses",
    "ServiceAccount": "serviceaccounts",
    "ClusterRole": "clusterroles",
    "ClusterRoleBinding": "clusterrolebindings",
    "ConfigMap": "configmaps",
    "Service": "services",
    "Deployment": "deployments",
}


def objects() -> list[dict[str, Any]]:
    """The objects of the manifest, in order."""
    text = Template(_MANIFEST.read_text()).substitute(
        storage_class=STORAGE_CLASS,
        provisioner=PROVISIONER,
        dns_domain=DNS_DOMAIN,
        dns_address=DNS_SERVICE_ADDRESS,
        dns_image=COREDNS.reference,
    )
    return list(yaml.safe_load_all(text))


def path_of(body: dict[str, Any]) -> str:
    """Where an object of the manifest lives in the API."""
    version, meta = body["apiVersion"], body["metadata"]
    base = f"/apis/{version}" if "/" in version else f"/api/{version}"
    place = f"/namespaces/{meta['namespace']}" if "namespace" in meta else ""
    return f"{base}{place}/{_PLURALS[body['kind']]}/{meta['name']}"


def install(client: ApiClient) -> None:
    """Apply all of it."""
    for body in objects():
        client.apply(path_of(body), body)
