"""The chart is strict about its values, and the real API server accepts what it renders and refuses what makes no sense."""

from __future__ import annotations

import pytest

from harness import product
from harness.artifacts import OPERATOR_NAMESPACE
from harness.errors import HarnessError
from harness.kubectl import Kubectl, RefusedError
from harness.session import Session

pytestmark = pytest.mark.smoke

NAMES = ("check", str(product.CHART), "--namespace", OPERATOR_NAMESPACE)


def test_lint_is_strict_and_clean(cluster: Session) -> None:
    cluster.helm("lint", "--strict", str(product.CHART))


def test_the_api_server_accepts_the_rendered_chart(cluster: Session, kubectl: Kubectl) -> None:
    rendered = cluster.helm("template", "check", str(product.CHART), "--namespace", kubectl.namespace)
    kubectl.apply(rendered, dry_run=True)


@pytest.mark.parametrize(
    ("value", "named"),
    [("imagee.tag=v1", "imagee"), ("replicaCount=two", "replicaCount"), ("image.pullPolicy=Sometimes", "pullPolicy")],
)
def test_unknown_and_wrong_values_are_refused(cluster: Session, value: str, named: str) -> None:
    with pytest.raises(HarnessError, match=named):
        cluster.helm("template", *NAMES, "--set", value)


def test_a_senseless_cluster_is_refused_with_a_sentence_that_names_the_field(
    cluster: Session, kubectl: Kubectl
) -> None:
    product.install_operator(cluster)
    sound = product.with_nodes(product.QUICKSTART, 6)
    kubectl.apply(sound, dry_run=True)
    with pytest.raises(RefusedError, match=r"nodes"):
        kubectl.apply(product.with_nodes(product.QUICKSTART, -1), dry_run=True)
    with pytest.raises(RefusedError, match=r"database"):
        kubectl.apply(sound.replace("managed:", "unmanaged:"), dry_run=True)
    with pytest.raises(RefusedError, match=r"mindevcount"):
        kubectl.apply(sound.replace("mindevcount: 2", "mindevcount: 0"), dry_run=True)
