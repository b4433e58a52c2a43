"""`mog fsck`: check all files or some, watch what is found, and find what lies on disks without a file."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from mogile_cli import output
from mogile_cli.errors import UsageError
from mogile_cli.session import JsonOption, TrackersOption, with_client
from mogile_core.client import FsckStatus, OrphanWalk, TrackerClient

app = typer.Typer(
    no_args_is_help=True, help="Check files and their copies, and find what lies on disks without a file."
)
orphan_app = typer.Typer(no_args_is_help=True, help="Files on disks that belong to nothing.")
app.add_typer(orphan_app, name="orphans")

POLL_SECONDS = 1.0
MEANINGS = {
    "NOPA": "no location was recorded",
    "POVI": "too few or too many copies",
    "BCNT": "the number of copies was recorded wrongly",
    "MISS": "a copy was missing",
    "BLEN": "a copy was of another length or damaged",
    "SRCH": "searched on every device",
    "FOND": "found by the search",
    "GONE": "on no device",
    "BSUM": "does not match its digest",
    "BALG": "its digest was of another algorithm",
    "NSUM": "a first digest was stored",
    "MSUM": "copies with different digests",
    "REPL": "queued for replication",
    "ORPH": "on a disk, but belongs to nothing",
}
_RIGHT = ("device", "files", "orphans", "missing", "listed", "to do", "fid", "length", "count")

# No environment variable: a domain that is set for uploads must not silently limit a check.
LimitDomainOption = Annotated[str, typer.Option("--domain", "-d", help="Only files of this domain.")]
ClassOption = Annotated[str, typer.Option("--class", "-c", help="Only files of this class; needs --domain.")]
PrefixOption = Annotated[str, typer.Option("--prefix", "-p", help="Only keys that begin so; needs --domain.")]
PolicyOnlyOption = Annotated[
    bool, typer.Option("--policy-only", help="Compare the number of copies only, ask no storage node for them.")
]
WaitOption = Annotated[bool, typer.Option("--wait", help="Stay until all of it is checked.")]
DeviceOption = Annotated[int | None, typer.Option("--device", min=1, help="Only this device.")]


@app.command("start")
def start(
    domain: LimitDomainOption = "",
    class_name: ClassOption = "",
    prefix: PrefixOption = "",
    policy_only: PolicyOnlyOption = False,
    wait: WaitOption = False,
    trackers: TrackersOption = "",
    as_json: JsonOption = False,
) -> None:
    """Begin a check, or go on with one that was stopped."""
    if (class_name or prefix) and not domain:
        raise UsageError("--class and --prefix need --domain: classes and keys belong to a domain")

    async def work(client: TrackerClient) -> FsckStatus:
        if must_reset(await client.fsck_status(), policy_only=policy_only):
            await client.fsck_reset(policy_only=policy_only)
        await client.fsck_start(domain=domain or None, class_name=class_name or None, prefix=prefix or None)
        return await (_until_finished(client) if wait else client.fsck_status())

    status_now = with_client(trackers, work)
    _say(status_now, show, as_json=as_json)
    if wait and status_now.waiting:
        raise SystemExit(1)


def must_reset(before: FsckStatus, *, policy_only: bool) -> bool:
    """The choice is made by a reset and stays: that of a finished run is not meant for the next, an unfinished one goes on."""
    if before.running or before.policy_only == policy_only:
        return False
    return policy_only or before.max_fid_checked >= before.end_fid


async def _until_finished(client: TrackerClient) -> FsckStatus:
    columns = (TextColumn("checking"), BarColumn(), TextColumn("{task.fields[text]}"), TimeRemainingColumn())
    with Progress(*columns, console=output.remarks, transient=True) as bar:
        task = bar.add_task("fsck", text="")
        while True:
            found = await client.fsck_status()
            done = found.max_fid_checked if found.running else found.end_fid
            bar.update(task, total=max(1, found.end_fid), completed=done, text=f"{found.checked} files checked")
            if found.finished:
                return found
            await asyncio.sleep(POLL_SECONDS)


@app.command("stop")
def stop(trackers: TrackersOption = "", as_json: JsonOption = False) -> None:
    """Stop; `start` goes on at the same place."""
    with_client(trackers, lambda client: client.fsck_stop())
    output.say_done("", as_json=as_json, running=False)


@app.command("reset")
def reset(
    policy_only: PolicyOnlyOption = False,
    after: Annotated[int, typer.Option("--after", min=0, help="Begin after this fid.")] = 0,
    trackers: TrackersOption = "",
    as_json: JsonOption = False,
) -> None:
    """Forget the place and the counts; the next start begins anew."""
    with_client(trackers, lambda client: client.fsck_reset(policy_only=policy_only, start=after))
    output.say_done("", as_json=as_json, after=after, policy_only=policy_only)


@app.command("status")
def status(trackers: TrackersOption = "", as_json: JsonOption = False) -> None:
    """How far the check is and what it found."""
    _say(with_client(trackers, lambda client: client.fsck_status()), show, as_json=as_json)


def show(found: FsckStatus) -> None:
    """A run, for people."""
    for line in sentences(found):
        output.say_plain(line)
    rows = [(code, count, MEANINGS.get(code, "")) for code, count in found.counts.items()]
    if rows:
        output.say_table(("event", "count", "meaning"), rows, right=_RIGHT)


def sentences(found: FsckStatus) -> list[str]:
    """Where a run is, what it is limited to, what it waits for."""
    if not found.start_time:
        return ["no check has been started yet"]
    place = f"fid {found.max_fid_checked} of {found.end_fid}"
    lines = [f"running on {found.host}, at {place}" if found.running else f"not running, at {place}"]
    if found.domain:
        lines.append(
            f"only domain {found.domain}"
            + (f", class {found.class_name}" if found.class_name else "")
            + (f", keys beginning with {found.prefix}" if found.prefix else "")
        )
    if found.policy_only:
        lines.append("the number of copies only, storage nodes are not asked for them")
    speed = f", {found.rate:g} a second" if found.rate is not None else ""
    left = f", about {found.eta_seconds} s left" if found.eta_seconds is not None else ""
    lines.append(f"{output.plural(found.checked, 'file')} checked{speed}{left}; {found.queued} queued")
    if found.waiting:
        lines.append(f"{output.plural(found.waiting, 'file')} cannot be checked until a device answers again")
    return lines


@app.command("log")
def log(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as new events come.")] = False,
    trackers: TrackersOption = "",
    as_json: JsonOption = False,
) -> None:
    """What was found, file by file."""
    if follow and as_json:
        raise UsageError("--follow and --json exclude each other: JSON is one document")

    async def work(client: TrackerClient) -> None:
        events = []
        after = 0
        while True:
            page = await client.fsck_log(after)
            if not page and not follow:
                break
            if not page:
                await asyncio.sleep(POLL_SECONDS)
                continue
            after = page[-1].logid
            if as_json:
                events += page
                continue
            for event in page:
                when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.utime))
                where = "" if event.devid is None else f" dev{event.devid}"
                output.say_plain(f"{when} {event.evcode} fid {event.fid}{where}: {MEANINGS.get(event.evcode, '')}")
        if as_json:
            output.say_json(events)

    with_client(trackers, work)


@app.command("clear")
def clear(trackers: TrackersOption = "", as_json: JsonOption = False) -> None:
    """Forget the log."""
    with_client(trackers, lambda client: client.fsck_clear_log())
    output.say_done("", as_json=as_json, cleared=True)


# ---------------------------------------------------------------------- orphans


@orphan_app.command("start")
def orphans_start(
    device: DeviceOption = None,
    age: Annotated[
        int | None,
        typer.Option("--age", min=0, help="Pass over files younger than so many seconds (a day unless given)."),
    ] = None,
    wait: WaitOption = False,
    trackers: TrackersOption = "",
    as_json: JsonOption = False,
) -> None:
    """Search devices; nothing is changed, but files whose copies are missing are queued for a check."""

    async def work(client: TrackerClient) -> list[OrphanWalk]:
        walks = await client.orphans("start", devid=device, age_seconds=age)
        with output.remarks.status("searching"):
            while wait and any(walk.state == "running" for walk in walks):
                await asyncio.sleep(POLL_SECONDS)
                walks = await client.orphans()
        return walks

    _say(with_client(trackers, work), show_walks, as_json=as_json)


@orphan_app.command("stop")
def orphans_stop(device: DeviceOption = None, trackers: TrackersOption = "", as_json: JsonOption = False) -> None:
    """Stop the search; what was found stays listed."""
    walks = with_client(trackers, lambda client: client.orphans("stop", devid=device))
    if as_json:
        output.say_json(walks)


@orphan_app.command("status")
def orphans_status(trackers: TrackersOption = "", as_json: JsonOption = False) -> None:
    """How far the search is on every device."""
    _say(with_client(trackers, lambda client: client.orphans()), show_walks, as_json=as_json)


@orphan_app.command("list")
def orphans_list(device: DeviceOption = None, trackers: TrackersOption = "", as_json: JsonOption = False) -> None:
    """What was found."""

    async def work(client: TrackerClient) -> list[Any]:
        return [orphan async for orphan in client.orphan_files(device)]

    def rows(found: list[Any]) -> None:
        output.say_table(
            ("device", "fid", "length", "written", "file", "order"),
            [
                (
                    o.devid,
                    o.fid,
                    o.length,
                    time.strftime("%Y-%m-%d %H:%M", time.localtime(o.mtime)),
                    "exists" if o.is_file else "no",
                    o.todo,
                )
                for o in found
            ],
            right=_RIGHT,
        )

    _say(with_client(trackers, work), rows, as_json=as_json)


@orphan_app.command("remove")
def orphans_remove(device: DeviceOption = None, trackers: TrackersOption = "", as_json: JsonOption = False) -> None:
    """Delete what is listed; what a file still needs is given back to it instead."""
    _say(with_client(trackers, lambda client: client.orphans("remove", devid=device)), show_walks, as_json=as_json)


@orphan_app.command("adopt")
def orphans_adopt(device: DeviceOption = None, trackers: TrackersOption = "", as_json: JsonOption = False) -> None:
    """Give what is listed back to the files it belongs to, where its length and digest are theirs."""
    _say(with_client(trackers, lambda client: client.orphans("adopt", devid=device)), show_walks, as_json=as_json)


def show_walks(walks: list[OrphanWalk]) -> None:
    """The searches, for people."""
    output.say_table(
        ("device", "state", "files", "orphans", "missing", "listed", "to do", "problem"),
        [(w.devid, w.state, w.files, w.orphans, w.missing, w.listed, w.pending, w.problem) for w in walks],
        right=_RIGHT,
    )


def _say(value: Any, people: Callable[[Any], None], *, as_json: bool) -> None:
    if as_json:
        output.say_json(value)
    else:
        people(value)
