"""What the balancer knows of the bytes of files on every device, and when it looks at them.

A store of few files is counted anew (bounded: `commands.census`); of a larger one the last complete census is used, once two passes have
ended since files were last moved, because the first may have begun before. Counting costs, so it is done every few evaluations, less
often while it leads to nothing, and at once when devices have come or gone.
"""

from collections.abc import Sequence

from mogile_tracker.commands.census import count_all
from mogile_tracker.policy.balance import Fill
from mogile_tracker.policy.sites import Site
from mogile_tracker.workers.base import Jobs

EVALUATIONS_BETWEEN = 4
EVALUATIONS_BETWEEN_MAX = 64
PASSES = 2


class Shares:
    """The balancer's view of shares."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._devids: frozenset[int] = frozenset()
        self._wait = 0
        self._between = EVALUATIONS_BETWEEN
        self._pass_seen: float | None = None
        self._passes = 0

    def disturbed(self) -> None:
        """Files are being moved: a census that is under way counts some of them twice or not at all."""
        self._passes = 0

    def planned(self, moves: int) -> None:
        """What came of the last look."""
        self._between = EVALUATIONS_BETWEEN if moves else min(2 * self._between, EVALUATIONS_BETWEEN_MAX)
        self._wait = 0 if moves else self._between

    async def look(self, sites: Sequence[Site]) -> Fill | None:
        """The shares when it is time to look at them and they are known; None otherwise."""
        devids = frozenset(site.devid for site in sites)
        if devids != self._devids:
            self._devids, self._wait, self._between = devids, 0, EVALUATIONS_BETWEEN
        if self._wait > 0:
            self._wait -= 1
            return None
        self._wait = EVALUATIONS_BETWEEN
        totals = await count_all(self._jobs.census, self._jobs.topology)
        if totals is None:
            complete = await self._jobs.census.load("complete")
            ended = await self._jobs.census.ended_at("complete")
            if ended != self._pass_seen:
                self._passes += self._pass_seen is not None
                self._pass_seen = ended
            if complete is None or self._passes < PASSES:
                return None
            totals = complete[1]
        return Fill(sites, bytes_={devid: bytes_ for devid, (_, bytes_) in totals.devices.items()})
