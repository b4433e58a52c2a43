"""The managed database: one PostgreSQL pod of an image that keeps the official image's contract, its volume, Secret and Service.

Volume and Secret are not owned by the StorageCluster: deleting it must not delete the directory of all files.
"""

from mogile_operator import labels, naming
from mogile_operator.api.v1alpha1 import StorageCluster
from mogile_operator.api.v1alpha1.cluster import ManagedDatabase
from mogile_operator.specs import base
from mogile_operator.specs.base import Obj

DATABASE = "mogile"


def dsn_source(cluster: StorageCluster) -> Obj:
    """Secret name and key of the libpq URL, whoever runs the database."""
    external = cluster.spec.database.external
    if external is not None:
        return {"name": external.secret_ref.name, "key": external.secret_ref.key}
    return {"name": naming.postgres(cluster.metadata.name), "key": "dsn"}


def build_secret(cluster: StorageCluster, password: str) -> Obj:
    """Credentials of the managed database; made once, never changed by the operator."""
    name = naming.postgres(cluster.metadata.name)
    host = f"{name}.{cluster.metadata.namespace}.svc"
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": base.meta(cluster, name, labels.common(cluster.metadata.name, labels.POSTGRES), owned=False),
        "stringData": {
            "username": DATABASE,
            "password": password,
            "database": DATABASE,
            "dsn": f"postgresql://{DATABASE}:{password}@{host}:{base.POSTGRES_PORT}/{DATABASE}",
        },
    }


def build_claim(cluster: StorageCluster, managed: ManagedDatabase) -> Obj:
    """The volume of the database; never owned."""
    name = cluster.metadata.name
    spec: Obj = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": managed.storage.size}}}
    if managed.storage.storage_class_name is not None:
        spec["storageClassName"] = managed.storage.storage_class_name
    return base.seal(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": base.meta(cluster, naming.postgres(name), labels.common(name, labels.POSTGRES), owned=False),
            "spec": spec,
        }
    )


def build_service(cluster: StorageCluster) -> Obj:
    """The address of the database."""
    name = cluster.metadata.name
    return base.seal(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": base.meta(cluster, naming.postgres(name), labels.common(name, labels.POSTGRES)),
            "spec": {
                "selector": labels.selector(name, labels.POSTGRES),
                "ports": [base.service_port("postgres", base.POSTGRES_PORT)],
            },
        }
    )


def _container(cluster: StorageCluster, managed: ManagedDatabase) -> Obj:
    secret = naming.postgres(cluster.metadata.name)

    def from_secret(variable: str, key: str) -> Obj:
        return {"name": variable, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}

    ready = {
        "exec": {"command": ["pg_isready", "-h", "127.0.0.1", "-U", DATABASE, "-d", DATABASE]},
        "timeoutSeconds": 5,
    }
    return {
        "name": "postgres",
        "image": managed.image,
        "imagePullPolicy": cluster.spec.image.pull_policy,
        "env": [
            from_secret("POSTGRES_USER", "username"),
            from_secret("POSTGRES_PASSWORD", "password"),
            from_secret("POSTGRES_DB", "database"),
            # A subdirectory: the root of a volume may hold lost+found, and initdb wants an empty directory.
            {"name": "PGDATA", "value": "/var/lib/postgresql/data/pgdata"},
        ],
        "ports": [base.container_port("postgres", base.POSTGRES_PORT)],
        "startupProbe": {**ready, "periodSeconds": 3, "failureThreshold": 100},
        "readinessProbe": {**ready, "periodSeconds": 5, "failureThreshold": 2},
        "livenessProbe": {**ready, "periodSeconds": 15, "failureThreshold": 8},
        "securityContext": base.container_security(),
        "volumeMounts": [
            {"name": "data", "mountPath": "/var/lib/postgresql/data"},
            {"name": "run", "mountPath": "/var/run/postgresql"},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
        ],
        "resources": base.resources(managed.resources),
    }


def build_statefulset(cluster: StorageCluster, managed: ManagedDatabase) -> Obj:
    """One pod on one volume; the claim is mounted as an ordinary volume, so that growing it is one patch."""
    name = cluster.metadata.name
    volumes, _ = base.scratch()
    pod = {
        # PostgreSQL's fast shutdown wants time for a last checkpoint.
        **base.pod_base(cluster, user=base.POSTGRES_USER, grace_seconds=60),
        "containers": [_container(cluster, managed)],
        "volumes": [
            *volumes,
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "128Mi"}},
            {"name": "data", "persistentVolumeClaim": {"claimName": naming.postgres(name)}},
        ],
    }
    return base.seal(
        {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": base.meta(cluster, naming.postgres(name), labels.common(name, labels.POSTGRES)),
            "spec": {
                "replicas": 1,
                "serviceName": naming.postgres(name),
                "revisionHistoryLimit": 3,
                "selector": {"matchLabels": labels.selector(name, labels.POSTGRES)},
                "template": {"metadata": {"labels": labels.common(name, labels.POSTGRES)}, "spec": pod},
            },
        }
    )
