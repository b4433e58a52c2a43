"""mogupload and mogfetch: whole files, other nodes when one fails, nothing half-written."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mogile_cli.classic import transfer

BODY = os.urandom(1 << 20) + b"end"


def _opened(*nodes) -> dict[str, object]:
    pairs: dict[str, object] = {"fid": 7, "dev_count": len(nodes)}
    for index, node in enumerate(nodes, 1):
        pairs |= {f"devid_{index}": index, f"path_{index}": f"{node.url}/dev{index}/0/000/000/0000000007.fid"}
    return pairs


def _paths(*nodes) -> dict[str, object]:
    urls = [f"{node.url}/f{index}" for index, node in enumerate(nodes, 1)]
    return {"paths": len(urls), **{f"path{index}": url for index, url in enumerate(urls, 1)}}


@pytest.mark.parametrize("content", [BODY, b""], ids=["large", "empty"])
async def test_upload_of_a_file(run: Callable, tracker, node, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    tracker.script |= {"create_open": _opened(node), "create_close": {}}
    argv = [f"--trackers={tracker.address}", "--domain=d", "--class=thumb", "--key=k", f"--file={file}"]
    result = await run(transfer.UPLOAD, *argv)
    assert (result.status, result.out, result.err) == (0, "", "")
    assert node.files == {"/dev1/0/000/000/0000000007.fid": content}
    (opened,), (closed,) = tracker.asked("create_open"), tracker.asked("create_close")
    assert (opened["domain"], opened["key"], opened["class"], opened["multi_dest"]) == ("d", "k", "thumb", "1")
    assert (closed["fid"], closed["devid"], closed["key"], closed["size"]) == ("7", "1", "k", str(len(content)))
    assert closed["path"] == f"{node.url}/dev1/0/000/000/0000000007.fid"


async def test_class_default_is_the_empty_class_on_the_wire(run: Callable, tracker, node) -> None:
    tracker.script |= {"create_open": _opened(node), "create_close": {}}
    argv = [f"--trackers={tracker.address}", "--domain=d", "--class=default", "--key=k", "--file=-"]
    assert (await run(transfer.UPLOAD, *argv, stdin=b"x")).status == 0
    assert tracker.asked("create_open")[0].get("class", "") == ""


async def test_upload_from_standard_input(run: Callable, tracker, node) -> None:
    tracker.script |= {"create_open": _opened(node), "create_close": {}}
    argv = [f"--trackers={tracker.address}", "--domain=d", "--key=k", "--file=-"]
    result = await run(transfer.UPLOAD, *argv, stdin=BODY)
    assert (result.status, result.err) == (0, "")
    assert list(node.files.values()) == [BODY]
    assert tracker.asked("create_close")[0]["size"] == str(len(BODY))


async def test_upload_goes_to_the_next_node_when_one_refuses(run: Callable, tracker, make_node, tmp_path: Path) -> None:
    full, good = await make_node(), await make_node()
    full.refuse = 507
    file = tmp_path / "file"
    file.write_bytes(BODY)
    tracker.script |= {"create_open": _opened(full, good), "create_close": {}}
    result = await run(transfer.UPLOAD, f"--trackers={tracker.address}", "--domain=d", "--key=k", f"--file={file}")
    assert (result.status, result.err) == (0, "")
    assert list(good.files.values()) == [BODY]
    assert tracker.asked("create_close")[0]["devid"] == "2"


async def test_standard_input_that_met_a_bad_node_is_not_stored(run: Callable, tracker, make_node) -> None:
    full, good = await make_node(), await make_node()
    full.refuse = 507
    tracker.script |= {"create_open": _opened(full, good), "create_close": {}}
    argv = [f"--trackers={tracker.address}", "--domain=d", "--key=k", "--file=-"]
    result = await run(transfer.UPLOAD, *argv, stdin=io.BytesIO(BODY))
    assert (result.status, result.out) == (255, "")
    assert "cannot be read a second time; nothing was stored" in result.err
    assert tracker.asked("create_close") == []


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing", "Could not open {path}: no such file\n"), (".", "{path} is not a file; use --file=-\n")],
)
async def test_what_cannot_be_uploaded(run: Callable, tracker, tmp_path: Path, name: str, message: str) -> None:
    path = tmp_path / name if name != "." else tmp_path
    result = await run(transfer.UPLOAD, f"--trackers={tracker.address}", "--domain=d", "--key=k", f"--file={path}")
    assert (result.status, result.err) == (255, message.format(path=path))
    assert tracker.requests == []


async def test_upload_refused_by_the_tracker(run: Callable, tracker) -> None:
    tracker.script["create_open"] = "no_devices"
    argv = [f"--trackers={tracker.address}", "--domain=d", "--key=k", "--file=-"]
    result = await run(transfer.UPLOAD, *argv, stdin=b"x")
    assert (result.status, result.err) == (255, "Error writing file: No devices found to store file\n")


async def test_fetch_to_a_file_and_to_standard_output(run: Callable, tracker, node, tmp_path: Path) -> None:
    node.files["/f1"] = BODY
    tracker.script["get_paths"] = _paths(node)
    argv = [f"--trackers={tracker.address}", "--domain=d", "--key=k"]
    target = tmp_path / "out"
    result = await run(transfer.FETCH, *argv, f"--file={target}")
    assert (result.status, result.out, result.err) == (0, "", "")
    assert target.read_bytes() == BODY
    result = await run(transfer.FETCH, *argv, "--file=-")
    assert (result.status, result.raw, result.err) == (0, BODY, "")
    assert tracker.asked("get_paths")[0]["noverify"] == "1"


async def test_fetch_continues_from_another_copy_where_one_broke_off(run: Callable, tracker, make_node) -> None:
    broken, gone, good = await make_node(), await make_node(), await make_node()
    broken.files["/f1"] = good.files["/f3"] = BODY
    broken.cut_after = 300_000
    tracker.script["get_paths"] = _paths(broken, gone, good)
    result = await run(transfer.FETCH, f"--trackers={tracker.address}", "--domain=d", "--key=k", "--file=-")
    assert (result.status, result.raw, result.err) == (0, BODY, "")
    assert good.seen[0][2].get("Range", "").startswith("bytes=")


async def test_a_failed_fetch_leaves_the_old_file_as_it_was(run: Callable, tracker, node, tmp_path: Path) -> None:
    node.files["/f1"] = BODY
    node.cut_after = 300_000
    tracker.script["get_paths"] = _paths(node)
    target = tmp_path / "kept" / "out"
    target.parent.mkdir()
    target.write_bytes(b"old")
    result = await run(transfer.FETCH, f"--trackers={tracker.address}", "--domain=d", "--key=k", f"--file={target}")
    assert result.status == 255
    assert result.err.startswith("Error fetching file: could not read d:'k'")
    assert target.read_bytes() == b"old"
    assert os.listdir(target.parent) == ["out"]


async def test_a_fetched_file_keeps_mode_and_link_of_what_it_replaces(
    run: Callable, tracker, node, tmp_path: Path
) -> None:
    node.files["/f1"] = b"new"
    tracker.script["get_paths"] = _paths(node)
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_bytes(b"old")
    real.chmod(0o640)
    link.symlink_to(real)
    result = await run(transfer.FETCH, f"--trackers={tracker.address}", "--domain=d", "--key=k", f"--file={link}")
    assert (result.status, result.err) == (0, "")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    assert real.stat().st_mode & 0o777 == 0o640


async def test_fetch_into_a_device(run: Callable, tracker, node) -> None:
    node.files["/f1"] = BODY
    tracker.script["get_paths"] = _paths(node)
    result = await run(transfer.FETCH, f"--trackers={tracker.address}", "--domain=d", "--key=k", "--file=/dev/null")
    assert (result.status, result.err) == (0, "")
    assert not os.path.isfile("/dev/null")


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ("unknown_key", "Error fetching file: unknown_key\n"),
        ({"paths": 0}, "Error fetching file: d:'k' has no readable copy now\n"),
    ],
)
async def test_fetch_of_what_is_not_there(run: Callable, tracker, tmp_path: Path, reply, message: str) -> None:
    tracker.script["get_paths"] = reply
    target = tmp_path / "out"
    result = await run(transfer.FETCH, f"--trackers={tracker.address}", "--domain=d", "--key=k", f"--file={target}")
    assert (result.status, result.err, target.exists()) == (255, message, False)
