"""The API server itself: good examples accepted, bad ones refused with a sentence that names the field. No operator runs."""

import asyncio
import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mogile_operator.kube import Kube, KubeError, path

ROOT = Path(__file__).resolve().parents[3]
Obj = dict[str, Any]


def documents(name: str) -> list[Obj]:
    return [document for document in yaml.safe_load_all((ROOT / "examples" / name).read_text()) if document]


def cluster(**changes: Any) -> Obj:
    spec: Obj = {
        "database": {"managed": {}},
        "storage": {"pools": [{"name": "main", "nodes": 3, "devices": {"count": 2, "size": "10Gi"}}]},
    }
    spec.update(changes)
    return {
        "apiVersion": "mogile.storage/v1alpha1",
        "kind": "StorageCluster",
        "metadata": {"name": "demo"},
        "spec": spec,
    }


def pool(**changes: Any) -> Obj:
    return {"name": "main", "nodes": 3, **changes}


def location(**changes: Any) -> Obj:
    return {"gateway": {"locations": [{"path": "/a/", "domain": "a", "read": "Open", **changes}]}}


def named(name: str) -> Obj:
    out = cluster()
    out["metadata"]["name"] = name
    return out


def small(kind: str, **spec: Any) -> Obj:
    return {"apiVersion": "mogile.storage/v1alpha1", "kind": kind, "metadata": {"name": "x"}, "spec": spec}


REF = {"name": "demo"}
REFUSED: list[tuple[Obj, str]] = [
    (cluster(database={}), "spec.database needs exactly one of external and managed"),
    (
        cluster(database={"managed": {}, "external": {"secretRef": {"name": "a", "key": "b"}}}),
        "spec.database needs exactly one of external and managed",
    ),
    (cluster(database={"external": {"secretRef": {"name": "a"}}}), "spec.database.external.secretRef.key"),
    (cluster(database={"managed": {"storage": {"size": "5GB"}}}), "spec.database.managed.storage.size"),
    (cluster(storage={"pools": []}), "spec.storage.pools"),
    (cluster(storage={}), "spec.storage.pools"),
    (cluster(storage={"pools": [pool(), pool()]}), "Duplicate value"),
    (cluster(storage={"pools": [pool(nodes=0)]}), "spec.storage.pools[0].nodes"),
    (cluster(storage={"pools": [pool(nodes=501)]}), "spec.storage.pools[0].nodes"),
    (cluster(storage={"pools": [pool(name="Main")]}), "spec.storage.pools[0].name"),
    (cluster(storage={"pools": [pool(name="a-name-that-is-too-long")]}), "spec.storage.pools[0].name"),
    (cluster(storage={"pools": [pool(devices={"size": "0Gi"})]}), "spec.storage.pools[0].devices.size"),
    (cluster(storage={"pools": [pool(devices={"count": 0})]}), "spec.storage.pools[0].devices.count"),
    (cluster(storage={"expose": "HostNetwork", "pools": [pool()]}), "spec.storage.expose"),
    (cluster(trackers={"replicas": 0}), "spec.trackers.replicas"),
    (cluster(trackers={"processes": 0}), "spec.trackers.processes"),
    (cluster(deletionPolicy="Drop"), "spec.deletionPolicy"),
    (cluster(image={"pullPolicy": "Sometimes"}), "spec.image.pullPolicy"),
    (cluster(rebalance={"spreadPercent": 0}), "spec.rebalance.spreadPercent"),
    (cluster(rebalance={"mode": "Manual"}), "spec.rebalance.mode"),
    (cluster(failure={"outAfter": "soon"}), "spec.failure.outAfter"),
    (cluster(network={"clientCidrs": ["anything"]}), "spec.network.clientCidrs[0]"),
    (cluster(**location(path="images/")), "spec.gateway.locations[0].path"),
    (cluster(**location(path="/images")), "spec.gateway.locations[0].path"),
    (cluster(**location(write="Token")), "tokenSecretRef is required when read or write is Token"),
    (cluster(**location(read="Off")), "read and write are both Off"),
    (cluster(**location(read="Closed")), "spec.gateway.locations[0].read"),
    (cluster(**location(domain="")), "spec.gateway.locations[0].domain"),
    (named("a-cluster-name-longer-than-25-characters"), "metadata.name must have at most 25 characters"),
    (named("1demo"), "metadata.name must have at most 25 characters"),
    (named("de.mo"), "metadata.name must have at most 25 characters"),
    (small("Domain"), "spec.clusterRef"),
    (small("Domain", clusterRef=REF, name="two words"), "spec.name"),
    (small("Class", domainRef=REF), "spec.mindevcount"),
    (small("Class", domainRef=REF, mindevcount=0), "spec.mindevcount must be at least 1"),
    (small("Class", domainRef=REF, mindevcount=65), "spec.mindevcount must be at most 64"),
    (small("Class", mindevcount=2), "spec.domainRef"),
    (small("Class", domainRef=REF, mindevcount=2, hashtype="CRC"), "spec.hashtype"),
    (small("Class", domainRef=REF, mindevcount=2, replpolicy="anything"), "spec.replpolicy"),
]


async def create(kube: Kube, namespace: str, obj: Obj) -> Obj:
    body = copy.deepcopy(obj)
    body["metadata"]["namespace"] = namespace
    return await kube.create(body)


@pytest.mark.parametrize(("bad", "sentence"), REFUSED, ids=[sentence[:60] for _, sentence in REFUSED])
async def test_a_bad_object_is_refused_with_a_sentence_naming_the_field(
    kube: Kube, namespace: str, bad: Obj, sentence: str
) -> None:
    with pytest.raises(KubeError) as caught:
        await create(kube, namespace, bad)
    assert caught.value.status == 422
    assert sentence in caught.value.message


Change = Callable[[Obj], None]


def _set(*where: str | int, to: Any) -> Change:
    def change(obj: Obj) -> None:
        place: Any = obj["spec"]
        for step in where[:-1]:
            place = place[step]
        if to is None:
            place.pop(where[-1], None)
        else:
            place[where[-1]] = to

    return change


POOL = ("storage", "pools", 0)
CHANGES: list[tuple[Obj, Change, str | None]] = [
    (cluster(), _set(*POOL, "devices", "size", to="5Gi"), "size cannot shrink"),
    (cluster(), _set(*POOL, "devices", "size", to="20Gi"), None),
    (cluster(), _set(*POOL, "devices", "size", to="1Ti"), None),
    (cluster(), _set(*POOL, "devices", "count", to=1), "devices.count cannot shrink"),
    (cluster(), _set(*POOL, "devices", "storageClassName", to="other"), "storageClassName is immutable"),
    (cluster(), _set(*POOL, "nodes", to=2), None),
    (
        cluster(),
        _set("database", to={"external": {"secretRef": {"name": "a", "key": "b"}}}),
        "spec.database cannot change between external and managed",
    ),
    (cluster(), _set("database", "managed", "storage", "size", to="1Gi"), "size cannot shrink"),
    (small("Domain", clusterRef=REF), _set("clusterRef", "name", to="other"), "spec.clusterRef is immutable"),
    (small("Domain", clusterRef=REF), _set("name", to="other"), "spec.name is immutable"),
    (small("Domain", clusterRef=REF, name="a"), _set("name", to=None), "spec.name is immutable"),
    (small("Class", domainRef=REF, mindevcount=2), _set("domainRef", "name", to="y"), "spec.domainRef is immutable"),
    (small("Class", domainRef=REF, mindevcount=2), _set("mindevcount", to=3), None),
    (small("Class", domainRef=REF, mindevcount=2, name="a"), _set("name", to="b"), "spec.name is immutable"),
]


@pytest.mark.parametrize(("obj", "change", "sentence"), CHANGES)
async def test_changes_that_would_move_data_are_refused(
    kube: Kube, namespace: str, obj: Obj, change: Change, sentence: str | None
) -> None:
    stored = await create(kube, namespace, obj)
    change(stored)
    put = kube._json("PUT", path(obj["kind"], namespace, obj["metadata"]["name"]), {}, stored)
    if sentence is None:
        await put
        return
    with pytest.raises(KubeError) as caught:
        await put
    assert caught.value.status == 422
    assert sentence in caught.value.message


@pytest.mark.parametrize("name", ["quickstart.yaml", "external-database.yaml"])
async def test_examples_are_accepted_as_they_are(kube: Kube, namespace: str, name: str) -> None:
    for document in documents(name):
        await create(kube, namespace, document)


async def test_defaults_of_the_api_server_and_of_the_models_are_the_same(kube: Kube, namespace: str) -> None:
    from mogile_operator.api.v1alpha1 import StorageCluster

    bare = cluster()
    stored = await create(kube, namespace, bare)
    assert StorageCluster.model_validate(stored).spec == StorageCluster.model_validate(bare).spec
    assert stored["spec"]["gateway"]["replicas"] == 2
    assert stored["spec"]["failure"]["outAfter"] == "15m"
    assert stored["spec"]["deletionPolicy"] == "Retain"


async def test_two_writers_of_conditions_both_survive(kube: Kube, namespace: str) -> None:
    await create(kube, namespace, cluster())
    where = path("StorageCluster", namespace, "demo") + "/status"
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

    def body(kind: str) -> Obj:
        condition = {"type": kind, "status": "True", "reason": "Test", "message": "", "lastTransitionTime": now}
        return {**cluster(), "spec": None, "status": {"conditions": [condition]}}

    for manager in ("one", "two"):
        content = {k: v for k, v in body(manager.capitalize()).items() if v is not None}
        query = {"fieldManager": manager, "force": "true"}
        await kube._json("PATCH", where, query, content, "application/apply-patch+yaml")
    found = await kube.get("StorageCluster", namespace, "demo")
    assert found is not None
    assert {c["type"] for c in found["status"]["conditions"]} == {"One", "Two"}


async def test_every_field_is_explained(kube: Kube, namespace: str) -> None:
    await asyncio.sleep(0)
    document = await kube._json("GET", "/openapi/v3/apis/mogile.storage/v1alpha1")
    schemas = document["components"]["schemas"]
    missing: list[str] = []

    def walk(node: Obj, where: str) -> None:
        for name, child in node.get("properties", {}).items():
            if not child.get("description") and not child.get("allOf"):
                missing.append(f"{where}.{name}")
            walk(child, f"{where}.{name}")
        if isinstance(node.get("items"), dict):
            walk(node["items"], f"{where}[]")

    for name, schema in schemas.items():
        if name.startswith("storage.mogile.v1alpha1.") and not name.endswith("List"):
            walk(schema, name)
    assert missing == []
