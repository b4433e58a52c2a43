"""`mog local up` for real: started, used, broken, stopped, started again; nothing lost, nothing left behind."""

import json
import os
import re
import secrets
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mogile_cli.local import processes, state
from testkit.waiting import wait_until

pytestmark = pytest.mark.timeout(900)
Mog = Any  # see conftest


@pytest.fixture(scope="module")
def up(mog: Mog) -> Iterator[Mog]:
    """A running cluster, started by `up --detach`."""
    mog.ok("local", "up", "--detach", f"--data={mog.data}", *mog.place, timeout=600)
    yield mog
    mog("local", "down", f"--data={mog.data}")


def request(mog: Mog, method: str, key: str, body: bytes | None = None) -> tuple[int, bytes]:
    made = urllib.request.Request(f"{mog.gateway}/{key}", data=body, method=method)
    try:
        with urllib.request.urlopen(made, timeout=90) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def status(mog: Mog) -> dict[str, Any]:
    result = mog("local", "status", f"--data={mog.data}", "--json")
    assert result.returncode == 0, result.stderr
    value: dict[str, Any] = json.loads(result.stdout)
    return value


def pid_of(mog: Mog, name: str) -> int | None:
    found = state.read(mog.data)
    assert found is not None
    return next((p.pid for p in found.processes if p.name == name), None)


def test_status_names_every_process(up: Mog) -> None:
    found = status(up)
    assert found["ready"]
    names = {row["name"] for row in found["processes"] if row["state"] == "running"}
    assert {"postgresql", "tracker1", "node1", "node2", "node3", "gateway"} <= names
    assert [d["zone"] for d in found["health"]["devices"]] == ["a", "b", "c"]
    wait_until(lambda: status(up)["health"]["problems"] == [], "all to be well")


def test_a_second_up_says_so_in_a_line(up: Mog) -> None:
    result = up("local", "up", f"--data={up.data}", *up.place)
    assert result.returncode == 0
    assert re.fullmatch(
        rf"the cluster in {up.data} runs already \(pid \d+\), gateway {up.gateway}/; .*\n", result.stdout
    )


def test_plain_http_stores_and_reads(up: Mog) -> None:
    body = secrets.token_bytes(200_000)
    assert request(up, "PUT", "a/b c.bin".replace(" ", "%20"), body)[0] == 201
    assert request(up, "GET", "a/b%20c.bin") == (200, body)
    assert up.ok("ls", "a/", up.trackers) == "a/b c.bin\n"


def test_files_go_in_and_out_by_commands(up: Mog, tmp_path: Path) -> None:
    trackers = up.trackers
    body = secrets.token_bytes(100_000)
    (tmp_path / "one.bin").write_bytes(body)
    up.ok("put", str(tmp_path / "one.bin"), "--prefix=cli/", "--class=important", trackers)
    info = json.loads(up.ok("info", "cli/one.bin", "--json", trackers))
    assert (info["length"], info["class_name"]) == (100_000, "important")
    up.ok("get", "cli/one.bin", str(tmp_path / "two.bin"), trackers)
    assert (tmp_path / "two.bin").read_bytes() == body
    again = up("get", "cli/one.bin", str(tmp_path / "two.bin"), trackers)
    assert (again.returncode, again.stderr) == (2, f"mog: {tmp_path / 'two.bin'} exists; --force overwrites it\n")
    up.ok("rm", "cli/one.bin", trackers)
    gone = up("get", "cli/one.bin", "-", trackers)
    assert (gone.returncode, gone.stderr) == (1, "mog: there is no file 'cli/one.bin' in domain files\n")


def test_topology_commands(up: Mog) -> None:
    trackers = up.trackers
    classes = json.loads(up.ok("class", "list", "--json", trackers))[0]["classes"]
    assert {c["name"]: c["mindevcount"] for c in classes} == {"default": 2, "important": 3, "cache": 1}
    up.ok("domain", "add", "other", trackers)
    assert up("ls", trackers).stderr == "mog: there are several domains; choose one with --domain: files, other\n"
    up.ok("domain", "rm", "other", trackers)
    hosts = json.loads(up.ok("host", "list", "--json", trackers))
    assert [(h["hostname"], h["hostip"], h["zone"]) for h in hosts] == [
        (f"node{i}", f"{up.base_address}.{i}", zone) for i, zone in ((1, "a"), (2, "b"), (3, "c"))
    ]
    assert up("device", "mark", "99", "dead", trackers).stderr == "mog: there is no device 99; there are 1, 2, 3\n"


def test_a_killed_node_is_seen_and_comes_back(up: Mog) -> None:
    data = f"--data={up.data}"
    up.ok("local", "kill-node", "2", data)
    with pytest.raises(ConnectionRefusedError), socket.create_connection((f"{up.base_address}.2", 7500)):
        pass
    assert {r["name"]: r["state"] for r in status(up)["processes"]}["node2"] == "down"
    assert up("local", "kill-node", "2", data).stderr == "mog: node2 is down already\n"
    wait_until(lambda: bool(status(up)["health"]["problems"]), "the loss to be seen")
    up.ok("local", "start-node", "2", data)
    wait_until(lambda: status(up)["health"]["problems"] == [], "all to be well again")


@pytest.mark.parametrize("name", ["tracker1", "gateway"])
def test_a_killed_process_without_data_is_started_again(up: Mog, name: str) -> None:
    first = pid_of(up, name)
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: pid_of(up, name) not in (None, first), "another process")
    wait_until(lambda: request(up, "GET", "nothing/here")[0] == 404, "the gateway to answer")
    assert f"{name} was killed by signal 9 unexpectedly" in (up.data / "logs" / "mog.log").read_text()


def test_a_device_and_a_node_are_added(up: Mog) -> None:
    data = f"--data={up.data}"
    assert up.ok("local", "add-device", "--node=1", data) == "node1 has a new device 4\n"
    assert up.ok("local", "add-node", data) == "node4 in zone a serves device 5\n"
    devices = status(up)["health"]["devices"]
    assert [(d["devid"], d["observed"]) for d in devices] == [(i, "writeable") for i in range(1, 6)]
    assert (
        up("local", "add-device", "--node=9", data).stderr == "mog: there is no storage node 9; there are 1, 2, 3, 4\n"
    )


def test_data_and_layout_stay_after_down_and_up(up: Mog) -> None:
    data = f"--data={up.data}"
    body = secrets.token_bytes(50_000)
    assert request(up, "PUT", "kept.bin", body)[0] == 201
    found = state.read(up.data)
    assert found is not None
    up.ok("local", "down", data)
    assert [p.name for p in found.processes if processes.family(p)] == []
    assert not processes.alive(found.supervisor)
    assert state.read(up.data) is None
    up.ok("local", "up", "--detach", data, *up.place, timeout=600)
    assert request(up, "GET", "kept.bin") == (200, body)
    assert [d["devid"] for d in status(up)["health"]["devices"]] == [1, 2, 3, 4, 5]


def test_what_a_killed_supervisor_left_is_stopped_by_down(up: Mog) -> None:
    found = state.read(up.data)
    assert found is not None
    os.kill(found.supervisor.pid, signal.SIGKILL)
    wait_until(lambda: not state.is_running(up.data), "the end of the supervisor")
    assert any(processes.family(p) for p in found.processes)
    assert request(up, "GET", "kept.bin")[0] == 200
    answer = up.ok("local", "down", f"--data={up.data}")
    assert answer.startswith("stopped what was left: ")
    assert [p.name for p in found.processes if processes.family(p)] == []
    assert up.ok("local", "down", f"--data={up.data}") == "no cluster runs here\n"
    up.ok("local", "up", "--detach", f"--data={up.data}", *up.place, timeout=600)
    assert request(up, "GET", "kept.bin")[0] == 200


def test_a_busy_port_is_one_line_and_exit_2(other: Mog) -> None:
    with socket.create_server(("127.0.0.1", other.at.gateway_port)):
        result = other("local", "up", f"--data={other.data}", *other.place)
    assert result.returncode == 2
    assert result.stderr == (
        f"mog: port {other.at.gateway_port} on 127.0.0.1 is in use by another program; stop it or choose another with --gateway-port\n"
    )
    assert state.read(other.data) is None


def has_begun(mog: Mog, name: str) -> bool:
    found = state.read(mog.data)
    return found is not None and name in {record.name for record in found.processes}


@pytest.mark.parametrize("begun", [None, "postgresql", "tracker1", "node2"])
def test_an_interrupted_start_leaves_no_process(other: Mog, begun: str | None) -> None:
    process = other.begin("local", "up", f"--data={other.data}", *other.place)
    if begun is None:
        time.sleep(0.3)  # while it loads
    else:
        wait_until(lambda: has_begun(other, begun), f"the start of {begun}")
    found = state.read(other.data)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 130 or (process.returncode == -signal.SIGINT and found is None), output
    assert not state.is_running(other.data)
    assert state.read(other.data) is None
    if found is not None:
        assert [p.name for p in found.processes if processes.family(p)] == []


def read_until(process: Any, words: str) -> str:
    output = ""
    for line in process.stdout:
        output += line
        if words in line:
            return output
    raise AssertionError(f"ended without {words!r}: {output}")


def test_ctrl_c_is_a_normal_end(other: Mog) -> None:
    process = other.begin("local", "up", f"--data={other.data}", *other.place, "--nodes=1", "--no-nginx")
    shown = read_until(process, "Ctrl-C stops it")
    assert f"{other.gateway}/" in shown
    assert f"{other.base_address}.1, zone a, dev1" in shown
    found = state.read(other.data)
    assert found is not None
    process.send_signal(signal.SIGINT)
    assert process.stdout.read() == f"stopping\nstopped; the data stays in {other.data}\n"
    assert process.wait(90) == 0
    assert [p.name for p in found.processes if processes.family(p)] == []


def test_down_from_another_terminal_ends_a_foreground_cluster(other: Mog) -> None:
    process = other.begin("local", "up", f"--data={other.data}", *other.place, "--nodes=1", "--no-nginx")
    read_until(process, "Ctrl-C stops it")
    assert other.ok("local", "down", f"--data={other.data}") == f"stopped; the data stays in {other.data}\n"
    assert process.wait(90) == 0
    assert state.read(other.data) is None


def test_without_postgresql_everything_is_stopped_and_said(other: Mog) -> None:
    process = other.begin("local", "up", f"--data={other.data}", *other.place, "--nodes=1", "--no-nginx")
    read_until(process, "Ctrl-C stops it")
    found = state.read(other.data)
    postgres = pid_of(other, "postgresql")
    assert found is not None
    assert postgres is not None
    os.kill(postgres, signal.SIGKILL)
    assert "mog: PostgreSQL ended unexpectedly; see" in process.stdout.read()
    assert process.wait(90) == 1
    assert [p.name for p in found.processes if processes.family(p)] == []


def test_uploads_from_other_machines_need_the_token(other: Mog) -> None:
    sizes = ("--nodes=2", "--trackers=2", "--no-nginx", "--listen=0.0.0.0")
    process = other.begin("local", "up", f"--data={other.data}", *other.place, *sizes)
    shown = read_until(process, "Ctrl-C stops it")
    token_file = other.data / "gateway" / "token"
    assert str(token_file) in shown
    for port in (other.at.tracker_port, other.at.tracker_port + 10):
        assert "node2" in other.ok("host", "list", f"--trackers=127.0.0.1:{port}")
    assert token_file.stat().st_mode & 0o077 == 0
    url = f"{other.gateway}/kept.txt"

    def put(headers: dict[str, str]) -> int:
        made = urllib.request.Request(url, data=b"content", method="PUT", headers=headers)
        try:
            with urllib.request.urlopen(made, timeout=90) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    assert put({}) == 401
    assert put({"Authorization": "Bearer wrong"}) in (401, 403)
    assert put({"Authorization": f"Bearer {token_file.read_text().strip()}"}) == 201
    with urllib.request.urlopen(url, timeout=90) as response:
        assert response.read() == b"content"
    process.send_signal(signal.SIGTERM)
    assert process.wait(90) == 0


def test_a_lost_disk_does_not_keep_the_others_from_serving(other: Mog) -> None:
    sizes = ("--nodes=2", "--no-nginx")
    process = other.begin("local", "up", f"--data={other.data}", *other.place, *sizes)
    read_until(process, "Ctrl-C stops it")
    process.send_signal(signal.SIGINT)
    assert process.wait(90) == 0
    device = other.data / "nodes" / "node1" / "dev1"
    (device / ".mogile-device").unlink()
    (device / "somebody-elses").write_text("not ours")
    process = other.begin("local", "up", f"--data={other.data}", *other.place)
    shown = read_until(process, "Ctrl-C stops it")
    assert "the trackers cannot write to device 1 (unreachable)" in shown
    problems = json.loads(other("local", "status", f"--data={other.data}", "--json").stdout)["health"]["problems"]
    assert "device 1 on node1 is not the one the trackers know (other cluster, number or volume)" in problems
    process.send_signal(signal.SIGINT)
    assert process.wait(90) == 0
