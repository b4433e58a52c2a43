"""One "machine": network namespace, mount namespace, containerd, kubelet and kube-proxy.

A holder process keeps the mount namespace; every other program of the node enters it.  The image store is a
hard-linked copy of a template (:mod:`harness.stores`), so a node starts with all images and without old containers.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from harness import cgroups
from harness.controlplane import proxy_configuration
from harness.errors import HarnessError
from harness.layout import DNS_DOMAIN, DNS_SERVICE_ADDRESS, REGION, ClusterLayout, NodeLayout
from harness.preflight import CNI_FOLDER
from harness.proc import ProcessRecord, isolated, load_records, run, spawn, tail
from harness.stores import clone_store
from harness.timeouts import timeout_of
from harness.tools import Toolbox

CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
PAUSE_IMAGE = "localhost/pause:1"
SETUP_SCRIPT = Path(__file__).with_name("node_setup.sh")
PODS_MAX = 60
STOP_GRACE_SECONDS = 5.0


class Node:
    """Starts, stops and enters one node of a layout."""

    def __init__(self, layout: ClusterLayout, node: NodeLayout, tools: Toolbox) -> None:
        self.cluster = layout
        self.layout = node
        self.tools = tools

    def record(self, program: str) -> ProcessRecord | None:
        return load_records(self.cluster.pids).get(f"{program}-{self.layout.name}")

    def holder(self) -> ProcessRecord:
        record = self.record("holder")
        if record is None or not record.alive():
            raise HarnessError(f"node {self.layout.name} is not running")
        return record

    def enter(self, *argv: str) -> list[str]:
        """The command line that runs a program with the node's mounts and network."""
        return ["nsenter", "-t", str(self.holder().pid), "-m", "-n", "--", *argv]

    def ctr(self, *argv: str, timeout: float = 60.0) -> str:
        """containerd's command line on this node, in the namespace Kubernetes uses."""
        return run(*self.enter("ctr", "-a", CONTAINERD_SOCKET, "-n", "k8s.io", *argv), timeout=timeout).stdout

    def prepare(self, store: Path) -> None:
        """Folders, configuration files and a copy of the image store; the node must not run."""
        folder = self.layout.folder
        shutil.rmtree(folder / "containerd", ignore_errors=True)
        for name in ("varlib/containerd", "log", "sysctl", "volumes", "cni"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        clone_store(store, folder / "containerd")
        (folder / "containerd.toml").write_text(containerd_configuration(folder / "cni"))
        (folder / "cni" / "10-bridge.conflist").write_text(json.dumps(cni_configuration(self.layout)))
        (folder / "kubelet.yaml").write_text(kubelet_configuration(self.cluster, self.layout))
        (folder / "proxy.yaml").write_text(proxy_configuration(self.cluster, self.layout.name))
        (folder / "resolv.conf").write_text(f"nameserver {DNS_SERVICE_ADDRESS}\n")

    def start_runtime(self) -> None:
        """The holder, then containerd; returns without waiting for containerd."""
        folder = self.layout.folder
        cgroups.make(self.layout.cgroup)
        (folder / "ready").unlink(missing_ok=True)
        setup = ["/bin/sh", str(SETUP_SCRIPT), str(folder), self.layout.volume_mounts]
        netns = f"--net=/run/netns/{self.layout.netns}"
        keep = [self.cluster.cache, self.tools.kubernetes]
        holder = self._spawn("holder", ["nsenter", netns, "--", *isolated(*setup, keep=keep)])
        deadline = time.monotonic() + timeout_of("containerd ready")
        while not (folder / "ready").exists():
            if not holder.alive() or time.monotonic() > deadline:
                raise HarnessError(f"mounts of node {self.layout.name}: {self._log_tail('holder')}")
            time.sleep(0.02)
        self._spawn("containerd", self.enter("containerd", "-c", str(folder / "containerd.toml")))

    def wait_runtime(self) -> None:
        """Until containerd answers."""
        deadline = time.monotonic() + timeout_of("containerd ready")
        while True:
            done = run(*self.enter("ctr", "-a", CONTAINERD_SOCKET, "version"), check=False, timeout=10)
            if done.returncode == 0:
                return
            if time.monotonic() > deadline:
                raise HarnessError(f"containerd of {self.layout.name}: {self._log_tail('containerd')}")
            time.sleep(0.1)

    def start_kubernetes(self) -> None:
        """kube-proxy and kubelet; returns without waiting for Ready."""
        proxy = str(self.tools.kubernetes / "kube-proxy")
        self._spawn("kube-proxy", self.enter(proxy, f"--config={self.layout.folder / 'proxy.yaml'}"))
        self.start_kubelet()

    def start_kubelet(self) -> None:
        labels = f"topology.kubernetes.io/zone={self.layout.zone},topology.kubernetes.io/region={REGION}"
        arguments = [
            f"--config={self.layout.folder / 'kubelet.yaml'}",
            f"--kubeconfig={self.cluster.pki / f'node-{self.layout.name}.kubeconfig'}",
            f"--node-labels={labels}",
            f"--hostname-override={self.layout.name}",
            f"--node-ip={self.layout.address}",
            "--root-dir=/var/lib/kubelet",
        ]
        self._spawn("kubelet", self.enter(str(self.tools.kubernetes / "kubelet"), *arguments))

    def stop_kubelet(self) -> None:
        """End the kubelet alone; its pods keep running, as on a real machine."""
        record = self.record("kubelet")
        if record is not None:
            record.stop(grace_seconds=STOP_GRACE_SECONDS)

    def kill(self) -> int:
        """Kill every process of the machine at once, pods and all; its mounts go with them."""
        return cgroups.kill_all(self.layout.cgroup)

    def running(self) -> bool:
        record = self.record("kubelet")
        return record is not None and record.alive()

    def _spawn(self, program: str, argv: Sequence[str]) -> ProcessRecord:
        name = f"{program}-{self.layout.name}"
        return spawn(
            name,
            argv,
            cgroup_procs=cgroups.system_procs(self.layout.cgroup),
            log=self.cluster.logs / f"{name}.log",
            records=self.cluster.pids,
        )

    def _log_tail(self, program: str) -> str:
        path = self.cluster.logs / f"{program}-{self.layout.name}.log"
        return tail(path.read_text(errors="replace")) if path.exists() else "no log"


def containerd_configuration(cni_folder: Path) -> str:
    """containerd's TOML; the oom settings matter where root lacks CAP_SYS_RESOURCE."""
    return f"""\
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        BinaryName = "{shutil.which("runc") or "/usr/sbin/runc"}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI_FOLDER}"
    conf_dir = "{cni_folder}"
"""


def cni_configuration(node: NodeLayout) -> dict[str, object]:
    """A bridge with addresses from the node's pod range; no masquerading: pod addresses are routed."""
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": node.pod_range}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": "/run/cni-ipam",
        },
    }
    return {
        "cniVersion": "0.4.0",
        "name": node.netns,
        "plugins": [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}],
    }


def kubelet_configuration(cluster: ClusterLayout, node: NodeLayout) -> str:
    """The kubelet's YAML; eviction thresholds are low because the disk is shared with everything else."""
    pki = cluster.pki
    return yaml.safe_dump(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "x509": {"clientCAFile": str(pki / "ca.crt")},
                "webhook": {"enabled": True, "cacheTTL": "30s"},
                "anonymous": {"enabled": False},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(pki / f"node-{node.name}.crt"),
            "tlsPrivateKeyFile": str(pki / f"node-{node.name}.key"),
            "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{node.cgroup}",
            "cgroupsPerQOS": True,
            "enforceNodeAllocatable": ["pods"],
            "failCgroupV1": False,
            "failSwapOn": False,
            "resolvConf": str(node.folder / "resolv.conf"),
            "clusterDNS": [DNS_SERVICE_ADDRESS],
            "clusterDomain": DNS_DOMAIN,
            "maxOpenFiles": 20000,
            "oomScoreAdj": 0,
            "maxPods": PODS_MAX,
            # Stories kill processes every few seconds; the usual back-off of minutes would test patience only.
            "crashLoopBackOff": {"maxContainerRestartPeriod": "2s"},
            "nodeStatusUpdateFrequency": "4s",
            "evictionHard": {"memory.available": "200Mi", "nodefs.available": "3%", "imagefs.available": "3%"},
            "imageGCHighThresholdPercent": 97,
            "imageGCLowThresholdPercent": 95,
            "systemReserved": {"memory": "256Mi"},
            "kubeReserved": {"memory": "256Mi"},
        }
    )
