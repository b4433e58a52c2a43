"""A record names one process of one boot; nothing else is ever signalled."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from mogile_cli.errors import CliError
from mogile_cli.local import processes
from mogile_cli.local.processes import ProcessRecord

# A leader with a worker in its group; `sleep` ends by itself if a test goes wrong.
FAMILY = "import subprocess, time; subprocess.Popen(['sleep', '60']); print('up', flush=True); time.sleep(600)"


@pytest.fixture
def leader() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    yield process
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def the_record(process: subprocess.Popen[str]) -> ProcessRecord:
    record = processes.record("leader", process.pid)
    assert record is not None
    return record


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "did not happen within 60 s"
        time.sleep(0.01)


def test_a_record_matches_only_the_same_start_and_the_same_boot(leader: subprocess.Popen[str]) -> None:
    record = the_record(leader)
    assert processes.alive(record)
    assert not processes.alive(dataclasses.replace(record, started=record.started - 1))
    assert not processes.alive(dataclasses.replace(record, boot="another boot"))


def test_a_stranger_with_a_recorded_pid_gets_no_signal(leader: subprocess.Popen[str]) -> None:
    record = the_record(leader)
    for stranger in (
        dataclasses.replace(record, started=record.started + 1),
        dataclasses.replace(record, started=record.started - 1),
        dataclasses.replace(record, boot="another boot"),
    ):
        assert processes.family(stranger) == []
        assert not processes.signal_family(stranger, signal.SIGKILL)
        assert not processes.signal_process(stranger, signal.SIGKILL)
    assert leader.poll() is None


def test_the_family_is_the_leader_with_its_workers(leader: subprocess.Popen[str]) -> None:
    members = processes.family(the_record(leader))
    assert leader.pid in members
    assert len(members) == 2


def test_workers_of_a_dead_leader_are_still_found_and_killed(leader: subprocess.Popen[str]) -> None:
    record = the_record(leader)
    leader.kill()
    leader.wait()
    assert not processes.alive(record)
    left = processes.family(record)
    assert len(left) == 1
    assert processes.signal_family(record, signal.SIGKILL)
    wait_until(lambda: processes.family(record) == [])


def test_stopping_kills_what_does_not_listen() -> None:
    deaf = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)",
        ],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert deaf.stdout is not None
    deaf.stdout.readline()
    record = processes.record("deaf", deaf.pid)
    assert record is not None
    assert processes.stop_families([record], 0.3, signal.SIGTERM) == ["deaf"]
    assert deaf.wait(60) == -signal.SIGKILL
    deaf.stdout.close()


def test_a_zombie_is_not_alive() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    record = processes.record("zombie", process.pid)
    assert record is not None
    process.kill()
    wait_until(lambda: not processes.alive(record))
    assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"name": "x", "pid": "1", "started": 2, "boot": "b"},
        {"name": "x", "pid": 1, "started": 2, "boot": "b"},
    ],
)
def test_a_damaged_record_is_refused_in_words(value: object) -> None:
    with pytest.raises(CliError, match="process record"):
        processes.record_from_json(value)


def test_a_record_survives_the_state_file(leader: subprocess.Popen[str]) -> None:
    record = the_record(leader)
    assert processes.record_from_json(record.as_json()) == record


def test_one_process_is_signalled_without_its_family_and_without_leading_a_group() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])  # in our own group and session
    record = processes.record("plain", process.pid)
    assert record is not None
    assert processes.family(record) == []
    assert processes.signal_process(record, signal.SIGTERM)
    assert process.wait(10) == -signal.SIGTERM
    assert not processes.signal_process(record, signal.SIGTERM)
