"""What trackers tell about checks: fsck, its log, and orphan search. Values and their parsing, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mogile_core.client.values import float_or_none, need, number, number_or_none, rows
from mogile_core.wire import to_text

COUNT_PREFIX = "num_"


@dataclass(frozen=True, slots=True, kw_only=True)
class FsckStatus:
    """A run of fsck: how far it is, what it is limited to ('' is no limit), what it found."""

    running: bool
    host: str
    max_fid_checked: int
    end_fid: int
    start_time: int
    stop_time: int
    current_time: int
    policy_only: bool
    domain: str
    class_name: str
    prefix: str
    checksum: str
    checked: int
    queued: int
    waiting: int  # for a device that does not answer
    rate: float | None  # files checked a second
    eta_seconds: int | None
    counts: Mapping[str, int]  # events by code

    @property
    def finished(self) -> bool:
        """Nothing is left to queue or to check, apart from what waits for a device."""
        return not self.running and self.queued <= self.waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class FsckEvent:
    """One line of fsck's log."""

    logid: int
    utime: int
    evcode: str
    fid: int | None
    devid: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OrphanWalk:
    """How far the search on one device is."""

    devid: int
    state: str  # running, stopped, finished
    last_fid: int
    files: int
    orphans: int
    missing: int
    listed: int
    pending: int
    min_age: int
    started: int
    ended: int | None
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OrphanFile:
    """Bytes on a device that no row accounts for; `is_file`: there is a file by that fid."""

    devid: int
    fid: int
    length: int
    mtime: int
    is_file: bool
    todo: str


def fsck_status(pairs: Mapping[str, str]) -> FsckStatus:
    """mogile_fsck."""
    return FsckStatus(
        running=need(pairs, "running") != "0",
        host=to_text(pairs.get("host", "")),
        max_fid_checked=number(pairs, "max_fid_checked"),
        end_fid=number(pairs, "end_fid"),
        start_time=number(pairs, "start_time"),
        stop_time=number(pairs, "stop_time"),
        current_time=number(pairs, "current_time"),
        policy_only=need(pairs, "policy_only") != "0",
        domain=to_text(pairs.get("domain", "")),
        class_name=to_text(pairs.get("class", "")),
        prefix=to_text(pairs.get("prefix", "")),
        checksum=pairs.get("checksum", ""),
        checked=number(pairs, "checked"),
        queued=number(pairs, "queued"),
        waiting=number(pairs, "waiting"),
        rate=float_or_none(pairs, "rate"),
        eta_seconds=number_or_none(pairs, "eta"),
        counts={
            name.removeprefix(COUNT_PREFIX): number(pairs, name)
            for name in sorted(pairs)
            if name.startswith(COUNT_PREFIX)
        },
    )


def fsck_events(pairs: Mapping[str, str]) -> list[FsckEvent]:
    """fsck_getlog."""
    return [
        FsckEvent(
            logid=number(pairs, f"{p}logid"),
            utime=number(pairs, f"{p}utime"),
            evcode=pairs.get(f"{p}evcode", ""),
            fid=number_or_none(pairs, f"{p}fid"),
            devid=number_or_none(pairs, f"{p}devid"),
        )
        for p in rows(pairs, "row_count", "row_{}_")
    ]


def orphan_walks(pairs: Mapping[str, str]) -> list[OrphanWalk]:
    """mogile_orphans."""
    names = ("devid", "last_fid", "files", "orphans", "missing", "listed", "pending", "min_age", "started")
    return [
        OrphanWalk(
            **{name: number(pairs, f"{p}{name}") for name in names},
            state=need(pairs, f"{p}state"),
            ended=number_or_none(pairs, f"{p}ended"),
            problem=to_text(pairs.get(f"{p}problem", "")),
        )
        for p in rows(pairs, "devices", "dev_{}_")
    ]


def orphan_files(pairs: Mapping[str, str]) -> list[OrphanFile]:
    """mogile_orphans action=list."""
    return [
        OrphanFile(
            devid=number(pairs, f"{p}devid"),
            fid=number(pairs, f"{p}fid"),
            length=number(pairs, f"{p}length"),
            mtime=number(pairs, f"{p}mtime"),
            is_file=need(pairs, f"{p}file") != "0",
            todo=pairs.get(f"{p}todo", ""),
        )
        for p in rows(pairs, "row_count", "row_{}_")
    ]
