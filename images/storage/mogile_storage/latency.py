"""How long the system calls of a device take: a disk that is about to die is often slow before it fails.

For every device reads and syncs apart: a histogram since the process began (for Prometheus) and one of the last minute or two, from
which percentiles, the worst and the outliers (SLOW_SECONDS and more) of `/status` come. Constant memory; called from any thread.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left

from mogile_core.runtime.metrics import LATENCY_BUCKETS_SECONDS as BOUNDS

SLOW_SECONDS = 1.0
WINDOW_SECONDS = 60.0


class Latency:
    """Times of one kind of work on one device."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self.series = [0.0] * (len(BOUNDS) + 3)  # buckets, +Inf, sum, count: the form of `metrics.Histogram`
        self._now, self._before = _empty(), _empty()
        self._worst_now = self._worst_before = 0.0
        self.slow = 0

    def observe(self, seconds: float) -> None:
        """One piece of work took so long."""
        index = bisect_left(BOUNDS, seconds)
        with self._lock:
            self._turn(time.monotonic())
            self.series[index] += 1
            self.series[-2] += seconds
            self.series[-1] += 1
            self._now[index] += 1
            self._worst_now = max(self._worst_now, seconds)
            if seconds >= SLOW_SECONDS:
                self.slow += 1

    def summary(self) -> dict[str, float]:
        """Count and upper bounds in milliseconds of the last one to two windows; outliers since the process began."""
        with self._lock:
            self._turn(time.monotonic())
            recent = [a + b for a, b in zip(self._now, self._before, strict=True)]
            worst = max(self._worst_now, self._worst_before)
        return {
            "count": sum(recent),
            "p50Milliseconds": round(_percentile(recent, 0.5, worst) * 1000, 3),
            "p99Milliseconds": round(_percentile(recent, 0.99, worst) * 1000, 3),
            "worstMilliseconds": round(worst * 1000, 3),
            "slow": self.slow,
        }

    def _turn(self, now: float) -> None:
        age = now - self._began
        if age < WINDOW_SECONDS:
            return
        fresh = age >= 2 * WINDOW_SECONDS  # nothing happened for a whole window
        self._before = _empty() if fresh else self._now
        self._worst_before = 0.0 if fresh else self._worst_now
        self._now, self._worst_now, self._began = _empty(), 0.0, now


def _empty() -> list[int]:
    return [0] * (len(BOUNDS) + 1)


def _percentile(counts: list[int], share: float, worst: float) -> float:
    """The upper bound of the bucket in which this share is reached; no more than the worst that was seen."""
    wanted, running = share * sum(counts), 0
    for bound, count in zip((*BOUNDS, worst), counts, strict=True):
        running += count
        if running and running >= wanted:
            return min(bound, worst)
    return 0.0
