"""mogfiledebug: everything that is known about a file, the database's rows and what the nodes really hold.

--paths=fetch (the default) reads every copy and digests it, `stat` asks for its length only, `print` leaves the nodes alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mogile_cli.classic import connection, program
from mogile_cli.classic.connection import Pairs
from mogile_cli.classic.keys import field_lines
from mogile_cli.classic.nodes import Answer, nodes
from mogile_cli.classic.program import Call, Console, Died, Utility

QUEUES = ("tempfile", "replqueue", "delqueue", "rebqueue", "fsckqueue")
MODES = ("print", "stat", "fetch")
DOMAIN_UNSET = "mogfiledebug-unset"  # by fid no domain is needed, but old trackers check that one is named


async def _debug(call: Call) -> None:
    mode = call.values.get("paths", "fetch")
    if mode not in MODES:
        raise Died(f"--paths must be one of {', '.join(MODES)}, not {mode!r}")
    arguments: dict[str, str | int | None]
    if call.values.get("fid"):
        arguments = {"fid": call.number("fid", 0), "domain": call.values.get("domain") or DOMAIN_UNSET}
    else:
        arguments = {"domain": call.need("domain"), "key": call.need("key")}
    async with connection.connect(call.trackers, call.values) as tracker:
        with program.doing("fetching fid info"):
            details = await tracker.ask("file_debug", **arguments)
    row = _part(details, "fid")
    await _show_paths(call.console, [details[name] for name in _path_names(details)], row.get("length"), mode)
    _show_rows(call.console, details, row)


def _path_names(details: Pairs) -> list[str]:
    names = [name for name in details if name.startswith("devpath_")]
    return sorted(names, key=lambda name: (len(name), name))  # devpath_2 before devpath_10


def _part(details: Pairs, table: str) -> dict[str, str]:
    """The fields of one table: `fid_length` -> `length`."""
    return {name[len(table) + 1 :]: value for name, value in details.items() if name.startswith(table + "_")}


async def _show_paths(console: Console, urls: Sequence[str], length: str | None, mode: str) -> None:
    if not urls:
        console.line("No valid-ish paths found")
        return
    if mode == "print":
        console.line("Paths...")
        for url in urls:
            console.line(f" - {url}")
        return
    console.line("Fetching and summing paths..." if mode == "fetch" else "Checking paths...")
    if length is None:
        console.line("No length, cannot verify content length")
    first_md5: str | None = None
    async with nodes() as http:
        for url in urls:
            answer = await (http.digest(url) if mode == "fetch" else http.stat(url))
            console.line()
            console.line(f"Results for path: {url}")
            for line in _path_lines(answer, length, first_md5):
                console.line(f" - {line}")
            first_md5 = first_md5 or (answer.md5 if answer.status == 200 else None)


def _path_lines(answer: Answer, length: str | None, first_md5: str | None) -> list[str]:
    """What one copy looks like, errors first."""
    if answer.status == 404:
        return [f"ERROR: File copy is missing: {answer.result}"]
    if answer.status != 200:
        return [f"ERROR: File copy cannot be read: {answer.result}"]
    lines = []
    if answer.md5 and first_md5 and answer.md5 != first_md5:
        lines.append("ERROR: Hash does not match first path!")
    if length is not None and answer.length is not None and str(answer.length) != length:
        lines.append("ERROR: Length does not match file row!")
    found = {
        "MD5 Hash": answer.md5,
        "Length": answer.length,
        "Last-Modified": answer.modified,
        "HTTP result": answer.result,
    }
    return lines + [f"{name}: {value}" for name, value in found.items() if value is not None]


def _show_rows(console: Console, details: Pairs, row: Mapping[str, str]) -> None:
    console.line()
    console.line("Tempfile and/or queue rows...")
    queued = {table: _part(details, table) for table in QUEUES}
    for table, fields in queued.items():
        if fields:
            console.line(f"- {table:>12}")
            for name in sorted(fields):
                console.line(f"  {name:>20}: {fields[name]:>20}")
    if not any(queued.values()):
        console.line("none.")
    console.line()
    if row:
        console.line("- File Row:")
        for line in field_lines(row):
            console.line(line)
    else:
        console.line("- ERROR: No file row was found!")
        console.line("File may have been deleted or never closed.")
        console.line("See above for any matching rows from tempfile or delqueue.")
    for title, name in (("Raw devids", "devids"), ("Stored checksum", "checksum")):
        if details.get(name):
            console.line()
            console.line(f"- {title}: {details[name]}")


FILE_DEBUG = Utility(
    name="mogfiledebug",
    usage=(
        "Usage: mogfiledebug --trackers=host --domain=foo --key='/hello.jpg'",
        "   or: mogfiledebug --trackers=host --fid=123456",
        "       [--paths=print|stat|fetch]",
    ),
    options=("key=s", "fid=i", "paths=s"),
    run=_debug,
)


def main_file_debug() -> int:
    """Entry point of `mogfiledebug`."""
    return program.launch_utility(FILE_DEBUG)
