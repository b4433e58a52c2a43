"""The harness's controllers in one supervised process: volumes and network policies.

A controller that fails is told in the log and started again after a pause; the process ends only by a signal.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable

from harness import netpol
from harness.api import ApiClient
from harness.cluster import LocalCluster
from harness.errors import HarnessError
from harness.informer import Informer
from harness.layout import ClusterLayout, NodeLayout
from harness.proc import in_netns, run
from harness.provisioner import Provisioner
from harness.tools import build_all

RESTART_PAUSE_SECONDS = 1.0
SETTLE_SECONDS = 0.05
RESYNC_SECONDS = 10.0


class PolicyEnforcer:
    """Keeps one nftables ruleset per node equal to what the present policies mean."""

    def __init__(self, layout: ClusterLayout, client: ApiClient) -> None:
        self._layout = layout
        self._changed = threading.Event()
        self._pods = Informer(client, "/api/v1/pods", self._changed)
        self._namespaces = Informer(client, "/api/v1/namespaces", self._changed)
        self._policies = Informer(client, "/apis/networking.k8s.io/v1/networkpolicies", self._changed)
        self._loaded: dict[str, str] = {}

    def run(self) -> None:
        """For as long as the process lives; bursts of changes become one load."""
        informers = (self._pods, self._namespaces, self._policies)
        for informer in informers:
            informer.start()
        for informer in informers:
            informer.synced.wait()
        while True:
            self._changed.wait(timeout=RESYNC_SECONDS)
            time.sleep(SETTLE_SECONDS)
            self._changed.clear()
            world = netpol.World.parse(self._pods.objects(), self._namespaces.objects(), self._policies.objects())
            for node in self._layout.nodes:
                self._load(node, netpol.ruleset(world, node.name))

    def _load(self, node: NodeLayout, text: str) -> None:
        if self._loaded.get(node.name) == text:
            return
        try:
            run(*in_netns(node.netns, "nft", "-f", "-"), stdin=text)
        except HarnessError as exc:
            print(f"policies of {node.name}: {exc}\n{text}", file=sys.stderr, flush=True)
        else:
            self._loaded[node.name] = text


def run_controllers(layout: ClusterLayout) -> None:
    """Run both until the process is killed."""
    client = ApiClient.from_layout(layout)
    cluster = LocalCluster(layout, build_all())
    loops: dict[str, Callable[[], None]] = {
        "volumes": lambda: Provisioner(cluster, client).run(),
        "policies": lambda: PolicyEnforcer(layout, client).run(),
    }
    threads = [threading.Thread(target=_supervise, args=item, name=item[0]) for item in loops.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _supervise(name: str, loop: Callable[[], None]) -> None:
    while True:
        try:
            loop()
        except Exception:  # whatever it was: told, and tried again
            traceback.print_exc()
        print(f"{name}: starting again", file=sys.stderr, flush=True)
        time.sleep(RESTART_PAUSE_SECONDS)
