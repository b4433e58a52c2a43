"""One classic command: agent and read nginx under one parent."""

import contextlib
import os
import signal
import socket
import subprocess
import sys

import pytest


@pytest.fixture
def classic(make_node, the):
    """Starts `mogstored` for a node's address and folder; ends what is left."""
    node = make_node(start=False)
    started = []

    def start(*flags):
        config = node.folder / "mogstored.conf"
        config.write_text(
            f"httplisten = {node.address}:7500\nmgmtlisten = {node.address}:7501\ndocroot = {node.docroot}\n"
            f"http_listen = {node.address}:7502\ncluster_id = {the.cluster}\nrun_dir = {node.folder}/run\n"
        )
        flags = tuple(flag.replace("FOLDER", str(node.folder)) for flag in flags)
        command = [sys.executable, "-m", "mogile_storage.mogstored", f"--config={config}", *flags]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MOGILE_")}
        with (node.folder / "mogstored.log").open("ab") as log:
            process = subprocess.Popen(command, env=environment, stderr=log)
        started.append(process)
        return node, process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait(60)


def up(node, port, path="/"):
    with contextlib.suppress(OSError):
        return node.ask("GET", path, port=port).status == 200
    return False


def test_both_ports_and_the_end_of_both(classic, the):
    node, process = classic("--iostat=/bin/false")
    the.wait_until(lambda: up(node, 7500) and up(node, 7580, "/dev1/usage"), "agent and nginx answer")
    assert node.put(1, 1, b"some bytes").status == 201
    # old workers of a nginx that reloads answer a moment longer
    the.wait_until(lambda: node.get(1, 1, port=7580).body == b"some bytes", "the read nginx serves it")
    assert "--iostat has no effect" in node.log()
    process.terminate()
    assert process.wait(30) == 0
    assert not up(node, 7500)
    assert not up(node, 7580)


def test_without_nginx_and_a_shutdown_order(classic, the):
    node, process = classic("--server=none")
    the.wait_until(lambda: up(node, 7500), "the agent answers")
    assert not up(node, 7580)
    with socket.create_connection((node.address, 7501), 30) as stream:
        stream.sendall(b"shutdown\r\n")
    assert process.wait(30) == 0


def test_in_the_background_with_a_pid_file(classic, the):
    node, process = classic("--server=none", "--daemonize", "--pidfile=FOLDER/pid")
    assert process.wait(30) == 0
    the.wait_until(lambda: up(node, 7500), "the agent answers")
    os.kill(int((node.folder / "pid").read_text()), signal.SIGTERM)
    the.wait_until(lambda: not up(node, 7500), "the node is gone")
    the.wait_until(lambda: not (node.folder / "pid").exists(), "the pid file is gone")


def test_a_killed_parent_takes_its_children_along(classic, the):
    node, process = classic()
    the.wait_until(lambda: up(node, 7500) and up(node, 7580), "agent and nginx answer")
    process.kill()
    process.wait(60)
    the.wait_until(lambda: not up(node, 7500) and not up(node, 7580), "both are gone")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--maxconns=x"], "MOGILE_CONNECTIONS_MAX"),
        (["--frobnicate=1"], "--frobnicate"),
        (["--server=x"], "--server"),
        (["-d", "--pidfile=/nonexistent/pid"], "cannot write /nonexistent/pid"),
    ],
)
def test_mistakes_are_one_line(classic, flags, named):
    node, process = classic(*flags)
    assert process.wait(30) == 2
    assert len(node.log().splitlines()) == 1
    assert named in node.log()
