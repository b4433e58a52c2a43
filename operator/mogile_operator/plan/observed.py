"""The immutable snapshot that one pass works on, and the readers that turn raw answers into its values.

Everything a decision may depend on is in here; nothing is looked up later. Readers are tolerant of missing fields, because what
they read was written by others and may be newer or half-made.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mogile_operator import labels, naming
from mogile_operator.api.v1alpha1 import Domain, FileClass, StorageCluster

Obj = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A PersistentVolumeClaim of a storage node."""

    name: str
    uid: str
    node: str
    devid: int | None
    volume_id: str | None
    retired: str | None
    out_since: datetime | None
    draining: datetime | None
    lost_confirmed: bool
    phase: str
    volume: str
    deleting: bool
    pinned_to: str | None
    """Machine that the bound volume cannot leave; known only when somebody needed to know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod of the cluster."""

    name: str
    uid: str
    component: str
    node: str
    machine: str
    address: str
    ready: bool
    deleting: bool
    revision: str
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A Kubernetes node."""

    name: str
    labels: Mapping[str, str]
    ready: bool
    not_ready_since: datetime | None
    unschedulable: bool
    taints: tuple[tuple[str, str, str], ...]
    """(key, value, effect)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReport:
    """What a storage node says of one of its devices."""

    devid: int
    state: str
    cluster_id: str
    volume_id: str
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRow:
    """A host in the tracker."""

    hostid: int
    name: str
    status: str
    address: str
    port: int
    get_port: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRow:
    """A device in the tracker."""

    devid: int
    hostid: int
    state: str
    observed: str
    out: bool
    zone: str
    files: int
    mb_total: int
    mb_used: int
    no_copy: int | None = None
    """Files with a location here and no live copy anywhere; None when the tracker does not count them by device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """Counts over all files."""

    files: int
    bytes: int
    to_replicate: int
    fewer_copies: int
    one_copy: int
    no_copy: int
    zone_violations: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """The rebalancer's settings and state."""

    mode: str
    spread: int
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRow:
    """A class in the tracker."""

    mindevcount: int
    replpolicy: str
    hashtype: str
    write_copies: int = 1
    degraded_writes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackerView:
    """Everything read from a tracker in one visit."""

    cluster_id: str
    hosts: Mapping[str, HostRow]
    devices: tuple[DeviceRow, ...]
    zones: Mapping[str, str]
    """Host name to zone."""
    census: Census | None
    balance: Balance | None
    domains: Mapping[str, Mapping[str, ClassRow]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """One look at everything."""

    now: datetime
    cluster: StorageCluster
    objects: Mapping[tuple[str, str], Obj]
    """Live children by (kind, name); claims and pods are in their own fields as well."""
    claims: tuple[Claim, ...] = ()
    pods: tuple[Pod, ...] = ()
    machines: Mapping[str, Machine]
    tracker: TrackerView | None
    tracker_problem: str = ""
    reports: Mapping[str, tuple[DeviceReport, ...]]
    """Storage node name to its devices, for the nodes that answered."""
    domains: tuple[Domain, ...] = ()
    classes: tuple[FileClass, ...] = ()

    def live(self, kind: str, name: str) -> Obj | None:
        """A live child."""
        return self.objects.get((kind, name))


def parse_time(text: str | None) -> datetime | None:
    """RFC 3339 to an aware datetime; None for what is not one."""
    if not text:
        return None
    try:
        value = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def format_time(value: datetime) -> str:
    """RFC 3339 with seconds, as Kubernetes writes it."""
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_claim(raw: Obj, pinned: Mapping[str, str | None]) -> Claim:
    """A claim; `pinned` maps volume names to machines they cannot leave."""
    meta = raw.get("metadata", {})
    label_set, notes = meta.get("labels", {}) or {}, meta.get("annotations", {}) or {}
    devid = label_set.get(naming.DEVID_LABEL, "")
    volume = raw.get("spec", {}).get("volumeName", "")
    return Claim(
        name=meta["name"],
        uid=meta.get("uid", ""),
        node=label_set.get(labels.NODE, ""),
        devid=int(devid) if devid.isdigit() else None,
        volume_id=notes.get(naming.VOLUME_ID),
        retired=notes.get(naming.RETIRED),
        out_since=parse_time(notes.get(naming.OUT_SINCE)),
        draining=parse_time(notes.get(naming.DRAINING)),
        lost_confirmed=notes.get(naming.DEVICE_LOST) == "confirmed",
        phase=raw.get("status", {}).get("phase", "Pending"),
        volume=volume,
        deleting="deletionTimestamp" in meta,
        pinned_to=pinned.get(volume),
    )


def _condition(raw: Obj, kind: str) -> Obj:
    return next((c for c in raw.get("status", {}).get("conditions", ()) or () if c.get("type") == kind), {})


def _pod_problem(raw: Obj) -> str:
    status = raw.get("status", {})
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        waiting = container.get("state", {}).get("waiting", {})
        if waiting.get("reason") not in {None, "ContainerCreating", "PodInitializing"}:
            return f"{container.get('name')}: {waiting['reason']}"
    scheduled = _condition(raw, "PodScheduled")
    if scheduled.get("status") == "False":
        return str(scheduled.get("message") or scheduled.get("reason") or "not scheduled")[:300]
    return ""


def read_pod(raw: Obj) -> Pod:
    """A pod."""
    meta = raw.get("metadata", {})
    label_set = meta.get("labels", {}) or {}
    return Pod(
        name=meta["name"],
        uid=meta.get("uid", ""),
        component=label_set.get(labels.COMPONENT, ""),
        node=label_set.get(labels.NODE, ""),
        machine=raw.get("spec", {}).get("nodeName", "") or "",
        address=raw.get("status", {}).get("podIP", "") or "",
        ready=_condition(raw, "Ready").get("status") == "True",
        deleting="deletionTimestamp" in meta,
        revision=(meta.get("annotations", {}) or {}).get(naming.REVISION, ""),
        problem=_pod_problem(raw),
    )


def read_machine(raw: Obj) -> Machine:
    """A Kubernetes node."""
    meta, spec = raw.get("metadata", {}), raw.get("spec", {})
    ready = _condition(raw, "Ready")
    is_ready = ready.get("status") == "True"
    return Machine(
        name=meta["name"],
        labels=dict(meta.get("labels", {}) or {}),
        ready=is_ready,
        not_ready_since=None if is_ready else parse_time(ready.get("lastTransitionTime")),
        unschedulable=bool(spec.get("unschedulable")),
        taints=tuple((t.get("key", ""), t.get("value", ""), t.get("effect", "")) for t in spec.get("taints", ()) or ()),
    )
