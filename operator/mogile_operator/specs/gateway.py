"""The gateway: Deployment, Service, its configuration, and token Secrets mounted as files (re-read when they change)."""

import json

from mogile_operator import labels, naming
from mogile_operator.api.v1alpha1 import StorageCluster
from mogile_operator.api.v1alpha1.cluster import GatewayLocation
from mogile_operator.specs import base
from mogile_operator.specs.base import Context, Obj

TOKENS = "/etc/mogile/tokens"
CONFIG = "/etc/mogile/gateway"


def _location(location: GatewayLocation) -> Obj:
    out: Obj = {
        "path": location.path,
        "domain": location.domain,
        "class": location.class_,
        "read": location.read.lower(),
        "write": location.write.lower(),
    }
    if location.token_secret_ref is not None:
        out["tokenFile"] = f"{TOKENS}/{location.token_secret_ref.name}/{location.token_secret_ref.key}"
    return out


def gateway_json(cluster: StorageCluster, ctx: Context, cluster_id: str) -> str:
    """The configuration file of the gateway."""
    name = cluster.metadata.name
    peers = f"{naming.tracker_peers(name)}.{cluster.metadata.namespace}.svc.{ctx.cluster_domain}:{base.TRACKER_PORT}"
    config = {
        "listen": f"0.0.0.0:{base.GATEWAY_PORT}",
        "metricsListen": f"0.0.0.0:{base.GATEWAY_HTTP}",
        "workers": 1,
        "trackers": [peers],
        "resolver": ctx.resolver,
        "clusterId": cluster_id,
        "limits": {"connectionsPerClient": 0, "maxBodyBytes": 0},
        "locations": [_location(location) for location in cluster.spec.gateway.locations],
    }
    return json.dumps(config, indent=1, sort_keys=True) + "\n"


def build_configmap(cluster: StorageCluster, ctx: Context, cluster_id: str) -> Obj:
    """The configuration as an object."""
    name = cluster.metadata.name
    return base.seal(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": base.meta(cluster, naming.gateway(name), labels.common(name, labels.GATEWAY)),
            "data": {"gateway.json": gateway_json(cluster, ctx, cluster_id)},
        }
    )


def build_service(cluster: StorageCluster) -> Obj:
    """Port 80 of the gateway."""
    name = cluster.metadata.name
    return base.seal(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": base.meta(cluster, naming.gateway(name), labels.common(name, labels.GATEWAY)),
            "spec": {
                "type": cluster.spec.gateway.service_type,
                "selector": labels.selector(name, labels.GATEWAY),
                "ports": [base.service_port("http", 80)],
            },
        }
    )


def build_deployment(cluster: StorageCluster, ctx: Context, cluster_id: str) -> Obj:
    """The configuration's hash is in the template: a changed configuration rolls the pods."""
    name = cluster.metadata.name
    spec = cluster.spec.gateway
    volumes, mounts = base.scratch()
    secrets = sorted({location.token_secret_ref.name for location in spec.locations if location.token_secret_ref})
    volumes.append({"name": "config", "configMap": {"name": naming.gateway(name)}})
    mounts.append({"name": "config", "mountPath": CONFIG, "readOnly": True})
    for index, secret in enumerate(secrets):
        volumes.append({"name": f"token-{index}", "secret": {"secretName": secret, "defaultMode": 0o440}})
        mounts.append({"name": f"token-{index}", "mountPath": f"{TOKENS}/{secret}", "readOnly": True})
    container = {
        "name": "gateway",
        "image": base.image(cluster, ctx, "mogile-gateway"),
        "imagePullPolicy": cluster.spec.image.pull_policy,
        "command": ["mogile-gateway"],
        "env": base.env(gateway_config=f"{CONFIG}/gateway.json"),
        "ports": [base.container_port("http", base.GATEWAY_PORT), base.container_port("metrics", base.GATEWAY_HTTP)],
        "startupProbe": base.http_probe("/healthz", "metrics", period=2, failures=60),
        "readinessProbe": base.http_probe("/healthz", "metrics", period=3, failures=2),
        "livenessProbe": base.http_probe("/healthz", "metrics", period=10, failures=3),
        "securityContext": base.container_security(),
        "volumeMounts": mounts,
        "resources": base.resources(spec.resources),
    }
    pod = {
        **base.pod_base(cluster),
        "topologySpreadConstraints": base.even_spread(name, labels.GATEWAY),
        "containers": [container],
        "volumes": volumes,
    }
    annotations = {"mogile.storage/config": base.digest(gateway_json(cluster, ctx, cluster_id))}
    return base.seal(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": base.meta(cluster, naming.gateway(name), labels.common(name, labels.GATEWAY)),
            "spec": {
                "replicas": spec.replicas,
                "revisionHistoryLimit": 3,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
                "selector": {"matchLabels": labels.selector(name, labels.GATEWAY)},
                "template": {
                    "metadata": {"labels": labels.common(name, labels.GATEWAY), "annotations": annotations},
                    "spec": pod,
                },
            },
        }
    )
