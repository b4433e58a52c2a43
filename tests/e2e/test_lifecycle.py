"""A cluster comes and goes without a trace, also when its start is killed half-way.

A second cluster of another name is used, so that the one the suite runs on is not touched; it also shows that two do
not see each other.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import leftovers
from harness.faults import LocalFaults
from harness.layout import REPOSITORY, ClusterLayout, cluster_layout
from harness.session import Session
from harness.wait import wait_until

pytestmark = [pytest.mark.core, pytest.mark.root]

NAME = "twin"
DAEMONS = {"kubelet", "etcd", "containerd", "kube-apiserver"}
CALL_TIMEOUT_SECONDS = 600
# pytest is started from the machine's own network namespace into the cluster's; whoever started it is still there.
MACHINE_NETNS = f"/proc/{os.getppid()}/ns/net"


def command(*arguments: str) -> list[str]:
    """The harness, from the machine's own network namespace: the suite runs inside the cluster's."""
    return ["nsenter", f"--net={MACHINE_NETNS}", "--", sys.executable, "-m", "harness", "--name", NAME, *arguments]


def harness(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "tests" / "e2e")},
        capture_output=True,
        text=True,
        timeout=CALL_TIMEOUT_SECONDS,
        check=False,
    )


def kill_daemon(layout: ClusterLayout) -> None:
    """Kill one of the cluster's lasting processes: beside them short helpers come and go."""
    for pid in leftovers.processes(layout):
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            if Path(f"/proc/{pid}/comm").read_text("utf-8").strip() in DAEMONS:
                os.kill(pid, signal.SIGKILL)
                return
    raise AssertionError(f"none of {sorted(DAEMONS)} runs")


@pytest.fixture
def twin(cluster: Session) -> Iterator[ClusterLayout]:
    """The name of a cluster that does not run, before and after."""
    if not isinstance(cluster.faults, LocalFaults):
        pytest.skip("about the local cluster's own start and removal; this suite runs on another one")
    assert harness("down").returncode == 0
    yield cluster_layout(NAME)
    assert harness("down").returncode == 0


def test_a_start_that_is_killed_leaves_nothing_after_down(twin: ClusterLayout) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "tests" / "e2e")}
    with subprocess.Popen(
        command("up", "--bare"),
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as starting:
        wait_until((twin.pids / "kube-apiserver.json").exists, "control plane ready")
        starting.send_signal(signal.SIGKILL)
    assert leftovers.processes(twin), "it was killed too early to have left anything"

    down = harness("down")

    assert down.returncode == 0, down.stderr
    found = harness("leftovers")
    assert (found.returncode, found.stdout.strip()) == (0, "nothing")


def test_a_cluster_starts_over_what_a_killed_one_left_in_under_a_minute(cluster: Session, twin: ClusterLayout) -> None:
    assert harness("up", "--bare").returncode == 0
    kill_daemon(twin)
    begun = time.monotonic()

    again = harness("up", "--bare")

    assert again.returncode == 0, again.stderr
    assert time.monotonic() - begun < 60
    status = harness("status")
    assert status.returncode == 0, status.stdout
    assert len(cluster.nodes()) == 3, "the suite's own cluster is not disturbed"
    assert harness("down").returncode == 0
    assert harness("leftovers").stdout.strip() == "nothing"
