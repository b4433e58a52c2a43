"""`mogile_jobs`: the processes of this tracker and what its background workers are doing, for `mog jobs` and programs.

It answers for the tracker that was asked; figures are at most a second old. The same in words is the admin line `!status`.
"""

from __future__ import annotations

from mogile_tracker.commands.registry import Call, Pairs, Registry, Tracker
from mogile_tracker.jobclasses import CLASSES


def register(registry: Registry) -> None:
    """The commands of this module."""
    registry.add("mogile_jobs", mogile_jobs)


async def mogile_jobs(tracker: Tracker, _: Call) -> Pairs:
    """Classes with their processes, then workers with state, rate, backlog, time to go and last error."""
    state = tracker.processes
    pairs: dict[str, object] = {"classes": len(CLASSES)}
    for i, job in enumerate(CLASSES, 1):
        pids = state.pids(job)
        pairs[f"class_{i}_name"] = job
        pairs[f"class_{i}_desired"] = state.desired.get(job, 0)
        pairs[f"class_{i}_count"] = len(pids)
        pairs[f"class_{i}_pids"] = ",".join(map(str, pids))
    workers = state.workers()
    pairs["workers"] = len(workers)
    for i, worker in enumerate(workers, 1):
        eta, age = worker.eta_seconds, worker.last_error_age_seconds
        for name, value in {
            "class": worker.job,
            "name": worker.name,
            "pid": worker.pid,
            "state": worker.state,
            "state_seconds": f"{worker.state_seconds:.1f}",
            "text": worker.text,
            "done": worker.done,
            "per_second": f"{worker.per_second:.3f}",
            "backlog": worker.backlog,
            "eta_seconds": None if eta is None else f"{eta:.0f}",
            "errors": worker.errors,
            "failing": worker.consecutive_errors,
            "last_error": worker.last_error,
            "last_error_age_seconds": None if age is None else f"{age:.0f}",
        }.items():
            pairs[f"worker_{i}_{name}"] = value
    return pairs
