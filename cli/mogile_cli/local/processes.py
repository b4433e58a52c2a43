"""Who is who among processes: a pid alone may name a stranger, so every record also holds when the process began and in which boot.

Each child of local mode leads a session and process group of its own, so that its whole family (nginx has workers) gets a signal at once
and a Ctrl-C in the terminal reaches only us. Nothing here signals a process that does not match its record. Linux only (`/proc`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mogile_cli.errors import CliError

POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRecord:
    """One process as written to the state file. `started` is in clock ticks since the boot named by `boot`."""

    name: str
    pid: int
    started: int
    boot: str

    def as_json(self) -> dict[str, object]:
        return {"name": self.name, "pid": self.pid, "started": self.started, "boot": self.boot}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stat:
    pid: int
    state: str
    group: int
    session: int
    started: int


def record_from_json(value: object) -> ProcessRecord:
    """A record of the state file; CliError when it is none."""
    if isinstance(value, Mapping):
        name, pid, started, boot = (value.get(key) for key in ("name", "pid", "started", "boot"))
        if isinstance(name, str) and isinstance(boot, str) and type(pid) is int and type(started) is int and pid > 1:
            return ProcessRecord(name=name, pid=pid, started=started, boot=boot)
    raise CliError(f"the state file holds a process record that cannot be read: {value!r}")


def boot_id() -> str:
    """Names this boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def record(name: str, pid: int) -> ProcessRecord | None:
    """The record of a process that lives now; None when it does not."""
    stat = _stat(pid)
    return None if stat is None else ProcessRecord(name=name, pid=pid, started=stat.started, boot=boot_id())


def alive(process: ProcessRecord) -> bool:
    """Whether exactly this process still runs (a zombie does not)."""
    stat = _stat(process.pid)
    return stat is not None and stat.state not in "ZX" and _same(process, stat)


def signal_process(process: ProcessRecord, number: signal.Signals) -> bool:
    """Send a signal to exactly this process; False when it is gone."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        if not alive(process):  # looked at while the descriptor holds it: it cannot become somebody else in between
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def family(process: ProcessRecord) -> list[int]:
    """The living pids of the group this process leads, also when the leader itself is gone."""
    leader = _stat(process.pid)
    if process.boot != boot_id() or (leader is not None and leader.started != process.started):
        return []  # the pid names somebody else by now
    return [
        stat.pid
        for stat in _all_stats()
        # A pid is not given out again while a group or session of that number lives: what is in both belongs to the recorded leader.
        if stat.group == process.pid
        and stat.session == process.pid
        and stat.started >= process.started
        and stat.state not in "ZX"
    ]


def signal_family(process: ProcessRecord, number: signal.Signals) -> bool:
    """Send a signal to the whole group; False when nobody of it is left."""
    if not family(process):
        return False
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True


def stop_families(processes: Iterable[ProcessRecord], deadline_seconds: float, first: signal.Signals) -> list[str]:
    """`first` to all, then SIGKILL to what is left after the deadline; the names of those that had to be killed."""
    waiting = [p for p in processes if signal_family(p, first)]
    end = time.monotonic() + deadline_seconds
    while waiting and time.monotonic() < end:
        time.sleep(POLL_SECONDS)
        waiting = [p for p in waiting if family(p)]
    for process in waiting:
        signal_family(process, signal.SIGKILL)
    return [p.name for p in waiting]


def _same(process: ProcessRecord, stat: _Stat) -> bool:
    return stat.started == process.started and process.boot == boot_id()


def _stat(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="latin-1")
    except OSError:
        return None
    words = text.rpartition(")")[2].split()  # the name before may hold blanks and brackets
    return _Stat(pid=pid, state=words[0], group=int(words[2]), session=int(words[3]), started=int(words[19]))


def _all_stats() -> Iterable[_Stat]:
    with contextlib.suppress(OSError):
        for entry in os.scandir("/proc"):
            if entry.name.isdigit() and (stat := _stat(int(entry.name))) is not None:
                yield stat
