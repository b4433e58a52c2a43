"""mogfiledebug: rows of the database and what the nodes hold, in the classic form."""

from collections.abc import Callable

import pytest

from mogile_cli.classic.filedebug import FILE_DEBUG

BODY = b"hello"
MD5 = "5d41402abc4b2a76b9719d911017c592"
ROW = {
    "fid_fid": 7, "fid_dmid": 1, "fid_dkey": "k", "fid_length": 5, "fid_classid": 0, "fid_devcount": 2, "fid_domain": "d",
    "fid_class": "default", "devids": "2,10", "checksum": f"MD5:{MD5}",
}  # fmt: skip
ROWS_FORM = f"""
Tempfile and/or queue rows...
none.

- File Row:
     class:              default
   classid:                    0
  devcount:                    2
      dkey:                    k
      dmid:                    1
    domain:                    d
       fid:                    7
    length:                    5

- Raw devids: 2,10

- Stored checksum: MD5:{MD5}
"""


def _argv(tracker, *more: str) -> list[str]:
    return [f"--trackers={tracker.address}", "--domain=d", "--key=k", *more]


async def test_fetch_sums_every_copy(run: Callable, tracker, node) -> None:
    node.files = {"/dev2/f": BODY, "/dev10/f": BODY}
    tracker.script["file_debug"] = {**ROW, "devpath_10": f"{node.url}/dev10/f", "devpath_2": f"{node.url}/dev2/f"}
    result = await run(FILE_DEBUG, *_argv(tracker))
    copies = "".join(
        f"\nResults for path: {node.url}/{device}/f\n - MD5 Hash: {MD5}\n - Length: 5\n"
        " - Last-Modified: Mon, 23 Nov 2026 10:00:00 GMT\n - HTTP result: 200 OK\n"
        for device in ("dev2", "dev10")
    )
    assert (result.status, result.err) == (0, "")
    assert result.out == "Fetching and summing paths...\n" + copies + ROWS_FORM
    assert tracker.asked("file_debug") == [{"domain": "d", "key": "k"}]


async def test_what_is_wrong_with_copies_is_named(run: Callable, tracker, node, make_node) -> None:
    bad = await make_node()
    bad.refuse = 503
    node.files = {"/1": BODY, "/2": b"HELLO", "/3": b"longer"}
    urls = [f"{node.url}/1", f"{node.url}/2", f"{node.url}/3", f"{node.url}/4", f"{bad.url}/5", "http://127.0.0.1:1/6"]
    tracker.script["file_debug"] = {**ROW, **{f"devpath_{index}": url for index, url in enumerate(urls, 1)}}
    out = (await run(FILE_DEBUG, *_argv(tracker))).out
    sections = [part.splitlines() for part in out.split("Results for path: ")[1:]]
    errors = [[line for line in section if "ERROR" in line] for section in sections]
    assert errors[:5] == [
        [],
        [" - ERROR: Hash does not match first path!"],
        [" - ERROR: Hash does not match first path!", " - ERROR: Length does not match file row!"],
        [" - ERROR: File copy is missing: 404 Not Found"],
        [" - ERROR: File copy cannot be read: 503 Service Unavailable"],
    ]
    assert errors[5][0].startswith(" - ERROR: File copy cannot be read: Cannot connect")


async def test_stat_asks_for_lengths_only(run: Callable, tracker, node) -> None:
    node.files = {"/1": BODY}
    tracker.script["file_debug"] = {**ROW, "devpath_1": f"{node.url}/1"}
    out = (await run(FILE_DEBUG, *_argv(tracker, "--paths=stat"))).out
    assert out == (
        f"Checking paths...\n\nResults for path: {node.url}/1\n - Length: 5\n"
        f" - Last-Modified: Mon, 23 Nov 2026 10:00:00 GMT\n - HTTP result: 200 OK\n{ROWS_FORM}"
    )
    assert [method for method, _, _ in node.seen] == ["HEAD"]


async def test_print_leaves_the_nodes_alone(run: Callable, tracker, node) -> None:
    tracker.script["file_debug"] = {**ROW, "devpath_1": f"{node.url}/1"}
    assert (await run(FILE_DEBUG, *_argv(tracker, "--paths=print"))).out == f"Paths...\n - {node.url}/1\n{ROWS_FORM}"
    assert node.seen == []


async def test_by_fid_of_a_file_that_is_being_deleted(run: Callable, tracker) -> None:
    tracker.script["file_debug"] = {
        "delqueue_fid": 7, "delqueue_failcount": 1, "delqueue_nexttry": 1700000000, "tempfile_dkey": "k", "checksum": "NONE",
    }  # fmt: skip
    result = await run(FILE_DEBUG, f"--trackers={tracker.address}", "--fid=7")
    assert (result.status, result.err) == (0, "")
    assert (
        result.out
        == """\
No valid-ish paths found

Tempfile and/or queue rows...
-     tempfile
                  dkey:                    k
-     delqueue
             failcount:                    1
                   fid:                    7
               nexttry:           1700000000

- ERROR: No file row was found!
File may have been deleted or never closed.
See above for any matching rows from tempfile or delqueue.

- Stored checksum: NONE
"""
    )
    assert tracker.asked("file_debug")[0]["fid"] == "7"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--domain=d", "--key=k", "--paths=guess"], "--paths must be one of print, stat, fetch, not 'guess'\n"),
        (["--domain=d"], "missing --key\n"),
        (["--fid=-1"], "--fid must be a whole number, not '-1'\n"),
    ],
)
async def test_mistakes(run: Callable, tracker, argv: list[str], message: str) -> None:
    result = await run(FILE_DEBUG, f"--trackers={tracker.address}", *argv)
    assert (result.status, result.out, result.err) == (255, "", message)


async def test_an_unknown_key(run: Callable, tracker) -> None:
    tracker.script["file_debug"] = "unknown_key"
    result = await run(FILE_DEBUG, *_argv(tracker))
    assert (result.status, result.err) == (255, "Error fetching fid info: unknown_key\n")
