"""What a tracker says about its own processes and background workers (`mogile_jobs`), as values."""

from __future__ import annotations

from dataclasses import dataclass

from mogile_core.client.values import Pairs, float_or_none, need, number, number_or_none, rows
from mogile_core.wire import to_text


@dataclass(frozen=True, slots=True, kw_only=True)
class JobClass:
    """A class of processes: how many there shall be, and which there are."""

    name: str
    desired: int
    pids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInfo:
    """One background worker."""

    job: str
    name: str
    pid: int
    state: str  # starting, busy, throttled, idle, error, stopped
    state_seconds: float
    text: str
    done: int
    per_second: float
    backlog: int | None
    eta_seconds: float | None
    errors: int
    failing: int  # failures since it last succeeded
    last_error: str
    last_error_age_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackerJobs:
    """The answer of one tracker."""

    classes: tuple[JobClass, ...]
    workers: tuple[WorkerInfo, ...]


def tracker_jobs(pairs: Pairs) -> TrackerJobs:
    """mogile_jobs."""
    return TrackerJobs(
        classes=tuple(
            JobClass(
                name=need(pairs, f"{p}name"),
                desired=number(pairs, f"{p}desired"),
                pids=tuple(int(pid) for pid in pairs.get(f"{p}pids", "").split(",") if pid),
            )
            for p in rows(pairs, "classes", "class_{}_")
        ),
        workers=tuple(_worker(pairs, p) for p in rows(pairs, "workers", "worker_{}_")),
    )


def _worker(pairs: Pairs, p: str) -> WorkerInfo:
    return WorkerInfo(
        job=need(pairs, f"{p}class"),
        name=need(pairs, f"{p}name"),
        pid=number(pairs, f"{p}pid"),
        state=pairs.get(f"{p}state", ""),
        state_seconds=float_or_none(pairs, f"{p}state_seconds") or 0.0,
        text=to_text(pairs.get(f"{p}text", "")),
        done=number(pairs, f"{p}done"),
        per_second=float_or_none(pairs, f"{p}per_second") or 0.0,
        backlog=number_or_none(pairs, f"{p}backlog"),
        eta_seconds=float_or_none(pairs, f"{p}eta_seconds"),
        errors=number(pairs, f"{p}errors"),
        failing=number(pairs, f"{p}failing"),
        last_error=to_text(pairs.get(f"{p}last_error", "")),
        last_error_age_seconds=float_or_none(pairs, f"{p}last_error_age_seconds"),
    )
