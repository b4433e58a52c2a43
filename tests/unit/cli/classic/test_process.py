"""The tools as processes: signals, closed pipes, bytes that are no text."""

import asyncio
import signal
import sys
from pathlib import Path
from typing import IO

MOGADM = "import sys; from mogile_cli.classic.admin.main import main; sys.exit(main())"
LIST_KEYS = "import sys; from mogile_cli.classic.keys import main_list_keys; sys.exit(main_list_keys())"
UPLOAD = "import sys; from mogile_cli.classic.transfer import main_upload; sys.exit(main_upload())"
DELETE = "import sys; from mogile_cli.classic.keys import main_delete; sys.exit(main_delete())"


async def _start(
    home: Path, program: str, *argv: str | bytes, stdin: int | IO[bytes] = asyncio.subprocess.DEVNULL
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        *argv,
        env={"HOME": str(home), "LC_ALL": "C"},
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_ctrl_c_ends_taillog_without_a_traceback(tracker, tmp_path: Path) -> None:
    tracker.script |= {"fsck_status": {"max_logid": 0}, "fsck_getlog": {"row_count": 0}}
    process = await _start(tmp_path, MOGADM, f"--trackers={tracker.address}", "fsck", "taillog")
    assert process.stdout is not None
    async with asyncio.timeout(30):
        assert (await process.stdout.readline()).split() == [b"unixtime", b"event", b"fid", b"devid"]
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
    assert (process.returncode, out, err) == (130, b"", b"")


async def test_a_closed_pipe_ends_a_list_quietly(tracker, tmp_path: Path) -> None:
    def page(args: dict[str, str]) -> dict[str, object]:
        first = int(args.get("after", "0")) + 1
        keys = [f"{number:09d}" for number in range(first, first + 1000)]
        return {"key_count": 1000, "next_after": keys[-1], **{f"key_{i}": key for i, key in enumerate(keys, 1)}}

    tracker.script["list_keys"] = page  # never ends
    process = await _start(tmp_path, LIST_KEYS, f"--trackers={tracker.address}", "--domain=d")
    assert process.stdout is not None
    assert process.stderr is not None
    async with asyncio.timeout(30):
        assert await process.stdout.readline() == b"000000001\n"
        process._transport.get_pipe_transport(1).close()
        err = await process.stderr.read()
        assert (await process.wait(), err) == (141, b"")


async def test_bytes_that_are_no_text_pass_through(tracker, tmp_path: Path) -> None:
    tracker.script["delete"] = "unknown_key"
    process = await _start(tmp_path, DELETE, f"--trackers={tracker.address}", "--domain=d", b"--key=x\xffy\xc3\xa4")
    async with asyncio.timeout(30):
        _, err = await process.communicate()
    assert (process.returncode, err) == (255, b"Error deleting file: unknown_key\n")
    assert tracker.asked("delete") == [{"domain": "d", "key": "x\udcffyä"}]


async def test_an_upload_waiting_for_standard_input_can_be_interrupted(tracker, node, tmp_path: Path) -> None:
    tracker.script["create_open"] = {"fid": 7, "dev_count": 1, "devid_1": 1, "path_1": f"{node.url}/f"}
    argv = (f"--trackers={tracker.address}", "--domain=d", "--key=k", "--file=-")
    process = await _start(tmp_path, UPLOAD, *argv, stdin=asyncio.subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"some bytes, and then nothing for a long time")
    async with asyncio.timeout(30):
        while not node.seen:
            await asyncio.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
    assert tracker.asked("create_close") == []


async def test_standard_input_as_pipe_file_and_device(tracker, node, tmp_path: Path) -> None:
    tracker.script |= {
        "create_open": {"fid": 7, "dev_count": 1, "devid_1": 1, "path_1": f"{node.url}/f"},
        "create_close": {},
    }
    argv = (f"--trackers={tracker.address}", "--domain=d", "--key=k", "--file=-")
    body = bytes(range(256)) * 4096
    file = tmp_path / "body"
    file.write_bytes(body)
    async with asyncio.timeout(60):
        process = await _start(tmp_path, UPLOAD, *argv, stdin=asyncio.subprocess.PIPE)
        assert (await process.communicate(body), process.returncode, node.files["/f"]) == ((b"", b""), 0, body)
        node.files.clear()
        with file.open("rb") as stream:
            process = await _start(tmp_path, UPLOAD, *argv, stdin=stream)
            assert (await process.communicate(), process.returncode, node.files["/f"]) == ((b"", b""), 0, body)
        process = await _start(tmp_path, UPLOAD, *argv)
        assert (await process.communicate(), process.returncode, node.files["/f"]) == ((b"", b""), 0, b"")
