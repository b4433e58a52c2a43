"""Plans against a simulated world: nodes fail and return, volumes are lost, nodes are added and removed."""

import dataclasses
from collections.abc import Callable
from typing import Any

from mogile_operator import naming
from mogile_operator.plan.observed import Census

World = Any
Make = Callable[..., World]
CLAIM = "PersistentVolumeClaim"


def commands(world: World, name: str) -> list[dict[str, str]]:
    return [dict(tell.args) for tell in world.told if tell.command == name]


def census(**counts: int) -> Census:
    zero = {field.name: 0 for field in dataclasses.fields(Census)}
    return Census(**{**zero, **counts})


def with_files(world: World, files: int = 100) -> None:
    """Every device holds files, and all of them have their copies."""
    for devid, row in world.devices.items():
        world.devices[devid] = dataclasses.replace(row, files=files)
    world.census = census(files=files * len(world.devices) // 2)


def go_on(world: World, passes: int = 30, seconds: float = 20) -> None:
    """Passes while time goes by, also when there is nothing to do for a while."""
    for _ in range(passes):
        world.run_pass()
        world.tick(seconds)


def machine_of(world: World, node: str) -> str:
    return str(world.machine_of(node))


def host_of(world: World, devid: int) -> str:
    return next(h.name for h in world.hosts.values() if h.hostid == world.devices[devid].hostid)


def on(world: World, machine: str) -> set[int]:
    return {devid for devid in world.devices if machine_of(world, host_of(world, devid)) == machine}


def test_a_silent_machine_is_down_then_out_and_comes_back(make_world: Make) -> None:
    world = make_world(nodes=6, failure={"outAfter": "1m"})
    world.settle()
    with_files(world)
    lost = on(world, "m1")
    world.lose("m1")
    world.run_pass()
    assert {host_of(world, d) for d in lost} == {h.name for h in world.hosts.values() if h.status == "down"}
    assert not any(row.out for row in world.devices.values())
    world.tick(30)
    world.run_pass()
    assert not any(row.out for row in world.devices.values())
    world.tick(40)
    world.run_pass()
    assert {row.devid for row in world.devices.values() if row.out} == lost
    assert world.condition("Degraded") == "True"
    assert {row.state for row in world.devices.values()} == {"alive"}
    world.back("m1")
    world.settle()
    assert not any(row.out for row in world.devices.values())
    assert {host.status for host in world.hosts.values()} == {"alive"}
    assert not any(
        naming.OUT_SINCE in o["metadata"].get("annotations", {}) for (k, _), o in world.objects.items() if k == CLAIM
    )
    assert world.ready()


def test_a_silent_kubelet_with_a_working_data_path_costs_nothing(settled: World) -> None:
    settled.machines["m0"]["status"]["conditions"][0]["status"] = "Unknown"
    settled.tick(3600)
    settled.told.clear()
    settled.run_pass()
    assert commands(settled, "update_host") == []
    assert commands(settled, "mogile_set_out") == []


def test_a_restarted_operator_remembers_since_when_a_node_is_away(make_world: Make) -> None:
    world = make_world(nodes=3, failure={"outAfter": "1m"})
    world.settle()
    world.lose("m1")
    world.run_pass()
    since = [n["unavailableSince"] for n in world.status()["nodes"] if "unavailableSince" in n]
    world.tick(61)
    world.run_pass()
    assert since
    assert len(commands(world, "mogile_set_out")) == 1


def test_two_zones_at_once_are_beyond_the_budget(make_world: Make) -> None:
    world = make_world(nodes=6, failure={"outAfter": "1m"})
    world.settle()
    with_files(world)
    world.lose("m0")
    world.lose("m1")
    world.run_pass()
    world.census = census(files=300, fewer_copies=200, no_copy=50)
    for _ in range(5):
        world.tick(300)
        world.run_pass()
    out = {row.devid for row in world.devices.values() if row.out}
    assert out in (on(world, "m0"), on(world, "m1"))
    assert world.condition("FailureBudgetExceeded") == "True"


def test_a_second_zone_may_follow_when_every_file_has_its_copies_again(make_world: Make) -> None:
    world = make_world(nodes=6, failure={"outAfter": "1m"})
    world.settle()
    with_files(world)
    world.lose("m0")
    world.run_pass()
    world.tick(61)
    world.run_pass()
    world.lose("m1")
    world.run_pass()
    world.census = census(files=300)
    world.tick(61)
    world.run_pass()
    assert {row.devid for row in world.devices.values() if row.out} == on(world, "m0") | on(world, "m1")


def test_a_machine_whose_node_object_is_gone_is_replaced(make_world: Make) -> None:
    world = make_world(nodes=3, machines=4, failure={"outAfter": "1m"})
    world.settle()
    with_files(world)
    (lost,) = on(world, "m1")
    name = host_of(world, lost)
    world.lose("m1", gone=True)
    go_on(world)
    assert world.devices[lost].state == "dead"
    old = world.objects[(CLAIM, f"{name}-d0")]["metadata"]
    assert old["annotations"][naming.RETIRED] == "dead"
    new = world.objects[(CLAIM, f"{name}-d1")]["metadata"]
    assert int(new["labels"][naming.DEVID_LABEL]) == 4
    assert world.devices[4].state == "alive"
    assert world.ready()


def machine_gone_and_a_file_lost(make_world: Make, *, on_its_device: int) -> tuple[World, int]:
    """A machine is away for longer than `outAfter`, and a file has no copy anywhere: (the world then, the machine's device)."""
    world = make_world(nodes=3, machines=4, failure={"outAfter": "1m"})
    world.settle()
    with_files(world)
    (lost,) = on(world, "m1")
    world.lose("m1", gone=True)
    world.run_pass()
    world.census = census(files=100, no_copy=1)
    world.devices[lost] = dataclasses.replace(world.devices[lost], no_copy=on_its_device)
    for _ in range(20):
        world.tick(60)
        world.run_pass()
    return world, lost


def test_nothing_is_marked_dead_while_a_file_has_no_other_copy(make_world: Make) -> None:
    world, lost = machine_gone_and_a_file_lost(make_world, on_its_device=1)
    assert world.devices[lost].state == "alive"
    assert world.devices[lost].out
    assert world.condition("LastCopyAtRisk") == "True"
    claim = world.objects[(CLAIM, f"{host_of(world, lost)}-d0")]["metadata"]
    claim["annotations"][naming.DEVICE_LOST] = "confirmed"
    world.settle()
    assert world.devices[lost].state == "dead"


def test_files_lost_elsewhere_do_not_keep_another_device_from_being_dead(make_world: Make) -> None:
    world, lost = machine_gone_and_a_file_lost(make_world, on_its_device=0)
    assert world.devices[lost].state == "dead"


def test_a_volume_that_lost_its_marker_is_never_reused_as_the_same_device(settled: World) -> None:
    with_files(settled)
    name = host_of(settled, 3)
    uid = settled.objects[(CLAIM, f"{name}-d0")]["metadata"]["uid"]
    settled.volumes[uid] = None
    go_on(settled)
    assert settled.devices[3].state == "dead"
    assert settled.volumes[uid] is None, "the blank volume was marked again"
    assert settled.objects[(CLAIM, f"{name}-d1")]["metadata"]["labels"][naming.DEVID_LABEL] == "7"
    assert settled.ready()


def test_a_claim_that_was_deleted_with_files_on_it_is_a_lost_device(settled: World) -> None:
    with_files(settled)
    name = host_of(settled, 2)
    del settled.objects[(CLAIM, f"{name}-d0")]
    settled.objects.pop(("Pod", f"{name}-0"))
    for _ in range(40):
        settled.run_pass()
        if settled.devices[2].state == "dead":
            break
        settled.tick(20)
    assert settled.devices[2].state == "dead"


def test_scale_out_adds_nodes_and_leaves_the_others_alone(settled: World) -> None:
    pods = {name: o["metadata"]["uid"] for (kind, name), o in settled.objects.items() if kind == "Pod"}
    settled.edit(nodes=9)
    settled.settle()
    after = {name: o["metadata"]["uid"] for (kind, name), o in settled.objects.items() if kind == "Pod"}
    assert {name: after[name] for name in pods} == pods
    assert sorted(settled.devices) == list(range(1, 10))


def test_scale_in_drains_and_removes_only_what_nobody_needs(settled: World) -> None:
    with_files(settled)
    settled.census = census(files=300, fewer_copies=80, to_replicate=80)
    settled.edit(nodes=4)
    go_on(settled, passes=10, seconds=60)
    gone = {"demo-main-4", "demo-main-5"}
    draining = {d for d in settled.devices if host_of(settled, d) in gone}
    assert {(settled.devices[d].state, settled.devices[d].out) for d in draining} == {("drain", True)}
    assert not any(row.out for d, row in settled.devices.items() if d not in draining)
    assert ("StatefulSet", "demo-main-5") in settled.objects
    assert settled.condition("Draining") == "True"
    settled.census = census(files=300)
    settled.run_pass()
    settled.run_pass()
    assert {settled.devices[d].state for d in draining} == {"dead"}
    go_on(settled, passes=5)
    assert ("StatefulSet", "demo-main-5") in settled.objects, "removed before the tracker had forgotten its files"
    for devid in draining:
        settled.devices[devid] = dataclasses.replace(settled.devices[devid], files=0)
    settled.settle(seconds=30)
    assert sorted(settled.hosts) == [f"demo-main-{i}" for i in range(4)]
    assert ("StatefulSet", "demo-main-5") not in settled.objects
    assert ("Service", "demo-main-5") not in settled.objects
    assert settled.objects[(CLAIM, "demo-main-5-d0")]["metadata"]["annotations"][naming.RETIRED] == "drained"


def test_a_census_from_before_the_drain_is_not_believed(settled: World) -> None:
    with_files(settled)
    settled.edit(nodes=5)
    settled.tick(3600)
    out_at = None
    for _ in range(100):
        settled.run_pass()
        states = {host_of(settled, d): row for d, row in settled.devices.items()}
        if states["demo-main-5"].out and out_at is None:
            out_at = settled.now
        if states["demo-main-5"].state == "dead":
            break
        settled.tick(2)
    assert out_at is not None
    assert (settled.now - out_at).total_seconds() >= 60


def test_a_scale_in_can_be_called_off(settled: World) -> None:
    with_files(settled)
    settled.census = census(files=300, fewer_copies=80, to_replicate=80)
    settled.edit(nodes=4)
    go_on(settled, passes=3)
    settled.census = census(files=300)
    assert "drain" in {row.state for row in settled.devices.values()}
    pods = sorted(name for kind, name in settled.objects if kind == "Pod")
    settled.edit(nodes=6)
    settled.settle()
    assert {(row.state, row.out) for row in settled.devices.values()} == {("alive", False)}
    assert sorted(name for kind, name in settled.objects if kind == "Pod") == pods
    assert settled.ready()


def test_a_drain_by_a_person_is_not_called_off(settled: World) -> None:
    settled.devices[2] = dataclasses.replace(settled.devices[2], state="drain", files=10)
    settled.settle()
    assert settled.devices[2].state == "drain"


def test_an_impossible_scale_in_is_refused_with_numbers(settled: World) -> None:
    settled.domains["files"] = {"default": type("Row", (), {"mindevcount": 3, "replpolicy": "", "hashtype": "NONE"})()}
    with_files(settled)
    settled.edit(nodes=2)
    for _ in range(5):
        settled.run_pass()
        settled.tick(60)
    assert {row.state for row in settled.devices.values()} == {"alive"}
    found = next(c for c in settled.cluster.status.conditions if c.type == "ScaleInBlocked")
    assert found.status == "True"
    assert "2 storage nodes would remain, but a class wants copies on 3" in found.message


def test_a_late_file_keeps_its_node(settled: World) -> None:
    settled.edit(nodes=5)
    settled.run_pass()
    settled.tick(61)
    settled.run_pass()
    devid = next(d for d in settled.devices if host_of(settled, d) == "demo-main-5")
    assert settled.devices[devid].state == "dead"
    settled.devices[devid] = dataclasses.replace(settled.devices[devid], files=1)
    for _ in range(5):
        settled.run_pass()
        settled.tick(60)
    assert ("StatefulSet", "demo-main-5") in settled.objects


def test_a_recreated_cluster_finds_its_devices_and_takes_its_addresses_back(settled: World) -> None:
    addresses = {host.name: host.address for host in settled.hosts.values()}
    kept = {CLAIM, "Secret"}
    settled.objects = {key: obj for key, obj in settled.objects.items() if key[0] in kept}
    settled.cluster = settled.cluster.model_copy(update={"status": type(settled.cluster.status)()})
    before = {name: o["metadata"]["uid"] for (kind, name), o in settled.objects.items()}
    settled.settle()
    assert settled.ready()
    assert sorted(settled.devices) == [1, 2, 3, 4, 5, 6]
    assert {host.name: host.address for host in settled.hosts.values()} == addresses
    assert {name: o["metadata"]["uid"] for (kind, name), o in settled.objects.items() if kind in kept} == before


def test_addresses_that_went_round_are_sorted_out(settled: World) -> None:
    one, two = (settled.objects[("Service", f"demo-main-{i}")]["spec"] for i in (0, 1))
    one["clusterIP"], two["clusterIP"] = two["clusterIP"], one["clusterIP"]
    settled.settle()
    for index, spec in ((0, one), (1, two)):
        assert settled.hosts[f"demo-main-{index}"].address == spec["clusterIP"]


def test_a_changed_template_replaces_one_pod_at_a_time(settled: World) -> None:
    spec = settled.cluster.spec.model_dump(by_alias=True, mode="json")
    spec["image"]["tag"] = "2"
    raw = {"metadata": settled.cluster.metadata.model_dump(by_alias=True), "spec": spec, "status": settled.status()}
    settled.cluster = type(settled.cluster).model_validate(raw)
    replaced = 0
    for _ in range(60):
        before = {name for kind, name in settled.objects if kind == "Pod" and "main" in name}
        count = settled.run_pass()
        gone = before - {name for kind, name in settled.objects if kind == "Pod"}
        assert len(gone) <= 1
        replaced += len(gone)
        settled.tick()
        if count == 0:
            break
    assert replaced == 6
    assert settled.ready()


def test_a_host_that_somebody_made_by_hand_is_left_alone(settled: World) -> None:
    row = settled.hosts["demo-main-0"]
    settled.hosts["demo-old-1"] = dataclasses.replace(row, hostid=99, name="demo-old-1", address="192.168.1.5")
    settled.devices[50] = dataclasses.replace(settled.devices[1], devid=50, hostid=99, files=5)
    settled.told.clear()
    settled.settle()
    go_on(settled)
    assert settled.devices[50].state == "alive"
    assert settled.told == []


def test_a_rollout_goes_on_when_a_dead_machine_is_out_and_its_files_are_elsewhere(settled: World) -> None:
    with_files(settled)
    settled.lose("m2")
    go_on(settled, passes=4, seconds=600)
    assert {d for d, row in settled.devices.items() if row.out} == on(settled, "m2")
    settled.census = census(files=300)
    settled.edit(resources={"requests": {"cpu": "20m"}})
    pods = {n: o["metadata"]["uid"] for (k, n), o in settled.objects.items() if k == "Pod" and "main" in n}
    go_on(settled)
    now = {n: o["metadata"]["uid"] for (k, n), o in settled.objects.items() if k == "Pod" and n in pods}
    assert all(
        now[name] != pods[name] for name in pods if machine_of(settled, name.removesuffix("-0")) not in {"", "m2"}
    )


def test_a_rollout_waits_while_a_node_is_in_trouble_and_files_lack_copies(settled: World) -> None:
    with_files(settled)
    settled.lose("m2")
    settled.census = census(files=300, fewer_copies=100)
    settled.edit(resources={"requests": {"cpu": "20m"}})
    pods = {
        name: o["metadata"]["uid"]
        for (k, name), o in settled.objects.items()
        if k == "Pod" and o["spec"].get("nodeName") != "m2"
    }
    for _ in range(10):
        settled.run_pass()
        settled.tick()
    now = {name: o["metadata"]["uid"] for (k, name), o in settled.objects.items() if k == "Pod" and name in pods}
    assert now == pods


def budget(world: World) -> int:
    return int(world.objects[("PodDisruptionBudget", "demo-storage")]["spec"]["minAvailable"])


def test_the_budget_lets_one_machine_be_drained_and_never_blocks_on_clean_data(settled: World) -> None:
    settled.settle()
    assert budget(settled) == 4
    settled.lose("m0")
    settled.census = census(files=300, fewer_copies=50)
    settled.run_pass()
    assert budget(settled) == 6
    settled.tick(16 * 60)
    settled.run_pass()
    settled.census = census(files=300)
    settled.tick(61)
    settled.run_pass()
    assert budget(settled) == 2
