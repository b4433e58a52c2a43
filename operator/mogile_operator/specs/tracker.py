"""Trackers: a Deployment, a Service for clients, and a headless one with every tracker for the gateway."""

from mogile_operator import labels, naming
from mogile_operator.api.v1alpha1 import StorageCluster
from mogile_operator.specs import base
from mogile_operator.specs.base import Context, Obj
from mogile_operator.specs.postgres import dsn_source


def build_deployment(cluster: StorageCluster, ctx: Context) -> Obj:
    """All trackers are equal; a new one is ready before an old one goes."""
    name = cluster.metadata.name
    spec = cluster.spec.trackers
    volumes, mounts = base.scratch()
    database = {"name": "MOGILE_DB_DSN", "valueFrom": {"secretKeyRef": dsn_source(cluster)}}
    container = {
        "name": "tracker",
        "image": base.image(cluster, ctx, "mogile-tracker"),
        "imagePullPolicy": cluster.spec.image.pull_policy,
        "command": ["mogile-tracker"],
        "env": [*base.env(processes=spec.processes, log_format="json"), database],
        "ports": [base.container_port("tracker", base.TRACKER_PORT), base.container_port("http", base.TRACKER_HTTP)],
        "startupProbe": base.http_probe("/healthz", "http", period=2, failures=60),
        "readinessProbe": base.http_probe("/readyz", "http", period=3, failures=2),
        "livenessProbe": base.http_probe("/healthz", "http", period=10, failures=3),
        "securityContext": base.container_security(),
        "volumeMounts": mounts,
        "resources": base.resources(spec.resources),
    }
    pod = {
        **base.pod_base(cluster),
        "topologySpreadConstraints": base.even_spread(name, labels.TRACKER),
        "containers": [container],
        "volumes": volumes,
    }
    return base.seal(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": base.meta(cluster, naming.tracker(name), labels.common(name, labels.TRACKER)),
            "spec": {
                "replicas": spec.replicas,
                "revisionHistoryLimit": 3,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
                "selector": {"matchLabels": labels.selector(name, labels.TRACKER)},
                "template": {"metadata": {"labels": labels.common(name, labels.TRACKER)}, "spec": pod},
            },
        }
    )


def build_services(cluster: StorageCluster) -> list[Obj]:
    """`<cluster>-tracker` for clients, `<cluster>-tracker-peers` for the gateway's own failover."""
    name = cluster.metadata.name
    label_set = labels.common(name, labels.TRACKER)
    selector = labels.selector(name, labels.TRACKER)
    client = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": base.meta(cluster, naming.tracker(name), label_set),
        "spec": {"selector": selector, "ports": [base.service_port("tracker", base.TRACKER_PORT)]},
    }
    peers = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": base.meta(cluster, naming.tracker_peers(name), label_set),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": selector,
            "ports": [base.service_port("tracker", base.TRACKER_PORT)],
        },
    }
    return [base.seal(client), base.seal(peers)]
