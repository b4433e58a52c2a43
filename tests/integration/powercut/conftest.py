"""A power cut without cutting power: disks are image files on one outer XFS, and a snapshot of them is a reflink copy.

`cp --reflink=always` freezes an image at one instant while its mounted file system goes on. What was only in a page cache is not in
it, just as after a power cut; mounting the copy replays the journal like a machine that comes up again. What this cannot show is a
missing flush of a disk's own cache (a loop device over a file has none).

The model: every operation has a beginning and, once it was acknowledged, an end. For a snapshot taken between t0 and t1 a file may
hold what the last operation acknowledged before t0 left, or what one that was under way meanwhile would leave; nothing else.
"""

import contextlib
import ctypes
import os
import random
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from testkit.waiting import wait_until

POOL = random.Random(20240229).randbytes(48 << 20)
OUTER_MEGABYTES = 6144


@pytest.fixture(autouse=True, scope="session")
def _own_mounts() -> None:
    """A mount namespace for this process and all it starts: others that clone theirs meanwhile would hold our loop devices for good."""
    if os.geteuid() != 0:
        pytest.skip("loop devices need root")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x20000) != 0:  # CLONE_NEWNS
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True, timeout=20)


def run(*command: str | Path, seconds: float = 60) -> None:
    subprocess.run([str(word) for word in command], check=True, timeout=seconds, stdout=subprocess.DEVNULL)


def unmount(point: Path) -> None:
    """A loop device lets go of its file a moment after its own file system is gone, so this may need patience."""
    for _ in range(100):
        done = subprocess.run(["umount", str(point)], capture_output=True, check=False, timeout=60)
        if done.returncode == 0:
            return
        time.sleep(0.1)
    subprocess.run(["umount", "-l", str(point)], check=False, timeout=60)
    raise AssertionError(f"cannot unmount {point}: {done.stderr.decode()}")


@dataclass(frozen=True)
class Content:
    """Bytes that need no memory of their own."""

    offset: int
    size: int

    def __bytes__(self) -> bytes:
        return POOL[self.offset : self.offset + self.size]

    @classmethod
    def draw(cls, chooser: random.Random, largest: int) -> "Content":
        size = int(largest ** chooser.random())
        return cls(chooser.randrange(len(POOL) - size), size)


@dataclass(slots=True)
class Operation:
    """`after` is what the name holds once this is done (None: nothing)."""

    after: Content | None
    began: float
    ended: float | None = None
    failed: bool = False


class Model:
    """What every name may hold. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = threading.Event()
        self._running.set()
        self._history: dict[str, list[Operation]] = {}

    @contextlib.contextmanager
    def at_rest(self) -> Iterator[None]:
        """Hold back new operations while a snapshot (taken under full load) is looked at: the machine has few cores."""
        self._running.clear()
        try:
            yield
        finally:
            self._running.set()

    def begin(self, name: str, after: Content | None) -> Operation:
        self._running.wait()
        operation = Operation(after, time.monotonic())
        with self._lock:
            self._history.setdefault(name, []).append(operation)
        return operation

    def end(self, operation: Operation) -> None:
        """It was acknowledged."""
        with self._lock:
            operation.ended = time.monotonic()

    def acknowledged(self) -> int:
        """How many operations were."""
        with self._lock:
            return sum(o.ended is not None for operations in self._history.values() for o in operations)

    def go_on(self, operations: int) -> None:
        """Wait until so many more were acknowledged: a cut in which little happened shows little."""
        wanted = self.acknowledged() + operations
        wait_until(lambda: self.acknowledged() >= wanted, f"{operations} more operations to be acknowledged", 200)

    def allowed(self, t0: float, t1: float) -> dict[str, tuple[set[Content | None], bool]]:
        """name -> (what it may hold, whether something was acknowledged before t0)."""
        with self._lock:
            history = {name: list(operations) for name, operations in self._history.items()}
        result = {}
        for name, operations in history.items():
            settled: list[Operation] = [o for o in operations if o.ended is not None and o.ended < t0]
            last = max(settled, key=lambda o: o.ended or 0.0, default=None)
            open_then = {o.after for o in operations if o.began < t1 and (o.ended is None or o.ended >= t0)}
            before: Content | None = last.after if last is not None else None
            result[name] = ({before} | open_then, last is not None)
        return result


@dataclass
class Disk:
    """A part of the machine's image with a file system of its own, mounted somewhere."""

    image: Path
    megabytes_before: int
    megabytes: int
    kind: str
    point: Path
    loop: str = ""

    def attach(self) -> None:
        place = ["-o", str(self.megabytes_before << 20), "--sizelimit", str(self.megabytes << 20)]
        command = ["losetup", "-f", "--show", *place, str(self.image)]
        self.loop = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()

    def mount(self) -> None:
        self.point.mkdir(parents=True, exist_ok=True)
        options = ["-o", "nouuid"] if self.kind == "xfs" else []
        run("mount", "-t", self.kind, *options, self.loop, self.point)

    def release(self) -> None:
        if os.path.ismount(self.point):
            unmount(self.point)
        if self.loop:
            run("losetup", "-d", self.loop)
            self.loop = ""


@dataclass
class Rig:
    """The outer file system and the machine's disks on it: parts of one file, so that one copy freezes all of them at once."""

    folder: Path
    disks: list[Disk] = field(default_factory=list)
    cuts: int = 0

    @property
    def image(self) -> Path:
        return self.folder / "outer" / "machine.img"

    def add(self, point: Path, megabytes: int, kind: str = "xfs") -> None:
        before = sum(disk.megabytes for disk in self.disks)
        with self.image.open("ab") as stream:
            stream.truncate((before + megabytes) << 20)
        disk = Disk(self.image, before, megabytes, kind, point)
        self.disks.append(disk)
        disk.attach()
        run(f"mkfs.{kind}", "-q", disk.loop)
        disk.mount()

    @contextlib.contextmanager
    def power_cut(self, moved: Callable[[Path], Path]) -> Iterator[tuple[float, float]]:
        """Freeze a copy of all disks and mount it at other places; yields (t0, t1) of the cut."""
        self.cuts += 1
        copy = self.image.with_name(f"cut{self.cuts}.img")
        t0 = time.monotonic()
        run("cp", "--reflink=always", self.image, copy)
        t1 = time.monotonic()
        copies = [Disk(copy, d.megabytes_before, d.megabytes, d.kind, moved(d.point)) for d in self.disks]
        try:
            for disk in copies:
                disk.attach()
                disk.mount()
            yield t0, t1
        finally:
            for disk in copies:
                disk.release()
            copy.unlink()

    def close(self) -> None:
        for disk in self.disks:
            disk.release()


@pytest.fixture
def rig() -> Iterator[Rig]:
    folder = Path(tempfile.mkdtemp(prefix="mogile-powercut-"))
    folder.chmod(0o755)  # PostgreSQL runs as another user
    outer, image = folder / "outer", folder / "outer.img"
    outer.mkdir()
    with image.open("wb") as stream:
        stream.truncate(OUTER_MEGABYTES << 20)
    run("mkfs.xfs", "-q", "-m", "reflink=1", image)
    run("mount", "-o", "loop", image, outer)
    rig = Rig(folder)
    try:
        yield rig
    finally:
        try:
            rig.close()
        finally:
            unmount(outer)
            shutil.rmtree(folder)


@pytest.fixture
def rounds() -> Callable[[int, int], int]:
    """`rounds(few, many)`: few in CI, many with FULL=1."""
    return lambda few, many: many if os.environ.get("FULL") == "1" else few


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def draw() -> Callable[[random.Random, int], Content]:
    return Content.draw


NO_SYNC = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync,syncfs"]
NO_SYNC += ["-e", "inject=fsync,fdatasync,syncfs:retval=0"]


@pytest.fixture
def no_sync() -> list[str]:
    """Command prefix that turns the sync calls of a program, and of all it starts, into no-ops from outside."""
    return list(NO_SYNC)
