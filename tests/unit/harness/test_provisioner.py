"""The storage controller decides from objects alone: what to make, grow, confirm and delete."""

from __future__ import annotations

from typing import Any

import pytest

from harness.addons import PROVISIONER, objects
from harness.provisioner import (
    PROVISIONED_BY,
    SELECTED_NODE,
    Confirm,
    Grow,
    Provision,
    Remove,
    decide,
    volume_object,
)
from harness.quantity import MEBIBYTE, mebibytes, parse
from harness.volumes import SIZE_BYTES_MIN, usable_size


def claim(
    size: str = "1Gi", *, node: str | None = "n2", bound: bool = False, capacity: str | None = None
) -> dict[str, Any]:
    annotations = {} if node is None else {SELECTED_NODE: node}
    spec: dict[str, Any] = {
        "storageClassName": "loop",
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": size}},
    }
    status: dict[str, Any] = {"phase": "Pending"}
    if bound:
        spec["volumeName"] = "pvc-u1"
        status = {"phase": "Bound", "capacity": {"storage": capacity or size}}
    meta = {"namespace": "ns", "name": "data", "uid": "u1", "annotations": annotations}
    return {"metadata": meta, "spec": spec, "status": status}


def volume(
    size: str = "1Gi", *, phase: str = "Bound", reclaim: str = "Delete", owner: str = PROVISIONER
) -> dict[str, Any]:
    made = volume_object(Provision(volume="pvc-u1", node="n2", size=parse(size), claim=claim(size), reclaim=reclaim))
    made["metadata"]["annotations"][PROVISIONED_BY] = owner
    return {**made, "status": {"phase": phase}}


CLASSES = [item for item in objects() if item["kind"] == "StorageClass"]


def test_a_claim_waits_until_its_pod_has_a_node() -> None:
    assert decide([claim(node=None)], [], CLASSES) == []
    [action] = decide([claim()], [], CLASSES)
    assert isinstance(action, Provision)
    assert (action.volume, action.node, action.size, action.reclaim) == ("pvc-u1", "n2", 1024 * MEBIBYTE, "Delete")


def test_a_claim_of_another_class_or_on_its_way_out_is_left_alone() -> None:
    other = claim()
    other["spec"]["storageClassName"] = "fast"
    going = claim()
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    block = claim()
    block["spec"]["volumeMode"] = "Block"
    assert decide([other, going, block], [], CLASSES) == []


def test_a_volume_is_not_made_twice_while_it_is_being_bound() -> None:
    assert decide([claim()], [volume(phase="Available")], CLASSES) == []


def test_growth_is_done_and_then_told_to_the_claim() -> None:
    assert decide([claim("2Gi", bound=True, capacity="1Gi")], [volume("1Gi")], CLASSES) == [
        Grow(volume="pvc-u1", node="n2", size=2048 * MEBIBYTE)
    ]
    grown = claim("2Gi", bound=True, capacity="1Gi")
    assert decide([grown], [volume("2Gi")], CLASSES) == [Confirm(claim=grown, size=2048 * MEBIBYTE)]
    assert decide([claim("2Gi", bound=True)], [volume("2Gi")], CLASSES) == []


def test_a_released_volume_goes_or_stays_as_its_policy_says() -> None:
    assert decide([], [volume(phase="Released")], CLASSES) == [Remove(volume="pvc-u1", node="n2")]
    assert decide([], [volume(phase="Released", reclaim="Retain")], CLASSES) == []
    assert decide([], [volume(phase="Released", owner="somebody/else")], CLASSES) == []


def test_small_claims_get_what_xfs_needs() -> None:
    [action] = decide([claim("1Mi")], [], CLASSES)
    assert isinstance(action, Provision)
    assert action.size == SIZE_BYTES_MIN
    assert usable_size(SIZE_BYTES_MIN + 1) == SIZE_BYTES_MIN + MEBIBYTE
    assert decide([claim("1Mi", bound=True, capacity="300Mi")], [volume("300Mi")], CLASSES) == []


def test_a_volume_is_bound_to_its_claim_and_pinned_to_its_node() -> None:
    made = volume()
    assert made["spec"]["claimRef"]["uid"] == "u1"
    expression = made["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0]
    assert expression == {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n2"]}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1Gi", 1024**3),
        ("500M", 500 * 10**6),
        ("1.5Gi", 3 * 2**29),
        ("1e3", 1000),
        ("1500m", 2),
        ("7", 7),
        ("2k", 2000),
    ],
)
def test_quantities(text: str, size: int) -> None:
    assert parse(text) == size


def test_a_quantity_that_is_none_is_refused_and_sizes_round_up() -> None:
    with pytest.raises(ValueError, match="not a Kubernetes quantity"):
        parse("1 GB")
    assert mebibytes(MEBIBYTE + 1) == "2Mi"
