"""What the suite's ``cluster`` fixture is: one named context, its tools and its faults."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness import kind
from harness.cluster import LocalCluster
from harness.errors import HarnessError
from harness.faults import Faults, LocalFaults
from harness.kubectl import Kubectl
from harness.layout import ClusterLayout, cluster_layout
from harness.proc import run
from harness.tools import HELM, KUBERNETES, build, build_all

HELM_TIMEOUT_SECONDS = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A cluster as stories see it."""

    context: str
    kubeconfig: Path
    kubectl: Kubectl
    faults: Faults
    helm_program: str

    def nodes(self) -> list[str]:
        """Names of the machines that run pods."""
        items = self.kubectl.list("nodes")
        return sorted(
            item["metadata"]["name"]
            for item in items
            if not any(
                taint["effect"] == "NoSchedule" and "control-plane" in taint["key"]
                for taint in item["spec"].get("taints", [])
            )
        )

    def zone(self, node: str) -> str:
        return str(self.kubectl.get("node", node)["metadata"]["labels"]["topology.kubernetes.io/zone"])

    def helm(self, *arguments: str, timeout: float = HELM_TIMEOUT_SECONDS) -> str:
        """Run helm against this cluster; a refusal is a HarnessError with its text."""
        own = ["--kubeconfig", str(self.kubeconfig), "--kube-context", self.context]
        return run(self.helm_program, *own, *arguments, timeout=timeout).stdout

    def service_address(self, namespace: str, name: str) -> str:
        """A Service's cluster address; the suite's process reaches it with plain sockets."""
        return str(self.kubectl.within(namespace).get("service", name)["spec"]["clusterIP"])


def open_session(context: str, kubeconfig: Path) -> Session:
    """The cluster of a context: the local one, kind, or any other (then without faults)."""
    program = str(build(KUBERNETES) / "kubectl")
    return Session(
        context=context,
        kubeconfig=kubeconfig,
        kubectl=Kubectl(program=program, kubeconfig=kubeconfig, context=context),
        faults=_faults(context, kubeconfig),
        helm_program=str(build(HELM) / "helm"),
    )


def _faults(context: str, kubeconfig: Path) -> Faults:
    layout = _local_layout(context, kubeconfig)
    if layout is not None:
        return LocalFaults(LocalCluster(layout, build_all()))
    return kind.KindFaults(context)


def _local_layout(context: str, kubeconfig: Path) -> ClusterLayout | None:
    """The local cluster a kubeconfig belongs to; only that very file counts, not a context of the same name."""
    name, dash, suffix = context.rpartition("-")
    if not dash or suffix != "local":
        return None
    try:
        layout = cluster_layout(name)
    except HarnessError:
        return None
    return layout if kubeconfig.resolve() == layout.kubeconfig.resolve() else None
