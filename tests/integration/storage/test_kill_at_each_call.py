"""A node killed in the middle of a PUT: at the first file system call the upload makes, at the second, and so on to the last.

strace lists the calls of the one thread that makes the change durable, so nothing here knows how a file is written: a step that is
added is tested too.
"""

import contextlib
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

BODY = b"k" * 5000
CALLS = "%file,%desc,syncfs"
WARM = 1  # fid of the file that is there before


def durable_thread(node):
    """The thread that gives files their names (linkat): asked of strace with an upload."""
    output = node.folder / "threads"
    output.unlink(missing_ok=True)  # of the process before
    tracer = subprocess.Popen(
        ["strace", "-f", "-qq", "-o", str(output), "-e", "trace=linkat", "-p", str(node.process.pid)]
    )
    try:
        deadline = time.monotonic() + 60
        fid = 900_000
        while not (found := re.search(r"^(\d+) +linkat", output.read_text() if output.exists() else "", re.M)):
            assert time.monotonic() < deadline, "strace shows no linkat"
            fid += 1
            assert node.put(1, fid, b"x").status in (200, 201)
        return int(found[1])
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait(60)


def attach(node, output, *inject):
    """strace on the thread that makes the next upload durable. A thread that ends meanwhile is replaced by another one."""
    deadline = time.monotonic() + 90
    while True:
        thread = durable_thread(node)
        command = ["strace", "-qq", "-o", str(output), "-e", f"trace={CALLS}", *inject, "-p", str(thread)]
        tracer = subprocess.Popen(command)
        with contextlib.suppress(OSError):
            while tracer.poll() is None and time.monotonic() < deadline:
                status = Path(f"/proc/{node.process.pid}/task/{thread}/status").read_text()
                if f"TracerPid:\t{tracer.pid}\n" in status:
                    return tracer
                time.sleep(0.02)
        tracer.kill()
        tracer.wait(60)
        assert time.monotonic() < deadline, "strace did not attach"


def calls_of_a_put(node):
    """[(call, how many of its kind by then)], of a PUT that is let through."""
    output = node.folder / "calls"
    tracer = attach(node, output)
    assert node.put(1, 999, BODY).status == 201
    tracer.send_signal(signal.SIGINT)
    tracer.wait(60)
    names = re.findall(r"^(\w+)\(", output.read_text(), re.M)
    return [(name, names[: index + 1].count(name)) for index, name in enumerate(names)]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("mode", ["group", "each"])
def test_killed_at_every_call_of_a_put(make_node, mode):
    node = make_node(start=False, sync_mode=mode, usage_interval_seconds="100", scrub_interval_hours="0")
    node.start()
    assert node.put(1, WARM, BODY).status == 201
    calls = calls_of_a_put(node)
    kinds = {name for name, _ in calls}
    assert {"openat", "write", "fsetxattr", "linkat"} < kinds, calls
    assert ("syncfs" if mode == "group" else "fsync") in kinds, calls
    outcomes = []
    for number, (name, count) in enumerate(calls):
        tracer = attach(node, "/dev/null", "-e", f"inject={name}:signal=SIGKILL:when={count}")
        fid = 1000 + number
        with pytest.raises((OSError, EOFError)):
            node.put(1, fid, BODY)
        assert node.process.wait(60) == -signal.SIGKILL, (name, count)
        tracer.wait(60)
        node.start()
        assert node.get(1, WARM).body == BODY
        found = node.get(1, fid)
        outcomes.append(found.status)
        assert found.status == 404 or (found.status, found.body) == (200, BODY), (name, count)
        assert list((node.docroot / "dev1").glob(".mogile-tmp/*")) == []
        assert node.put(1, fid, BODY).status == (201 if found.status == 404 else 200)
        assert node.get(1, fid).body == BODY
    assert outcomes[0] == 404, "killed before anything was written"
    assert outcomes[-1] == 200, "killed when the name was there"
    assert outcomes == sorted(outcomes, reverse=True), "once the name is there it stays"
