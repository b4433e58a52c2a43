"""Starting programs: short ones with a time limit, long ones inside a cgroup and a namespace.

Every long-running process joins a freezer cgroup of the cluster *before* it becomes the program, so membership of
that cgroup is what identifies the cluster's processes; it survives a lost state directory, and a recycled pid can
never be in it.  Pid records (pid and kernel start time) exist on top of that to address one particular program.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.errors import HarnessError

DEFAULT_TIMEOUT_SECONDS = 60.0
ERROR_TAIL_LINES = 12
ISOLATE_SCRIPT = Path(__file__).with_name("isolate.sh")


def run(
    *argv: str,
    timeout: float = DEFAULT_TIMEOUT_SECONDS,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run a short program to its end; a failure or a timeout becomes a HarnessError with the last lines it wrote."""
    try:
        done = subprocess.run(
            argv,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=None if env is None else {**os.environ, **env},
            cwd=cwd,
            check=False,
        )
    except FileNotFoundError as exc:
        raise HarnessError(f"{argv[0]}: not found; is its package installed?") from exc
    except subprocess.TimeoutExpired as exc:
        raise HarnessError(f"{' '.join(argv[:6])}: no end after {timeout:.0f} s") from exc
    if check and done.returncode != 0:
        raise HarnessError(f"{' '.join(argv[:8])}: exit {done.returncode}: {tail(done.stderr or done.stdout)}")
    return done


def tail(text: str, lines: int = ERROR_TAIL_LINES) -> str:
    """The last lines of a program's output, for an error message."""
    return "\n".join(text.strip().splitlines()[-lines:])


def start_ticks(pid: int) -> int | None:
    """The kernel's start time of a process (clock ticks since boot), None when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the command name may hold spaces and brackets
    return None if fields[0] in ("Z", "X") else int(fields[19])


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRecord:
    """A process the harness started: the pid alone could have been given to another one since."""

    name: str
    pid: int
    started: int

    def alive(self) -> bool:
        return start_ticks(self.pid) == self.started

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal if it is still the same process; say whether it was."""
        if not self.alive():
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    def stop(self, *, grace_seconds: float) -> None:
        """TERM, then KILL when the process is still there after the grace."""
        if not self.signal(signal.SIGTERM):
            return
        deadline = time.monotonic() + grace_seconds
        while self.alive() and time.monotonic() < deadline:
            time.sleep(0.05)
        self.signal(signal.SIGKILL)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{self.name}.tmp"
        temporary.write_text(json.dumps(asdict(self)))
        temporary.replace(folder / f"{self.name}.json")


def load_records(folder: Path) -> dict[str, ProcessRecord]:
    """The records of a state directory by name; an unreadable one (crash while it was written) is left out."""
    records: dict[str, ProcessRecord] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            record = ProcessRecord(**json.loads(path.read_text()))
        except (ValueError, TypeError):
            continue
        records[record.name] = record
    return records


# $0 is the cgroup.procs file; the shell joins it while it still is in the first mount namespace, then becomes the program.
JOIN_AND_EXEC = 'echo $$ > "$0" && exec "$@"'


def spawn(
    name: str,
    argv: Sequence[str],
    *,
    cgroup_procs: Path,
    log: Path,
    records: Path,
    env: Mapping[str, str] | None = None,
) -> ProcessRecord:
    """Start a long-running program as a session of its own inside a freezer cgroup and record it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            ["/bin/sh", "-c", JOIN_AND_EXEC, str(cgroup_procs), *argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=None if env is None else {**os.environ, **env},
            cwd="/",
        )
    process.returncode = 0  # it outlives us on purpose: no ResourceWarning, no wait
    started = start_ticks(process.pid)
    if started is None:
        raise HarnessError(f"{name} ended at once: {tail(log.read_text(errors='replace'))}")
    record = ProcessRecord(name=name, pid=process.pid, started=started)
    record.save(records)
    return record


def in_netns(netns: str, *argv: str) -> list[str]:
    """The command line that runs a program in a named network namespace (``ip netns exec`` would hide the cgroups)."""
    return ["nsenter", f"--net=/run/netns/{netns}", "--", *argv]


def isolated(*argv: str, keep: Sequence[Path | str] = ()) -> list[str]:
    """The command line that runs a program in a fresh mount namespace, with the mounts ``keep`` lies on and no others."""
    folders = ":".join(str(path) for path in keep)
    return ["unshare", "-m", "--propagation", "private", "/bin/sh", str(ISOLATE_SCRIPT), folders, *argv]
