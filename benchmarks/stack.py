"""The surroundings of a benchmark: processes with names, disks of their own, a PostgreSQL server with pgbench.

Every process and mount made here is gone when its context ends. As root each disk is a fresh XFS image on a loop device, mounted in a mount
namespace of this program's own, so that syncs wait for nobody else's data; without root a disk is a plain folder.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

import processes

from mogile_cli.local.postgres import EmbeddedPostgres, find_binaries

CLONE_NEWNS = 0x20000
START_SECONDS = 60.0
STOP_SECONDS = 20.0
TOOLS = "/usr/sbin:/sbin:" + os.environ["PATH"]
BUFFERS_MB = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4 >> 20
# Durability is PostgreSQL's default and named here so that nobody has to look it up. Buffers are a quarter of memory as its manual advises;
# the log may grow so that a run is not a matter of when checkpoints fall. pgbench runs on the same server.
POSTGRES = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": f"{BUFFERS_MB}MB",
    "max_wal_size": "4GB",
}


class Stack:
    """Processes and disks by name, all in one temporary folder. Use as a context."""

    def __init__(self, name: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
        self.folder.chmod(0o755)
        self.name = name
        self.loop_disks = os.geteuid() == 0 and shutil.which("mkfs.xfs", path=TOOLS) is not None
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._mounts: list[Path] = []

    def __enter__(self) -> Self:
        if self.loop_disks:
            if ctypes.CDLL(None).unshare(CLONE_NEWNS) != 0:
                raise SystemExit(f"{self.name}: root, but not allowed to make a mount namespace")
            subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(*self._processes)
        for point in reversed(self._mounts):
            subprocess.run(["umount", str(point)], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    # ---- disks

    def disk(self, name: str, megabytes: int) -> Path:
        """An empty disk."""
        point = self.folder / name
        point.mkdir(parents=True)
        if self.loop_disks:
            image = self.folder / f"{name.replace('/', '-')}.img"
            with image.open("wb") as stream:
                stream.truncate(megabytes << 20)
            subprocess.run(["mkfs.xfs", "-q", str(image)], check=True, env={"PATH": TOOLS})
            subprocess.run(["mount", "-o", "loop", str(image), str(point)], check=True)
            self._mounts.append(point)
        return point

    def drop_disk(self, point: Path) -> None:
        """Give a disk's space back before the end."""
        if point in self._mounts:
            subprocess.run(["umount", str(point)], check=True)
            self._mounts.remove(point)
            (self.folder / f"{str(point.relative_to(self.folder)).replace('/', '-')}.img").unlink()
        shutil.rmtree(point, ignore_errors=True)

    # ---- processes

    def start(self, name: str, command: list[str], **settings: object) -> int:
        """Start a program of ours with MOGILE_<SETTING> in its environment; the pid."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("MOGILE_")}
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command, env=kept | {f"MOGILE_{key.upper()}": str(value) for key, value in settings.items()},
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        return self._processes[name].pid

    def stop(self, *names: str) -> None:
        """End processes, the youngest first."""
        ending = [self._processes.pop(name) for name in reversed(names) if name in self._processes]
        for process in ending:
            process.terminate()
        for process in ending:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def wait_for(self, address: str, port: int) -> None:
        """Until something listens."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            with socket.socket() as probe:
                if probe.connect_ex((address, port)) == 0:
                    return
            if time.monotonic() > deadline:
                raise SystemExit(f"{self.name}: nothing listens on {address}:{port}\n{self.last_words()}")
            time.sleep(0.05)

    def last_words(self) -> str:
        """The ends of all logs."""
        logs = [(path.name, path.read_text(errors="replace")[-1500:]) for path in sorted(self.folder.glob("*.log"))]
        return "\n".join(f"--- {name}\n{text}" for name, text in logs if text)

    def cpu(self) -> dict[str, float]:
        """CPU seconds of every process with its children."""
        return {name: processes.cpu_seconds(process.pid) for name, process in self._processes.items()}

    def pid(self, name: str) -> int:
        """The pid of a process."""
        return self._processes[name].pid


def children_by_start(pid: int) -> list[int]:
    """Direct children, the oldest first."""
    return sorted(int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


PYTHON = [sys.executable, "-m"]


@contextlib.contextmanager
def postgres(stack: Stack, megabytes: int) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL server on a disk of its own."""
    point = stack.disk("postgres", megabytes)
    point.chmod(0o755)
    server = EmbeddedPostgres(directory=point / "server", settings=POSTGRES)
    server.start()
    try:
        yield server
    finally:
        server.stop()


class Pgbench:
    """PostgreSQL's own benchmark on the same server: the yardstick."""

    def __init__(self, server: EmbeddedPostgres, scale: int) -> None:
        beside = find_binaries() / "pgbench"
        program = str(beside) if beside.exists() else shutil.which("pgbench")
        if program is None:
            raise SystemExit("pgbench is missing: as root, apt-get install postgresql-contrib")
        self._command, self._dsn = program, server.dsn("postgres")
        subprocess.run([program, "-i", "-q", "-s", str(scale), self._dsn], check=True, capture_output=True)

    def run(self, kind: str, connections: int, seconds: float) -> float:
        """Transactions per second; kind is -S or -N."""
        threads = str(min(2, connections))
        words = ["-n", "-M", "prepared", "-T", str(max(1, round(seconds))), kind, "-c", str(connections), "-j", threads]
        done = subprocess.run([self._command, *words, self._dsn], capture_output=True, text=True, check=False)
        found = re.search(r"tps = ([\d.]+) \(without", done.stdout)
        if found is None:
            raise SystemExit(f"pgbench {kind} failed: {done.stdout[-300:]}{done.stderr[-500:]}")
        return float(found[1])


def cpu_spent(before: Mapping[str, float], after: Mapping[str, float], count: float) -> dict[str, float]:
    """CPU milliseconds per operation by part."""
    return {name: max(0.0, after[name] - before[name]) * 1e3 / max(count, 1) for name in after if name in before}
