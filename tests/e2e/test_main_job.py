"""The main job: files are stored, served, spread over zones, rebalanced, healed and found again; the operator dies all the while.

One cluster, one story in the order of a life: the tests build on each other and share the 500 files.
"""

from __future__ import annotations

import pytest

from harness import product
from harness.faults import Faults
from harness.kubectl import Kubectl
from harness.product import Product, operator_killed_throughout
from harness.session import Session
from harness.wait import wait_until
from harness.workload import SampleFile, differences, sample_files, upload

pytestmark = [pytest.mark.core, pytest.mark.timeout(3600)]

DOMAIN = "files"
NODES = 6
MORE_NODES = 9


@pytest.fixture(scope="module")
def files() -> list[SampleFile]:
    return sample_files()


@pytest.fixture(scope="module")
def demo(cluster: Session, kubectl: Kubectl) -> Product:
    """The quickstart example, applied as the README says, in a namespace of its own."""
    product.install_operator(cluster)
    kubectl.apply(product.QUICKSTART)
    return Product(cluster, kubectl)


@pytest.fixture(scope="module")
def machines(demo: Product) -> dict[str, str]:
    """Host name -> machine of every storage node ever seen; kept up to date by the tests that add nodes."""
    return demo.wait_ready(NODES)


def spread_is_right(demo: Product, files: list[SampleFile], machines: dict[str, str]) -> bool:
    """Every file on exactly two nodes in two zones, and the census agrees."""
    wrong = {
        key: copies
        for key, copies in demo.locations(DOMAIN, files, machines).items()
        if len(copies) != 2 or len({copy.host for copy in copies}) != 2 or len({copy.zone for copy in copies}) != 2
    }
    assert not wrong, f"{len(wrong)} files are not on 2 nodes in 2 zones, such as {next(iter(wrong.items()))}"
    census = demo.census()
    assert (census.fewer_copies, census.no_copy, census.zone_violations) == (0, 0, 0), census
    return True


def unreadable(demo: Product, files: list[SampleFile]) -> list[str]:
    return differences(demo.gateway().get_digest, files)


def test_quickstart_is_ready_with_two_storage_nodes_on_each_machine(cluster: Session, machines: dict[str, str]) -> None:
    per_machine = {
        node: sorted(host for host, machine in machines.items() if machine == node) for node in cluster.nodes()
    }
    assert {len(hosts) for hosts in per_machine.values()} == {2}, per_machine


def test_files_are_stored_and_served_to_http_and_to_an_unmodified_client(
    demo: Product, machines: dict[str, str], files: list[SampleFile]
) -> None:
    gateway = demo.gateway()
    upload(gateway, files)
    wait_until(lambda: spread_is_right(demo, files, machines), "files spread")
    assert differences(gateway.get_digest, files) == []
    assert differences(demo.read_by_pymogilefs(DOMAIN), files) == []


def test_the_gateway_is_closed_but_for_what_the_example_opens(demo: Product, files: list[SampleFile]) -> None:
    gateway, file = demo.gateway(), files[0]
    assert gateway.request("PUT", "not/allowed", b"x", token="") == 401
    assert gateway.request("PUT", "not/allowed", b"x", token="wrong") == 403
    assert gateway.request("DELETE", file.key, token="") == 401
    assert gateway.request("GET", file.key, token="") == 200
    assert gateway.request("GET", "not/allowed", token="") == 404
    assert gateway.request("POST", file.key, b"x") == 405


@pytest.mark.disruptive
def test_added_nodes_take_their_share_while_the_operator_is_killed(
    cluster: Session, demo: Product, machines: dict[str, str], files: list[SampleFile], faults: Faults
) -> None:
    before = set(demo.used_percent())
    with operator_killed_throughout(cluster, faults):
        demo.kubectl.patch("storagecluster", demo.name, {"spec": {"storage": {"pools": pools(demo, MORE_NODES)}}})

        def balanced() -> bool:
            used = demo.used_percent()
            assert len(used) == len(before) + MORE_NODES - NODES, used
            assert max(used.values()) - min(used.values()) <= 10, used
            machines.update(demo.storage_pods())
            copies = [copy for each in demo.locations(DOMAIN, files, machines).values() for copy in each]
            moved = sum(copy.devid not in before for copy in copies)
            assert moved >= 0.15 * len(copies), f"{moved} of {len(copies)} copies on new devices"
            return spread_is_right(demo, files, machines)

        wait_until(balanced, "files balanced")
    demo.wait_ready(MORE_NODES)
    assert unreadable(demo, files) == []


def pools(demo: Product, nodes: int) -> list[dict[str, object]]:
    found: list[dict[str, object]] = demo.kubectl.get("storagecluster", demo.name)["spec"]["storage"]["pools"]
    found[0]["nodes"] = nodes
    return found


@pytest.mark.disruptive
def test_a_deleted_and_recreated_cluster_finds_every_file_while_the_operator_is_killed(
    cluster: Session, demo: Product, machines: dict[str, str], files: list[SampleFile], faults: Faults
) -> None:
    claims = {claim["metadata"]["name"]: claim["metadata"]["uid"] for claim in demo.kubectl.list("pvc")}
    with operator_killed_throughout(cluster, faults):
        demo.kubectl.delete("storagecluster", demo.name)
        wait_until(lambda: not demo.kubectl.exists("storagecluster", demo.name), "custom resource deleted")
        wait_until(lambda: not demo.kubectl.list("pods", f"mogile.storage/cluster={demo.name}"), "pod deleted")
        manifest = product.with_nodes(product.QUICKSTART, MORE_NODES)
        demo.kubectl.apply(manifest)
        demo.wait_ready(MORE_NODES)
        assert unreadable(demo, files) == []
    after = {claim["metadata"]["name"]: claim["metadata"]["uid"] for claim in demo.kubectl.list("pvc")}
    assert after == claims
    machines.update(demo.wait_ready(MORE_NODES))
    wait_until(lambda: spread_is_right(demo, files, machines), "files replicated")


@pytest.mark.disruptive
def test_a_machine_lost_for_good_is_healed_while_the_operator_is_killed(
    cluster: Session, demo: Product, machines: dict[str, str], files: list[SampleFile], faults: Faults
) -> None:
    demo.kubectl.patch("storagecluster", demo.name, {"spec": {"failure": {"outAfter": "20s"}}})
    lost = next(node for node in cluster.nodes() if node != demo.database_machine())
    with operator_killed_throughout(cluster, faults):
        faults.kill(lost)

        def healed() -> bool:
            copies = demo.locations(DOMAIN, files, machines)
            thin = {
                key: each
                for key, each in copies.items()
                if len({copy.host for copy in each if copy.machine != lost}) < 2
            }
            assert not thin, f"{len(thin)} of {len(copies)} files have fewer than 2 copies on living machines"
            return True

        wait_until(healed, "files healed")
        assert unreadable(demo, files) == []
    assert demo.kubectl.exists("node", lost)
