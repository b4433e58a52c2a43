"""mogadm fsck: start, stop and watch the check of all files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from mogile_cli.classic import connection
from mogile_cli.classic.admin.grammar import Command, Request, number
from mogile_cli.classic.connection import Connection, Pairs
from mogile_core.errors import ProtocolError

TAIL_ROWS = 20
TAIL_POLL_SECONDS = 5.0
# Fields of fsck_status that have a line of their own or are of no interest; what is left is printed as it came.
_SHOWN = frozenset(
    {
        "running",
        "host",
        "max_fid_checked",
        "end_fid",
        "start_time",
        "stop_time",
        "current_time",
        "policy_only",
        "max_logid",
    }
)


async def _order(request: Request, command: str, done: str, **arguments: str | None) -> None:
    await request.tracker.ask(command, **arguments)
    request.done(done)


async def _start(request: Request) -> None:
    await _order(request, "fsck_start", "fsck started")


async def _stop(request: Request) -> None:
    await _order(request, "fsck_stop", "fsck stopped")


async def _clear_log(request: Request) -> None:
    await _order(request, "fsck_clearlog", "fsck log cleared")


async def _reset(request: Request) -> None:
    policy_only, position = request.get("policy-only"), request.get("startpos")
    await _order(request, "fsck_reset", "fsck reset", policy_only=policy_only, startpos=position)


async def _status(request: Request) -> None:
    for line in status_lines(await request.tracker.ask("fsck_status")):
        request.console.line(line)


def status_lines(status: Pairs) -> list[str]:
    """The form of `fsck status`."""
    checked, end = number(status.get("max_fid_checked")), number(status.get("end_fid"))
    begun = number(status.get("start_time"))
    elapsed = (number(status.get("stop_time")) or number(status.get("current_time"))) - begun if begun else 0.0
    rate = checked / elapsed if elapsed > 0 else 0.0
    remaining = (end - checked) / rate if rate else 0.0
    percent = 100 * checked / end if end else 0.0
    policy_only = status.get("policy_only") not in (None, "", "0")
    fields = {
        "Running": f"Yes (on {status.get('host', '')})" if status.get("running") not in (None, "", "0") else "No",
        "Status": f"{status.get('max_fid_checked', '0')} / {status.get('end_fid', '0')} ({percent:.2f}%)",
        "Time": f"{_duration(elapsed)} ({int(rate)} fids/s; {_duration(remaining)} remain)",
        "Check Type": "Repl policy only (skip file checks)" if policy_only else "Normal (check policy + files)",
    }
    counts = [f"{f'[{name}]':>11}: {status[name]}" for name in sorted(status) if name not in _SHOWN]
    return ["", *(f"{name:>11}: {value}" for name, value in fields.items()), *([""] if counts else []), *counts, ""]


def _duration(seconds: float) -> str:
    return f"{int(seconds)}s" if seconds < 60 else f"{int(seconds / 60)}m"


async def _print_log(request: Request) -> None:
    _print_row(request, "unixtime", "event", "fid", "devid")
    async for row in _log(request.tracker, 0):
        _print_event(request, row)


async def _tail_log(request: Request) -> None:
    """The last events and then what comes, until interrupted."""
    status = await request.tracker.ask("fsck_status")
    after = max(0, int(number(status.get("max_logid"))) - TAIL_ROWS)
    _print_row(request, "unixtime", "event", "fid", "devid")
    while True:
        async for row in _log(request.tracker, after):
            _print_event(request, row)
            after = connection.whole(row, "logid")
        request.console.flush()
        await asyncio.sleep(TAIL_POLL_SECONDS)


async def _log(tracker: Connection, after: int) -> AsyncIterator[Pairs]:
    """Events after a log id, page by page."""
    while True:
        answer = await tracker.ask("fsck_getlog", after_logid=after)
        rows = connection.rows(answer, "row_count", "row_{}_")
        if not rows:
            return
        for row in rows:
            yield row
        before, after = after, connection.whole(rows[-1], "logid")
        if after <= before:
            raise ProtocolError("the tracker's log does not go on: it gave the same rows twice")


def _print_event(request: Request, row: Pairs) -> None:
    _print_row(request, row.get("utime", ""), row.get("evcode", ""), row.get("fid", ""), row.get("devid") or "-")


def _print_row(request: Request, time: str, event: str, fid: str, devid: str) -> None:
    request.console.line(f"{time:<20} {event:>5} {fid:>13} {devid:>10}")


COMMANDS = (
    Command(topic="fsck", verb="start", help="Start or resume the check.", run=_start),
    Command(topic="fsck", verb="stop", help="Pause the check.", run=_stop),
    Command(topic="fsck", verb="status", help="Show how far it is and what it found.", run=_status),
    Command(
        topic="fsck",
        verb="reset",
        help="Begin again with the next start.",
        run=_reset,
        options={
            "policy-only": "Check replication by the database only, ask no node",
            "startpos=i": "Fid to begin after",
        },
    ),
    Command(topic="fsck", verb="clearlog", help="Forget the log of events.", run=_clear_log),
    Command(topic="fsck", verb="printlog", help="Print the log of events.", run=_print_log),
    Command(topic="fsck", verb="taillog", help="Print the last events and those to come.", run=_tail_log),
)
