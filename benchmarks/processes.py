"""What processes cost: CPU seconds and memory of a process and all its descendants, from /proc."""

import contextlib
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

TICK = os.sysconf("SC_CLK_TCK")


def family(pid: int) -> Iterator[int]:
    """The process and its descendants that live now."""
    yield pid
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from family(int(child))


def cpu_seconds(pid: int) -> float:
    """User and system time of a family, of children that have ended and were waited for too."""
    total = 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            total += sum(int(field) for field in fields[11:15])
    return total / TICK


def pss_mb(pid: int) -> float:
    """Memory of a family, each shared page counted once (proportional set size)."""
    total = 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{member}/smaps_rollup").read_text()
            total += int(re.search(r"^Pss:\s+(\d+)", text, re.M)[1])  # type: ignore[index]
    return total / 1024


class Peak:
    """The most memory a process had while this is open."""

    def __init__(self, pid: int) -> None:
        self._pid, self._stop = pid, threading.Event()
        self.before = self.most = pss_mb(pid)
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            self.most = max(self.most, pss_mb(self._pid))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def growth_mb(self) -> float:
        return self.most - self.before
