"""From the API server's objects to a snapshot."""

from typing import Any

import pytest

from mogile_operator.observe import names_of


def domain(name: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "ns"}, "spec": {"clusterRef": {"name": "demo"}, **spec}}


def fileclass(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "ns"},
        "spec": {"domainRef": {"name": "files"}, "mindevcount": 2, **spec},
    }


def test_what_a_newer_version_has_made_does_not_keep_a_cluster_from_being_looked_after(
    caplog: pytest.LogCaptureFixture,
) -> None:
    domains = [
        domain("files"),
        domain("later", clusterRef={"selector": "x"}),
        domain("other", clusterRef={"name": "b"}),
    ]
    classes = [
        fileclass("good"),
        fileclass("bad", hashtype="BLAKE3"),
        fileclass("elsewhere", domainRef={"name": "other"}),
    ]
    mine, theirs = names_of("demo", domains, classes)
    assert [item.metadata.name for item in mine] == ["files"]
    assert [item.metadata.name for item in theirs] == ["good"]
    said = [vars(record)["fields"] for record in caplog.records]
    assert [(item["name"], item["field"]) for item in said] == [
        ("later", "spec.clusterRef.name"),
        ("bad", "spec.hashtype"),
    ]
