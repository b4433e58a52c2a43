"""The operator as a process against a real API server: it leads, yields, stops, refuses bad settings, and writes what it should.

There is no kubelet here, so nothing that it makes runs; what is looked at is what it asks of the API server.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from mogile_operator import labels, naming
from mogile_operator.kube import CLUSTER_RULES, OWN_RULES, RULES, Kube
from testkit.waiting import wait_for

Obj = dict[str, Any]
ADDRESS = "127.0.24.3"


class Process:
    """One replica."""

    def __init__(self, kubeconfig: Path, number: int, namespace: str, log: Path) -> None:
        self.health, self.metrics = f"{ADDRESS}:{18080 + number}", f"{ADDRESS}:{18180 + number}"
        self.log = log
        settings = {
            "KUBECONFIG": str(kubeconfig),
            "OPERATOR_NAMESPACE": namespace,
            "IDENTITY": f"replica-{number}",
            "HEALTH_LISTEN": self.health,
            "METRICS_LISTEN": self.metrics,
            "UNSETTLED_SECONDS": "0.5",
            "CLUSTER_DNS": "10.96.0.10",
            "TRACKER_ADDRESS": "127.0.24.9:7001",
        }
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MOGILE_")}
        environment |= {f"MOGILE_{key}": value for key, value in settings.items()}
        with log.open("wb") as out:
            command = [sys.executable, "-m", "mogile_operator.main"]
            self.popen = subprocess.Popen(command, env=environment, stdout=out, stderr=out)

    def stop(self) -> None:
        with suppress(ProcessLookupError):
            self.popen.send_signal(signal.SIGCONT)
            self.popen.kill()
        self.popen.wait()

    def text(self) -> str:
        return self.log.read_text()


@pytest.fixture
def start(api_server: Any, namespace: str, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    running: list[Process] = []

    def begin(number: int, kubeconfig: Path | None = None) -> Process:
        process = Process(
            kubeconfig or api_server.kubeconfig, number, namespace, tmp_path / f"{number}-{len(running)}.log"
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        process.stop()


async def holder(kube: Kube, namespace: str) -> str:
    lease = await kube.get("Lease", namespace, naming.LEASE)
    return str((lease or {}).get("spec", {}).get("holderIdentity") or "")


async def fetch(address: str, path: str) -> tuple[int, str]:
    try:
        async with aiohttp.ClientSession() as session, session.get(f"http://{address}{path}") as answer:
            return answer.status, await answer.text()
    except aiohttp.ClientError:
        return 0, ""


def demo(namespace: str) -> Obj:
    return {
        "apiVersion": "mogile.storage/v1alpha1",
        "kind": "StorageCluster",
        "metadata": {"name": "demo", "namespace": namespace},
        "spec": {"database": {"managed": {}}, "storage": {"pools": [{"name": "main", "nodes": 2}]}},
    }


async def test_a_cluster_without_a_tracker_gets_its_infrastructure_and_an_honest_status(
    kube: Kube, namespace: str, start: Callable[..., Process]
) -> None:
    await kube.create(demo(namespace))
    process = start(1)

    async def told() -> Obj | None:
        found = await kube.get("StorageCluster", namespace, "demo")
        conditions = {c["type"]: c for c in (found or {}).get("status", {}).get("conditions", [])}
        return conditions if "Ready" in conditions else None

    conditions = await wait_for(told, f"it; log: {process.log}")
    assert conditions["Ready"]["status"] == "False"
    assert conditions["Ready"]["reason"] == "DatabaseNotReady"
    assert conditions["Available"]["reason"] == "TrackerUnavailable"
    assert conditions["ReplicationHealthy"]["status"] == "Unknown"
    for kind, name in (
        ("Deployment", "demo-tracker"),
        ("StatefulSet", "demo-postgres"),
        ("Service", "demo-tracker-peers"),
    ):
        listed = await kube.list(kind, namespace, labels.listed("demo"))
        assert name in {item["metadata"]["name"] for item in listed.items}, kind
    assert await kube.get("Secret", namespace, "demo-postgres")
    status, text = await fetch(process.metrics, "/metrics")
    assert status == 200
    assert "mogile_operator_leader 1" in text

    async def healthy() -> bool:
        return (await fetch(process.health, "/healthz"))[0] == 200

    await wait_for(healthy, f"it; log: {process.log}")


async def test_it_writes_nothing_but_status_on_the_object_of_the_user_and_then_nothing_at_all(
    kube: Kube, namespace: str, start: Callable[..., Process]
) -> None:
    made = await kube.create(demo(namespace))
    process = start(2)

    async def settled() -> Obj | None:
        one, before = await kube.get("StorageCluster", namespace, "demo"), await versions(kube, namespace)
        await asyncio.sleep(3)
        two, after = await kube.get("StorageCluster", namespace, "demo"), await versions(kube, namespace)
        same = one and two and one["metadata"]["resourceVersion"] == two["metadata"]["resourceVersion"]
        return two if same and before == after and "status" in (two or {}) else None

    found = await wait_for(settled, f"it; log: {process.log}", 150)
    owned = {m["manager"]: m for m in found["metadata"]["managedFields"]}
    assert found["metadata"]["generation"] == made["metadata"]["generation"]
    assert "finalizers" not in found["metadata"]
    assert "annotations" not in found["metadata"]
    mine = [m for m in found["metadata"]["managedFields"] if m.get("subresource") == "status"]
    assert [m["manager"] for m in mine] == ["mogile-operator"]
    assert set(owned) == {"mogile-operator"}  # this test created the object under that name too
    children = await versions(kube, namespace)
    assert {kind for kind, _ in children} >= {"Deployment", "StatefulSet", "Service"}
    await asyncio.sleep(2)
    assert await versions(kube, namespace) == children


async def versions(kube: Kube, namespace: str) -> dict[tuple[str, str], str]:
    """The children of the cluster, each with the version that any write would change."""
    return {
        (kind, item["metadata"]["name"]): item["metadata"]["resourceVersion"]
        for kind in ("Deployment", "StatefulSet", "Service", "NetworkPolicy", "PodDisruptionBudget")
        for item in (await kube.list(kind, namespace, labels.listed("demo"))).items
    }


async def test_a_hand_made_change_of_a_child_is_undone_and_a_foreign_label_survives(
    kube: Kube, namespace: str, start: Callable[..., Process]
) -> None:
    await kube.create(demo(namespace))
    process = start(3)

    async def there() -> Obj | None:
        found = await kube.list("Deployment", namespace, labels.listed("demo"))
        return found.items[0] if found.items else None

    await wait_for(there, f"it; log: {process.log}")
    change = {"metadata": {"labels": {"theirs": "yes"}}, "spec": {"replicas": 7}}
    await kube.merge("Deployment", namespace, "demo-tracker", change)

    async def undone() -> Obj | None:
        item = await there()
        return item if item and item["spec"]["replicas"] == 2 else None

    item = await wait_for(undone, f"it; log: {process.log}")
    assert item["metadata"]["labels"]["theirs"] == "yes"


async def grant(kube: Kube, own: str) -> None:
    """Exactly what the chart grants, to the operator's own user."""
    user = {"kind": "User", "name": "system:serviceaccount:ops:operator", "apiGroup": "rbac.authorization.k8s.io"}

    def rules(table: Any) -> list[Obj]:
        return [{"apiGroups": [g], "resources": [r], "verbs": list(v)} for (g, r), v in table.items()]

    grants = [("ClusterRole", "mogile-all", {**RULES, **CLUSTER_RULES}, ""), ("Role", "mogile-own", OWN_RULES, own)]
    for kind, name, table, where in grants:
        prefix = f"/apis/rbac.authorization.k8s.io/v1/{f'namespaces/{where}/' if where else ''}"
        role = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": kind,
            "metadata": {"name": name},
            "rules": rules(table),
        }
        ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
        binding = {**role, "kind": f"{kind}Binding", "roleRef": ref, "subjects": [user]}
        del binding["rules"]
        for item, plural in ((role, f"{kind.lower()}s"), (binding, f"{kind.lower()}bindings")):
            where_to = f"{prefix}{plural}/{name}?fieldManager=test&force=true"
            await kube._json("PATCH", where_to, {}, item, "application/apply-patch+yaml")


async def test_the_permissions_of_the_chart_are_enough(
    api_server: Any, kube: Kube, namespace: str, start: Callable[..., Process]
) -> None:
    await grant(kube, namespace)
    await kube.create(demo(namespace))
    ref = {"clusterRef": {"name": "demo"}}
    domain = {
        "apiVersion": "mogile.storage/v1alpha1",
        "kind": "Domain",
        "metadata": {"name": "d", "namespace": namespace},
        "spec": ref,
    }
    await kube.create(domain)
    process = start(7, api_server.operator_kubeconfig)

    async def told() -> bool:
        one = await kube.get("StorageCluster", namespace, "demo")
        two = await kube.get("Domain", namespace, "d")
        return bool((one or {}).get("status", {}).get("conditions") and (two or {}).get("status", {}).get("conditions"))

    await wait_for(told, "a status")
    await asyncio.sleep(3)
    assert "forbidden" not in process.text().lower()
    metrics = (await fetch(process.metrics, "/metrics"))[1]
    assert 'code="403"' not in metrics
    assert await kube.get("Secret", namespace, "demo-postgres")


async def test_a_second_replica_takes_over_from_one_that_hangs_and_that_one_never_writes_again(
    kube: Kube, namespace: str, start: Callable[..., Process]
) -> None:
    first = start(4)

    async def leads(name: str) -> bool:
        return await holder(kube, namespace) == name

    await wait_for(lambda: leads("replica-4"), f"it; log: {first.log}")
    second = start(5)
    await asyncio.sleep(3)
    assert await holder(kube, namespace) == "replica-4"
    first.popen.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    await wait_for(lambda: leads("replica-5"), f"it; log: {second.log}")
    assert time.monotonic() - began < 60
    first.popen.send_signal(signal.SIGCONT)
    assert first.popen.wait(90) == 1
    ends = ("leadership lost", "lease was lost", "not the leader any more")
    assert any(text in first.text() for text in ends), first.text()
    assert await holder(kube, namespace) == "replica-5"


async def test_a_signal_ends_it_at_once_and_frees_the_lease(
    kube: Kube, namespace: str, start: Callable[..., Process]
) -> None:
    first = start(6)

    async def leads() -> bool:
        return await holder(kube, namespace) == "replica-6" and (await fetch(first.health, "/healthz"))[0] == 200

    await wait_for(leads, f"it; log: {first.log}")
    began = time.monotonic()
    first.popen.send_signal(signal.SIGTERM)
    code = await asyncio.to_thread(first.popen.wait, 90)
    assert code == 0, first.text()
    assert time.monotonic() - began < 40
    assert await holder(kube, namespace) == ""


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"MOGILE_WORKERS": "0"}, "MOGILE_WORKERS"),
        ({"MOGILE_METRICS_LISTEN": "nowhere"}, "MOGILE_METRICS_LISTEN"),
        ({"MOGILE_KUBECONFIG": "/nonexistent"}, "/nonexistent"),
        ({}, "MOGILE_KUBECONFIG"),
    ],
)
def test_bad_settings_are_one_line_and_exit_code_2(settings: dict[str, str], sentence: str) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MOGILE_", "KUBE"))}
    command = [sys.executable, "-m", "mogile_operator.main"]
    ports = {"MOGILE_METRICS_LISTEN": f"{ADDRESS}:18290"}
    done = subprocess.run(
        command, check=False, env={**environment, **ports, **settings}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert sentence in done.stderr
