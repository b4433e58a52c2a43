"""The product as stories see it: the chart installed as a user would, a StorageCluster, its gateway and its trackers.

Everything goes through public surfaces: helm, kubectl, HTTP and the tracker port.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import yaml

from harness.artifacts import OPERATOR_NAMESPACE
from harness.asserts import is_true
from harness.errors import HarnessError
from harness.faults import Faults
from harness.kubectl import Kubectl
from harness.layout import REPOSITORY
from harness.session import Session
from harness.wait import wait_until
from harness.workload import READ_BYTES, GatewayClient, SampleFile
from mogile_core.client import TrackerClient
from mogile_core.client.values import Census

T = TypeVar("T")
CHART = REPOSITORY / "deploy" / "helm" / "mogile-operator"
QUICKSTART = REPOSITORY / "examples" / "quickstart.yaml"
OPERATOR_SELECTOR = "app.kubernetes.io/name=mogile-operator"
KILL_PAUSE_SECONDS = 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """A copy of a file: device, host and the machine and zone it is really on (from the pod, not from the tracker)."""

    devid: int
    host: str
    machine: str
    zone: str


def install_operator(session: Session) -> None:
    """`helm upgrade --install` of the chart as it stands, and wait for it."""
    name = [
        "upgrade",
        "--install",
        "mogile-operator",
        str(CHART),
        "--namespace",
        OPERATOR_NAMESPACE,
        "--create-namespace",
    ]
    # The tag stays the same whatever is in the images: a new annotation makes the pods start from those loaded last.
    fresh = ["--set-string", f"podAnnotations.harness/installed={secrets.token_hex(4)}"]
    session.helm(*name, *fresh, "--wait", "--timeout", "400s")


class Product:
    """One StorageCluster in one namespace."""

    def __init__(self, session: Session, kubectl: Kubectl, name: str = "demo") -> None:
        self.session = session
        self.kubectl = kubectl
        self.name = name

    def service(self, suffix: str) -> str:
        """Cluster address of one of its Services."""
        return self.session.service_address(self.kubectl.namespace, f"{self.name}-{suffix}")

    def gateway(self, prefix: str = "/files/", secret: str = "demo-upload-token") -> GatewayClient:
        """The gateway, with the token of the example's Secret."""
        data = self.kubectl.get("secret", secret)["data"]["token"]
        return GatewayClient(host=self.service("gateway"), prefix=prefix, token=base64.b64decode(data).decode())

    def wait_ready(self, nodes: int, event: str = "cluster ready") -> dict[str, str]:
        """StorageCluster Ready, all Domains and Classes Ready, and so many storage pods running: these, as `storage_pods` tells."""

        def ready() -> dict[str, str]:
            cluster = self.kubectl.get("storagecluster", self.name)
            observed, generation = (
                cluster.get("status", {}).get("observedGeneration"),
                cluster["metadata"]["generation"],
            )
            assert observed == generation, f"observedGeneration {observed}, generation {generation}"
            assert is_true(cluster, "Ready"), cluster.get("status", {}).get("conditions")
            for item in [*self.kubectl.list("domain"), *self.kubectl.list("class")]:
                assert is_true(item, "Ready"), (item["metadata"]["name"], item.get("status"))
            pods = self.storage_pods()
            assert len(pods) == nodes, sorted(pods)
            return pods

        return wait_until(ready, event)

    def storage_pods(self) -> dict[str, str]:
        """MogileFS host name (the StatefulSet's name) -> machine, of the storage pods that are Ready."""
        pods = self.kubectl.list("pods", "app.kubernetes.io/component=storage")
        return {
            pod["metadata"]["name"].rpartition("-")[0]: pod["spec"]["nodeName"] for pod in pods if is_true(pod, "Ready")
        }

    def ask(self, question: Callable[[TrackerClient], Awaitable[T]]) -> T:
        """Ask the trackers, through their Service."""

        async def run() -> T:
            async with TrackerClient(f"{self.service('tracker')}:7001", rounds=20) as client:
                return await question(client)

        return asyncio.run(run())

    def census(self) -> Census:
        return self.ask(lambda client: client.census())

    def hosts_of(self, domain: str, files: Iterable[SampleFile]) -> dict[str, list[tuple[int, str]]]:
        """Key -> (device, host name) of its copies, as the trackers record them."""

        async def run(client: TrackerClient) -> dict[str, list[tuple[int, str]]]:
            hosts = {host.hostid: host.hostname for host in await client.get_hosts()}
            owner = {device.devid: hosts[device.hostid] for device in await client.get_devices()}
            found = {}
            for file in files:
                info = await client.file_info(domain, file.key, devices=True)
                found[file.key] = [(int(devid), owner[devid]) for devid in info.devids or ()]
            return found

        return self.ask(run)

    def locations(
        self, domain: str, files: Iterable[SampleFile], machines: Mapping[str, str]
    ) -> dict[str, list[Location]]:
        """Key -> copies. `machines`: host name -> machine, as it was while its pod ran."""
        zones = {machine: self.session.zone(machine) for machine in set(machines.values())}
        return {
            key: [
                Location(devid=devid, host=host, machine=machines[host], zone=zones[machines[host]])
                for devid, host in copies
            ]
            for key, copies in self.hosts_of(domain, files).items()
        }

    def read_by_pymogilefs(self, domain: str) -> Callable[[str], tuple[int, str]]:
        """A reader for `workload.differences`: the unmodified PyPI client."""
        from pymogilefs.client import Client

        client = Client(trackers=[f"{self.service('tracker')}:7001"], domain=domain)

        def read(key: str) -> tuple[int, str]:
            stream, digest, length = client.get_file(key), hashlib.sha256(), 0
            try:
                while block := stream.read(READ_BYTES):
                    digest.update(block)
                    length += len(block)
            finally:
                stream.close()
            return length, digest.hexdigest()

        return read

    def used_percent(self) -> dict[int, float]:
        """Used space per device in percent, as the trackers measured it."""
        devices = self.ask(lambda client: client.get_devices())
        return {
            device.devid: 100 * device.mb_used / device.mb_total
            for device in devices
            if device.mb_total and device.mb_used is not None
        }

    def database_machine(self) -> str:
        """The machine PostgreSQL runs on."""
        (pod,) = self.kubectl.list("pods", "app.kubernetes.io/component=postgres")
        return str(pod["spec"]["nodeName"])


class OperatorKiller:
    """Kills the operator's processes with SIGKILL every few seconds, in a thread of its own."""

    def __init__(self, session: Session, faults: Faults) -> None:
        self._kubectl = session.kubectl.within(OPERATOR_NAMESPACE)
        self._faults = faults
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="operator killer")
        self.kills = 0
        self.problem: BaseException | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(KILL_PAUSE_SECONDS):
            try:
                for pod in self._kubectl.list("pods", OPERATOR_SELECTOR):
                    if self._faults.kill_pod(OPERATOR_NAMESPACE, pod["metadata"]["name"]):
                        self.kills += 1
            except HarnessError as problem:  # a machine that is gone, an API server that is busy: the next round tells
                self.problem = problem


@contextmanager
def operator_killed_throughout(session: Session, faults: Faults, *, at_least: int = 10) -> Iterator[OperatorKiller]:
    """Kill the operator every few seconds while the block runs, and go on until it was killed `at_least` times."""
    killer = OperatorKiller(session, faults)
    killer.start()
    try:
        yield killer
        wait_until(lambda: killer.kills >= at_least, "operator killed", because=f"last problem: {killer.problem}")
    finally:
        killer.stop()


def with_nodes(path: Path, nodes: int) -> str:
    """An example with another number of storage nodes in its first pool."""
    documents = [document for document in yaml.safe_load_all(path.read_text()) if document]
    for document in documents:
        if document["kind"] == "StorageCluster":
            document["spec"]["storage"]["pools"][0]["nodes"] = nodes
    return yaml.safe_dump_all(documents)
