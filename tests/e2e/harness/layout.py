"""Names, addresses and paths of a local cluster: every other module asks here.

Everything a cluster makes on the machine carries its name: network namespaces ``<name>-*``, cgroups ``<name>/`` in
each hierarchy, the state directory ``<cache>/cluster/<name>`` (which also holds the volume images).  Two clusters
with different names do not see each other, because the addresses live in namespaces of their own.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HarnessError

DEFAULT_NAME = "mogile"
DEFAULT_CONTEXT = "mogile-local"
NAME_PATTERN = re.compile(r"[a-z][a-z0-9]{0,9}")

NODE_NETWORK = "10.99.0.0/24"
CONTROL_PLANE_ADDRESS = "10.99.0.10"
POD_NETWORK = "10.244.0.0/16"
SERVICE_NETWORK = "10.96.0.0/16"
API_SERVICE_ADDRESS = "10.96.0.1"
DNS_SERVICE_ADDRESS = "10.96.0.10"
API_PORT = 6443
DNS_DOMAIN = "cluster.local"
REGION = "r"

# The node's own mount namespace lays private folders over these, so nothing may live below them that it needs.
SHADOWED_FOLDERS = ("/run", "/var/run", "/var/lib", "/var/log")

REPOSITORY = Path(__file__).resolve().parents[3]


def cache_root() -> Path:
    """Where tools, images and clusters live, outside the checkout."""
    given = os.environ.get("MOGILE_CACHE")
    return Path(given).absolute() if given else Path.home() / ".cache" / "mogile"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLayout:
    """One "machine": its number decides addresses, its zone the label."""

    cluster: str
    number: int
    zone: str
    state: Path

    @property
    def name(self) -> str:
        return f"n{self.number}"

    @property
    def netns(self) -> str:
        return f"{self.cluster}-{self.name}"

    @property
    def address(self) -> str:
        return f"10.99.0.{10 + self.number}"

    @property
    def pod_range(self) -> str:
        return f"10.244.{self.number}.0/24"

    @property
    def port(self) -> str:
        """The node's port on the switch: taking it down is cutting the cable."""
        return f"p-{self.name}"

    @property
    def cgroup(self) -> str:
        return f"{self.cluster}/{self.name}"

    @property
    def folder(self) -> Path:
        return self.state / "nodes" / self.name

    @property
    def volumes(self) -> Path:
        """The images of this node's volumes."""
        return self.folder / "volumes"

    @property
    def volume_mounts(self) -> str:
        """Where they are mounted: on the node's private tmpfs, so that no empty directory is ever taken for a volume."""
        return "/run/mogile-volumes"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterLayout:
    """All paths and names of one cluster."""

    name: str
    cache: Path

    @property
    def state(self) -> Path:
        return self.cache / "cluster" / self.name

    @property
    def lock(self) -> Path:
        return self.cache / "cluster" / f"{self.name}.lock"

    @property
    def pids(self) -> Path:
        return self.state / "pids"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def pki(self) -> Path:
        return self.state / "pki"

    @property
    def kubeconfig(self) -> Path:
        return self.state / "kubeconfig"

    @property
    def context(self) -> str:
        return f"{self.name}-local"

    @property
    def switch_netns(self) -> str:
        return f"{self.name}-sw"

    @property
    def client_netns(self) -> str:
        """Control plane and test programs: from here node, pod and service addresses are reachable."""
        return f"{self.name}-cp"

    @property
    def nodes(self) -> tuple[NodeLayout, ...]:
        return tuple(
            NodeLayout(cluster=self.name, number=index, zone=zone, state=self.state)
            for index, zone in enumerate("abc", start=1)
        )

    def node(self, name: str) -> NodeLayout:
        for node in self.nodes:
            if node.name == name:
                return node
        raise HarnessError(f"no node {name!r} in cluster {self.name}: it has {', '.join(n.name for n in self.nodes)}")


def cluster_layout(name: str = DEFAULT_NAME) -> ClusterLayout:
    """The layout of a cluster name, refused when the name would not fit interface and cgroup names."""
    if not NAME_PATTERN.fullmatch(name):
        raise HarnessError(f"cluster name {name!r}: use a lower-case letter and up to nine letters or digits")
    return ClusterLayout(name=name, cache=cache_root())
