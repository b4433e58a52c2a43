"""Processes are addressed by pid and start time, waits have limits, command lines go to whom they are meant for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness import cli, preflight, proc, suite
from harness.errors import HarnessError, MissingCapabilityError
from harness.layout import cluster_layout
from harness.timeouts import SCALE_VARIABLE, TIMEOUTS, timeout_of
from harness.wait import WaitTimeoutError, wait_until


def test_a_recycled_pid_is_not_taken_for_ours() -> None:
    started = proc.start_ticks(os.getpid())
    assert started is not None
    mine = proc.ProcessRecord(name="x", pid=os.getpid(), started=started)
    assert mine.alive()
    other = replace(mine, started=started - 1)
    assert not other.alive()
    assert not other.signal(signal.SIGKILL), "a process that only has the same pid must not be killed"


def test_a_process_that_ends_is_not_alive() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        started = proc.start_ticks(child.pid)
        assert started is not None
        record = proc.ProcessRecord(name="x", pid=child.pid, started=started)
        assert record.alive()
        record.stop(grace_seconds=5)
        child.wait(10)
    assert not record.alive()


def test_records_survive_a_half_written_one(tmp_path: Path) -> None:
    record = proc.ProcessRecord(name="etcd", pid=1, started=2)
    record.save(tmp_path)
    (tmp_path / "kubelet-n1.json").write_text('{"name": "kube')
    assert proc.load_records(tmp_path) == {"etcd": record}


def test_a_program_that_fails_hangs_or_is_missing_is_one_sentence() -> None:
    with pytest.raises(HarnessError, match="exit 3: so it is"):
        proc.run("sh", "-c", "echo so it is >&2; exit 3")
    with pytest.raises(HarnessError, match="no end after"):
        proc.run("sleep", "5", timeout=0.1)
    with pytest.raises(HarnessError, match="not found"):
        proc.run("no-such-program-anywhere")


def test_waiting_returns_the_value_or_tells_the_last_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TIMEOUTS, "connection", 0.3)
    values = iter([None, 0, "there"])
    assert wait_until(lambda: next(values), "connection") == "there"

    def refuse() -> bool:
        raise HarnessError("the door is shut")

    with pytest.raises(
        WaitTimeoutError, match=r"connection: not within 0 s \(a reason\); last error: the door is shut"
    ):
        wait_until(refuse, "connection", because="a reason")


def test_timeouts_scale_and_unknown_events_are_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SCALE_VARIABLE, "2.5")
    assert timeout_of("pvc bound") == TIMEOUTS["pvc bound"] * 2.5
    with pytest.raises(HarnessError, match="no timeout for event"):
        timeout_of("world peace")
    monkeypatch.setenv(SCALE_VARIABLE, "soon")
    with pytest.raises(HarnessError, match="give a number"):
        timeout_of("pvc bound")


def test_arguments_of_other_programs_are_passed_on_untouched() -> None:
    assert cli.split(["--name", "x", "kubectl", "-n", "kube-system", "get", "pods"]) == (
        ["--name", "x", "kubectl"],
        ["-n", "kube-system", "get", "pods"],
    )
    assert cli.split(["up", "--bare"]) == (["up", "--bare"], [])


def test_the_suite_always_names_its_context() -> None:
    command = suite.pytest_command("c", "/k", ["-k", "word"])
    assert command[-1] == "tests/e2e"
    assert command[command.index("--context") : command.index("--context") + 4] == [
        "--context",
        "c",
        "--kubeconfig",
        "/k",
    ]
    assert "tests/e2e" not in suite.pytest_command("c", "/k", ["tests/e2e/test_platform.py"])


@pytest.mark.parametrize("name", ["", "Mogile", "a-b", "x" * 11, "1a", "../x"])
def test_cluster_names_that_would_not_fit_interfaces_are_refused(name: str) -> None:
    with pytest.raises(HarnessError, match="lower-case letter"):
        cluster_layout(name)


def test_nodes_have_zones_and_addresses_of_their_own() -> None:
    layout = cluster_layout("x")
    assert [(node.name, node.zone) for node in layout.nodes] == [("n1", "a"), ("n2", "b"), ("n3", "c")]
    assert len({node.address for node in layout.nodes} | {node.pod_range for node in layout.nodes}) == 6
    assert layout.node("n2") == layout.nodes[1]
    with pytest.raises(HarnessError, match="it has n1, n2, n3"):
        layout.node("n9")


def test_without_root_the_cluster_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(MissingCapabilityError, match="needs root"):
        preflight.check_machine()


def test_a_missing_program_without_root_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setitem(preflight.PROGRAMS, "no-such-program", "its-package")
    with pytest.raises(MissingCapabilityError, match="its-package"):
        preflight.ensure_packages()
