"""The PostgreSQL image of the test cluster keeps the official image's contract, as far as the product leans on it.

Confined as the operator confines it: not root, read-only root file system, the data on a volume that belongs to the
pod's group.  A later story that passes here and fails on the official image has found a gap in this emulation.
"""

from __future__ import annotations

from typing import Any

import pytest

from harness.asserts import wait_pods_ready
from harness.kubectl import Kubectl
from harness.wait import wait_until

pytestmark = pytest.mark.smoke


def database(
    name: str, *, user: int, environment: dict[str, str], arguments: list[str] | None = None
) -> dict[str, Any]:
    writable = {"data": "/var/lib/postgresql/data", "run": "/var/run/postgresql", "tmp": "/tmp"}
    volumes: list[dict[str, Any]] = [{"name": each, "emptyDir": {}} for each in ("run", "tmp")]
    volumes.append({"name": "data", "persistentVolumeClaim": {"claimName": name}})
    container = {
        "name": "postgres",
        "image": "postgres:17",
        "imagePullPolicy": "IfNotPresent",
        "env": [{"name": key, "value": value} for key, value in environment.items()],
        "readinessProbe": {"exec": {"command": ["pg_isready", "-h", "127.0.0.1", "-U", "store"]}, "periodSeconds": 1},
        "volumeMounts": [{"name": each, "mountPath": path} for each, path in writable.items()],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsUser": user,
            "runAsGroup": user,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    if arguments:
        container["args"] = arguments
    spec = {"securityContext": {"fsGroup": user}, "containers": [container], "volumes": volumes}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec}


def claim(name: str) -> dict[str, Any]:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "400Mi"}}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def query(kubectl: Kubectl, pod: str, dsn: str, sql: str) -> str:
    return kubectl.exec(pod, "psql", dsn, "-XtA", "-c", sql).strip()


@pytest.mark.parametrize("user", [999, 10001], ids=["its own uid", "an arbitrary uid"])
def test_a_database_is_made_once_and_found_again(kubectl: Kubectl, user: int) -> None:
    name = f"db-{user}"
    environment = {
        "POSTGRES_USER": "store",
        "POSTGRES_PASSWORD": "it's a secret",
        "POSTGRES_DB": "mogile",
        "PGDATA": "/var/lib/postgresql/data/pgdata",
    }
    pod = database(name, user=user, environment=environment, arguments=["-c", "max_connections=37"])
    kubectl.apply(claim(name), pod)
    wait_pods_ready(kubectl, f"app={name}", 1)
    dsn = "postgresql://store:it%27s%20a%20secret@127.0.0.1/mogile"
    assert query(kubectl, name, dsn, "SHOW max_connections") == "37"
    assert query(kubectl, name, dsn, "SELECT current_setting('server_version_num')::int / 10000") == "17"
    query(kubectl, name, dsn, "CREATE TABLE kept AS SELECT 42 AS answer")

    kubectl.delete("pod", name, wait=True)
    kubectl.apply(pod)
    wait_pods_ready(kubectl, f"app={name}", 1)

    assert query(kubectl, name, dsn, "SELECT answer FROM kept") == "42"


def test_an_empty_database_without_a_password_is_refused_in_one_line(kubectl: Kubectl) -> None:
    kubectl.apply(claim("open"), database("open", user=999, environment={}))

    def complaint() -> str:
        return kubectl.logs("open")

    text = wait_until(complaint, "pod running")
    assert text.strip() == "error: the database is empty and POSTGRES_PASSWORD is not set"
