"""`mog` as a person or a program uses it: installed, against a real cluster, with completion, JSON and one-line errors."""

import json
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from testkit.waiting import wait_until


def mog(store: Any, line: str) -> Any:
    return store.shell(f"MOGILE_TRACKERS={store.trackers} mog {line}")


def data(store: Any, line: str) -> Any:
    """The JSON of a call that must succeed without a word on stderr."""
    result = mog(store, f"{line} --json")
    assert (result.status, result.err) == (0, ""), (line, result)
    return json.loads(result.out)


@pytest.mark.timeout(900)
def test_files(store: Any) -> None:
    (store.folder / "a b.txt").write_bytes(b"hello" * 100_000)
    stored = data(store, f"put --domain d --class two --prefix files/ '{store.folder}/a b.txt'")
    assert [(each["key"], each["length"]) for each in stored] == [("files/a b.txt", 500_000)]
    assert data(store, "ls --domain d files/") == ["files/a b.txt"]
    long = data(store, "ls --domain d --long files/")
    assert [(each["key"], each["class_name"], each["length"]) for each in long] == [("files/a b.txt", "two", 500_000)]
    table = mog(store, "ls --domain d --long files/").out.splitlines()
    assert table[0].split() == ["size", "class", "devices", "key"]
    assert table[1].startswith("488.3 KiB  two")
    info = data(store, "info --domain d 'files/a b.txt'")
    assert info["checksum"].startswith("MD5:")
    assert all(path.endswith(".fid") for path in info["paths"])
    rows = dict(
        line.rstrip().split(maxsplit=1) for line in mog(store, "info --domain d 'files/a b.txt'").out.splitlines()[1:6]
    )
    assert rows["domain"] == "d"
    assert rows["length"] == "500000 (488.3 KiB)"
    assert data(store, f"get --domain d 'files/a b.txt' {store.folder}/back")["length"] == 500_000
    assert (store.folder / "back").read_bytes() == b"hello" * 100_000
    assert mog(store, "get --domain d 'files/a b.txt' -").raw == b"hello" * 100_000
    assert data(store, "rm --domain d --ignore-missing 'files/a b.txt' nope") == {
        "domain": "d",
        "removed": ["files/a b.txt"],
    }
    assert data(store, "ls --domain d files/") == []


@pytest.mark.timeout(900)
def test_topology(store: Any) -> None:
    assert data(store, "domain add e") == {"domain": "e"}
    made = data(store, "class add three --domain e --copies 3 --policy 'MultipleDevices()' --hash MD5")
    assert made == {"name": "three", "mindevcount": 3, "replpolicy": "MultipleDevices()", "hashtype": "MD5"}
    data(store, "class set three --domain e --copies 1")
    listed = {c["name"]: c for d in data(store, "class list --domain e") for c in d["classes"]}
    assert (listed["three"]["mindevcount"], listed["three"]["hashtype"]) == (1, "MD5")
    assert data(store, "host add far 10.1.2.3 --zone z")["hostname"] == "far"
    assert data(store, "device add far 77") == {"devid": 77, "host": "far"}
    data(store, "device mark 77 dead")
    data(store, "device weight 77 5")
    data(store, "host mark far down")
    data(store, "host zone far y")
    device = next(d for d in data(store, "device list") if d["devid"] == 77)
    assert (device["host"], device["status"], device["weight"]) == ("far", "dead", 5)
    host = next(h for h in data(store, "host list") if h["hostname"] == "far")
    assert (host["status"], host["zone"], host["devices"]) == ("down", "y", [77])
    assert data(store, "class rm three --domain e") == {"removed": "three"}
    assert data(store, "domain rm e") == {"removed": "e"}
    store.well("mogadm", "host", "list")


@pytest.mark.parametrize(
    ("line", "status", "words"),
    [
        ("info --domain d nope", 1, "there is no file 'nope' in domain d"),
        ("ls --domain nope", 1, "Domain name invalid/not found"),
        ("domain add d", 1, "That domain already exists"),
        ("put /nowhere --domain d", 2, "/nowhere is not a file that can be read"),
        ("put /etc/hostname --domain d --class nope", 1, "unreg_class"),
        ("device mark 999 dead", 2, "there is no device 999"),
        ("device mark 1 weird", 2, "weird"),
        ("ls --trackers 127.0.0.1:9 --domain d", 1, "127.0.0.1:9"),
        ("ls --trackers nonsense:port --domain d", 2, "host:7001"),
        ("get --domain d --json nope -", 2, "standard output"),
        ("scrub start", 2, "say what to scrub: numbers of devices, --host NAME or --all"),
        ("scrub status 999", 2, "there is no device 999; there are 1, 2"),
        ("nonsense", 2, "nonsense"),
    ],
)
def test_errors_are_one_sentence(store: Any, line: str, status: int, words: str) -> None:
    result = mog(store, line)
    assert result.status == status, result
    assert result.out == ""
    assert words in result.err
    assert result.err.startswith("mog: ")
    assert result.err.count("\n") == 1, result.err


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mog dom", ["domain"]),
        ("mog device ma", ["mark"]),
        ("mog info --domain ", ["d"]),
        ("mog put --class t", ["two"]),
        ("mog host mark node", ["node1", "node2"]),
        ("mog info completed/", ["completed/1", "completed/2"]),
        ("mog device mark 1 re", ["readonly"]),
    ],
)
def test_the_shell_completes_commands_and_names(store: Any, line: str, expected: list[str]) -> None:
    for key in ("completed/1", "completed/2"):
        store.well("mogupload", "--class=two", f"--key={key}", "--file=-", stdin=b"x")
    words = line.split(" ")
    asked = f"_MOG_COMPLETE=complete_bash COMP_WORDS='{line}' COMP_CWORD={len(words) - 1} MOGILE_TRACKERS={store.trackers} mog"
    store.until(lambda: store.shell(asked).out.split() == expected, f"{line!r} to be completed with {expected}")


def test_completion_without_a_tracker_is_empty_and_quiet(store: Any) -> None:
    asked = "_MOG_COMPLETE=complete_bash COMP_WORDS='mog info a' COMP_CWORD=2 MOGILE_TRACKERS=127.0.0.1:9 mog"
    result = store.shell(asked)
    assert (result.status, result.out.strip(), result.err) == (0, "", "")


@pytest.mark.timeout(900)
def test_a_slow_transfer_shows_a_bar_on_a_terminal_and_leaves_the_result_alone(store: Any, tmp_path: Path) -> None:
    """The node is stopped for a moment while a large file is fetched."""
    (tmp_path / "large").write_bytes(os.urandom(64 << 20))
    assert mog(store, f"put --domain d --key large {tmp_path}/large").status == 0
    screen, theirs = pty.openpty()
    seen = bytearray()

    def watch() -> None:
        try:
            while piece := os.read(screen, 4096):
                seen.extend(piece)
        except OSError:  # the other end is closed
            pass

    watching = threading.Thread(target=watch)
    watching.start()
    environment = {**os.environ, "MOGILE_TRACKERS": store.trackers, "TERM": "xterm", "COLUMNS": "120"}
    command = [str(Path(sys.executable).parent / "mog"), "get", "--domain", "d", "large", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment) as running:
        assert running.stdout is not None
        got = running.stdout.read(1 << 20)
        threading.Event().wait(1.5)  # a slow reader makes a slow transfer
        got += running.stdout.read()
    os.close(theirs)
    watching.join(60)
    os.close(screen)
    assert running.returncode == 0
    assert got == (tmp_path / "large").read_bytes()
    assert b"large" in seen
    assert b"64.0 MiB" in seen


@pytest.mark.timeout(900)
def test_scrub(store: Any) -> None:
    """A bit flips on one disk: the scrub that is ordered finds it, and the tracker puts a good copy there."""
    for number in range(3):
        store.well("mogupload", "--class=two", f"--key=scrub/{number}", "--file=-", stdin=b"x" * 5000)
    store.until(lambda: len(data(store, "info --domain d scrub/1")["paths"]) == 2, "two copies of each")
    fid = data(store, "info --domain d scrub/1")["fid"]
    (copy,) = (store.folder / "node1" / "dev1").rglob(f"{fid:010d}.fid")
    with copy.open("r+b") as stream:
        stream.write(b"y")
    found = data(store, "scrub start --host node1 --wait")
    assert [(each["devid"], each["host"], each["running"], each["error"]) for each in found] == [
        (1, "node1", False, "")
    ]
    assert (found[0]["damaged"], found[0]["files"] >= 3, found[0]["bytes"] >= 15_000) == (1, True, True)
    store.until(lambda: copy.exists() and copy.read_bytes() == b"x" * 5000, "the copy to be healed")
    assert data(store, "scrub start 2 1") == [
        {"devid": 1, "host": "node1", "error": ""},
        {"devid": 2, "host": "node2", "error": ""},
    ]
    assert mog(store, "scrub start 1").out == "device 1 on node1: a scrub begins\n"
    told = data(store, "scrub status")
    assert [(each["devid"], each["started"] > 0) for each in told] == [(1, True), (2, True)]
    table = mog(store, "scrub status --host node1").out.splitlines()
    columns = "device host scrub files of read damaged started finished"
    assert table[0].split() == columns.split()
    assert table[1].split()[:3] in (["1", "node1", "running"], ["1", "node1", "done"])
    deaf = mog(store, "scrub status 1 --health-port 9")
    assert deaf.status == 1
    (line,) = [line for line in deaf.out.splitlines() if line.startswith("device 1 on node1: ")]
    assert line.endswith(":9/status does not answer; is the node up, and its health port (--health-port) another one?")


@pytest.mark.timeout(900)
def test_jobs(store: Any) -> None:
    def reported() -> Any:
        told = data(store, "jobs")
        return told if all(tracker["workers"] for tracker in told.values()) else None

    told = wait_until(reported, "the jobs process to report")
    assert list(told) == store.trackers.split(",")
    for tracker in told.values():
        classes = {each["name"]: each for each in tracker["classes"]}
        assert len(classes["queryworker"]["pids"]) == classes["queryworker"]["desired"] == 1
        workers = {each["name"]: each for each in tracker["workers"]}
        assert {"monitor", "replicate-1", "delete", "reaper"} <= set(workers)
        assert workers["monitor"]["done"] > 0
    shown = mog(store, "jobs")
    assert shown.status == 0
    assert [line.split()[:3] for line in shown.out.splitlines() if line.startswith("queryworker")] == [
        ["queryworker", "1", "1"]
    ]
    absent = store.shell("MOGILE_TRACKERS=127.0.0.1:9 mog jobs")
    assert absent.status == 1
    assert "tracker 127.0.0.1:9: " in absent.out
