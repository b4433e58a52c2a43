"""Value types and states of the MogileFS world. Frozen, no I/O.

State names are the words in the database and on the wire; an unknown word raises ValueError at the boundary that read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

from mogile_core.checksum import HashType

Fid = NewType("Fid", int)
DevId = NewType("DevId", int)
HostId = NewType("HostId", int)
DomainId = NewType("DomainId", int)
ClassId = NewType("ClassId", int)

DEFAULT_CLASS = "default"
DEFAULT_CLASS_ID = ClassId(0)
DEFAULT_POLICY = "MultipleHosts()"
KEY_BYTES_MAX = 255  # width of file.dkey
TRACKER_PORT = 7001
TRACKER_HTTP_PORT = 7002
NODE_HTTP_PORT = 7500
NODE_MGMT_PORT = 7501
NODE_HEALTH_PORT = 7502
NODE_GET_PORT = 7580
CLUSTER_HEADER = "X-Mogile-Cluster"


class HostState(StrEnum):
    """Administrative state of a host (facts: states)."""

    ALIVE = "alive"
    READONLY = "readonly"
    DOWN = "down"
    DEAD = "dead"


class DeviceState(StrEnum):
    """Administrative state of a device."""

    ALIVE = "alive"
    READONLY = "readonly"
    DRAIN = "drain"
    DOWN = "down"
    DEAD = "dead"

    @property
    def may_read(self) -> bool:
        return self in _READ_STATES

    @property
    def may_delete(self) -> bool:
        return self in (DeviceState.ALIVE, DeviceState.DRAIN)

    @property
    def may_write(self) -> bool:
        return self is DeviceState.ALIVE

    @property
    def counts_as_copy(self) -> bool:
        return self is not DeviceState.DEAD


_READ_STATES = frozenset({DeviceState.ALIVE, DeviceState.READONLY, DeviceState.DRAIN})


class Observed(StrEnum):
    """What the monitor last saw of a device; UNKNOWN is sent as an empty string."""

    WRITEABLE = "writeable"
    READABLE = "readable"
    UNREACHABLE = "unreachable"
    UNKNOWN = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One row of `host` with its zone (`mogile_host`)."""

    hostid: HostId
    hostname: str
    status: HostState
    hostip: str
    http_port: int = NODE_HTTP_PORT
    http_get_port: int | None = None
    altip: str | None = None
    altmask: str | None = None
    zone: str | None = None

    @property
    def read_port(self) -> int:
        return self.http_get_port or self.http_port


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One row of `device` with our own column `out` (`mogile_device`)."""

    devid: DevId
    hostid: HostId
    status: DeviceState
    weight: int = 100
    mb_total: int | None = None
    mb_used: int | None = None
    mb_asof: int | None = None
    out: bool = False

    @property
    def mb_free(self) -> int | None:
        return None if self.mb_total is None or self.mb_used is None else self.mb_total - self.mb_used

    @property
    def free_fraction(self) -> float:
        """1 - used/total; 0 when unknown (facts 7)."""
        if not self.mb_total or self.mb_used is None:
            return 0.0
        return max(0.0, 1 - self.mb_used / self.mb_total)


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """A namespace of keys."""

    dmid: DomainId
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileClass:
    """How the files of a class are replicated; every domain has class 0, `default`."""

    dmid: DomainId
    classid: ClassId
    name: str
    mindevcount: int
    replpolicy: str | None = None
    hashtype: HashType | None = None

    @property
    def policy(self) -> str:
        return self.replpolicy or DEFAULT_POLICY


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRow:
    """One row of `file`."""

    fid: Fid
    dmid: DomainId
    dkey: str
    length: int
    classid: ClassId
    devcount: int
