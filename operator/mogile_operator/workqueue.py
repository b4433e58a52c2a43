"""Keyed work queue: a key is queued at most once, worked on by one worker at a time, retried with exponential backoff and jitter.

Events only add keys. A key that is added while it is being worked on is done once more afterwards, not at the same time and not
once per event; between two passes of one key lies at least `GAP_SECONDS`, so that ten thousand events cost a few passes.
Time and randomness come from the running loop and an injected source, so tests control both.
"""

import asyncio
import heapq
import random
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

GAP_SECONDS = 0.5
BACKOFF_FIRST_SECONDS = 1.0
BACKOFF_MAX_SECONDS = 300.0
JITTER = 0.2
KEYS_MAX = 10_000
"""Idle keys beyond this many are forgotten; what is forgotten is only that they have rested."""

K = TypeVar("K", bound=Hashable)


@dataclass(slots=True)
class _State:
    due: float | None = None
    working: bool = False
    dirty: bool = False
    failures: int = 0
    rest_until: float = 0.0


@dataclass(order=True, slots=True)
class _Entry(Generic[K]):
    due: float
    number: int
    key: K = field(compare=False)


class WorkQueue(Generic[K]):
    """The queue; `get` waits for a due key, `done` says how it went."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()  # noqa: S311 - jitter needs no secrecy
        self._states: dict[K, _State] = {}
        self._heap: list[_Entry[K]] = []
        self._number = 0
        self._changed = asyncio.Event()

    def add(self, key: K, delay: float = 0.0) -> None:
        """Work on this key after `delay` seconds, or earlier if it is queued earlier already."""
        state = self._states.setdefault(key, _State())
        if state.working and delay == 0:
            state.dirty = True
            return
        self._schedule(key, state, _now() + delay)

    def _schedule(self, key: K, state: _State, due: float) -> None:
        due = max(due, state.rest_until)
        if state.due is not None and state.due <= due:
            return
        state.due = due
        self._number += 1
        heapq.heappush(self._heap, _Entry(due, self._number, key))
        self._changed.set()

    async def get(self) -> K:
        """The next due key; it is the caller's until `done`."""
        while True:
            self._changed.clear()
            wait = None
            while self._heap:
                entry = self._heap[0]
                state = self._states.get(entry.key)
                if state is None or state.due != entry.due or state.working:
                    # An older entry of a key that was scheduled anew, or one that `done` will schedule again.
                    heapq.heappop(self._heap)
                    if state is not None and state.working and state.due == entry.due:
                        state.dirty, state.due = True, None
                    continue
                wait = entry.due - _now()
                if wait > 0:
                    break
                heapq.heappop(self._heap)
                state.due, state.working = None, True
                return entry.key
            try:
                async with asyncio.timeout(wait):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def done(self, key: K, *, failed: bool = False, again_after: float | None = None) -> None:
        """The key is free again. Failed: retried with growing pauses. Else looked at again after `again_after`, if given."""
        state = self._states[key]
        state.working = False
        state.rest_until = _now() + GAP_SECONDS
        state.failures = state.failures + 1 if failed else 0
        if failed:
            self._schedule(key, state, _now() + self._backoff(state.failures))
        elif again_after is not None:
            spread = 1 + JITTER * (self._rng.random() - 0.5)
            self._schedule(key, state, _now() + again_after * spread)
        if state.dirty and not failed:
            self._schedule(key, state, _now())
        state.dirty = False
        if len(self._states) > KEYS_MAX:
            self._states = {k: s for k, s in self._states.items() if s.due is not None or s.working}

    def _backoff(self, failures: int) -> float:
        pause = min(BACKOFF_MAX_SECONDS, BACKOFF_FIRST_SECONDS * 2.0 ** min(failures - 1, 20))
        return pause * (1 + JITTER * (self._rng.random() - 0.5))

    def depth(self) -> int:
        """Keys that are due and wait for a worker."""
        now = _now()
        return sum(1 for state in self._states.values() if state.due is not None and state.due <= now)

    def oldest_seconds(self) -> float:
        """How long the longest waiting due key has waited."""
        now = _now()
        return max((now - s.due for s in self._states.values() if s.due is not None and s.due <= now), default=0.0)


def _now() -> float:
    return asyncio.get_running_loop().time()
