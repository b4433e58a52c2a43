"""Plans against a simulated world: a cluster comes up, wherever the operator dies meanwhile, and its devices grow."""

from collections.abc import Callable
from typing import Any

import pytest

from mogile_operator import labels, naming
from mogile_operator.plan.cluster import plan_cluster
from mogile_operator.specs.base import Context

World = Any
Make = Callable[..., World]
CLAIM = "PersistentVolumeClaim"


def test_a_new_cluster_becomes_ready_and_then_nothing_is_left_to_do(settled: World) -> None:
    settled.run_pass()
    assert settled.ready()
    assert {host.status for host in settled.hosts.values()} == {"alive"}
    assert sorted(settled.devices) == [1, 2, 3, 4, 5, 6]
    assert set(settled.zones.values()) == {"a", "b", "c"}
    claims = [
        o["metadata"]
        for (kind, _), o in settled.objects.items()
        if kind == CLAIM and labels.NODE in o["metadata"]["labels"]
    ]
    assert all("ownerReferences" not in meta for meta in claims)
    assert {meta["labels"][naming.DEVID_LABEL] for meta in claims} == set("123456")
    assert all(meta["annotations"][naming.VOLUME_ID] for meta in claims)


def test_a_steady_cluster_changes_neither_objects_nor_status(settled: World) -> None:
    settled.settle()
    before = settled.status()
    settled.tick()
    assert settled.run_pass() == 0
    assert settled.status() == before


def test_all_conditions_are_set_at_the_first_visit(make_world: Make) -> None:
    world = make_world()
    world.tracker_up = False
    world.run_pass()
    found = {c["type"]: c["status"] for c in world.status()["conditions"]}
    assert set(found) == {
        "Ready", "Available", "Progressing", "Degraded", "ReplicationHealthy", "Rebalancing",
        "Draining", "ScaleInBlocked", "FailureBudgetExceeded", "LastCopyAtRisk",
    }  # fmt: skip
    assert found["Ready"] == "False"
    assert found["ReplicationHealthy"] == "Unknown"


def test_without_a_tracker_no_storage_is_made(make_world: Make, context: Context) -> None:
    world = make_world()
    world.tracker_up = False
    plan, _ = plan_cluster(world.observe(), context)
    kinds = {getattr(action, "obj", {}).get("kind") for action in plan.actions}
    assert "Deployment" in kinds
    assert not [a for a in plan.actions if getattr(a, "obj", {}).get("metadata", {}).get("labels", {}).get(labels.NODE)]


@pytest.mark.parametrize("stop", range(1, 60, 3))
def test_every_interrupted_prefix_reaches_the_same_goal(make_world: Make, stop: int) -> None:
    whole = make_world()
    whole.settle()
    broken = make_world()
    for _ in range(40):
        # The operator dies after `stop` actions of each pass; a later one starts from what it finds.
        if broken.run_pass(stop_after=stop) == 0:
            break
        broken.tick()
    broken.settle()
    assert broken.goal() == whole.goal()


def test_an_operator_that_dies_between_making_a_device_and_labelling_its_claim_wastes_no_devid(
    make_world: Make,
) -> None:
    world = make_world()
    for _ in range(60):
        seen = world.observe()
        plan, _ = plan_cluster(seen, context_of())
        if not plan.actions:
            break
        for action in plan.actions:
            world.do(action)
            if getattr(action, "command", "") == "create_device":
                break
        world.tick()
    world.settle()
    assert sorted(world.devices) == [1, 2, 3]


def context_of() -> Context:
    return Context(
        registry="reg", tag="1", operator_namespace="ops", resolver="10.96.0.10", cluster_domain="cluster.local"
    )


def test_growth_asks_every_claim_once(settled: World, context: Context) -> None:
    settled.edit(devices={"size": "4Gi", "count": 1, "storageClassName": None})
    settled.settle()
    sizes = {
        o["spec"]["resources"]["requests"]["storage"]
        for (k, n), o in settled.objects.items()
        if k == CLAIM and "main" in n
    }
    assert sizes == {"4Gi"}
    plan, _ = plan_cluster(settled.observe(), context)
    assert plan.actions == ()


def test_another_device_per_node_is_mounted_beside_the_first(settled: World) -> None:
    settled.edit(devices={"size": "2Gi", "count": 2, "storageClassName": None})
    settled.settle()
    assert len(settled.devices) == 12
    mounted = [
        v["name"] for v in settled.objects[("Pod", "demo-main-0-0")]["spec"]["volumes"] if v["name"].startswith("dev")
    ]
    assert len(mounted) == 2
    assert settled.ready()
