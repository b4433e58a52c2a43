"""Builders: whole objects from typed values; every pod restricted; what holds data is never owned; policies name the real ports."""

from typing import Any

import pytest

from mogile_operator import labels, naming
from mogile_operator.api.v1alpha1 import StorageCluster
from mogile_operator.specs import base, gateway, network, pdb, postgres, storage, tracker
from mogile_operator.specs.base import Context
from mogile_operator.specs.storage import LOOSE, Mount, Spread

Obj = dict[str, Any]
LOCATION = {
    "path": "/images/",
    "domain": "images",
    "read": "Open",
    "write": "Token",
    "tokenSecretRef": {"name": "tok", "key": "upload"},
}


def cluster(**spec: Any) -> StorageCluster:
    raw: Obj = {
        "database": {"managed": {}},
        "storage": {"pools": [{"name": "main", "nodes": 2, "nodeSelector": {"disk": "ssd"}}]},
        "gateway": {"locations": [LOCATION]},
        "image": {"pullSecrets": [{"name": "creds"}]},
        **spec,
    }
    return StorageCluster.model_validate({"metadata": {"name": "demo", "namespace": "ns", "uid": "u"}, "spec": raw})


def workloads(ctx: Context) -> list[Obj]:
    it = cluster()
    managed = it.spec.database.managed
    assert managed is not None
    node = storage.build_statefulset(
        it,
        ctx,
        it.spec.storage.pools[0],
        "demo-main-0",
        cluster_id="id",
        mounts=[Mount(claim="demo-main-0-d0", devid=7)],
        spread=LOOSE,
    )
    return [
        tracker.build_deployment(it, ctx),
        gateway.build_deployment(it, ctx, "id"),
        postgres.build_statefulset(it, managed),
        node,
    ]


def pods(ctx: Context) -> list[tuple[str, Obj]]:
    return [(obj["metadata"]["name"], obj["spec"]["template"]["spec"]) for obj in workloads(ctx)]


def test_every_pod_meets_the_restricted_standard(context: Context) -> None:
    for name, pod in pods(context):
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["runAsUser"] > 0, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        assert "hostNetwork" not in pod, name
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
        assert all(set(v) & {"emptyDir", "configMap", "secret", "persistentVolumeClaim"} for v in pod["volumes"]), name


def test_every_pod_has_pull_secrets_probes_and_leaves_dead_machines(context: Context) -> None:
    for name, pod in pods(context):
        assert pod["imagePullSecrets"] == [{"name": "creds"}], name
        seconds = {t["key"]: t.get("tolerationSeconds") for t in pod["tolerations"]}
        assert seconds["node.kubernetes.io/not-ready"] == seconds["node.kubernetes.io/unreachable"] == 30, name
        for container in pod["containers"]:
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container), (name, container["name"])


def test_one_registry_override_reaches_every_image_of_ours(context: Context) -> None:
    for name, pod in pods(context):
        for container in pod["containers"]:
            if name != "demo-postgres":
                assert container["image"].startswith("reg/mogile-"), name
                assert container["image"].endswith(":1"), name
    other = cluster(image={"registry": "mirror.local/x/", "tag": "9"})
    image = tracker.build_deployment(other, context)["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image == "mirror.local/x/mogile-tracker:9"


def test_data_is_not_owned_and_everything_else_is(context: Context) -> None:
    it = cluster()
    managed = it.spec.database.managed
    assert managed is not None
    data = [
        postgres.build_claim(it, managed),
        postgres.build_secret(it, "pw"),
        storage.build_claim(it, it.spec.storage.pools[0], "demo-main-0", 0),
    ]
    owned = [
        *workloads(context),
        *tracker.build_services(it),
        storage.build_service(it, "main", "demo-main-0", None),
        gateway.build_service(it),
        gateway.build_configmap(it, context, "id"),
        postgres.build_service(it),
        *network.build_policies(it, context),
        pdb.build_storage(it, 1),
        pdb.build_tracker(it),
        pdb.build_gateway(it),
    ]
    assert all("ownerReferences" not in obj["metadata"] for obj in data)
    for obj in owned:
        assert obj["metadata"]["ownerReferences"][0]["uid"] == "u", obj["kind"]
        assert obj["metadata"]["labels"][labels.CLUSTER] == "demo"
    assert not any("app.kubernetes.io/instance" in obj["metadata"]["labels"] for obj in [*data, *owned])


def test_a_device_is_mounted_where_its_number_says(context: Context) -> None:
    node = workloads(context)[3]["spec"]["template"]["spec"]
    agent, nginx = node["containers"]
    assert {"name": "dev7", "mountPath": "/var/mogdata/dev7"} in agent["volumeMounts"]
    assert {"name": "dev7", "mountPath": "/var/mogdata/dev7", "readOnly": True} in nginx["volumeMounts"]
    assert {"name": "dev7", "persistentVolumeClaim": {"claimName": "demo-main-0-d0"}} in node["volumes"]
    values = {item["name"]: item["value"] for item in agent["env"]}
    assert values["MOGILE_INITIALISE"] == "manual"
    assert values["MOGILE_ANONYMOUS_WRITES"] == "safe"
    assert values["MOGILE_CLUSTER_ID"] == "id"
    assert node["nodeSelector"] == {"disk": "ssd"}


def test_where_a_pod_may_be_scheduled_does_not_cost_a_restart(context: Context) -> None:
    it = cluster()

    def node(spread: Spread, devid: int = 7) -> Obj:
        mounts = [Mount(claim="demo-main-0-d0", devid=devid)]
        pool = it.spec.storage.pools[0]
        return storage.build_statefulset(
            it, context, pool, "demo-main-0", cluster_id="id", mounts=mounts, spread=spread
        )

    def revision(obj: Obj) -> str:
        return str(obj["spec"]["template"]["metadata"]["annotations"][naming.REVISION])

    strict = node(Spread(zones="DoNotSchedule", machines="DoNotSchedule"))
    assert revision(strict) == revision(node(LOOSE))
    assert strict["metadata"]["annotations"][naming.INTENT] != node(LOOSE)["metadata"]["annotations"][naming.INTENT]
    assert revision(strict) != revision(node(LOOSE, devid=8))
    assert strict["spec"]["updateStrategy"] == {"type": "OnDelete"}


def ports_of(policy: Obj) -> set[int]:
    return {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}


def test_policies_name_exactly_the_ports_that_containers_have(context: Context) -> None:
    policies = {p["metadata"]["labels"][labels.COMPONENT]: p for p in network.build_policies(cluster(), context)}
    for workload in workloads(context):
        component = workload["metadata"]["labels"][labels.COMPONENT]
        containers = workload["spec"]["template"]["spec"]["containers"]
        real = {port["containerPort"] for container in containers for port in container["ports"]}
        assert ports_of(policies[component]) == real, component
        chosen = policies[component]["spec"]["podSelector"]["matchLabels"]
        assert chosen.items() <= workload["spec"]["template"]["metadata"]["labels"].items()


def test_the_database_is_reached_by_trackers_only(context: Context) -> None:
    policy = next(p for p in network.build_policies(cluster(), context) if p["metadata"]["name"] == "demo-postgres")
    sources = [source for rule in policy["spec"]["ingress"] for source in rule["from"]]
    assert sources == [{"podSelector": {"matchLabels": labels.selector("demo", labels.TRACKER)}}]


def test_policies_can_be_left_out(context: Context) -> None:
    assert network.build_policies(cluster(network={"policies": "Disabled"}), context) == []


def test_the_gateway_configuration_says_what_the_contract_says(context: Context) -> None:
    import json

    config = json.loads(gateway.gateway_json(cluster(), context, "some-id"))
    assert config["trackers"] == ["demo-tracker-peers.ns.svc.cluster.local:7001"]
    assert config["resolver"] == "10.96.0.10"
    assert config["clusterId"] == "some-id"
    assert config["locations"] == [
        {
            "path": "/images/",
            "domain": "images",
            "class": "",
            "read": "open",
            "write": "token",
            "tokenFile": "/etc/mogile/tokens/tok/upload",
        }
    ]
    pod = gateway.build_deployment(cluster(), context, "some-id")["spec"]["template"]["spec"]
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    secret = next(v["name"] for v in pod["volumes"] if v.get("secret", {}).get("secretName") == "tok")
    assert mounts[secret] == "/etc/mogile/tokens/tok"


def test_a_changed_gateway_configuration_rolls_the_pods(context: Context) -> None:
    def template(**changes: Any) -> Obj:
        it = cluster(gateway={"locations": [{**LOCATION, **changes}]})
        found: Obj = gateway.build_deployment(it, context, "id")["spec"]["template"]["metadata"]
        return found

    assert template() == template()
    assert template() != template(domain="other")


@pytest.mark.parametrize(
    ("database", "source"),
    [
        ({"managed": {}}, {"name": "demo-postgres", "key": "dsn"}),
        ({"external": {"secretRef": {"name": "db", "key": "url"}}}, {"name": "db", "key": "url"}),
    ],
)
def test_the_database_url_comes_from_a_secret(context: Context, database: Obj, source: Obj) -> None:
    pod = tracker.build_deployment(cluster(database=database), context)["spec"]["template"]["spec"]
    variable = next(item for item in pod["containers"][0]["env"] if item["name"] == "MOGILE_DB_DSN")
    assert variable["valueFrom"]["secretKeyRef"] == source


def test_names_stay_within_what_labels_hold() -> None:
    longest = naming.node("c" * 25, "p" * 15, 499)
    assert len(f"{naming.pod(longest)}-0123456789") <= 63
    assert naming.parse_node("demo", "demo-main-12") == ("main", 12)
    assert naming.parse_node("demo", "demo-a-b-3") == ("a-b", 3)
    assert naming.parse_node("demo", "demon-main-1") is None
    assert naming.parse_node("demo", "host1") is None
    assert naming.claim_index("demo-main-1", "demo-main-1-d12") == 12
    assert naming.claim_index("demo-main-1", "demo-main-11-d2") is None


def test_every_sealed_object_carries_the_hash_of_itself(context: Context) -> None:
    for obj in workloads(context):
        seal = obj["metadata"]["annotations"].pop(naming.INTENT)
        if not obj["metadata"]["annotations"]:
            del obj["metadata"]["annotations"]
        assert seal == base.digest(obj)
