"""Domains and classes: created, changed, claimed by one object only, deleted only if empty, never holding a namespace for ever."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mogile_operator import naming
from mogile_operator.conditions import as_plain, name_status
from mogile_operator.plan.actions import SetFinalizer, Tell
from mogile_operator.plan.cluster import plan_cluster
from mogile_operator.plan.names import unmanaged
from mogile_operator.plan.observed import ClassRow, format_time
from mogile_operator.specs.base import Context

World = Any
Obj = dict[str, Any]


def domain(name: str, *, created: str = "2026-01-01T00:00:00Z", **more: Any) -> Obj:
    meta = {
        "name": name,
        "namespace": "ns",
        "uid": f"d-{name}",
        "generation": 1,
        "creationTimestamp": created,
        "finalizers": [],
    }
    spec = {"clusterRef": {"name": "demo"}, **({"name": more.pop("called")} if "called" in more else {})}
    return {"metadata": {**meta, **more}, "spec": spec}


def fileclass(name: str, copies: int, **more: Any) -> Obj:
    meta = {
        "name": name,
        "namespace": "ns",
        "uid": f"c-{name}",
        "generation": 1,
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    meta["finalizers"] = []
    if "called" in more:
        more["name"] = more.pop("called")
    return {
        "metadata": {**meta, **more.pop("meta", {})},
        "spec": {"domainRef": {"name": "files"}, "mindevcount": copies, **more},
    }


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world(nodes=1)


def results(world: World, context: Context) -> dict[str, tuple[bool, str]]:
    _, found = plan_cluster(world.observe(), context)
    return {result.obj.metadata.name: (result.ready, result.reason) for result in found}


def orders(world: World, context: Context) -> list[Any]:
    plan, _ = plan_cluster(world.observe(), context)
    return [a for a in plan.actions if isinstance(a, Tell) and ("domain" in a.args)] + [
        a for a in plan.actions if isinstance(a, SetFinalizer)
    ]


def test_domains_and_classes_are_made_and_then_ready(world: World, context: Context) -> None:
    world.domain_objects = [domain("files")]
    world.class_objects = [fileclass("files-default", 3, called="default"), fileclass("precious", 4, hashtype="MD5")]
    world.settle()
    assert world.domains["files"]["default"].mindevcount == 3
    assert world.domains["files"]["precious"] == ClassRow(mindevcount=4, replpolicy="MultipleHosts()", hashtype="MD5")
    assert results(world, context) == {
        "files": (True, "Created"),
        "files-default": (True, "Created"),
        "precious": (True, "Created"),
    }
    assert orders(world, context) == []


def test_a_change_made_with_other_tools_is_changed_back(world: World, context: Context) -> None:
    world.domain_objects = [domain("files")]
    world.class_objects = [fileclass("precious", 4)]
    world.settle()
    world.domains["files"]["precious"] = ClassRow(mindevcount=1, replpolicy="MultipleHosts()", hashtype="NONE")
    world.settle()
    assert world.domains["files"]["precious"].mindevcount == 4


def test_how_uploads_are_acknowledged_is_told_only_when_the_object_says_so(world: World, context: Context) -> None:
    world.domain_objects = [domain("files")]
    world.class_objects = [fileclass("precious", 4, writeCopies=3, degradedWrites=True), fileclass("plain", 2)]
    world.settle()
    assert (world.domains["files"]["precious"].write_copies, world.domains["files"]["precious"].degraded_writes) == (
        3,
        True,
    )
    assert results(world, context)["precious"] == (True, "Created")
    assert orders(world, context) == []
    rows = world.domains["files"]
    rows["plain"] = replace(rows["plain"], write_copies=2)
    rows["precious"] = replace(rows["precious"], write_copies=1)
    world.settle()
    assert (rows["plain"].write_copies, rows["precious"].write_copies) == (2, 3)


def test_the_older_of_two_objects_has_the_name(world: World, context: Context) -> None:
    world.domain_objects = [
        domain("second", called="files", created="2026-02-01T00:00:00Z"),
        domain("first", called="files", created="2026-01-01T00:00:00Z"),
    ]
    world.settle()
    found = results(world, context)
    assert found["first"] == (True, "Created")
    assert found["second"] == (False, "Conflict")
    _, said = plan_cluster(world.observe(), context)
    status = as_plain(name_status(next(r for r in said if r.conflict), format_time(world.now)))
    assert {c["type"]: c["status"] for c in status["conditions"]} == {"Ready": "False", "Conflict": "True"}


def test_the_loser_of_a_conflict_deletes_nothing(world: World, context: Context) -> None:
    world.domain_objects = [
        domain("first", called="files"),
        domain("second", called="files", created="2026-02-01T00:00:00Z"),
    ]
    world.settle()
    world.domain_objects[1]["metadata"]["deletionTimestamp"] = format_time(world.now)
    world.domain_objects[1]["metadata"]["finalizers"] = [naming.FINALIZER]
    assert [a for a in orders(world, context) if isinstance(a, Tell)] == []
    assert [a.present for a in orders(world, context)] == [False]


def test_a_deleted_domain_is_deleted_in_the_tracker_which_refuses_if_it_holds_files(
    world: World, context: Context
) -> None:
    world.domain_objects = [domain("files")]
    world.settle()
    world.domain_objects[0]["metadata"]["deletionTimestamp"] = format_time(world.now)
    tell, release = orders(world, context)
    assert (tell.command, tell.args) == ("delete_domain", {"domain": "files"})
    assert {"domain_has_files", "domain_not_found"} <= tell.fine
    assert release.present is False


def test_a_deleted_object_waits_for_its_tracker_but_not_for_ever(world: World, context: Context) -> None:
    world.domain_objects = [domain("files")]
    world.settle()
    world.domain_objects[0]["metadata"]["deletionTimestamp"] = format_time(world.now)
    world.tracker_up = False
    assert orders(world, context) == []
    world.tick(601)
    plan, _ = plan_cluster(world.observe(), context)
    assert [a.present for a in plan.actions if isinstance(a, SetFinalizer)] == [False]


def test_what_has_no_object_is_left_alone_and_listed(world: World, context: Context) -> None:
    world.domains["old"] = {"default": ClassRow(mindevcount=1, replpolicy="", hashtype="NONE")}
    world.settle()
    seen = world.observe()
    assert unmanaged(seen, seen.tracker) == ("old",)
    assert world.domains["old"]["default"].mindevcount == 1
