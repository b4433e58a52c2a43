"""Spread over zones is a choice the product makes, not luck: the control run without zone labels shows violations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from harness import product
from harness.kubectl import Kubectl
from harness.product import Product
from harness.session import Session
from harness.wait import wait_until
from harness.workload import sample_files, upload

pytestmark = [pytest.mark.core, pytest.mark.disruptive, pytest.mark.timeout(1800)]

ZONE_LABEL = "topology.kubernetes.io/zone"
DOMAIN = "files"
NODES = 6


@pytest.fixture(scope="module")
def zones(cluster: Session) -> Iterator[Mapping[str, str]]:
    """Machine -> zone; the labels are taken away while the module runs."""
    known = {node: cluster.zone(node) for node in cluster.nodes()}
    cluster.kubectl("label", "nodes", "--all", f"{ZONE_LABEL}-")
    yield known
    for node, zone in known.items():
        cluster.kubectl("label", "node", node, f"{ZONE_LABEL}={zone}", "--overwrite")


def test_without_zone_labels_some_files_have_both_copies_in_one_zone(
    cluster: Session, kubectl: Kubectl, zones: Mapping[str, str]
) -> None:
    product.install_operator(cluster)
    kubectl.apply(product.QUICKSTART)
    demo = Product(cluster, kubectl)
    machines = demo.wait_ready(NODES)
    files = sample_files(80, seed=2, largest=100_000)
    upload(demo.gateway(), files)

    def replicated() -> dict[str, set[str]]:
        """Hosts by key. A file that is moved for the balance has a copy more for a moment."""
        census = demo.census()
        assert (census.files, census.fewer_copies) == (len(files), 0), census
        hosts = {key: {host for _, host in copies} for key, copies in demo.hosts_of(DOMAIN, files).items()}
        assert all(len(each) == 2 for each in hosts.values()), "not two copies, or both on one node"
        return hosts

    hosts = wait_until(replicated, "files replicated")
    in_one_zone = [key for key, each in hosts.items() if len({zones[machines[host]] for host in each}) == 1]
    # 6 nodes in 3 zones: a second copy on any other node is in the same zone one time in five.
    assert in_one_zone, "80 files spread over zones although no machine says which zone it is in"
