"""The classes of processes that operators know by name, and which of them runs where. Pure.

Server processes are MogileFS's queryworkers. Every background worker declares one of the other classes. A class runs in the one shared
jobs process unless it was given processes of its own (by configuration or `!want`), or does not run at all (0). There is at most one
monitor and one job_master in a tracker. Delete, fsck, replicate and our own rebalance and census need the job_master: without it this
tracker does no queue work, whatever else is wanted, which is how a tracker that only answers commands is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

QUERYWORKER = "queryworker"
MONITOR = "monitor"
JOB_MASTER = "job_master"
SHARED = "jobs"  # the process that runs every class without processes of its own
HTTP = "http"
JOB_CLASSES = ("census", "delete", "fsck", JOB_MASTER, MONITOR, "reaper", "rebalance", "replicate")
CLASSES = tuple(sorted((*JOB_CLASSES, QUERYWORKER)))
SINGLE = frozenset({JOB_MASTER, MONITOR})
NEED_JOB_MASTER = frozenset({"census", "delete", "fsck", "rebalance", "replicate"})
# These may wait while commands come at a high rate; what is left watches over devices and keeps house.
GIVE_WAY = frozenset({"census", "delete", "fsck", "rebalance", "replicate"})
WANT_MAX = 500
# Seconds without a sign of life after which a process is killed and replaced.
WATCHDOG_SECONDS: Mapping[str, float] = {
    QUERYWORKER: 30,
    MONITOR: 30,
    "replicate": 90,
    "delete": 120,
    "fsck": 120,
    JOB_MASTER: 120,
    "census": 120,
    "rebalance": 120,
    "reaper": 240,
    HTTP: 30,
}


def parse_pairs(text: str, allowed: Iterable[str], *, maximum: int) -> dict[str, int]:
    """`replicate=2,delete=1` -> counts; ValueError in words for anything else."""
    known = sorted(allowed)
    found: dict[str, int] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, equals, number = (piece.strip() for piece in part.partition("="))
        if name not in known:
            raise ValueError(f"has no class {name!r}; there are {', '.join(known)}")
        if not equals or not number.isascii() or not number.isdigit() or int(number) > maximum:
            raise ValueError(f"must look like replicate=2,delete=1 with numbers from 0 to {maximum}, got {part!r}")
        found[name] = int(number)
    return found


class Roster:
    """How many processes each class is to have, and whether they are its own. Changed by `!want`."""

    def __init__(
        self, *, servers: int, own: Mapping[str, int] | None = None, shared: Mapping[str, int] | None = None
    ) -> None:
        self.desired: dict[str, int] = dict.fromkeys(JOB_CLASSES, 1) | {QUERYWORKER: servers}
        self._own: set[str] = {QUERYWORKER}
        for job, count in (shared or {}).items():
            self.desired[job] = min(count, 1)
        for job, count in (own or {}).items():
            self.want(job, count)

    def want(self, job: str, count: int) -> None:
        """From now on so many processes of its own; 0: it does not run. More than one monitor or job_master is ignored."""
        if job in SINGLE and count > 1:
            return
        self.desired[job] = min(count, WANT_MAX)
        self._own.add(job)

    def runs(self, job: str) -> bool:
        """False when nothing of this class is to run now."""
        needs = job in NEED_JOB_MASTER and not self.desired[JOB_MASTER]
        return self.desired[job] > 0 and not needs

    def shared(self) -> list[str]:
        """The classes of the shared jobs process."""
        return [job for job in JOB_CLASSES if job not in self._own and self.runs(job)]

    def processes(self) -> dict[str, int]:
        """How many processes of each kind there must be. One server process stays at `!want 0 queryworker`: it holds the connections."""
        wanted = {job: self.desired[job] if self.runs(job) else 0 for job in JOB_CLASSES if job in self._own}
        return {QUERYWORKER: max(1, self.desired[QUERYWORKER]), **wanted, SHARED: int(bool(self.shared())), HTTP: 1}
