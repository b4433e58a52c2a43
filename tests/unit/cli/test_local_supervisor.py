"""Supervision with real processes: readiness, reports, restarts, orderly ends. No child outlives its supervisor's stop."""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from mogile_cli.errors import CliError
from mogile_cli.local import processes, supervisor
from mogile_cli.local.supervisor import ChildSpec, Supervisor

ADDRESS = "127.0.25.2"

# Listens after a while, has a worker in its group, ends on SIGTERM unless told to be deaf.
CHILD = f"""
import signal, socket, subprocess, sys, time
port, delay, deaf = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3] == "deaf"
signal.signal(signal.SIGTERM, signal.SIG_IGN if deaf else lambda *_: (print("asked to end", flush=True), sys.exit(0)))
worker = subprocess.Popen(["sleep", "60"])
time.sleep(delay)
server = socket.create_server(("{ADDRESS}", port))
print("listening", flush=True)
while True:
    connection, _ = server.accept()
    connection.close()
"""


class Watched:
    """A supervisor and what it said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: list[str] = []
        self.changes = 0
        self.supervisor = Supervisor(self.lines.append, self._changed)

    def _changed(self) -> None:
        self.changes += 1

    def spec(
        self,
        name: str,
        *,
        stage: int = 1,
        delay: float = 0.0,
        deaf: bool = False,
        restart: bool = False,
        code: str = CHILD,
    ) -> ChildSpec:
        with socket.socket() as probe:
            probe.bind((ADDRESS, 0))
            port = probe.getsockname()[1]
        return ChildSpec(
            name=name,
            stage=stage,
            argv=(sys.executable, "-c", code, str(port), str(delay), "deaf" if deaf else ""),
            environment=dict(os.environ),
            log=self.folder / "logs" / f"{name}.log",
            probe=f"{ADDRESS}:{port}",
            restart=restart,
        )

    async def until(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"did not happen within {seconds} s; reported: {self.lines}"
            await asyncio.sleep(0.02)


@pytest.fixture
async def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watched]:
    monkeypatch.setattr(supervisor, "STOP_STAGE_SECONDS", 1.0)
    made = Watched(tmp_path)
    yield made
    records = made.supervisor.records()
    await made.supervisor.stop_all()
    assert [pid for record in records for pid in processes.family(record)] == []


async def test_start_returns_when_the_child_is_ready(watched: Watched) -> None:
    spec = watched.spec("slow", delay=0.4)
    began = time.monotonic()
    await watched.supervisor.start(spec)
    assert time.monotonic() - began >= 0.4
    assert await supervisor.answers(spec.probe)
    (record,) = watched.supervisor.records()
    assert record.name == "slow"
    assert processes.alive(record)
    assert watched.changes == 1


async def test_a_child_that_cannot_start_is_one_sentence_with_its_last_line(watched: Watched) -> None:
    code = "import sys; print('first'); sys.exit('the port is busy; choose another')"
    with pytest.raises(CliError, match="broken did not start: the port is busy; choose another"):
        await watched.supervisor.start(watched.spec("broken", code=code))
    assert watched.supervisor.records() == []
    assert watched.lines == []


async def test_a_child_that_never_answers_is_given_up(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "READY_SECONDS", 0.3)
    with pytest.raises(CliError, match="mute was not ready within"):
        await watched.supervisor.start(watched.spec("mute", code="import time; time.sleep(60)"))


async def test_a_missing_program_is_one_sentence(watched: Watched) -> None:
    spec = watched.spec("gone")
    missing = ChildSpec(**{**{f: getattr(spec, f) for f in spec.__slots__}, "argv": ("/nonexistent/program",)})
    with pytest.raises(CliError, match="cannot start gone"):
        await watched.supervisor.start(missing)


async def test_kill_takes_the_whole_family_and_is_no_surprise(watched: Watched) -> None:
    await watched.supervisor.start(watched.spec("victim"))
    (record,) = watched.supervisor.records()
    assert len(processes.family(record)) == 2
    assert await watched.supervisor.kill("victim") == record
    assert processes.family(record) == []
    assert not watched.supervisor.is_running("victim")
    assert watched.lines == []
    assert await watched.supervisor.kill("victim") is None


async def test_an_unexpected_end_is_reported_and_stays(watched: Watched) -> None:
    await watched.supervisor.start(watched.spec("node"))
    (record,) = watched.supervisor.records()
    os.kill(record.pid, signal.SIGKILL)
    await watched.until(lambda: bool(watched.lines))
    assert watched.lines == ["node was killed by signal 9 unexpectedly: listening; it is not restarted by itself"]
    assert not watched.supervisor.is_running("node")
    processes.signal_family(record, signal.SIGKILL)  # its worker


async def test_an_unexpected_end_is_restarted_where_wanted(watched: Watched) -> None:
    spec = watched.spec("tracker", restart=True)
    await watched.supervisor.start(spec)
    (first,) = watched.supervisor.records()
    os.kill(first.pid, signal.SIGKILL)
    await watched.until(lambda: bool(watched.supervisor.records()) and watched.supervisor.records()[0].pid != first.pid)
    assert watched.lines == ["tracker was killed by signal 9 unexpectedly: listening; starting it again"]
    child = watched.supervisor._children["tracker"]
    await watched.until(lambda: child.ready)
    assert await supervisor.answers(spec.probe)
    assert processes.family(first) == []


async def test_restarts_are_bounded(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "RESTARTS_MAX", 1)
    monkeypatch.setattr(supervisor, "RESTART_DELAY_SECONDS", 0.05)
    await watched.supervisor.start(watched.spec("flapping", restart=True))
    (first,) = watched.supervisor.records()
    os.kill(first.pid, signal.SIGKILL)
    await watched.until(lambda: bool(watched.supervisor.records()) and watched.supervisor.records()[0].pid != first.pid)
    child = watched.supervisor._children["flapping"]
    await watched.until(lambda: child.ready)
    os.kill(child.record.pid, signal.SIGKILL)
    await watched.until(lambda: len(watched.lines) == 2)
    assert "given up after 1 restarts" in watched.lines[1]
    processes.signal_family(child.record, signal.SIGKILL)


async def test_stop_goes_stage_by_stage_and_lets_children_finish(watched: Watched) -> None:
    for name, stage in (("database", 0), ("node", 1), ("gateway", 2)):
        await watched.supervisor.start(watched.spec(name, stage=stage))
    await watched.supervisor.stop_all()
    assert watched.supervisor.records() == []
    assert watched.lines == []
    ended = {}
    for name in ("database", "node", "gateway"):
        log = watched.folder / "logs" / f"{name}.log"
        assert log.read_text() == "listening\nasked to end\n"
        ended[name] = log.stat().st_mtime_ns
    assert ended["gateway"] < ended["node"] < ended["database"]


async def test_a_deaf_child_is_killed_after_the_deadline(watched: Watched) -> None:
    await watched.supervisor.start(watched.spec("deaf", deaf=True))
    (record,) = watched.supervisor.records()
    began = time.monotonic()
    await watched.supervisor.stop_all()
    assert time.monotonic() - began >= 1.0
    assert processes.family(record) == []
    assert watched.lines == ["deaf did not stop within 1 s and was killed"]


async def test_stop_during_a_restart_leaves_nothing(watched: Watched) -> None:
    await watched.supervisor.start(watched.spec("tracker", restart=True))
    (first,) = watched.supervisor.records()
    os.kill(first.pid, signal.SIGKILL)
    await watched.until(lambda: bool(watched.lines))
    await watched.supervisor.stop_all()
    await asyncio.sleep(supervisor.RESTART_DELAY_SECONDS + 0.3)
    assert watched.supervisor.records() == []
    processes.signal_family(first, signal.SIGKILL)


async def test_an_interrupted_start_leaves_nothing(watched: Watched) -> None:
    task = asyncio.create_task(watched.supervisor.start(watched.spec("slow", delay=30)))
    await watched.until(lambda: bool(watched.supervisor.records()))
    (record,) = watched.supervisor.records()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await watched.supervisor.stop_all()
    assert processes.family(record) == []
