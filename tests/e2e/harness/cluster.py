"""Bring the local cluster up and take it down; find it again from another process.

``up`` first removes whatever a former run left (it may have been killed anywhere), then builds from nothing: a
cluster's state is never reused, only caches are (programs, images, image stores).  ``down`` needs no state at all:
the cgroups name the processes, namespaces carry the cluster's name, mounts and loop devices end with their
processes.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from harness import addons, cgroups, controlplane, images, leftovers, network, pki, preflight, stores
from harness.api import ApiClient, ApiError
from harness.cache import exclusive
from harness.errors import HarnessError
from harness.layout import REPOSITORY, ClusterLayout
from harness.node import Node
from harness.proc import load_records, spawn
from harness.progress import say, step
from harness.timeouts import timeout_of
from harness.tools import Toolbox, build_all

LOOP_RELEASE_TIMEOUT_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class LocalCluster:
    """A cluster on this machine, running or not."""

    layout: ClusterLayout
    tools: Toolbox

    def nodes(self) -> list[Node]:
        return [Node(self.layout, node, self.tools) for node in self.layout.nodes]

    def node(self, name: str) -> Node:
        return Node(self.layout, self.layout.node(name), self.tools)

    def template(self) -> Path:
        """The image store template the nodes were started from."""
        name = (self.layout.state / "template").read_text()
        return self.layout.cache / "stores" / self.layout.name / name

    def api(self) -> ApiClient:
        return ApiClient.from_layout(self.layout)


def up(layout: ClusterLayout, wanted: Sequence[images.Image]) -> LocalCluster:
    """A running cluster with these images on its nodes; a running one is kept and gets changed images."""
    preflight.check_machine()
    begun = time.monotonic()
    tools = build_all()
    built = images.Builder(tools).build(wanted)
    references = {item.image.reference: item.key for item in built}
    archives = {item.image.reference: item.archive for item in built}
    cluster = LocalCluster(layout, tools)
    with exclusive(layout.lock):
        if healthy(cluster):
            load_changed(cluster, built)
            say(f"cluster {layout.name} is running already")
            return cluster
        if leftovers.find(layout):
            with step("removing what a former run left"):
                remove(layout)
        begun_start = time.monotonic()
        layout.state.mkdir(parents=True, exist_ok=True)
        with cgroups.member(f"{layout.name}/up"):
            store = stores.template(layout, references, archives)
            start(cluster, store.name)
    say(
        f"cluster {layout.name} is ready: {time.monotonic() - begun_start:.1f} s (all in all {time.monotonic() - begun:.1f} s)"
    )
    return cluster


def start(cluster: LocalCluster, template: str) -> None:
    """Everything from namespaces to Ready; the machine must hold nothing of this cluster."""
    layout = cluster.layout
    nodes = cluster.nodes()
    (layout.state / "template").write_text(template)
    store = cluster.template()
    with step("certificates, network"):
        cgroups.make(f"{layout.name}/cp")
        pki.create(layout)
        network.create(layout)
    with ThreadPoolExecutor(max_workers=len(nodes)) as pool:
        runtimes = [pool.submit(_start_runtime, node, store) for node in nodes]
        with step("control plane"):
            client = controlplane.start(layout, cluster.tools)
        with step("container runtimes"):
            for runtime in runtimes:
                runtime.result()
    with step("nodes, storage, network policy, DNS"):
        addons.install(client)
        controlplane.start_client_proxy(layout, cluster.tools)
        start_controllers(layout)
        for node in nodes:
            node.start_kubernetes()
        wait_ready(client, [node.layout.name for node in nodes])


def _start_runtime(node: Node, store: Path) -> None:
    node.prepare(store)
    node.start_runtime()
    node.wait_runtime()


def start_controllers(layout: ClusterLayout) -> None:
    """The harness's own controllers (volumes, network policy) as a supervised process."""
    spawn(
        "controllers",
        [sys.executable, "-m", "harness", "--name", layout.name, "controllers"],
        cgroup_procs=cgroups.system_procs(f"{layout.name}/controllers"),
        log=layout.logs / "controllers.log",
        records=layout.pids,
        env={"PYTHONPATH": str(REPOSITORY / "tests" / "e2e"), "MOGILE_CACHE": str(layout.cache)},
    )


def ready_nodes(client: ApiClient) -> set[str]:
    """Names of nodes whose Ready condition is true."""
    ready = set()
    for node in client.get("/api/v1/nodes")["items"]:
        for condition in node.get("status", {}).get("conditions", []):
            if condition["type"] == "Ready" and condition["status"] == "True":
                ready.add(node["metadata"]["name"])
    return ready


def dns_available(client: ApiClient) -> bool:
    deployment = client.get("/apis/apps/v1/namespaces/kube-system/deployments/coredns")
    return int(deployment.get("status", {}).get("availableReplicas", 0)) > 0


def wait_ready(client: ApiClient, names: list[str]) -> None:
    """Until every node is Ready and DNS answers."""
    deadline = time.monotonic() + timeout_of("node ready")
    while True:
        missing = sorted(set(names) - ready_nodes(client))
        if not missing and dns_available(client):
            return
        if time.monotonic() > deadline:
            what = f"nodes not Ready: {', '.join(missing)}" if missing else "cluster DNS is not available"
            raise HarnessError(f"{what} after {timeout_of('node ready'):.0f} s; see the logs in the state directory")
        time.sleep(0.2)


def healthy(cluster: LocalCluster) -> bool:
    """Whether the cluster runs completely: all programs alive, API server answering, nodes Ready."""
    records = load_records(cluster.layout.pids)
    programs = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "controllers", "client-proxy"]
    programs += [
        f"{name}-{node.name}" for node in cluster.layout.nodes for name in ("containerd", "kubelet", "kube-proxy")
    ]
    if any(name not in records or not records[name].alive() for name in programs):
        return False
    try:
        client = cluster.api()
        return ready_nodes(client) >= {node.name for node in cluster.layout.nodes} and dns_available(client)
    except (ApiError, OSError):
        return False


def load_changed(cluster: LocalCluster, built: Sequence[images.Built]) -> None:
    """Import images that changed since the nodes started into the running nodes; pods get them when they restart."""
    loaded = cluster.layout.state / "loaded"
    loaded.mkdir(exist_ok=True)
    present = stores.template_images(cluster.template())
    for item in built:
        marker = loaded / item.image.name
        current = marker.read_text() if marker.exists() else present.get(item.image.reference)
        if current == item.key:
            continue
        with step(f"loading {item.image.reference} into the nodes"), ThreadPoolExecutor() as pool:
            list(pool.map(partial(_load, item.archive), cluster.nodes()))
        marker.write_text(item.key)


def _load(archive: Path, node: Node) -> None:
    node.ctr("images", "import", str(archive), timeout=stores.IMPORT_TIMEOUT_SECONDS)


def down(layout: ClusterLayout) -> None:
    """Remove the cluster whatever state it is in, and prove that nothing is left."""
    with exclusive(layout.lock):
        with step(f"removing cluster {layout.name}"):
            remove(layout)
        if remaining := leftovers.find(layout):
            raise HarnessError("still there after removal:\n" + "\n".join(f"  {item}" for item in remaining))


def remove(layout: ClusterLayout) -> None:
    """Processes, then what they held, then namespaces, cgroups and files."""
    cgroups.kill_all(layout.name)
    deadline = time.monotonic() + LOOP_RELEASE_TIMEOUT_SECONDS
    while loops := leftovers.loop_devices(layout):  # they go with the last mount namespace, a moment later
        if time.monotonic() > deadline:
            leftovers.detach(loops)
            break
        time.sleep(0.05)
    network.remove(layout)
    cgroups.remove(layout.name)
    leftovers.unmount_below(layout)
    shutil.rmtree(layout.state, ignore_errors=True)
