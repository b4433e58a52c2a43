"""How busy this tracker's server processes are with commands: each measures itself, the parent adds up, the jobs processes are told.

Measured is the processor time they use. It grows with the rate of the commands and with what each of them costs, and says the same on
a fast machine and on a slow one; a server that merely waits (for a node that hangs, for a database that is gone) is not busy.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from mogile_core.runtime.clock import Clock

MEASURE_SECONDS = 0.5
HELD_SECONDS = 2.0
STALE_SECONDS = 5.0  # a figure that is not renewed says nothing any more
TOLD_MAX = 16


class ProcessorUse:
    """Of this process since the last look."""

    def __init__(self) -> None:
        self._used, self._at = time.process_time(), time.monotonic()

    def cores(self) -> float:
        """Processors kept busy, 0 to 1 for a process with one thread that works."""
        used, now = time.process_time(), time.monotonic()
        cores = (used - self._used) / max(now - self._at, 1e-6)
        self._used, self._at = used, now
        return cores


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
