"""Exchanges recorded from MogileFS 2.73 are replayed against a live tracker with real nodes, in one session as they were recorded.

Compared: code and text of every error, and names and values of every OK pair apart from what depends on the run (VARIABLE and paths).
DIFFERENCES is the whole list of answers that are others on purpose; a row that is no longer needed fails the test. All of the recording is
replayed; of admin.txt, where counts, pids and times are the recording machine's, the lines are compared with numbers blanked (ADMIN_FORMS).
"""

import re
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mogile_core.paths import fid_path, parse_fid_path
from mogile_core.wire import Reply, encode_args, parse_reply, parse_request
from testkit.waiting import wait_until

TRANSCRIPTS = Path(__file__).parents[2] / "data" / "transcripts"
FILES = ("framing", "domains-classes", "hosts-devices", "create", "files", "listing", "settings-fsck-rebalance")


@dataclass(frozen=True)
class Difference:
    """An answer of ours that is another one on purpose: code (empty: OK), text, why, and what puts things back for what follows."""

    code: str
    text: str
    why: str
    undo: str = ""


_FAR = "HostsPerNetwork(near%3D2,far%3D1)"
_LEAK = "the original's text leaks its source file and line"
DIFFERENCES = {
    "create_open domain=d1&key=a&class=default": Difference(
        "", "", "facts 3.1: the original takes class id 0 for a failure"
    ),
    "set_weight host=h9&device=90&weight=x": Difference(
        "bad_params",
        "Invalid parameters to command; please see documentation",
        "facts 3.3: a weight is a number; the original stores a word as 0",
    ),
    "create_class domain=d1&class=bad2&mindevcount=2&replpolicy=Nope()": Difference(
        "invalid_replpolicy",
        "Failed to load replication policy class MogileFS::ReplicationPolicy::Nope: known policies are "
        "HostsPerNetwork, MultipleDevices, MultipleHosts, MultipleNetworks, Union",
        "facts 4: the text is made at the time; ours names the choice",
    ),
    "create_class domain=d1&class=bad3&mindevcount=2&replpolicy=MultipleHosts(": Difference(
        "invalid_replpolicy",
        "MogileFS::ReplicationPolicy::MultipleHosts failed to parse args: '('; expected (arguments)",
        _LEAK,
    ),
    "create_class domain=d1&class=net&mindevcount=2&replpolicy=MultipleNetworks()": Difference(
        "", "", "facts 9: in the original a package apart, here built in", "delete_class domain=d1&class=net"
    ),
    f"create_class domain=d1&class=hpn&mindevcount=2&replpolicy={_FAR}": Difference(
        "", "", "facts 9: in the original a package apart, here built in", "delete_class domain=d1&class=hpn"
    ),
    "create_close domain=d1&fid=1&devid=5&path=http://127.0.2.3:7500/dev5/0/000/000/0000000001.fid&key=a&size=5": Difference(
        "size_verify_error",
        "Expected: 5; actual: 0 (missing); path: PATH; error: the node has no such file",
        "the tail of the original's text is an unrelated line of its log",
    ),
    "set_server_setting key=internal_queue_limit&value=abc": Difference(
        "invalid_format", "The value must be a number", _LEAK
    ),
    "rebalance_set_policy policy=bogus%3D1": Difference("bad_rebal_pol", "Invalid setting bogus", _LEAK),
    "edit_file domain=d1&key=a": Difference(
        "unknown_command",
        "Unknown server command",
        "facts 3.1: experimental, can be left out; fails on the original as well",
    ),
}
# Pairs whose values depend on the run.
VARIABLE = (
    "fid", "devid", "path", "mb_total", "mb_used", "mb_free", "utilization", "devcount", "devids", "reject_bad_md5", "hostid", "count",
    "current_time", "nexttry", "createtime", "failcount",
)  # fmt: skip
BODIES = {"0": b"", "5": b"hello", "6": b"hello!"}


@dataclass(frozen=True)
class Exchange:
    file: str
    request: str
    answer: str  # '' when none was recorded


def recorded(name: str) -> Iterator[Exchange]:
    request = None
    for line in (TRANSCRIPTS / f"{name}.txt").read_text("utf-8").splitlines():
        if line.startswith("> "):
            if request is not None:
                yield Exchange(name, request, "")
            request = line[2:].removesuffix("\\r\\n") if line.endswith("\\r\\n") else line[2:].removesuffix("\\n")
            request = request.replace("\\r", "\r")
        elif line.startswith("< ") and request is not None:
            yield Exchange(name, request, line[2:].removesuffix("\\r\\n").split(" (rest cut")[0].replace("\\\\", "\\"))
            request = None


class Replay:
    """Sends recorded requests with this run's fids, devices and paths in place of the recorded ones."""

    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster
        self.client = cluster.trackers[0].client()
        self.opened: dict[str, dict[str, str]] = {}  # recorded fid -> our answer to create_open
        self.offered: dict[str, set[str]] = {}  # recorded fid -> recorded devices
        self.upload = True
        self.problems: list[str] = []
        self.differed: set[str] = set()

    def play(self, exchange: Exchange) -> None:
        if not exchange.answer:
            self.client.send(exchange.request.encode("latin-1") + b"\r\n")  # an answer would spoil the next exchange
            return
        if exchange.request.startswith("file_debug"):
            self.until_copied()  # it shows the rows of the queues, and the recording was made in quiet
        request = self.translated(exchange)
        reply, expected = parse_reply(self.client.raw(request)), parse_reply(exchange.answer)
        self.remember(exchange, expected, reply)
        why = difference(exchange, expected, reply)
        ours = DIFFERENCES.get(exchange.request)
        if ours is not None and why:
            self.differed.add(exchange.request)
            shown = (reply.code, without_run(reply.text))
            why = "" if shown == (ours.code, ours.text) else f"{shown} instead of our own {(ours.code, ours.text)}"
            if ours.undo:
                self.client.ok(ours.undo)
        if why:
            self.problems.append(f"{exchange.file}: {exchange.request} -> {why}\n   {exchange.answer}\n   {reply}")

    def until_copied(self) -> None:
        waiting = "SELECT count(*) FROM file_to_replicate WHERE nexttry <> 2147483647"
        wait_until(lambda: not self.cluster.value(waiting), "all files to be copied")

    def translated(self, exchange: Exchange) -> str:
        parsed = parse_request(exchange.request)
        assert parsed is not None
        if parsed.command != "create_close" or "path" not in parsed.args or parsed.args["fid"] not in self.opened:
            return exchange.request
        args = dict(parsed.args)
        ours, offered = self.opened[args["fid"]], self.offered[args["fid"]]
        devid = ours.get("devid", ours.get("devid_1", ""))
        if args["devid"] not in offered:
            devid = next(str(d) for d in range(1, 7) if str(d) not in {devid})
        path = fid_path(int(devid), int(ours["fid"]))
        host = self.cluster.nodes[(int(devid) - 1) // 2].address
        if not args["path"].endswith(".fid"):
            path = path.replace(".fid", ".fiX")
        args.update(fid=ours["fid"], devid=devid, path=f"http://{host}:7500{path}")
        uploaded = exchange.answer.startswith(
            ("OK", "ERR size_mismatch", "ERR checksum_mismatch", "ERR invalid_destdev")
        )
        if uploaded:
            body = BODIES["5" if "size_mismatch" in exchange.answer else args.get("size", "5")]
            put = urllib.request.Request(args["path"], data=body, method="PUT")
            with urllib.request.urlopen(put, timeout=90) as response:
                assert response.status in (200, 201)
        return f"create_close {encode_args(args)}"

    def remember(self, exchange: Exchange, expected: Reply, reply: Reply) -> None:
        if exchange.request.startswith("create_open") and expected.ok and reply.ok:
            self.opened[expected.args["fid"]] = reply.args
            self.offered[expected.args["fid"]] = {v for k, v in expected.args.items() if k.startswith("devid")}


def without_run(text: str) -> str:
    """A text without this run's paths, fids and devices."""
    text = re.sub(r"http://[0-9.:]+/dev\d+/[0-9/]+\.fid", "PATH", text)
    text = re.sub(r"\[f=\d+;", "[f=FID;", text)
    return re.sub(r"(invalid dest|Valid devices were:) \d+", r"\1 DEVID", text)


def difference(exchange: Exchange, expected: Reply, reply: Reply) -> str:
    if expected.code != reply.code:
        return f"code {reply.code!r} instead of {expected.code!r}"
    if expected.code:
        return "" if without_run(reply.text) == without_run(expected.text) else f"text {reply.text!r}"
    command = exchange.request.split()[0].lower()
    if command == "get_paths":
        return "" if well_formed_paths(reply.args) else "paths that are none"
    ours, theirs = normal(command, reply.args), normal(command, expected.args)
    return "" if ours == theirs else f"{ours} instead of {theirs}"


def well_formed_paths(args: dict[str, str]) -> bool:
    count = int(args["paths"])
    paths = [parse_fid_path(args[f"path{i}"].partition("7500")[2]) for i in range(1, count + 1)]
    return 1 <= count <= 2 and len({fid for _, fid in paths}) == 1 and len(args) == count + 1


def normal(command: str, args: dict[str, str]) -> object:
    """Values that can be compared: lists as sets of rows, variable values blanked."""
    if command in ("get_hosts", "get_devices", "list_fids", "server_settings"):
        return rows(command, args)
    if command == "get_domains":
        return domains(args)
    if command == "file_debug":
        return {
            "devpath" if k.startswith("devpath") else k: "*"
            if k.startswith("devpath") or k.rpartition("_")[2] in VARIABLE
            else v
            for k, v in args.items()
        }
    return {k: "*" if k.rstrip("_0123456789") in VARIABLE else v for k, v in args.items()}


def rows(command: str, args: dict[str, str]) -> object:
    found: dict[str, dict[str, str]] = {}
    counts = {}
    for name, value in args.items():
        parts = name.split("_")
        if command == "server_settings" and parts[-1].isdigit():
            found.setdefault(parts[-1], {})[parts[0]] = value
        elif command == "list_fids" and name != "fid_count":
            found.setdefault(parts[1], {})[parts[2]] = "*" if parts[2] in VARIABLE else value.partition("\0")[0]
        elif command.startswith("get_") and len(parts) > 1:
            column = "_".join(parts[1:])
            blanked = column in ("hostip", "utilization") or (column in VARIABLE and value)
            found.setdefault(parts[0], {})[column] = "*" if blanked else value
        else:
            counts[name] = value
    if command == "list_fids" and counts["fid_count"] == "2":
        return counts  # the original gives a page in no order; ours is ascending
    return counts, sorted(map(sorted, (row.items() for row in found.values())))


def domains(args: dict[str, str]) -> object:
    """The original lists domains and classes in no order."""
    found = {}
    for i in range(1, int(args["domains"]) + 1):
        columns = ("name", "mindevcount", "replpolicy", "hashtype")
        classes = range(1, int(args[f"domain{i}classes"]) + 1)
        found[args[f"domain{i}"]] = {tuple(args[f"domain{i}class{j}{column}"] for column in columns) for j in classes}
    return found


@pytest.mark.timeout(600)
def test_recorded_exchanges(three_nodes: Any) -> None:
    replay = Replay(three_nodes)
    played = 0
    for name in FILES:
        for exchange in recorded(name):
            replay.play(exchange)
            played += 1
    assert played > 230
    assert not replay.problems, "\n".join(replay.problems)
    assert replay.differed == set(DIFFERENCES), (
        "answers that are listed as others, but are the same or were not asked for"
    )


# Admin commands whose body is this machine's: what every line of it looks like. All others are compared word by word.
ADMIN_FORMS = {
    "stats": r"[a-z_]+ \d+",
    "jobs": r"[a-z_]+ (count \d+|desired \d+|pids( \d+)*)",
    "recent": r"127\.0\.0\.1 \w+ \S* ?\d+\.\d{4} \d+\.\d{4}",
    "bogus": r".*",
}
# Lines that are others on purpose: classes of ours are named too.
ADMIN_DIFFERENCES = {
    "want 1 nope": "ERROR: Invalid class 'nope'.  Valid classes: census, delete, fsck, job_master, monitor, queryworker, "
    "reaper, rebalance, replicate",
}


def recorded_admin() -> Iterator[tuple[str, list[str]]]:
    """(what was sent after the exclamation mark, the lines of the answer without the dot)."""
    for part in (TRANSCRIPTS / "admin.txt").read_text("utf-8").split("\n> !")[1:]:
        sent, *lines = part.splitlines()
        body = [line[2:].removesuffix("\\r\\n") for line in lines if line.startswith("< ")]
        assert body.pop() == "."
        yield sent.removesuffix("\\r\\n"), body


def test_recorded_admin_exchanges(three_nodes: Any) -> None:
    client = three_nodes.trackers[0].client()
    played = 0
    for sent, recorded_lines in recorded_admin():
        ours = client.admin(sent)
        played += 1
        if sent in ADMIN_DIFFERENCES:
            assert ours == [ADMIN_DIFFERENCES[sent]] != recorded_lines
        elif sent in ADMIN_FORMS:
            for lines in (recorded_lines, ours):
                assert all(re.fullmatch(ADMIN_FORMS[sent], line) for line in lines), (sent, lines)
        else:
            assert without_numbers(ours) == without_numbers(recorded_lines), sent
    assert played == 16


def without_numbers(lines: list[str]) -> list[str]:
    """How many children got a message depends on the processes there are."""
    return [re.sub(r"to \d+ children", "to N children", line) for line in lines]


def test_admin_lines(three_nodes: Any) -> None:
    client = three_nodes.trackers[0].client()
    assert client.admin("version") == client.admin("versionX") == ["2.73"]
    stats = dict(line.split() for line in client.admin("stats"))
    assert {"uptime", "pending_queries", "processing_queries", "bored_queryworkers", "queries"} <= set(stats)
    jobs = [line.split() for line in client.admin("jobs")]
    assert [j[0] for j in jobs if j[1] == "count"] == sorted(j[0] for j in jobs if j[1] == "count")
    ours = {"census", "rebalance"}
    assert {j[0] for j in jobs} == {
        "delete",
        "fsck",
        "job_master",
        "monitor",
        "queryworker",
        "reaper",
        "replicate",
    } | ours
    client.raw("noop a=b")
    assert any(line.startswith("127.0.0.1 noop a=b ") for line in client.admin("recent"))
    assert client.admin("queue") == []
    assert len(client.admin("bogus")) > 1
