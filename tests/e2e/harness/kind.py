"""The same suite on kind, where Docker runs.  UNTESTED: nobody has run this path yet (see tests/e2e/README.md).

Kept thin: kind makes the cluster from ``kind-config.yaml``, Docker builds the same Dockerfiles, faults use Docker.
kind's own storage class neither limits nor grows volumes, and its network plugin must enforce NetworkPolicy, so
stories about volume sizes and volume faults say what is missing instead of passing.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from harness.errors import HarnessError
from harness.images import ALL, BUILDERS, Image
from harness.layout import REPOSITORY, cache_root
from harness.proc import run
from harness.progress import step

NAME = "mogile"
CONTEXT = f"kind-{NAME}"
NETWORK = "kind"
CONFIG = REPOSITORY / "kind-config.yaml"
UP_TIMEOUT_SECONDS = 600.0
# The official image replaces our emulation where a registry can be reached; pause and DNS are kind's own.
NOT_BUILT = frozenset({"pause", "coredns", "postgres"})


def available() -> bool:
    """Whether kind is installed and a Docker daemon answers."""
    if shutil.which("docker") is None or shutil.which("kind") is None:
        return False
    return run("docker", "info", check=False, timeout=20).returncode == 0


def kubeconfig() -> Path:
    return cache_root() / "kind" / f"{NAME}.kubeconfig"


def up() -> Path:
    """Create the cluster if it is not there, build and load the images; returns the kubeconfig."""
    config = kubeconfig()
    config.parent.mkdir(parents=True, exist_ok=True)
    if NAME not in run("kind", "get", "clusters").stdout.split():
        with step("kind create cluster"):
            create = ["kind", "create", "cluster", "--name", NAME, "--config", str(CONFIG), "--wait", "120s"]
            run(*create, "--kubeconfig", str(config), timeout=UP_TIMEOUT_SECONDS)
    for image in build_images(ALL):
        run("kind", "load", "docker-image", image.reference, "--name", NAME, timeout=UP_TIMEOUT_SECONDS)
    return config


def build_images(images: Sequence[Image]) -> list[Image]:
    """Build with Docker what is ours, and before it what that stands on; Docker's own cache decides what is new."""
    wanted = [image for image in images if image.name not in NOT_BUILT]
    for image in [*BUILDERS.values(), *(image for image in wanted if image.name not in BUILDERS)]:
        with step(f"docker build {image.name}"):
            command = ["docker", "build", "-q", "-t", image.reference, "-f", str(REPOSITORY / image.dockerfile)]
            for argument, name in image.stands_on.items():
                command += ["--build-arg", f"{argument}={BUILDERS[name].reference}"]
            run(*command, str(REPOSITORY), timeout=UP_TIMEOUT_SECONDS)
    return wanted


def down() -> None:
    run("kind", "delete", "cluster", "--name", NAME, timeout=UP_TIMEOUT_SECONDS)


class KindFaults:
    """Faults by Docker: a node is a container."""

    def __init__(self, context: str) -> None:
        self._context = context
        self._touched: dict[str, str] = {}

    def cut(self, node: str) -> None:
        self._docker(node, "network", "disconnect", NETWORK, node)

    def heal(self, node: str) -> None:
        self._docker(node, "network", "connect", NETWORK, node)

    def freeze(self, node: str) -> None:
        self._docker(node, "pause", node)

    def thaw(self, node: str) -> None:
        self._docker(node, "unpause", node)

    def kill(self, node: str) -> None:
        self._docker(node, "kill", node)

    def start(self, node: str) -> None:
        self._docker(node, "start", node)

    def kill_pod(self, namespace: str, pod: str) -> int:
        raise HarnessError(f"kind offers no way to kill the processes of a pod ({namespace}/{pod})")

    def restart_kubelet(self, node: str) -> None:
        self._docker(node, "exec", node, "systemctl", "restart", "kubelet")

    def remove_node(self, node: str) -> None:
        self._docker(node, "rm", "-f", node)
        run("kubectl", "--kubeconfig", str(kubeconfig()), "--context", self._context, "delete", "node", node)

    def break_volume(self, namespace: str, claim: str) -> None:
        raise HarnessError(f"kind has no volumes that can break ({namespace}/{claim})")

    def wipe_volume(self, namespace: str, claim: str) -> None:
        raise HarnessError(f"kind has no volumes that can be wiped ({namespace}/{claim})")

    def corrupt_file(self, namespace: str, claim: str, path: str, *, offset: int = 0) -> None:
        raise HarnessError(f"kind has no volumes that can be corrupted ({namespace}/{claim}, {path} at {offset})")

    def heal_all(self) -> None:
        undo = {"network": self.heal, "pause": self.thaw, "kill": self.start}
        for node, verb in list(self._touched.items()):
            if verb in undo:
                undo[verb](node)
        self._touched.clear()

    def _docker(self, node: str, *arguments: str) -> None:
        """Only nodes of our kind cluster may be touched."""
        if self._context != CONTEXT:
            raise HarnessError(f"context {self._context} offers no faults: only the local cluster and kind do")
        if node not in run("kind", "get", "nodes", "--name", NAME).stdout.split():
            raise HarnessError(f"{node} is no node of kind cluster {NAME}")
        run("docker", *arguments)
        self._touched[node] = arguments[0]
