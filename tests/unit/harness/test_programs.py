"""Programs of ours that tests start are processes like those of a shell: status, output, environment, process group, limits, signals."""

import os
import resource
import signal
import subprocess
from pathlib import Path

import pytest

from testkit import programs
from testkit.waiting import wait_until

TELL = "import os, resource; print(os.environ, os.getpgid(0), resource.getrlimit(resource.RLIMIT_NOFILE), flush=True)"
WAIT = "print('up', flush=True); import time; time.sleep(600)"


@pytest.fixture(params=[(), ("env",)], ids=["fork", "command"])
def prefix(request: pytest.FixtureRequest) -> tuple[str, ...]:
    given: tuple[str, ...] = request.param
    return given


def test_its_status_and_what_it_says(tmp_path: Path, prefix: tuple[str, ...]) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    program = programs.start(programs.STORAGE, "frobnicate", environment=dict(os.environ), log=log, prefix=prefix)
    assert program.wait(60) == program.poll() == 2
    assert log.read_text().startswith("before\nmogile-storage: usage: ")
    program.send_signal(signal.SIGTERM)  # to nobody


def test_its_environment_group_and_limits(tmp_path: Path, prefix: tuple[str, ...]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    environment = {"PATH": os.environ["PATH"], "ONLY": "this"}
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
    try:
        program = programs.start(
            programs.STORAGE,
            environment=environment,
            log=tmp_path / "log",
            first=TELL,
            own_group=True,
            prefix=prefix,
        )
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    program.wait(60)
    told = (tmp_path / "log").read_text()
    assert "'ONLY': 'this'" in told
    assert "'HOME'" not in told
    assert f" {program.pid} ({soft - 1}, {hard})\n" in told


def test_it_is_waited_for_stopped_and_killed(tmp_path: Path, prefix: tuple[str, ...]) -> None:
    log = tmp_path / "log"
    program = programs.start(programs.STORAGE, environment=dict(os.environ), log=log, first=WAIT, prefix=prefix)
    wait_until(lambda: "up" in log.read_text(), "its first word")
    assert program.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        program.wait(0.01)
    program.send_signal(signal.SIGSTOP)
    program.kill()
    assert program.wait(60) == -signal.SIGKILL
    assert not Path(f"/proc/{program.pid}").exists()
