"""`mog jobs`: the processes of every tracker and what their background workers are doing."""

from __future__ import annotations

import asyncio
from typing import Any

from mogile_cli import output
from mogile_cli.session import JsonOption, TrackersOption, tracker_addresses
from mogile_core.client import TrackerClient, TrackerJobs, WorkerInfo
from mogile_core.errors import MogError

FAILING = 3  # failures in a row that are no accident any more


def jobs(trackers: TrackersOption = "", as_json: JsonOption = False) -> None:
    """Processes and background workers of every tracker; exit status 1 when one does not answer or a worker keeps failing."""
    answers = asyncio.run(ask_all([each.strip() for each in tracker_addresses(trackers).split(",") if each.strip()]))
    if as_json:
        output.say_json(
            {name: answer if isinstance(answer, TrackerJobs) else {"error": str(answer)} for name, answer in answers}
        )
    else:
        for name, answer in answers:
            show(name, answer)
    if any(not isinstance(answer, TrackerJobs) or failing(answer) for _, answer in answers):
        raise SystemExit(1)


async def ask_all(addresses: list[str]) -> list[tuple[str, TrackerJobs | MogError]]:
    """Every tracker by itself: each has processes of its own."""

    async def ask(address: str) -> TrackerJobs | MogError:
        async with TrackerClient(address) as client:
            try:
                return await client.jobs()
            except MogError as error:
                return error

    return list(zip(addresses, await asyncio.gather(*map(ask, addresses)), strict=True))


def failing(answer: TrackerJobs) -> list[WorkerInfo]:
    """Workers that have failed several times in a row."""
    return [worker for worker in answer.workers if worker.failing >= FAILING]


def show(name: str, answer: TrackerJobs | MogError) -> None:
    """One tracker, for people."""
    if not isinstance(answer, TrackerJobs):
        output.say(f"tracker {output.cell(name)}: [red]{output.cell(str(answer))}[/]")
        return
    output.say(f"[bold]tracker {output.cell(name)}[/]")
    columns = ("class", "wanted", "running", "processes")
    rows = [(c.name, c.desired, len(c.pids), " ".join(map(str, c.pids))) for c in answer.classes]
    output.say_table(columns, rows, right=("wanted", "running"))
    output.say()
    output.say_table(*worker_table(answer), right=("done", "per second", "backlog", "to go", "errors"))
    for worker in answer.workers:
        if worker.last_error:
            age = span(worker.last_error_age_seconds)
            output.say(f"[yellow]{output.cell(worker.name)}, {age} ago:[/] {output.cell(worker.last_error)}")


def worker_table(answer: TrackerJobs) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """Columns and rows of the workers."""
    columns = ("class", "worker", "process", "state", "for", "done", "per second", "backlog", "to go", "errors", "says")
    rows = [
        (
            w.job,
            w.name,
            w.pid,
            w.state,
            span(w.state_seconds),
            w.done,
            f"{w.per_second:.1f}",
            w.backlog,
            span(w.eta_seconds),
            w.errors or None,
            w.text,
        )
        for w in answer.workers
    ]
    return columns, rows


def span(seconds: float | None) -> str:
    """75 -> '1m15s'."""
    if seconds is None:
        return "-"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
