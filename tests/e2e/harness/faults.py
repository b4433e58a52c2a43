"""Breaking machines, networks and volumes on purpose.

Each verb takes effect at once and says nothing about consequences: what Kubernetes and the product make of it is for
the story to wait for.  ``heal_all`` puts every machine back; what a volume lost stays lost.
"""

from __future__ import annotations

import os
import shutil
from pathlib import PurePosixPath
from typing import Protocol

from harness import cgroups, network, volumes
from harness.api import ApiError
from harness.cluster import LocalCluster
from harness.errors import HarnessError
from harness.node import Node
from harness.proc import run
from harness.provisioner import node_of

FLIPPED_BYTES = 16


class Faults(Protocol):
    """The verbs a story may use; a backend that cannot do one raises HarnessError."""

    def cut(self, node: str) -> None:
        """Pull the network cable of a machine."""

    def heal(self, node: str) -> None:
        """Plug it in again."""

    def freeze(self, node: str) -> None:
        """Stop every process of a machine; connections stay open and nobody answers."""

    def thaw(self, node: str) -> None:
        """Let them continue."""

    def kill(self, node: str) -> None:
        """Kill every process of a machine and cut its network; the Node object stays."""

    def start(self, node: str) -> None:
        """Boot a killed machine; its disks are as they were, its containers are gone."""

    def kill_pod(self, namespace: str, pod: str) -> int:
        """SIGKILL to every process of a pod's containers, now; how many there were. The kubelet starts them again."""

    def restart_kubelet(self, node: str) -> None:
        """Stop and start the kubelet; pods keep running."""

    def remove_node(self, node: str) -> None:
        """The machine is gone for good: killed, its disks destroyed, its Node object deleted."""

    def break_volume(self, namespace: str, claim: str) -> None:
        """The disk fails: from now on every access is an I/O error."""

    def wipe_volume(self, namespace: str, claim: str) -> None:
        """The disk was replaced by an empty one; a running pod sees it after its restart."""

    def corrupt_file(self, namespace: str, claim: str, path: str, *, offset: int = 0) -> None:
        """Bits of a file rot: some bytes differ, size and times stay."""

    def heal_all(self) -> None:
        """Every machine runs and is connected again."""


class LocalFaults:
    """Faults on the local cluster."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster
        self._layout = cluster.layout

    def cut(self, node: str) -> None:
        network.set_cable(self._layout, self._layout.node(node), up=False)

    def heal(self, node: str) -> None:
        network.set_cable(self._layout, self._layout.node(node), up=True)

    def freeze(self, node: str) -> None:
        cgroups.set_frozen(self._layout.node(node).cgroup, frozen=True)

    def thaw(self, node: str) -> None:
        cgroups.set_frozen(self._layout.node(node).cgroup, frozen=False)

    def kill(self, node: str) -> None:
        self.cut(node)
        self._cluster.node(node).kill()

    def start(self, node: str) -> None:
        machine = self._cluster.node(node)
        if machine.running():
            raise HarnessError(f"node {node} is running")
        machine.kill()
        self.heal(node)
        machine.prepare(self._cluster.template())
        machine.start_runtime()
        machine.wait_runtime()
        machine.start_kubernetes()

    def kill_pod(self, namespace: str, pod: str) -> int:
        try:
            found = self._cluster.api().get(f"/api/v1/namespaces/{namespace}/pods/{pod}")
        except ApiError as exc:
            raise HarnessError(f"pod {namespace}/{pod}: {exc}") from exc
        node = found["spec"].get("nodeName")
        if node is None:
            return 0
        return cgroups.kill_containers(self._layout.node(node).cgroup, str(found["metadata"]["uid"]))

    def restart_kubelet(self, node: str) -> None:
        machine = self._cluster.node(node)
        machine.stop_kubelet()
        machine.start_kubelet()

    def remove_node(self, node: str) -> None:
        self.kill(node)
        shutil.rmtree(self._layout.node(node).folder)
        self._cluster.api().delete(f"/api/v1/nodes/{node}")

    def break_volume(self, namespace: str, claim: str) -> None:
        node, volume = self._locate(namespace, claim)
        run(*node.enter("xfs_io", "-x", "-c", "shutdown", volumes.mount_point(node, volume)))
        os.truncate(volumes.image_path(node, volume), 0)  # nor can it be mounted again

    def wipe_volume(self, namespace: str, claim: str) -> None:
        node, volume = self._locate(namespace, claim)
        size = volumes.image_path(node, volume).stat().st_size
        volumes.delete(node, volume)
        volumes.create(node, volume, size)

    def corrupt_file(self, namespace: str, claim: str, path: str, *, offset: int = 0) -> None:
        node, volume = self._locate(namespace, claim)
        relative = PurePosixPath(path)
        if relative.is_absolute() or ".." in relative.parts:
            raise HarnessError(f"{path!r}: give a path inside the volume")
        target = f"/proc/{node.holder().pid}/root{volumes.mount_point(node, volume)}/{relative}"
        before = os.stat(target)
        if before.st_size <= offset:
            raise HarnessError(f"{path} has {before.st_size} bytes: nothing at offset {offset} to corrupt")
        with open(target, "r+b") as file:
            file.seek(offset)
            data = file.read(FLIPPED_BYTES)
            file.seek(offset)
            file.write(bytes(byte ^ 0xFF for byte in data))
            os.fsync(file.fileno())
        os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))

    def heal_all(self) -> None:
        for node in self._layout.nodes:
            if not node.folder.exists():
                self._readd(node.name)
                continue
            self.thaw(node.name)
            self.heal(node.name)
            if not self._cluster.node(node.name).running():
                self.start(node.name)

    def _readd(self, node: str) -> None:
        """A removed machine comes back as a new one of the same name."""
        self.start(node)

    def _locate(self, namespace: str, claim: str) -> tuple[Node, str]:
        """The node and volume name behind a claim."""
        api = self._cluster.api()
        try:
            found = api.get(f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{claim}")
            name = str(found["spec"]["volumeName"])
            volume = api.get(f"/api/v1/persistentvolumes/{name}")
        except (ApiError, KeyError) as exc:
            raise HarnessError(f"claim {namespace}/{claim} has no volume: {exc}") from exc
        return self._cluster.node(node_of(volume)), name
