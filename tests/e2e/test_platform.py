"""The cluster itself keeps its promises: volumes of a true size that grow, enforced policies, DNS, machines that fail.

Every other story leans on these; when one of them breaks, this file says so first and in plainer words.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.asserts import node_ready, request, wait_pods_ready
from harness.errors import HarnessError
from harness.faults import Faults
from harness.images import BASE
from harness.kubectl import Kubectl
from harness.quantity import MEBIBYTE, parse
from harness.session import Session
from harness.wait import wait_until

pytestmark = pytest.mark.smoke

IMAGE = BASE.reference
PORT = 8000
SERVER = f"python3 -m http.server --directory /tmp {PORT}"
FETCH = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=3).status)"
LOOKUP = "import socket, sys; print(socket.gethostbyname(sys.argv[1]))"
DISK = "import json, os; s = os.statvfs('/data'); print(json.dumps([s.f_frsize * s.f_blocks, s.f_frsize * s.f_bavail]))"


def pod(name: str, *, node: str = "", claim: str = "") -> dict[str, Any]:
    """A pod with Python in it, as strictly confined as the product's."""
    confined = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    mounts = [{"name": "tmp", "mountPath": "/tmp"}]
    volumes: list[dict[str, Any]] = [{"name": "tmp", "emptyDir": {}}]
    if claim:
        mounts.append({"name": "data", "mountPath": "/data"})
        volumes.append({"name": "data", "persistentVolumeClaim": {"claimName": claim}})
    container = {
        "name": "main",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": SERVER.split(),
        "ports": [{"name": "http", "containerPort": PORT}],
        "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1},
        "securityContext": confined,
        "volumeMounts": mounts,
    }
    spec: dict[str, Any] = {
        "terminationGracePeriodSeconds": 0,
        "securityContext": {"fsGroup": 10001},
        "containers": [container],
        "volumes": volumes,
    }
    if node:
        spec["nodeSelector"] = {"kubernetes.io/hostname": node}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec}


def claim(name: str, size: str) -> dict[str, Any]:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def service(name: str, *, app: str) -> dict[str, Any]:
    spec = {"selector": {"app": app}, "ports": [{"port": 80, "targetPort": "http"}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def python(kubectl: Kubectl, pod_name: str, program: str, *arguments: str) -> str:
    return kubectl.exec(pod_name, "python3", "-c", program, *arguments, timeout=60).strip()


def disk(kubectl: Kubectl, pod_name: str) -> tuple[int, int]:
    """Total and free bytes of /data."""
    total, free = json.loads(python(kubectl, pod_name, DISK))
    return total, free


def test_machines_are_in_three_zones(cluster: Session) -> None:
    assert sorted(cluster.zone(node) for node in cluster.nodes()) == ["a", "b", "c"]


def test_a_claim_gets_a_volume_of_its_size_that_grows_under_the_pod(kubectl: Kubectl) -> None:
    kubectl.apply(claim("disk", "400Mi"), pod("keeper", claim="disk"))
    wait_pods_ready(kubectl, "app=keeper", 1)
    before, free = disk(kubectl, "keeper")
    assert 300 * MEBIBYTE < before <= 400 * MEBIBYTE
    write = (
        "import sys; f = open('/data/x', 'wb'); f.write(bytes(64 << 20)); f.flush(); import os; os.fsync(f.fileno())"
    )
    python(kubectl, "keeper", write)
    assert free - disk(kubectl, "keeper")[1] >= 60 * MEBIBYTE, "what is written must be missing from the free space"

    kubectl.patch("pvc", "disk", {"spec": {"resources": {"requests": {"storage": "700Mi"}}}})

    wait_until(lambda: disk(kubectl, "keeper")[0] >= before + 290 * MEBIBYTE, "pvc grown")
    wait_until(
        lambda: parse(kubectl.get("pvc", "disk")["status"]["capacity"]["storage"]) == 700 * MEBIBYTE, "pvc grown"
    )
    restarts = kubectl.get("pod", "keeper")["status"]["containerStatuses"][0]["restartCount"]
    assert restarts == 0


def test_a_claim_keeps_its_data_for_the_next_pod_and_its_volume_goes_with_it(kubectl: Kubectl) -> None:
    kubectl.apply(claim("kept", "300Mi"), pod("first", claim="kept"))
    wait_pods_ready(kubectl, "app=first", 1)
    python(kubectl, "first", "open('/data/word', 'w').write('still here')")
    node = kubectl.get("pod", "first")["spec"]["nodeName"]
    kubectl.delete("pod", "first", wait=True)
    kubectl.apply(pod("second", claim="kept"))
    wait_pods_ready(kubectl, "app=second", 1)
    assert kubectl.get("pod", "second")["spec"]["nodeName"] == node
    assert python(kubectl, "second", "print(open('/data/word').read())") == "still here"

    volume = kubectl.get("pvc", "kept")["spec"]["volumeName"]
    kubectl.delete("pod", "second", wait=True)
    kubectl.delete("pvc", "kept")
    wait_until(lambda: not kubectl.exists("pv", volume), "pvc deleted")


def test_a_network_policy_blocks_and_unblocks(cluster: Session, kubectl: Kubectl) -> None:
    first, second, _ = cluster.nodes()
    kubectl.apply(pod("server", node=first))
    kubectl.apply(pod("near", node=first), pod("far", node=second))
    for name in ("server", "near", "far"):
        wait_pods_ready(kubectl, f"app={name}", 1)
    address = kubectl.get("pod", "server")["status"]["podIP"]

    def reaches(source: str) -> bool:
        try:
            return python(kubectl, source, FETCH, f"http://{address}:{PORT}/") == "200"
        except HarnessError:
            return False

    wait_until(lambda: reaches("near") and reaches("far"), "connection")
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "only-far"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "server"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "far"}}}], "ports": [{"port": "http"}]}],
        },
    }
    kubectl.apply(policy)
    wait_until(lambda: not reaches("near"), "policy effective", because="a pod on the same machine must be kept out")
    wait_until(lambda: reaches("far"), "policy effective", because="the pod the policy names must be let in")
    wait_until(lambda: node_ready(cluster.kubectl, first), "node ready")
    wait_pods_ready(kubectl, "app=server", 1)  # the kubelet's probes are not traffic of a pod

    kubectl.patch("networkpolicy", "only-far", {"spec": {"policyTypes": ["Egress"], "egress": [], "ingress": []}})
    wait_until(lambda: reaches("near"), "policy effective", because="ingress is free again")

    kubectl.patch("networkpolicy", "only-far", {"spec": {"podSelector": {"matchLabels": {"app": "far"}}}})
    wait_until(lambda: not reaches("far"), "policy effective", because="its egress is forbidden")
    kubectl.delete("networkpolicy", "only-far")
    wait_until(lambda: reaches("far"), "policy effective", because="no policy is left")


def test_services_answer_by_name_in_pods_and_by_address_in_the_suite(cluster: Session, kubectl: Kubectl) -> None:
    namespace = kubectl.namespace
    kubectl.apply(pod("named"), service("front", app="named"))
    wait_pods_ready(kubectl, "app=named", 1)
    address = cluster.service_address(namespace, "front")
    resolved = wait_until(
        lambda: python(kubectl, "named", LOOKUP, f"front.{namespace}.svc.cluster.local"), "dns resolves"
    )
    assert resolved == address
    # Ready in the API is a moment before ready in every machine's forwarding rules.
    wait_until(lambda: python(kubectl, "named", FETCH, "http://front/") == "200", "service answers")
    status, _, _ = wait_until(lambda: request("GET", f"http://{address}/"), "service answers")
    assert status == 200


@pytest.mark.disruptive
def test_a_machine_that_is_cut_off_is_not_ready_until_it_is_back(cluster: Session, faults: Faults) -> None:
    victim = cluster.nodes()[-1]
    faults.cut(victim)
    wait_until(lambda: not node_ready(cluster.kubectl, victim), "node not ready")
    others = [node for node in cluster.nodes() if node != victim]
    wait_until(lambda: all(node_ready(cluster.kubectl, node) for node in others), "node ready", because="of the others")
    assert not node_ready(cluster.kubectl, victim)
    faults.heal(victim)
    wait_until(lambda: node_ready(cluster.kubectl, victim), "node ready")


@pytest.mark.disruptive
def test_a_machine_that_died_boots_with_its_disks(cluster: Session, kubectl: Kubectl, faults: Faults) -> None:
    victim = cluster.nodes()[-1]
    kubectl.apply(claim("survivor", "300Mi"), pod("resident", claim="survivor", node=victim))
    wait_pods_ready(kubectl, "app=resident", 1)
    python(
        kubectl, "resident", "import os; f = open('/data/word', 'w'); f.write('kept'); f.flush(); os.fsync(f.fileno())"
    )

    faults.kill(victim)
    wait_until(lambda: not node_ready(cluster.kubectl, victim), "node not ready")
    assert cluster.kubectl.exists("node", victim)

    faults.start(victim)
    wait_until(lambda: node_ready(cluster.kubectl, victim), "node ready")
    kubectl.delete("pod", "resident", wait=True)
    kubectl.apply(pod("resident", claim="survivor", node=victim))
    wait_pods_ready(kubectl, "app=resident", 1)
    assert python(kubectl, "resident", "print(open('/data/word').read())") == "kept"


@pytest.mark.disruptive
def test_a_disk_that_failed_answers_with_errors_and_a_rotten_file_differs(kubectl: Kubectl, faults: Faults) -> None:
    kubectl.apply(claim("bad", "300Mi"), pod("reader", claim="bad"))
    wait_pods_ready(kubectl, "app=reader", 1)
    python(kubectl, "reader", "open('/data/file', 'w').write('x' * 1000)")

    faults.corrupt_file(kubectl.namespace, "bad", "file", offset=100)
    content = python(kubectl, "reader", "print(open('/data/file', 'rb').read().hex())")
    assert [index for index, byte in enumerate(bytes.fromhex(content)) if byte != ord("x")] == list(range(100, 116))

    faults.break_volume(kubectl.namespace, "bad")
    with pytest.raises(HarnessError, match="Input/output error"):
        python(kubectl, "reader", "print(open('/data/file', 'rb').read())")
