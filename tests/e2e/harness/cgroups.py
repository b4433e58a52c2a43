"""The cluster's cgroups (v1): ``<cluster>/<node>`` in every hierarchy, and the freezer as register of processes.

In the freezer hierarchy each node has a child ``system`` for its own programs (containerd, kubelet, shims); pods are
put below the same node by the container runtime.  So the freezer subtree of a node holds *all* its processes, and
those of a cluster all of the cluster's: freezing, killing and finding leftovers need nothing else.

The machine's own cgroups are only read.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from harness.errors import HarnessError

ROOT = Path("/sys/fs/cgroup")
CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd")
OPTIONAL_CONTROLLERS = ("unified", "net_cls", "net_prio", "perf_event", "hugetlb")
FREEZER = ROOT / "freezer"
KILL_TIMEOUT_SECONDS = 15.0
FREEZE_TIMEOUT_SECONDS = 10.0


def hierarchies() -> list[Path]:
    """The mounted hierarchies a node's cgroup must exist in."""
    names = [*CONTROLLERS, *OPTIONAL_CONTROLLERS]
    return [ROOT / name for name in names if (ROOT / name).is_dir() and not (ROOT / name).is_symlink()]


def make(group: str) -> None:
    """Create a group, with its parents, in every hierarchy; a cpuset starts empty and is filled from its parent."""
    for hierarchy in hierarchies():
        path = hierarchy
        for part in group.split("/"):
            parent, path = path, path / part
            path.mkdir(exist_ok=True)
            if hierarchy.name == "cpuset":
                for name in ("cpuset.cpus", "cpuset.mems"):
                    if not (path / name).read_text().strip():
                        (path / name).write_text((parent / name).read_text())


def system_procs(group: str) -> Path:
    """The file a program of ours writes its pid to, to join a group (freezer only: nothing else limits it)."""
    folder = FREEZER / group / "system"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "cgroup.procs"


@contextlib.contextmanager
def member(group: str) -> Iterator[None]:
    """The calling process is in a group inside the block: if it is killed, what it had started can still be found."""
    own = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if ":freezer:" in line)
    before = FREEZER / own.split(":", 2)[2].lstrip("/") / "cgroup.procs"
    system_procs(group).write_text(str(os.getpid()))
    try:
        yield
    finally:
        before.write_text(str(os.getpid()))


def processes(group: str) -> set[int]:
    """All processes in the freezer subtree of a group."""
    found: set[int] = set()
    for folder, _, files in os.walk(FREEZER / group):
        if "cgroup.procs" in files:
            try:
                text = Path(folder, "cgroup.procs").read_text()
            except OSError:
                continue  # removed while we walked
            found.update(int(line) for line in text.split())
    return found


def set_frozen(group: str, *, frozen: bool) -> None:
    """Stop or continue every process of a group; waits until the kernel says it is done."""
    state = FREEZER / group / "freezer.state"
    wanted = "FROZEN" if frozen else "THAWED"
    deadline = time.monotonic() + FREEZE_TIMEOUT_SECONDS
    state.write_text(wanted)
    while state.read_text().strip() != wanted:
        if time.monotonic() > deadline:
            raise HarnessError(f"cgroup {group} did not become {wanted} in {FREEZE_TIMEOUT_SECONDS:.0f} s")
        time.sleep(0.02)


def kill_all(group: str) -> int:
    """Kill every process of a group for good and say how many there were.

    Frozen first, so that none forks or restarts another meanwhile; the signals take effect on thawing.
    """
    folder = FREEZER / group
    killed: set[int] = set()
    deadline = time.monotonic() + KILL_TIMEOUT_SECONDS
    while folder.is_dir() and (remaining := processes(group)):
        if time.monotonic() > deadline:
            raise HarnessError(f"processes of cgroup {group} do not die: {sorted(remaining)[:10]}")
        _signal_frozen(group, remaining)
        killed |= remaining
        time.sleep(0.05)
    return len(killed)


def _signal_frozen(group: str, pids: set[int]) -> None:
    # An exiting task can delay FROZEN; killing without it only needs another round.
    with contextlib.suppress(HarnessError, OSError):
        set_frozen(group, frozen=True)
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    for folder, _, files in os.walk(FREEZER / group, topdown=False):
        if "freezer.state" in files:
            Path(folder, "freezer.state").write_text("THAWED")


def kill_containers(group: str, pod_uid: str) -> int:
    """SIGKILL to the processes of one pod below a node's group, its sandbox (pause) excepted; how many there were."""
    killed = 0
    for folder, folders, _ in os.walk(FREEZER / group):
        for name in folders:
            if name.removeprefix("pod") != pod_uid:
                continue
            for pid in processes(str(Path(folder, name).relative_to(FREEZER))):
                with contextlib.suppress(OSError):  # ended by itself meanwhile
                    if Path(f"/proc/{pid}/comm").read_text().strip() != "pause":
                        os.kill(pid, signal.SIGKILL)
                        killed += 1
    return killed


def remove(group: str) -> None:
    """Remove a group and its children from every hierarchy; a group that holds processes stays and is an error."""
    deadline = time.monotonic() + KILL_TIMEOUT_SECONDS
    for hierarchy in hierarchies():
        for folder, _, _ in os.walk(hierarchy / group, topdown=False):
            while True:
                try:
                    Path(folder).rmdir()
                except FileNotFoundError:
                    break
                except OSError as exc:  # the kernel frees the last task of a group a moment after it died
                    if time.monotonic() > deadline:
                        raise HarnessError(f"cannot remove cgroup {folder}: {exc}") from exc
                    time.sleep(0.05)
                else:
                    break


def existing(group: str) -> list[Path]:
    """Where a group still exists."""
    return [hierarchy / group for hierarchy in hierarchies() if (hierarchy / group).exists()]
