"""How busy this tracker's server processes are with commands: each measures itself, the parent adds up, the jobs processes are told.

Measured is the processor time they need. It grows with the rate of the commands and with what each of them costs, and says the same on
a fast machine and on a slow one; a server that merely waits (for a node that hangs, for a database that is gone) is not busy.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mogile_core.runtime.clock import Clock

MEASURE_SECONDS = 0.5
HELD_SECONDS = 2.0
STALE_SECONDS = 5.0  # a figure that is not renewed says nothing any more
TOLD_MAX = 16


class ProcessorUse:
    """What this process needs of processors, since the last look."""

    def __init__(self) -> None:
        self._used, self._waited = _used_and_waited()
        self._at = time.monotonic()

    def cores(self) -> float:
        """Processors it kept busy, and wanted to while others had them (at most as much again): 0 to 1 where one thread works.

        Without the waiting a server on a crowded machine, which needs consideration most, would seem at leisure; with all of it one that
        does little there would seem busy.
        """
        (used, waited), now = _used_and_waited(), time.monotonic()
        grown = needed_seconds(used - self._used, waited - self._waited)
        cores = grown / max(now - self._at, 1e-6)
        self._used, self._waited, self._at = used, waited, now
        return min(1.0, cores)


def needed_seconds(used_seconds: float, waited_seconds: float) -> float:
    """Processor time that was needed: used, and waited for, which counts at most as much again."""
    return used_seconds + min(waited_seconds, used_seconds)


def _used_and_waited() -> tuple[float, float]:
    """Seconds of this process's first thread on a processor and in a queue for one (0 where the kernel does not tell)."""
    try:
        used, waited, _ = Path("/proc/self/schedstat").read_bytes().split()
    except (OSError, ValueError):
        return time.process_time(), 0.0
    return int(used) / 1e9, int(waited) / 1e9


def busyness(cores: Sequence[float], processors: int) -> float:
    """0 to 1: what the server processes use of the processors they could use together."""
    could = min(len(cores), processors)
    return min(1.0, sum(cores) / could) if could else 0.0


class Foreground:
    """In a jobs process: what the parent said last."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told: deque[tuple[float, float]] = deque(maxlen=TOLD_MAX)  # (when, how busy)

    def told(self, message: dict[str, Any]) -> None:
        """A `load` message."""
        self._told.append((self._clock.monotonic(), float(message["busy"])))

    @property
    def busy(self) -> float:
        """0 (idle, or unknown) to 1: the last figure, or a higher one of the last moments: a short lull between commands is no calm."""
        now = self._clock.monotonic()
        if not self._told or now - self._told[-1][0] >= STALE_SECONDS:
            return 0.0
        return max(self._told[-1][1], *(busy for at, busy in self._told if now - at < HELD_SECONDS), 0.0)
