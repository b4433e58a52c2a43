"""What the processes of one tracker are given: the live topology, the way to tell the other processes about changes, metrics.

`LiveTopology` holds the current snapshot and replaces it: from the database (periodically, after a change, or when a command misses a
name that another tracker may just have created) and from observations (published by the jobs process, received by the others).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from mogile_core.errors import StoreError, StoreUnavailableError
from mogile_core.runtime.clock import Clock
from mogile_core.runtime.logs import get_log
from mogile_core.runtime.metrics import Registry
from mogile_tracker.foreground import Foreground
from mogile_tracker.jobclasses import JOB_CLASSES
from mogile_tracker.jobstate import WorkerState
from mogile_tracker.settings import TrackerSettings
from mogile_tracker.store.postgres import Database
from mogile_tracker.store.topology import TopologyStore
from mogile_tracker.topology import NO_OBSERVATIONS, Observations, Topology

LOOK_AGAIN_SECONDS = 0.25
FIRST_ROUND_SECONDS_MAX = 30.0

log = get_log(__name__)


class LiveTopology:
    """The newest snapshot: read `current`, never keep it across an await longer than needed."""

    def __init__(self, store: TopologyStore, clock: Clock, interval_seconds: float) -> None:
        self._store = store
        self._clock = clock
        self._interval_seconds = interval_seconds
        self._observations = NO_OBSERVATIONS
        self._loading: asyncio.Task[None] | None = None
        self._waiting: asyncio.Task[None] | None = None
        self._loaded_at = float("-inf")
        self._looked_again_at = float("-inf")
        self.current = Topology()
        self.observed_once = asyncio.Event()
        self.on_change: list[Callable[[Topology], None]] = []

    @property
    def age_seconds(self) -> float:
        """Since the last successful load."""
        return self._clock.monotonic() - self._loaded_at

    def observe(self, observations: Observations) -> None:
        """A monitor round was completed (newest wins)."""
        self._observations = observations
        self._replace(self.current.with_observations(observations))
        if observations.rounds:
            self.observed_once.set()

    async def refresh(self) -> None:
        """A load that *begins* after this call; callers that ask meanwhile share the one after the current."""
        if self._loading is None or self._loading.done():
            self._loading = asyncio.create_task(self._load())
            await asyncio.shield(self._loading)
            return
        if self._waiting is None or self._waiting.done():
            self._waiting = asyncio.create_task(self._load_after(self._loading))
        await asyncio.shield(self._waiting)

    async def until_observed(self) -> None:
        """Return once a monitor round is complete; StoreUnavailableError when none comes in time."""
        if not self.observed_once.is_set():
            try:
                async with asyncio.timeout(FIRST_ROUND_SECONDS_MAX):
                    await self.observed_once.wait()
            except TimeoutError as error:
                raise StoreUnavailableError("the monitor has not completed a round yet") from error

    async def look_again(self) -> None:
        """A name was not found: another tracker may just have made it. At most a few loads a second, whoever asks how often."""
        now = self._clock.monotonic()
        if now - self._looked_again_at >= LOOK_AGAIN_SECONDS:
            self._looked_again_at = now
            await self.refresh()
        elif self._loading is not None and not self._loading.done():
            await asyncio.shield(self._loading)

    async def run(self) -> None:
        """Refresh for ever; a database that is gone leaves the last snapshot in use."""
        while True:
            await self._clock.sleep(self._interval_seconds)
            try:
                await self.refresh()
            except StoreError as error:
                log.warning("cannot re-read the topology", error=error)

    async def _load_after(self, running: asyncio.Task[None]) -> None:
        await asyncio.wait([running])
        # From here on it is the load that runs: who asks now may have changed what it has read already, and waits for one more.
        self._loading, self._waiting = asyncio.current_task(), None
        await self._load()

    async def _load(self) -> None:
        fresh = await self._store.load()
        self._loaded_at = self._clock.monotonic()
        self._replace(fresh.with_observations(self._observations))

    def _replace(self, topology: Topology) -> None:
        self.current = topology
        for callback in self.on_change:
            callback(topology)


class Assignment:
    """The job classes that this process is to run, and messages (`!to`) for them; the parent changes both at any time."""

    MESSAGES_MAX = 100

    def __init__(self, classes: Iterable[str] = JOB_CLASSES) -> None:
        self.classes = frozenset(classes)
        self.changed = asyncio.Event()
        self._messages: list[tuple[str, str]] = []

    def assign(self, classes: Iterable[str]) -> None:
        """Run these classes from now on."""
        self.classes = frozenset(classes)
        self.changed.set()

    def tell(self, job: str, text: str) -> None:
        """A message for a class: `:wake_up`, `:shutdown` (begin anew); others are ignored."""
        if len(self._messages) < self.MESSAGES_MAX:
            self._messages.append((job, text))
        self.changed.set()

    def take_messages(self) -> list[tuple[str, str]]:
        """The messages that came since the last call."""
        taken, self._messages = self._messages, []
        return taken


@dataclass(frozen=True, slots=True, kw_only=True)
class JobsContext:
    """What `mogile_tracker.workers.run(context)` is given in a jobs process. It returns when `stop` is set and the workers have ended."""

    settings: TrackerSettings
    database: Database
    topology: LiveTopology
    registry: Registry
    clock: Clock
    stop: asyncio.Event
    foreground: Foreground
    owner: str  # names this process in leases: host, pid and a random part
    publish: Callable[[Observations], None]  # to this process's own topology and to the server processes; newest wins
    announce_change: Callable[
        [], Awaitable[None]
    ]  # a host, device, class or domain row was changed: everybody re-reads before this returns
    report: Callable[[list[WorkerState]], None] = field(
        default=lambda _: None
    )  # shown by !status and mogile_jobs; call about once a second
    assignment: Assignment = field(default_factory=Assignment)
    stuck: Callable[[str], None] = field(
        default=lambda _: None
    )  # a worker's unit of work cannot be ended: only the end of this process helps
