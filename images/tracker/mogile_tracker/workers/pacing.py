"""Limits on copying and on reading copies: how many at once and how many bytes a second, per job and per device, changeable at any time.

Copies at once are counted in this process; bytes a second are shared by all trackers (`store.pace`). The settings are read anew in every
turn of a wait, so a limit that is raised or lifted is noticed within a second. Nobody is let through twice, and an order larger than a
limit goes when nothing else is under way there, so no limit can stop a job for good.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass

from mogile_core.runtime.workers import progress
from mogile_tracker.policy.tunables import Limits
from mogile_tracker.store.pace import PaceStore

LOOK_AGAIN_SECONDS = 1.0  # at the latest: the settings may have changed
BURST_SECONDS = 2.0  # the bytes of one order are at most those of so long at its limits


@dataclass(frozen=True, slots=True)
class Load:
    """Bytes that are read from or written to devices: both ends of a copy, or the one device a copy is read of."""

    devids: tuple[int, ...]
    length: int

    def names(self, job: str) -> tuple[str, ...]:
        """What it is counted under."""
        return (f"job:{job}", *(f"dev:{devid}" for devid in self.devids))


QUESTION = Load((), 0)  # an answer of a few bytes: counts for its job alone


class Governor:
    """One per jobs process."""

    def __init__(self, store: PaceStore, settings: Callable[[], Mapping[str, str]]) -> None:
        self._store = store
        self._settings = settings
        self._busy: Counter[str] = Counter()
        self._freed = asyncio.Condition()
        self._held: Counter[str] = Counter()

    def held_back(self, job: str) -> bool:
        """Whether an order of the job waits for its limits now."""
        return self._held[job] > 0

    def at_once(self, job: str, groups: Sequence[Sequence[Load]]) -> int:
        """How many of the groups, from the first on and at least that one, the limits in bytes let through without a long wait."""
        limits = Limits(self._settings(), job)
        load: Counter[str] = Counter()
        for index, group in enumerate(groups):
            for part in group:
                load.update(dict.fromkeys(part.names(job), part.length))
            rates = limits.rates(tuple(devid for part in group for devid in part.devids))
            if index and any(load[name] > rate * BURST_SECONDS for name, rate in rates.items()):
                return index
        return len(groups)

    async def due(self, what: str, rate: float, count: int) -> float:
        """For what is no job with bytes: 0 when `count` may be done now, and is paid for; else the seconds until it is worth asking."""
        wait = await self._store.admit({what: rate} if rate > 0 else {}, {what: count})
        return min(wait, LOOK_AGAIN_SECONDS)

    def parts(self, job: str, copies: Sequence[Load], *, items_max: int, bytes_max: int) -> list[list[int]]:
        """Indexes of the copies, divided into orders that the limits let through at once as far as that is possible."""
        parts: list[list[int]] = []
        count: Counter[str] = Counter()
        load: Counter[str] = Counter()
        size = 0
        limits = Limits(self._settings(), job)
        for index, copy in enumerate(copies):
            slots, rates = limits.slots(copy.devids), limits.rates(copy.devids)
            full = (
                not parts
                or len(parts[-1]) >= items_max
                or size + copy.length > bytes_max
                or any(count[name] >= slot for name, slot in slots.items())
                or any(load[name] + copy.length > rate * BURST_SECONDS for name, rate in rates.items())
            )
            if full:
                parts.append([])
                count.clear()
                load.clear()
                size = 0
            parts[-1].append(index)
            size += copy.length
            count.update(copy.names(job))
            load.update(dict.fromkeys(copy.names(job), copy.length))
        return parts

    @asynccontextmanager
    async def admitted(self, job: str, copies: Sequence[Load]) -> AsyncIterator[bool]:
        """Wait until the limits let these copies through; True when there was a wait."""
        load: Counter[str] = Counter()
        for copy in copies:
            load.update(dict.fromkeys(copy.names(job), copy.length))
        async with self.slots(job, copies) as for_slots:
            with self._holding(job):
                for_rates = await self._rates(job, _devids(copies), load)
            yield for_slots or for_rates

    @asynccontextmanager
    async def slots(self, job: str, copies: Sequence[Load]) -> AsyncIterator[bool]:
        """As `admitted`, for what is limited only in how many are under way."""
        count: Counter[str] = Counter(name for copy in copies for name in copy.names(job))
        with self._holding(job):
            waited = await self._slots(job, _devids(copies), count)
        try:
            yield waited
        finally:
            self._busy.subtract(count)
            async with self._freed:
                self._freed.notify_all()

    @contextmanager
    def _holding(self, job: str) -> Iterator[None]:
        self._held[job] += 1
        try:
            yield
        finally:
            self._held[job] -= 1

    async def _slots(self, job: str, devids: tuple[int, ...], count: Counter[str]) -> bool:
        waited = False
        while not self._fits(Limits(self._settings(), job).slots(devids), count):
            waited = True
            progress()  # others are under way; the wait for them is wanted
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_AGAIN_SECONDS), self._freed:
                    await self._freed.wait()
        self._busy.update(count)
        return waited

    def _fits(self, slots: Mapping[str, int], count: Counter[str]) -> bool:
        return all(not self._busy[name] or self._busy[name] + count[name] <= slot for name, slot in slots.items())

    async def _rates(self, job: str, devids: tuple[int, ...], load: Mapping[str, int]) -> bool:
        waited = False
        while (wait := await self._store.admit(Limits(self._settings(), job).rates(devids), load)) > 0:
            waited = True
            await asyncio.sleep(min(wait, LOOK_AGAIN_SECONDS))
        return waited


def _devids(loads: Sequence[Load]) -> tuple[int, ...]:
    return tuple(sorted({devid for load in loads for devid in load.devids}))
