"""The immutable picture of the cluster that both halves of the tracker decide from: what the database says (hosts, devices, domains,
classes) joined with what the monitor last observed.

A `Topology` is never changed, only replaced: a command or a job takes one snapshot and sees one consistent cluster. It is rebuilt a few
times a minute (database) and once per monitor round (observations), so look-ups are precomputed and cheap, building is not optimised.
Pure: no I/O, no clock, no randomness.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from mogile_core.model import (
    DEFAULT_CLASS,
    DEFAULT_CLASS_ID,
    ClassId,
    Device,
    DeviceState,
    DevId,
    Domain,
    DomainId,
    FileClass,
    Host,
    HostId,
    HostState,
    Observed,
)

MIN_FREE_SPACE_MB_DEFAULT = 100
DEFAULT_WEIGHT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What the monitor last saw of one device."""

    devid: DevId
    state: Observed = Observed.UNKNOWN
    utilization: float | None = None  # percent busy
    reject_bad_md5: bool | None = None
    cluster_ok: bool = True  # False: the node says it belongs to another cluster or devid
    mb_total: int | None = None
    mb_used: int | None = None
    damaged: int = 0  # copies in quarantine that nobody has replaced yet
    measurements: int = 0  # how often its usage was measured anew since the monitor began


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    """One monitor round. `rounds` counts complete rounds; 0 means none yet."""

    rounds: int = 0
    devices: Mapping[DevId, Observation] = field(default_factory=dict)
    unreachable_hosts: frozenset[HostId] = frozenset()

    def to_json(self) -> str:
        """One line, for the pipe to the server processes."""
        rows = [
            [
                o.devid,
                o.state.value,
                o.utilization,
                o.reject_bad_md5,
                o.cluster_ok,
                o.mb_total,
                o.mb_used,
                o.damaged,
                o.measurements,
            ]
            for o in self.devices.values()
        ]
        return json.dumps({"rounds": self.rounds, "unreachable": sorted(self.unreachable_hosts), "devices": rows})

    @classmethod
    def from_json(cls, text: str) -> Observations:
        """The inverse of `to_json`."""
        data = json.loads(text)
        devices = {
            DevId(row[0]): Observation(
                devid=DevId(row[0]),
                state=Observed(row[1]),
                utilization=row[2],
                reject_bad_md5=row[3],
                cluster_ok=row[4],
                mb_total=row[5],
                mb_used=row[6],
                damaged=row[7],
                measurements=row[8],
            )
            for row in data["devices"]
        }
        return cls(
            rounds=data["rounds"], devices=devices, unreachable_hosts=frozenset(map(HostId, data["unreachable"]))
        )


NO_OBSERVATIONS = Observations()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How reads treat one device."""

    host: Host
    readable: bool
    last_resort: bool  # offered alone when nothing is readable
    draining: bool
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteRule:
    """On how many machines an upload of a class is before it is acknowledged; `degraded`: on fewer where there are no more."""

    copies: int
    degraded: bool = False


class Topology:
    """One snapshot. Build with `build`; treat everything as read-only."""

    __slots__ = (
        "_class_by_id",
        "_class_by_name",
        "_reading",
        "classes",
        "cluster_id",
        "default_mindevcount",
        "devices",
        "domains",
        "domains_by_id",
        "hosts",
        "hosts_by_name",
        "min_free_space_mb",
        "observations",
        "our_settings",
        "settings",
        "write_rules",
    )

    def __init__(  # noqa: PLR0913 - the parts of the picture, all by name
        self,
        *,
        cluster_id: str = "",
        hosts: Iterable[Host] = (),
        devices: Iterable[Device] = (),
        domains: Iterable[Domain] = (),
        classes: Iterable[FileClass] = (),
        settings: Mapping[str, str] | None = None,
        our_settings: Mapping[str, str] | None = None,
        write_rules: Mapping[tuple[int, int], WriteRule] | None = None,
        observations: Observations = NO_OBSERVATIONS,
        min_free_space_mb: int = MIN_FREE_SPACE_MB_DEFAULT,
        default_mindevcount: int = 2,
    ) -> None:
        self.cluster_id = cluster_id
        self.observations = observations
        self.settings: Mapping[str, str] = dict(settings or {})
        self.our_settings: Mapping[str, str] = dict(our_settings or {})
        self.write_rules: Mapping[tuple[int, int], WriteRule] = dict(write_rules or {})
        self.min_free_space_mb = min_free_space_mb
        self.default_mindevcount = default_mindevcount
        self.hosts: Mapping[HostId, Host] = {h.hostid: h for h in sorted(hosts, key=lambda h: h.hostid)}
        self.hosts_by_name: Mapping[str, Host] = {h.hostname: h for h in self.hosts.values()}
        self.devices: Mapping[DevId, Device] = {
            d.devid: _with_fresh_space(d, observations) for d in sorted(devices, key=lambda d: d.devid)
        }
        self.domains: Mapping[str, Domain] = {d.name: d for d in sorted(domains, key=lambda d: d.dmid)}
        self.domains_by_id: Mapping[DomainId, Domain] = {d.dmid: d for d in self.domains.values()}
        self.classes: tuple[FileClass, ...] = tuple(sorted(classes, key=lambda c: (c.dmid, c.classid)))
        self._reading: dict[int, Reading] = {}
        self._class_by_name = {(c.dmid, c.name): c for c in self._with_defaults()}
        self._class_by_id = {(c.dmid, c.classid): c for c in self._class_by_name.values()}

    def _with_defaults(self) -> list[FileClass]:
        """Class 0 exists in every domain, with or without a row."""
        rows = {(c.dmid, c.classid): c for c in self.classes}
        for dmid in self.domains_by_id:
            rows.setdefault(
                (dmid, DEFAULT_CLASS_ID),
                FileClass(
                    dmid=dmid, classid=DEFAULT_CLASS_ID, name=DEFAULT_CLASS, mindevcount=self.default_mindevcount
                ),
            )
        return list(rows.values())

    def with_observations(self, observations: Observations) -> Topology:
        """The same cluster, seen again."""
        return Topology(
            cluster_id=self.cluster_id,
            hosts=self.hosts.values(),
            devices=self.devices.values(),
            domains=self.domains.values(),
            classes=self.classes,
            settings=self.settings,
            our_settings=self.our_settings,
            write_rules=self.write_rules,
            observations=observations,
            min_free_space_mb=self.min_free_space_mb,
            default_mindevcount=self.default_mindevcount,
        )

    # ---- look-ups

    def host_of(self, devid: int) -> Host | None:
        """The host a device is on; None for unknown devices and hosts."""
        device = self.devices.get(DevId(devid))
        return self.hosts.get(device.hostid) if device is not None else None

    def zone_of(self, devid: int) -> str | None:
        """The zone of a device's host, where known."""
        host = self.host_of(devid)
        return host.zone if host is not None else None

    def devices_of(self, hostid: int) -> list[Device]:
        """The devices of a host."""
        return [d for d in self.devices.values() if d.hostid == hostid]

    def class_named(self, dmid: int, name: str) -> FileClass | None:
        """A class of a domain by name; `default` always exists; '' means default."""
        return self._class_by_name.get((DomainId(dmid), name or DEFAULT_CLASS))

    def class_by_id(self, dmid: int, classid: int) -> FileClass:
        """A class by id; a row whose class was deleted falls back to the domain's default class."""
        found = self._class_by_id.get((DomainId(dmid), ClassId(classid)))
        if found is not None:
            return found
        return self._class_by_id.get((DomainId(dmid), DEFAULT_CLASS_ID)) or FileClass(
            dmid=DomainId(dmid), classid=DEFAULT_CLASS_ID, name=DEFAULT_CLASS, mindevcount=self.default_mindevcount
        )

    def classes_of(self, dmid: int) -> list[FileClass]:
        """All classes of a domain, `default` first, then by name."""
        mine = [c for c in self._class_by_name.values() if c.dmid == dmid]
        return sorted(mine, key=lambda c: (c.classid != DEFAULT_CLASS_ID, c.name))

    def reading(self, devid: int) -> Reading | None:
        """How reads treat a device; None when it is unknown. Computed once per snapshot: get_paths asks for every copy."""
        known = self._reading.get(devid)
        if known is None:
            device, host = self.devices.get(DevId(devid)), self.host_of(devid)
            if device is None or host is None:
                return None
            busy = self.observation(devid).utilization
            known = self._reading[devid] = Reading(
                host=host,
                readable=self.readable(devid),
                last_resort=device.status is not DeviceState.DEAD and self.observation(devid).cluster_ok,
                draining=device.status is DeviceState.DRAIN,
                weight=max(float(device.weight or DEFAULT_WEIGHT) if busy is None else 102 - min(busy, 100.0), 1e-3),
            )
        return known

    # ---- predicates (facts: states)

    def observation(self, devid: int) -> Observation:
        """What was last seen of a device."""
        return self.observations.devices.get(DevId(devid)) or Observation(devid=DevId(devid))

    def observed(self, devid: int) -> Observed:
        """Observed state; a device of another cluster counts as unreachable."""
        seen = self.observations.devices.get(DevId(devid))
        if seen is None:
            return Observed.UNKNOWN
        return seen.state if seen.cluster_ok else Observed.UNREACHABLE

    def host_reachable(self, hostid: int) -> bool:
        """False once the monitor found the whole host gone."""
        return HostId(hostid) not in self.observations.unreachable_hosts

    def readable(self, devid: int) -> bool:
        """A copy here can be read right now."""
        device, host = self.devices.get(DevId(devid)), self.host_of(devid)
        if device is None or host is None:
            return False
        return (
            host.status in (HostState.ALIVE, HostState.READONLY)
            and device.status.may_read
            and self.observed(devid) in (Observed.READABLE, Observed.WRITEABLE)
            and self.host_reachable(host.hostid)
        )

    def deletable(self, devid: int) -> bool:
        """The states allow deleting a copy here (not whether the node answers: see `writeable`)."""
        device, host = self.devices.get(DevId(devid)), self.host_of(devid)
        return device is not None and host is not None and host.status is HostState.ALIVE and device.status.may_delete

    def writeable(self, devid: int) -> bool:
        """The monitor's write test succeeded and the host answers."""
        host = self.host_of(devid)
        return host is not None and self.host_reachable(host.hostid) and self.observed(devid) is Observed.WRITEABLE

    def fit_for_new_files(self, devid: int) -> bool:
        """May take a new file right now."""
        device, host = self.devices.get(DevId(devid)), self.host_of(devid)
        if device is None or host is None or device.out:
            return False
        return (
            device.status.may_write
            and host.status is HostState.ALIVE
            and self.writeable(devid)
            and (device.mb_free is None or device.mb_free >= self.min_free_space_mb)
        )

    def counts_as_copy(self, devid: int) -> bool:
        """A copy here counts for the replication policy: known, neither dead nor out."""
        device = self.devices.get(DevId(devid))
        return device is not None and device.status.counts_as_copy and not device.out

    def should_be_monitored(self, devid: int) -> bool:
        """Host and device states allow reading."""
        device, host = self.devices.get(DevId(devid)), self.host_of(devid)
        return (
            device is not None
            and host is not None
            and host.status in (HostState.ALIVE, HostState.READONLY)
            and device.status.may_read
        )


def _with_fresh_space(device: Device, observations: Observations) -> Device:
    """The monitor's figures are newer than the row's."""
    seen = observations.devices.get(device.devid)
    if seen is None or seen.mb_total is None or seen.mb_used is None:
        return device
    return replace(device, mb_total=seen.mb_total, mb_used=seen.mb_used)
