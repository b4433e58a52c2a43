"""The lock says whether a cluster runs, the state file what it consists of."""

import subprocess
import sys
from pathlib import Path

import pytest

from mogile_cli.errors import CliError
from mogile_cli.local import state
from mogile_cli.local.processes import ProcessRecord
from mogile_cli.local.state import AlreadyRunningError, Lock, RunState


def make_state(data: Path) -> RunState:
    records = [
        ProcessRecord(name=name, pid=100 + i, started=5, boot="b") for i, name in enumerate(["me", "postgresql"])
    ]
    return RunState(
        data=data,
        supervisor=records[0],
        control="/tmp/x/socket",
        trackers=("127.0.0.1:7001",),
        gateway="http://127.0.0.1:8080",
        processes=(records[1],),
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written = make_state(tmp_path)
    state.write(written)
    assert state.read(tmp_path) == written
    state.remove(tmp_path)
    assert state.read(tmp_path) is None


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"supervisor": 3}'])
def test_a_damaged_state_file_is_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / state.STATE_NAME).write_text(content)
    with pytest.raises(CliError, match="cannot be read"):
        state.read(tmp_path)


def test_the_lock_is_held_once(tmp_path: Path) -> None:
    first, second = Lock(tmp_path), Lock(tmp_path)
    first.acquire()
    assert state.is_running(tmp_path)
    with pytest.raises(AlreadyRunningError, match="runs already"):
        second.acquire()
    first.release()
    assert not state.is_running(tmp_path)
    second.acquire()
    second.release()


def test_the_lock_of_a_killed_process_is_gone(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from mogile_cli.local.state import Lock;"
        "Lock(Path(sys.argv[1])).acquire(); print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    assert state.is_running(tmp_path)
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert not state.is_running(tmp_path)


def test_only_a_running_cluster_is_found(tmp_path: Path) -> None:
    stopped, running = tmp_path / "stopped", tmp_path / "running"
    for folder in (stopped, running):
        folder.mkdir()
        state.write(make_state(folder))
    lock = Lock(running)
    lock.acquire()
    found = state.find_running([tmp_path / "missing", stopped, running])
    lock.release()
    assert found is not None
    assert found.data == running
    assert state.find_running([stopped, running]) is None
