"""The small tools around keys: mogdelete, mogrename, moglistkeys, moglistfids, mogfileinfo."""

from __future__ import annotations

from collections.abc import AsyncIterator

from mogile_cli.classic import connection, program
from mogile_cli.classic.connection import Connection, Pairs
from mogile_cli.classic.program import Call, Console, Died, Utility
from mogile_core.errors import CommandError, ProtocolError

PATHS_MAX = 99
LIST_KEYS_PAGE = 1000
LIST_FIDS_PAGE = 500
LIST_FIDS_DEFAULT = 100


async def _delete(call: Call) -> None:
    domain, key = call.need("domain"), call.need("key")
    async with connection.connect(call.trackers, call.values) as tracker:
        with program.doing("deleting file"):
            await tracker.ask("delete", domain=domain, key=key)


async def _rename(call: Call) -> None:
    domain, old_key, new_key = call.need("domain"), call.need("old_key"), call.need("new_key")
    async with connection.connect(call.trackers, call.values) as tracker:
        with program.doing("renaming file"):
            await tracker.ask("rename", domain=domain, from_key=old_key, to_key=new_key)


async def _list_keys(call: Call) -> None:
    """A key per line, page by page; that nothing matches at all is an error, as it always was."""
    domain, prefix = call.need("domain"), call.values.get("key_prefix") or None
    async with connection.connect(call.trackers, call.values) as tracker:
        with program.doing("listing files"):
            async for key in _keys(tracker, domain, prefix):
                call.console.line(key)


async def _keys(tracker: Connection, domain: str, prefix: str | None) -> AsyncIterator[str]:
    after: str | None = None
    while True:
        try:
            page = await tracker.ask("list_keys", domain=domain, prefix=prefix, after=after, limit=LIST_KEYS_PAGE)
        except CommandError as error:
            if error.wire_code == "none_match" and after is not None:  # the page after the last
                return
            raise
        number = connection.count(page, "key_count")
        for index in range(1, number + 1):
            yield page[f"key_{index}"]
        if number < LIST_KEYS_PAGE:
            return
        before, after = after, page.get("next_after") or page[f"key_{number}"]
        if after == before:
            raise ProtocolError("the tracker's list of keys does not go on: it gave the same page twice")


async def _list_fids(call: Call) -> None:
    """Blocks of fields, ascending by fid, from the one after --fromfid on."""
    after, wanted = call.number("fromfid", 0), call.number("count", LIST_FIDS_DEFAULT)
    async with connection.connect(call.trackers, call.values) as tracker:
        while wanted > 0:
            with program.doing("listing fids"):
                page = await tracker.ask("list_fids", **{"from": after, "to": min(wanted, LIST_FIDS_PAGE)})
            files = sorted(connection.rows(page, "fid_count", "fid_{}_"), key=lambda row: connection.whole(row, "fid"))
            if not files:
                return
            for row in files[:wanted]:
                _print_fid(call.console, row)
            after = connection.whole(files[-1], "fid")
            wanted -= len(files)


def _print_fid(console: Console, row: Pairs) -> None:
    console.line(f"fid {row['fid']}")
    for name in sorted(row.keys() - {"fid"}):
        console.line(f"{name} {row[name]}")
    console.line()


async def _file_info(call: Call) -> None:
    domain, key = call.need("domain"), call.need("key")
    async with connection.connect(call.trackers, call.values) as tracker:
        with program.doing("fetching file info"):
            info = await tracker.ask("file_info", domain=domain, key=key)
        with program.doing("fetching paths"):
            answer = await tracker.ask("get_paths", domain=domain, key=key, noverify=1, pathcount=PATHS_MAX)
    call.console.line(f"- file: {key}")
    for line in field_lines(info):
        call.console.line(line)
    paths = path_list(answer)
    for path in paths:
        call.console.line(f" - {path}")
    if not paths:
        raise Died("No paths found: no copy of this file can be read now")


def field_lines(fields: Pairs) -> list[str]:
    """Sorted `name: value` lines, both right-aligned."""
    return [f"  {name:>8}: {fields[name]:>20}" for name in sorted(fields)]


def path_list(answer: Pairs) -> list[str]:
    """The URLs of a get_paths answer, in their order."""
    return [answer[f"path{index}"] for index in range(1, connection.count(answer, "paths") + 1)]


def _usage(name: str, rest: str) -> tuple[str, ...]:
    return (f"Usage: {name} --trackers=host {rest}",)


DELETE = Utility(
    name="mogdelete", usage=_usage("mogdelete", "--domain=foo --key='/hello.jpg'"), options=("key=s",), run=_delete
)
RENAME = Utility(
    name="mogrename",
    usage=_usage("mogrename", "--domain=foo --old_key='/hello.jpg' --new_key='/bye.jpg'"),
    options=("old_key=s", "new_key=s"),
    run=_rename,
)
LIST_KEYS = Utility(
    name="moglistkeys",
    usage=_usage("moglistkeys", "--domain=foo --key_prefix='bar/'"),
    options=("key_prefix=s",),
    run=_list_keys,
)
LIST_FIDS = Utility(
    name="moglistfids",
    usage=_usage("moglistfids", "--fromfid=123 --count=5000"),
    options=("fromfid=i", "count=i"),
    run=_list_fids,
)
FILE_INFO = Utility(
    name="mogfileinfo",
    usage=_usage("mogfileinfo", "--domain=foo --key='/hello.jpg'"),
    options=("key=s",),
    run=_file_info,
)


def main_delete() -> int:
    """Entry point of `mogdelete`."""
    return program.launch_utility(DELETE)


def main_rename() -> int:
    """Entry point of `mogrename`."""
    return program.launch_utility(RENAME)


def main_list_keys() -> int:
    """Entry point of `moglistkeys`."""
    return program.launch_utility(LIST_KEYS)


def main_list_fids() -> int:
    """Entry point of `moglistfids`."""
    return program.launch_utility(LIST_FIDS)


def main_file_info() -> int:
    """Entry point of `mogfileinfo`."""
    return program.launch_utility(FILE_INFO)
