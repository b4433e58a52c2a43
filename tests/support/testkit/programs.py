"""Our programs as processes, forked from one that has loaded them already.

The imports of an agent or a tracker cost half a second of processor time and a test starts up to seven of them, so most of what the suites
did was importing. The standard library's fork server imports once per run of pytest; a program is then a fork of it: a process with a pid,
an environment, descriptors, memory and, where asked for, a process group of its own, which ends and is killed like any other. What only
the command line shows (mistakes in flags, going to the background, memory) is seen by the tests that run the command itself.

The server begins with the first program and stays in the mount namespace of that moment: whoever wants another one takes it before.
"""

from __future__ import annotations

import atexit
import importlib
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

STORAGE, TRACKER = "mogile_storage.main", "mogile_tracker.main"
LOADED = ["mogile_storage.agent", "mogile_storage.nginx", "mogile_storage.settings", "mogile_tracker.main", "uvloop"]
START_SECONDS = 90.0

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["__main__", *LOADED])
_started: list[_Fork] = []


class Program(Protocol):
    """A process that was started here; `subprocess.Popen` is one."""

    pid: int

    def poll(self) -> int | None:
        """The exit status; minus the signal's number where one has ended it; None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """The same at its end; `subprocess.TimeoutExpired` when that does not come within so many seconds."""

    def send_signal(self, sig: int) -> None:
        """To the process, unless it has ended."""

    def terminate(self) -> None:
        """SIGTERM."""

    def kill(self) -> None:
        """SIGKILL."""


@dataclass(frozen=True, slots=True)
class _Order:
    """What is to run and where."""

    module: str
    arguments: tuple[str, ...]
    environment: dict[str, str]
    log: Path
    first: str
    own_group: bool
    descriptors: tuple[int, int]  # soft and hard limit, as the caller has them now


def start(
    module: str,
    *arguments: str,
    environment: Mapping[str, str],
    log: Path,
    first: str = "",
    own_group: bool = False,
    prefix: Sequence[str] = (),
) -> Program:
    """`main()` of a module as a process of its own; returns when it is about to run.

    Both outputs are appended to `log`; `first` are statements to be run before; `own_group` makes it the leader of a session. With a
    `prefix` (words like `strace -f`) it is the command itself that runs, after these words.
    """
    if prefix:
        code = f"{first}\nfrom {module} import main\nmain()"
        with log.open("ab") as out:
            return subprocess.Popen(
                [*prefix, sys.executable, "-c", code, *arguments],
                env=environment,
                stdout=out,
                stderr=out,
                start_new_session=own_group,
            )
    order = _Order(
        module, arguments, dict(environment), log, first, own_group, resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    ready, tell = _server.Pipe(duplex=False)
    process = _server.Process(target=_run, args=(tell, order), daemon=True)
    process.start()
    tell.close()
    with ready:
        assert ready.poll(START_SECONDS), f"the fork server has not started {module} within {START_SECONDS:.0f} s"
    _started[:] = [program for program in _started if program.poll() is None]
    _started.append(program := _Fork(process))
    return program


class _Fork:
    """A child of the fork server."""

    def __init__(self, process: multiprocessing.process.BaseProcess) -> None:
        assert process.pid is not None
        self.pid: int = process.pid
        self._process = process

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
        return status

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(tell: Connection, order: _Order) -> None:
    """In the fork: what `subprocess` and the interpreter would have set up, then the program."""
    if order.own_group:
        os.setsid()
    resource.setrlimit(resource.RLIMIT_NOFILE, order.descriptors)
    os.environ.clear()
    os.environ.update(order.environment)
    descriptor = os.open(order.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    sys.argv = [order.module, *order.arguments]
    tell.send(True)
    tell.close()
    if order.first:
        exec(order.first, {})
    importlib.import_module(order.module).main()


@atexit.register
def _end_all() -> None:
    """What tests left running: multiprocessing would wait for it, and for ever if it is stopped."""
    for program in _started:
        program.kill()
