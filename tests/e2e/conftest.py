"""The e2e suite's options and fixtures.

Nothing runs unless ``--e2e --context NAME --kubeconfig PATH`` are given, and no other context is ever touched: every
call names kubeconfig and context explicitly, and variables that could point elsewhere are removed.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from harness import artifacts
from harness.errors import HarnessError
from harness.faults import Faults
from harness.kubectl import Kubectl
from harness.session import Session, open_session
from harness.wait import wait_until

HERE = Path(__file__).parent
NAMESPACE_LENGTH_MAX = 40
SESSION = pytest.StashKey[Session]()
NAMESPACE = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("e2e", "end-to-end suite")
    group.addoption("--e2e", action="store_true", help="run the end-to-end stories")
    group.addoption("--context", help="kube context to run on; no other is ever touched")
    group.addoption("--kubeconfig", help="file that holds the context")


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("--e2e"):
        return
    context, kubeconfig = config.getoption("--context"), config.getoption("--kubeconfig")
    if not context or not kubeconfig:
        raise pytest.UsageError("--e2e: name the cluster with --context NAME and --kubeconfig PATH")
    if not Path(kubeconfig).is_file():
        raise pytest.UsageError(f"--kubeconfig {kubeconfig}: no such file; start the cluster with `make cluster-up`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    skip = pytest.mark.skip(reason="end-to-end: needs --e2e --context NAME --kubeconfig PATH")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            if not config.getoption("--e2e"):
                item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def _own_environment() -> Iterator[None]:
    """No kubeconfig, namespace or setting of the developer's shell reaches the stories."""
    kept = {name for name in os.environ if name.startswith("MOGILE_E2E_")} | {"MOGILE_CACHE"}
    removed = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if (name.startswith("MOGILE_") and name not in kept)
        or name in ("KUBECONFIG", "HELM_NAMESPACE", "HELM_KUBECONTEXT")
    }
    yield
    os.environ.update(removed)


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Session:
    """The cluster that was named on the command line."""
    context: str = request.config.getoption("--context")
    kubeconfig: str = request.config.getoption("--kubeconfig")
    session = open_session(context, Path(kubeconfig))
    request.config.stash[SESSION] = session
    return session


@pytest.fixture(scope="module")
def namespace(request: pytest.FixtureRequest, cluster: Session) -> Iterator[str]:
    """A namespace of the story's own, removed with everything in it."""
    story = re.sub(r"[^a-z0-9]+", "-", Path(str(request.path)).stem.removeprefix("test_").lower())
    name = f"e2e-{story}"[:NAMESPACE_LENGTH_MAX].rstrip("-") + f"-{secrets.token_hex(3)}"
    cluster.kubectl("create", "namespace", name)
    request.node.stash[NAMESPACE] = name
    yield name
    cluster.kubectl.delete("namespace", name)
    wait_until(lambda: not cluster.kubectl.exists("namespace", name), "namespace deleted", because=name)


@pytest.fixture(scope="module")
def kubectl(cluster: Session, namespace: str) -> Kubectl:
    """kubectl in the story's namespace."""
    return cluster.kubectl.within(namespace)


@pytest.fixture
def faults(cluster: Session) -> Iterator[Faults]:
    """Breaking things; after the test every machine runs and is Ready again."""
    yield cluster.faults
    cluster.faults.heal_all()

    def all_ready() -> bool:
        from harness.asserts import node_ready

        return all(node_ready(cluster.kubectl, node) for node in cluster.nodes())

    wait_until(all_ready, "node ready")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep what a failed story leaves behind, before its namespace is removed."""
    report = yield
    module = item.getparent(pytest.Module)
    session = item.config.stash.get(SESSION, None)
    name = module.stash.get(NAMESPACE, None) if module is not None else None
    if report.failed and session is not None and name is not None:
        try:
            folder = artifacts.dump(session.kubectl, name, item.nodeid)
        except (HarnessError, OSError) as exc:
            report.sections.append(("artifacts", f"could not be written: {exc}"))
        else:
            report.sections.append(("artifacts", str(folder)))
    return report
