"""What the processes of a tracker say of themselves, in the form that admin lines, commands and metrics show. Pure.

A child reports about once a second (`status` messages); the parent passes all of them to every server process. Here they become values:
processes by class, and workers with their rate, backlog and estimated time to go. Unknown fields and missing ones are tolerated, because
a child that was just started has said little yet.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from mogile_tracker.jobclasses import CLASSES, QUERYWORKER, SHARED

RATE_SECONDS = 20.0  # what is older hardly counts in a rate
QUEUE_JOBS = ("delete", "fsck", "rebalance", "replicate")

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerState:
    """One background worker."""

    job: str
    name: str
    state: str = ""  # starting, busy, throttled, idle, error, stopped
    state_seconds: float = 0.0
    text: str = ""
    done: int = 0
    per_second: float = 0.0
    backlog: int | None = None
    errors: int = 0
    consecutive_errors: int = 0
    last_error: str = ""
    last_error_age_seconds: float | None = None
    pid: int = 0

    @property
    def eta_seconds(self) -> float | None:
        """Until the backlog is done at the present rate; None where nothing can be said."""
        if self.backlog == 0:
            return 0.0
        return self.backlog / self.per_second if self.backlog and self.per_second > 0.001 else None

    def to_json(self) -> dict[str, Any]:
        """For the pipe to the parent."""
        return asdict(self)


class Rate:
    """Items per second out of a total that grows from 0 at `begun`, newer seconds counting more."""

    def __init__(self, begun: float) -> None:
        self._total = 0
        self._at = begun
        self._rate = 0.0

    def observe(self, total: int, now: float) -> float:
        """The rate after this observation; a total that fell began anew."""
        if now <= self._at:
            return self._rate
        grown = total - self._total if total >= self._total else total
        elapsed = now - self._at
        weight = 1 - math.exp(-elapsed / RATE_SECONDS)
        self._rate += weight * (grown / elapsed - self._rate)
        self._total, self._at = total, now
        return self._rate


@dataclass(slots=True)
class TrackerState:
    """All processes of this tracker, as last heard of. Every server process keeps one."""

    processes: dict[str, Message] = field(default_factory=dict)
    desired: dict[str, int] = field(default_factory=dict)
    ended: Counter[str] = field(default_factory=Counter)  # counters of processes that are no more
    started: float | None = None  # monotonic, of the tracker
    observed: bool = False

    def update(self, message: Message) -> None:
        """A `state` message of the parent."""
        self.processes = dict(message["processes"])
        self.desired = dict(message.get("desired", {}))
        self.ended = Counter(message.get("ended", {}))
        self.started = message.get("started")

    def servers(self) -> list[Message]:
        """The server processes."""
        return [p for p in self.processes.values() if p["role"] == QUERYWORKER]

    def pids(self, job: str) -> list[int]:
        """The processes that do the work of a class; none when it is not to run."""
        if self.desired.get(job) == 0:
            return []
        return sorted(p["pid"] for p in self.processes.values() if job in p.get("jobs", ()))

    def counters(self) -> Counter[str]:
        """Counters of living and ended processes together."""
        total = Counter(self.ended)
        for process in self.processes.values():
            total.update(process.get("figures", {}).get("counters", {}))
        return total

    def workers(self) -> list[WorkerState]:
        """All background workers of this tracker, by class and name."""
        fields = WorkerState.__dataclass_fields__
        found = [
            WorkerState(**{k: v for k, v in worker.items() if k in fields} | {"pid": process["pid"]})
            for process in self.processes.values()
            for worker in process.get("figures", {}).get("workers", ())
        ]
        return sorted(found, key=lambda w: (w.job, w.name, w.pid))

    def backlog(self, job: str) -> int | None:
        """Rows that wait for a class; its workers share one queue, so the largest figure is the newest."""
        known = [w.backlog for w in self.workers() if w.job == job and w.backlog is not None]
        return max(known, default=None)


def jobs_lines(state: TrackerState) -> list[str]:
    """`!jobs`: count, desired and pids of every class, the form that exporters parse."""
    lines = []
    for job in CLASSES:
        pids = state.pids(job)
        numbers = "".join(f" {pid}" for pid in pids)
        lines += [f"{job} count {len(pids)}", f"{job} desired {state.desired.get(job, 0)}", f"{job} pids{numbers}"]
    return lines


def status_lines(workers: Sequence[WorkerState]) -> list[str]:
    """`!status`: one line for each background worker."""
    lines = []
    for w in workers:
        parts = [
            f"{w.job} {w.name}[{w.pid}] {w.state} {w.state_seconds:.0f}s",
            f"done {w.done}",
            f"rate {w.per_second:.1f}/s",
        ]
        if w.backlog is not None:
            parts.append(f"backlog {w.backlog}")
        if w.eta_seconds is not None:
            parts.append(f"eta {w.eta_seconds:.0f}s")
        if w.errors:
            parts.append(f"errors {w.errors}")
        if w.last_error:
            parts.append(f"last error {w.last_error_age_seconds or 0:.0f}s ago: {w.last_error}")
        if w.text:
            parts.append(w.text)
        lines.append(", ".join(parts))
    return lines


def jobs_of_process(role: str, shared: Sequence[str]) -> list[str]:
    """The classes a process works for."""
    return list(shared) if role == SHARED else [role]
