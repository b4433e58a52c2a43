"""The storage controller: one loop-mounted image per claim, as a local PersistentVolume on the claim's node.

It behaves like an external provisioner that reports every volume with its real size, grows it when the claim asks
for more, and deletes it after the claim when the class says so.  What to do is decided purely from the objects
(:func:`decide`); doing any step twice is harmless.

A machine that is down or cut off does nothing, as a real one: steps on its volumes wait until it is back.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from harness import network, volumes
from harness.addons import PROVISIONER
from harness.api import ApiClient, ApiError, Json
from harness.cluster import LocalCluster
from harness.errors import HarnessError
from harness.informer import Informer
from harness.quantity import mebibytes, parse

SELECTED_NODE = "volume.kubernetes.io/selected-node"
PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
HOSTNAME_LABEL = "kubernetes.io/hostname"
RESYNC_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Provision:
    """Make the volume of a claim on the node its pod was given."""

    volume: str
    node: str
    size: int
    claim: Json
    reclaim: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Grow:
    """Enlarge a volume to what its claim asks for."""

    volume: str
    node: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirm:
    """Tell a claim the size its volume has by now."""

    claim: Json
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Remove:
    """Delete a released volume and its object."""

    volume: str
    node: str


Action = Provision | Grow | Confirm | Remove


def volume_name(claim: Json) -> str:
    return f"pvc-{claim['metadata']['uid']}"


def node_of(volume: Json) -> str:
    """The node a volume of ours is pinned to."""
    term = volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]
    return str(term["matchExpressions"][0]["values"][0])


def decide(claims: Iterable[Json], persistent: Iterable[Json], classes: Iterable[Json]) -> list[Action]:
    """All steps the present objects call for; pure."""
    ours = {
        c["metadata"]["name"]: str(c.get("reclaimPolicy", "Delete")) for c in classes if c["provisioner"] == PROVISIONER
    }
    known = {
        v["metadata"]["name"]: v
        for v in persistent
        if v["metadata"].get("annotations", {}).get(PROVISIONED_BY) == PROVISIONER
    }
    actions: list[Action] = []
    for claim in claims:
        actions += _for_claim(claim, ours, known)
    for name, volume in known.items():
        released = volume.get("status", {}).get("phase") in ("Released", "Failed")
        if released and volume["spec"]["persistentVolumeReclaimPolicy"] == "Delete":
            actions.append(Remove(volume=name, node=node_of(volume)))
    return actions


def _for_claim(claim: Json, classes: Mapping[str, str], known: Mapping[str, Json]) -> list[Action]:
    spec = claim["spec"]
    wanted = volumes.usable_size(parse(spec["resources"]["requests"]["storage"]))
    if not spec.get("volumeName"):
        node = claim["metadata"].get("annotations", {}).get(SELECTED_NODE)
        mine = spec.get("storageClassName") in classes and spec.get("volumeMode", "Filesystem") == "Filesystem"
        going = claim["metadata"].get("deletionTimestamp")
        if not mine or node is None or going or volume_name(claim) in known:
            return []
        reclaim = classes[spec["storageClassName"]]
        return [Provision(volume=volume_name(claim), node=node, size=wanted, claim=claim, reclaim=reclaim)]
    volume = known.get(spec["volumeName"])
    if volume is None or claim.get("status", {}).get("phase") != "Bound":
        return []
    actual = parse(volume["spec"]["capacity"]["storage"])
    if wanted > actual:
        return [Grow(volume=spec["volumeName"], node=node_of(volume), size=wanted)]
    told = claim["status"].get("capacity", {}).get("storage")
    if told is not None and parse(told) < actual:
        return [Confirm(claim=claim, size=actual)]
    return []


def volume_object(action: Provision) -> Json:
    """The PersistentVolume of a claim, bound to it and pinned to its node."""
    claim = action.claim
    meta = claim["metadata"]
    pinned = {"key": HOSTNAME_LABEL, "operator": "In", "values": [action.node]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": action.volume, "annotations": {PROVISIONED_BY: PROVISIONER}},
        "spec": {
            "capacity": {"storage": mebibytes(action.size)},
            "accessModes": claim["spec"]["accessModes"],
            "storageClassName": claim["spec"]["storageClassName"],
            "persistentVolumeReclaimPolicy": action.reclaim,
            "volumeMode": "Filesystem",
            "local": {"path": f"/run/mogile-volumes/{action.volume}"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [pinned]}]}},
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": meta["namespace"],
                "name": meta["name"],
                "uid": meta["uid"],
            },
        },
    }


class Provisioner:
    """Runs decisions against node and API, one after the other."""

    def __init__(self, cluster: LocalCluster, client: ApiClient) -> None:
        self._cluster = cluster
        self._client = client
        self._changed = threading.Event()
        self._claims = Informer(client, "/api/v1/persistentvolumeclaims", self._changed)
        self._volumes = Informer(client, "/api/v1/persistentvolumes", self._changed)
        self._classes = Informer(client, "/apis/storage.k8s.io/v1/storageclasses", self._changed)

    def run(self) -> None:
        """For as long as the process lives."""
        informers = (self._claims, self._volumes, self._classes)
        for informer in informers:
            informer.start()
        for informer in informers:
            informer.synced.wait()
        while True:
            self._changed.wait(timeout=RESYNC_SECONDS)
            self._changed.clear()
            for action in decide(self._claims.objects(), self._volumes.objects(), self._classes.objects()):
                self._attempt(action)

    def _attempt(self, action: Action) -> None:
        """One step; a failure is told and tried again at the next round."""
        what = action.claim["metadata"]["name"] if isinstance(action, Confirm) else action.volume
        try:
            if self._execute(action):
                print(f"{type(action).__name__.lower()} {what}: done", flush=True)
        except (HarnessError, ApiError, OSError) as exc:
            print(f"{type(action).__name__.lower()} {what}: {exc}", file=sys.stderr, flush=True)

    def _execute(self, action: Action) -> bool:
        """Do a step; False when its machine is not there to do it."""
        match action:
            case Confirm(claim=claim, size=size):
                meta = claim["metadata"]
                path = f"/api/v1/namespaces/{meta['namespace']}/persistentvolumeclaims/{meta['name']}/status"
                self._client.patch(path, {"status": {"capacity": {"storage": mebibytes(size)}}})
                return True
            case Remove(volume=volume, node=name):
                node = self._cluster.node(name)
                if node.layout.folder.exists():  # a machine that was removed took its disks along
                    if not self._reachable(name):
                        return False
                    volumes.delete(node, volume)
                self._client.delete(f"/api/v1/persistentvolumes/{volume}")
                return True
        if not self._reachable(action.node):
            return False
        node = self._cluster.node(action.node)
        if isinstance(action, Provision):
            volumes.create(node, action.volume, action.size)
            try:
                self._client.create("/api/v1/persistentvolumes", volume_object(action))
            except ApiError as exc:
                if exc.status != 409:  # made by the attempt before, whose answer was lost
                    raise
        else:
            volumes.grow(node, action.volume, action.size)
            capacity = {"spec": {"capacity": {"storage": mebibytes(action.size)}}}
            self._client.patch(f"/api/v1/persistentvolumes/{action.volume}", capacity)
        return True

    def _reachable(self, name: str) -> bool:
        node = self._cluster.node(name)
        return node.running() and network.cable_is_up(self._cluster.layout, node.layout)
