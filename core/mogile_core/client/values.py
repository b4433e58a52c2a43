"""What the client returns: answers of the tracker as typed values. Text is text of people (UTF-8), not wire text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mogile_core.checksum import Checksum, HashType
from mogile_core.errors import ProtocolError
from mogile_core.model import DeviceState, DevId, Fid, Host, HostId, HostState, Observed
from mogile_core.wire import to_text

Pairs = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassInfo:
    """A class of a domain."""

    name: str
    mindevcount: int
    replpolicy: str
    hashtype: HashType | None
    write_copies: int | None = None  # None: only `mogile_domains` tells
    degraded_writes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingInfo:
    """A setting of the cluster that can be changed at run time."""

    name: str
    value: str
    default: str
    help: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteRule:
    """On how many machines an upload of a class is before it is acknowledged; `degraded`: on fewer where there are no more."""

    copies: int
    degraded: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainInfo:
    """A domain with all its classes (`default` is always among them)."""

    name: str
    classes: tuple[ClassInfo, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceInfo:
    """A device as `get_devices` (and, with the last fields, `mogile_devices`) shows it."""

    devid: DevId
    hostid: HostId
    status: DeviceState
    weight: int
    mb_total: int | None
    mb_used: int | None
    mb_free: int | None
    observed: Observed
    utilization: float | None
    out: bool = False
    zone: str | None = None
    files: int | None = None
    cluster_ok: bool = True
    damaged: int = 0  # copies in quarantine that wait to be replaced


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where an opened file may be written."""

    devid: DevId
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedFile:
    """The answer of create_open."""

    fid: Fid
    destinations: tuple[Destination, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileInfo:
    """The answer of file_info."""

    fid: Fid
    domain: str
    key: str
    class_name: str
    length: int
    devcount: int
    checksum: Checksum | None
    devids: tuple[DevId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPage:
    """One page of list_keys; `next_after` is empty on the last known page."""

    keys: tuple[str, ...]
    next_after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterInfo:
    """Who the cluster is."""

    cluster_id: str
    version: str
    schema_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceInfo:
    """The answer of mogile_balance."""

    mode: str
    spread: float
    state: str
    queued: int
    moved_fids: int
    moved_bytes: int
    current_spread: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CensusDevice:
    """One device in the census."""

    devid: DevId
    files: int
    bytes: int
    state: DeviceState
    out: bool
    observed: Observed
    no_copy: int | None = (
        None  # files with a location here and no live copy anywhere; None: an older tracker does not tell
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CensusClass:
    """Files of one class."""

    domain: str
    name: str
    files: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CensusShort:
    """Files of one class that have fewer live copies than it wants: `copies` are left."""

    domain: str
    name: str
    copies: int
    files: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """Counts over the whole cluster: the answer of mogile_census. `complete` is False until a large store has been counted once."""

    files: int
    bytes: int
    to_replicate: int
    to_delete: int
    fewer_copies: int
    one_copy: int
    no_copy: int
    zone_violations: int
    devices: tuple[CensusDevice, ...]
    counted_at: int = 0
    complete: bool = True
    classes: tuple[CensusClass, ...] = ()  # with detail only, like shorts
    shorts: tuple[CensusShort, ...] = ()


def need(pairs: Pairs, name: str) -> str:
    """A pair that must be there."""
    try:
        return pairs[name]
    except KeyError as error:
        raise ProtocolError(f"the tracker's answer lacks {name!r}") from error


def number(pairs: Pairs, name: str) -> int:
    """A whole number that must be there."""
    value = need(pairs, name)
    try:
        return int(value)
    except ValueError as error:
        raise ProtocolError(f"the tracker's answer has {name}={value!r}, expected a number") from error


def number_or_none(pairs: Pairs, name: str) -> int | None:
    """A whole number, None when missing or empty."""
    return number(pairs, name) if pairs.get(name) else None


def float_or_none(pairs: Pairs, name: str) -> float | None:
    """A number, None when missing or empty or no number."""
    try:
        return float(pairs[name]) if pairs.get(name) else None
    except ValueError:
        return None


def rows(pairs: Pairs, count: str, form: str, *, optional: bool = False) -> list[str]:
    """What the names of each row begin with: `host1_`, `host2_`, ... for `host{}_`, as many as the pair `count` says."""
    many = (number_or_none(pairs, count) or 0) if optional else number(pairs, count)
    return [form.format(i) for i in range(1, many + 1)]


def domains(pairs: Pairs) -> list[DomainInfo]:
    """get_domains and mogile_domains."""
    result = []
    for domain in rows(pairs, "domains", "domain{}"):
        classes = []
        for prefix in rows(pairs, f"{domain}classes", f"{domain}class{{}}"):
            hashtype = pairs.get(f"{prefix}hashtype", "NONE")
            classes.append(
                ClassInfo(
                    name=to_text(need(pairs, f"{prefix}name")),
                    mindevcount=number(pairs, f"{prefix}mindevcount"),
                    replpolicy=pairs.get(f"{prefix}replpolicy", ""),
                    hashtype=None if hashtype in ("NONE", "") else HashType.from_wire(hashtype),
                    write_copies=number_or_none(pairs, f"{prefix}write_copies"),
                    degraded_writes=pairs.get(f"{prefix}degraded_writes") == "1",
                )
            )
        result.append(DomainInfo(name=to_text(need(pairs, domain)), classes=tuple(classes)))
    return result


def settings(pairs: Pairs) -> list[SettingInfo]:
    """mogile_setting."""
    names = ("name", "value", "default", "help")
    return [
        SettingInfo(**{name: pairs.get(f"{p}{name}", "") for name in names})
        for p in rows(pairs, "settings", "setting_{}_")
    ]


def hosts(pairs: Pairs) -> list[Host]:
    """get_hosts."""
    return [
        Host(
            hostid=HostId(number(pairs, f"{prefix}hostid")),
            hostname=to_text(need(pairs, f"{prefix}hostname")),
            status=HostState(need(pairs, f"{prefix}status")),
            hostip=need(pairs, f"{prefix}hostip"),
            http_port=number(pairs, f"{prefix}http_port"),
            http_get_port=number_or_none(pairs, f"{prefix}http_get_port"),
            altip=pairs.get(f"{prefix}altip") or None,
            altmask=pairs.get(f"{prefix}altmask") or None,
            zone=to_text(pairs.get(f"{prefix}zone", "")) or None,
        )
        for prefix in rows(pairs, "hosts", "host{}_")
    ]


def devices(pairs: Pairs) -> list[DeviceInfo]:
    """get_devices and mogile_devices."""
    return [
        DeviceInfo(
            devid=DevId(number(pairs, f"{p}devid")),
            hostid=HostId(number(pairs, f"{p}hostid")),
            status=DeviceState(need(pairs, f"{p}status")),
            weight=number_or_none(pairs, f"{p}weight") or 0,
            mb_total=number_or_none(pairs, f"{p}mb_total"),
            mb_used=number_or_none(pairs, f"{p}mb_used"),
            mb_free=number_or_none(pairs, f"{p}mb_free"),
            observed=Observed(pairs.get(f"{p}observed_state", "")),
            utilization=float_or_none(pairs, f"{p}utilization"),
            out=pairs.get(f"{p}out", "0") not in ("", "0"),
            zone=to_text(pairs.get(f"{p}zone", "")) or None,
            files=number_or_none(pairs, f"{p}files"),
            cluster_ok=pairs.get(f"{p}cluster_ok", "1") == "1",
            damaged=number_or_none(pairs, f"{p}damaged") or 0,
        )
        for p in rows(pairs, "devices", "dev{}_")
    ]


def opened(pairs: Pairs) -> OpenedFile:
    """create_open with multi_dest."""
    targets = tuple(
        Destination(devid=DevId(number(pairs, f"devid{p}")), url=need(pairs, f"path{p}"))
        for p in rows(pairs, "dev_count", "_{}")
    )
    return OpenedFile(fid=Fid(number(pairs, "fid")), destinations=targets)


def file_info(pairs: Pairs) -> FileInfo:
    """file_info."""
    checksum = pairs.get("checksum", "")
    return FileInfo(
        fid=Fid(number(pairs, "fid")),
        domain=to_text(need(pairs, "domain")),
        key=to_text(need(pairs, "key")),
        class_name=to_text(pairs.get("class", "")),
        length=number(pairs, "length"),
        devcount=number(pairs, "devcount"),
        checksum=Checksum.parse(checksum) if ":" in checksum else None,
        devids=tuple(DevId(int(d)) for d in pairs.get("devids", "").split(",") if d),
    )


def census(pairs: Pairs) -> Census:
    """mogile_census."""
    return Census(
        files=number(pairs, "files"),
        bytes=number(pairs, "bytes"),
        to_replicate=number(pairs, "to_replicate"),
        to_delete=number(pairs, "to_delete"),
        fewer_copies=number(pairs, "fewer_copies"),
        one_copy=number(pairs, "one_copy"),
        no_copy=number(pairs, "no_copy"),
        zone_violations=number(pairs, "zone_violations"),
        devices=tuple(
            CensusDevice(
                devid=DevId(number(pairs, f"{p}devid")),
                files=number(pairs, f"{p}files"),
                bytes=number(pairs, f"{p}bytes"),
                state=DeviceState(need(pairs, f"{p}state")),
                out=pairs.get(f"{p}out", "0") not in ("", "0"),
                observed=Observed(pairs.get(f"{p}observed", "")),
                no_copy=number_or_none(pairs, f"{p}no_copy"),
            )
            for p in rows(pairs, "devices", "dev_{}_")
        ),
        counted_at=int(pairs.get("counted_at") or 0),
        complete=pairs.get("complete", "1") != "0",
        classes=tuple(
            CensusClass(
                domain=need(pairs, f"{p}domain"),
                name=need(pairs, f"{p}class"),
                files=number(pairs, f"{p}files"),
                bytes=number(pairs, f"{p}bytes"),
            )
            for p in rows(pairs, "classes", "class_{}_", optional=True)
        ),
        shorts=tuple(
            CensusShort(
                domain=need(pairs, f"{p}domain"),
                name=need(pairs, f"{p}class"),
                copies=number(pairs, f"{p}copies"),
                files=number(pairs, f"{p}files"),
                bytes=number(pairs, f"{p}bytes"),
            )
            for p in rows(pairs, "shorts", "short_{}_", optional=True)
        ),
    )
