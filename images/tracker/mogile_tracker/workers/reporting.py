"""What this process's workers are doing, once a second: to the parent (admin lines, `mogile_jobs`) and into the metrics.

Backlogs are counted far less often and only up to a limit, because a queue of millions must not cost more for being looked at.
"""

import asyncio
from collections.abc import Mapping

from mogile_core.errors import StoreError
from mogile_core.runtime.logs import get_log
from mogile_core.runtime.workers import WorkerReport
from mogile_tracker.context import JobsContext
from mogile_tracker.jobstate import Rate, WorkerState
from mogile_tracker.workers.base import Jobs
from mogile_tracker.workers.groups import Groups

REPORT_EVERY_SECONDS = 1.0
BACKLOG_COUNTED_MAX = 100_000
STATES = ("busy", "throttled", "idle", "error")
CONSUMERS = {
    "replicate": "replicate",
    "delete": "delete",
    "fsck": "fsck-check",
    "rebalance": "moves",
}  # whose queue is counted

log = get_log(__name__)


async def report_for_ever(context: JobsContext, jobs: Jobs, groups: Groups) -> None:
    """Report until cancelled."""
    registry = context.registry
    steps = registry.gauge("worker_steps", "Units of work done by a background worker", ["worker"])
    errors = registry.gauge("worker_errors", "Units of work that failed", ["worker"])
    done = registry.gauge("worker_done", "Items a background worker has finished", ["worker"])
    rate = registry.gauge("worker_items_per_second", "Items a background worker finishes per second", ["worker"])
    state = registry.gauge("worker_state", "Background workers in a state", ["worker", "state"])
    waiting = registry.gauge(
        "queue_rows", "Rows that wait for a job class, counted up to a limit", ["job"], merge="max"
    )
    rates: dict[str, Rate] = {}
    begun = context.clock.monotonic()
    backlogs: dict[str, int] = {}
    counted_at = float("-inf")
    while True:
        now = context.clock.monotonic()
        if now - counted_at >= context.settings.backlog_interval_seconds:
            backlogs, counted_at = await _backlogs(jobs), now
        views = []
        for job, report in groups.reports():
            views.append(_view(job, report, rates.setdefault(report.name, Rate(begun)), backlogs, now))
            steps.set(report.steps, worker=report.name)
        for view in views:
            errors.set(view.errors, worker=view.name)
            done.set(view.done, worker=view.name)
            rate.set(view.per_second, worker=view.name)
            for word in STATES:
                state.set(int(view.state == word), worker=view.name, state=word)
        running = {view.job for view in views}
        waiting.clear()
        for job, rows in backlogs.items():
            if job in running:
                waiting.set(rows, job=job)
        context.report(views)
        await asyncio.sleep(REPORT_EVERY_SECONDS)


def _view(job: str, report: WorkerReport, rate: Rate, backlogs: Mapping[str, int], now: float) -> WorkerState:
    status = report.status
    consumes = report.name.rstrip("0123456789").rstrip("-") == CONSUMERS.get(job)
    return WorkerState(
        job=job,
        name=report.name,
        state=report.state,
        state_seconds=round(report.state_seconds, 1),
        text=status.text,
        done=status.done_total,
        per_second=round(rate.observe(status.done_total, now), 3),
        backlog=status.backlog if status.backlog is not None else backlogs.get(job) if consumes else None,
        errors=report.errors,
        consecutive_errors=report.consecutive_errors,
        last_error=report.last_error,
        last_error_age_seconds=report.last_error_age_seconds,
    )


async def _backlogs(jobs: Jobs) -> dict[str, int]:
    """Due or claimed rows by job class; what cannot be counted now is left out."""
    try:
        return await jobs.queues.due(BACKLOG_COUNTED_MAX)
    except StoreError as error:
        log.debug("queues not counted", error=error)
        return {}
