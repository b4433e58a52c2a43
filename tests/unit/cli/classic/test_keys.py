"""mogdelete, mogrename, moglistkeys, moglistfids, mogfileinfo: output forms and exit codes."""

from collections.abc import Callable

import pytest

from mogile_cli.classic import filedebug, keys, transfer
from mogile_cli.classic.program import Utility

ALL = [
    keys.DELETE,
    keys.RENAME,
    keys.LIST_KEYS,
    keys.LIST_FIDS,
    keys.FILE_INFO,
    transfer.UPLOAD,
    transfer.FETCH,
    filedebug.FILE_DEBUG,
]


@pytest.mark.parametrize("tool", ALL, ids=lambda tool: tool.name)
async def test_without_arguments_the_usage_is_printed_and_that_is_no_error(run: Callable, tool: Utility) -> None:
    for argv in ((), ("--help",)):
        result = await run(tool, *argv)
        assert (result.status, result.err) == (0, "")
        assert result.out.startswith(f"Usage: {tool.name} --trackers=host ")


@pytest.mark.parametrize("tool", ALL, ids=lambda tool: tool.name)
async def test_a_wrong_command_line_is_named_and_fails(run: Callable, tool: Utility) -> None:
    result = await run(tool, "--nonsense=1")
    assert (result.status, result.err) == (255, "Unknown option: nonsense\n")
    assert result.out.startswith("Usage: ")
    assert (await run(tool, "--domain=d", "word")).err == "Unexpected argument: word\n"


async def test_without_trackers(run: Callable) -> None:
    result = await run(keys.DELETE, "--domain=d", "--key=k")
    assert (result.status, result.out) == (255, "")
    assert result.err == "no trackers: use --trackers=host:7001 or set `trackers` in ~/.mogilefs.conf\n"


async def test_when_no_tracker_answers(run: Callable) -> None:
    result = await run(keys.LIST_KEYS, "--trackers=127.0.0.1:1", "--domain=d")
    assert result.status == 255
    assert result.err.startswith("Error listing files: no tracker of 127.0.0.1:1 could do list_keys")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize("missing", ["domain", "key"])
async def test_a_missing_option_is_named(run: Callable, tracker, missing: str) -> None:
    given = [f"--{name}=x" for name in ("domain", "key") if name != missing]
    result = await run(keys.DELETE, f"--trackers={tracker.address}", *given)
    assert (result.status, result.err, tracker.requests) == (255, f"missing --{missing}\n", [])


async def test_delete(run: Callable, tracker) -> None:
    tracker.script["delete"] = {}
    result = await run(keys.DELETE, "--trackers", tracker.address, "--domain", "d", "--key", "-ä&=")
    assert (result.status, result.out, result.err) == (0, "", "")
    assert tracker.asked("delete") == [{"domain": "d", "key": "-ä&="}]


async def test_delete_of_a_key_that_is_not_there(run: Callable, tracker) -> None:
    tracker.script["delete"] = "unknown_key"
    result = await run(keys.DELETE, f"--trackers={tracker.address}", "--domain=d", "--key=k")
    assert (result.status, result.out, result.err) == (255, "", "Error deleting file: unknown_key\n")


async def test_rename(run: Callable, tracker) -> None:
    tracker.script["rename"] = [{}, "key_exists"]
    argv = [f"--trackers={tracker.address}", "--domain=d", "--old_key=a", "--new_key=b"]
    assert (await run(keys.RENAME, *argv)).status == 0
    assert tracker.asked("rename") == [{"domain": "d", "from_key": "a", "to_key": "b"}]
    result = await run(keys.RENAME, *argv)
    assert (result.status, result.err) == (
        255,
        "Error renaming file: Target key name already exists; can't overwrite.\n",
    )


def _page(names: list[str]) -> dict[str, object]:
    return {"key_count": len(names), "next_after": names[-1], **{f"key_{i}": name for i, name in enumerate(names, 1)}}


async def test_list_keys_pages_to_the_end(run: Callable, tracker) -> None:
    everything = [f"p/{n:05d}" for n in range(2000)]
    tracker.script["list_keys"] = [_page(everything[:1000]), _page(everything[1000:]), "none_match"]
    result = await run(keys.LIST_KEYS, f"--trackers={tracker.address}", "--domain=d", "--key_prefix=p/")
    assert (result.status, result.err) == (0, "")
    assert result.out.splitlines() == everything
    assert [args.get("after") for args in tracker.asked("list_keys")] == [None, "p/00999", "p/01999"]


async def test_list_keys_of_any_bytes(run: Callable, tracker) -> None:
    names = ["ä", "x\udcffy", "a b+c"]
    tracker.script["list_keys"] = _page(names)
    result = await run(keys.LIST_KEYS, f"--trackers={tracker.address}", "--domain=d")
    assert result.raw == b"\xc3\xa4\nx\xffy\na b+c\n"
    assert tracker.asked("list_keys") == [{"domain": "d", "limit": "1000"}]


async def test_list_keys_without_a_match_fails(run: Callable, tracker) -> None:
    tracker.script["list_keys"] = "none_match"
    result = await run(keys.LIST_KEYS, f"--trackers={tracker.address}", "--domain=d")
    assert (result.status, result.out) == (255, "")
    assert result.err == "Error listing files: No keys match that pattern and after-value (if any).\n"


def _fids(args: dict[str, str]) -> dict[str, object]:
    """A tracker with fids 1 to 700, which ignores more than 500 at once and answers in no order."""
    fids = [fid for fid in range(1, 701) if fid > int(args["from"])][: min(int(args["to"]), 500)]
    pairs: dict[str, object] = {"fid_count": len(fids)}
    for index, fid in enumerate(reversed(fids), 1):
        row = {"fid": fid, "domain": "d", "class": "default", "key": f"k{fid}", "length": 5, "devcount": 2}
        pairs |= {f"fid_{index}_{name}": value for name, value in row.items()}
    return pairs


async def test_list_fids_form(run: Callable, tracker) -> None:
    tracker.script["list_fids"] = _fids
    result = await run(keys.LIST_FIDS, f"--trackers={tracker.address}", "--fromfid=10", "--count=2")
    assert (result.status, result.err) == (0, "")
    assert result.out == (
        "fid 11\nclass default\ndevcount 2\ndomain d\nkey k11\nlength 5\n\n"
        "fid 12\nclass default\ndevcount 2\ndomain d\nkey k12\nlength 5\n\n"
    )


@pytest.mark.parametrize(
    ("argv", "expected"), [([], 100), (["--count=600"], 600), (["--count=5000"], 700), (["--count=0"], 0)]
)
async def test_list_fids_count(run: Callable, tracker, argv: list[str], expected: int) -> None:
    tracker.script["list_fids"] = _fids
    result = await run(keys.LIST_FIDS, f"--trackers={tracker.address}", *argv)
    found = [int(line[4:]) for line in result.out.splitlines() if line.startswith("fid ")]
    assert (result.status, found) == (0, list(range(1, expected + 1)))


INFO = {"fid": 2, "domain": "images", "class": "MZ", "key": "/mog_test.jpg", "length": 104783, "devcount": 2}
PATHS = ["http://10.0.0.33:7500/dev3/0/000/000/0000000002.fid", "http://10.0.0.32:7500/dev1/0/000/000/0000000002.fid"]
INFO_FORM = """\
- file: /mog_test.jpg
     class:                   MZ
  devcount:                    2
    domain:               images
       fid:                    2
       key:        /mog_test.jpg
    length:               104783
"""


async def test_file_info_form(run: Callable, tracker) -> None:
    tracker.script |= {"file_info": INFO, "get_paths": {"paths": 2, "path1": PATHS[0], "path2": PATHS[1]}}
    result = await run(keys.FILE_INFO, f"--trackers={tracker.address}", "--domain=images", "--key=/mog_test.jpg")
    assert (result.status, result.err) == (0, "")
    assert result.out == INFO_FORM + f" - {PATHS[0]}\n - {PATHS[1]}\n"
    assert tracker.asked("get_paths") == [
        {"domain": "images", "key": "/mog_test.jpg", "noverify": "1", "pathcount": "99"}
    ]


async def test_file_info_without_a_readable_copy_still_tells_and_fails(run: Callable, tracker) -> None:
    tracker.script |= {"file_info": INFO, "get_paths": {"paths": 0}}
    result = await run(keys.FILE_INFO, f"--trackers={tracker.address}", "--domain=images", "--key=/mog_test.jpg")
    assert (result.status, result.out) == (255, INFO_FORM)
    assert result.err == "No paths found: no copy of this file can be read now\n"


async def test_file_info_of_a_key_that_is_not_there(run: Callable, tracker) -> None:
    tracker.script["file_info"] = "unknown_key"
    result = await run(keys.FILE_INFO, f"--trackers={tracker.address}", "--domain=d", "--key=k")
    assert (result.status, result.out, result.err) == (255, "", "Error fetching file info: unknown_key\n")


async def test_an_answer_that_promises_too_much_is_not_believed(run: Callable, tracker) -> None:
    tracker.script["list_fids"] = {"fid_count": 10**9}
    result = await run(keys.LIST_FIDS, f"--trackers={tracker.address}", "--count=1")
    assert result.status == 255
    assert result.err == "the tracker's answer has fid_count='1000000000', expected a whole number of at most 1000000\n"
