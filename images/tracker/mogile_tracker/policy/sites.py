"""What a policy knows about one device: the topology boiled down to the questions policies ask."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


class Randomness(Protocol):
    """The part of `random.Random` that policies use; the caller owns the generator and its seed."""

    def random(self) -> float:
        """A float in [0, 1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One device as policies see it."""

    devid: int
    hostid: int
    zone: str | None = None  # None: the zone of its host is not known
    network: str | None = None  # None: the network of its host is not known
    counts: bool = True  # a copy here counts as a copy: neither dead nor out
    alive: bool = (
        True  # device state alive, not out, host not dead: somewhere a copy may be expected to fit, now or later
    )
    fit: bool = True  # may take a new file right now
    readable: bool = True  # a copy here can be read right now
    removable: bool = True  # a copy here may be deleted right now
    draining: bool = False
    total_mb: int | None = None  # None: not known yet
    used_mb: int | None = None

    @property
    def free_mb(self) -> int | None:
        """Free space, or None when it is not known."""
        if self.total_mb is None or self.used_mb is None:
            return None
        return max(0, self.total_mb - self.used_mb)

    @property
    def free_fraction(self) -> float:
        """Free part of the device, 0 to 1; 0 when it is not known."""
        if not self.total_mb or self.used_mb is None:
            return 0.0
        return min(1.0, max(0.0, 1.0 - self.used_mb / self.total_mb))

    @property
    def used_fraction(self) -> float:
        """Used part of the device, 0 to 1; 0 when it is not known."""
        if not self.total_mb or self.used_mb is None:
            return 0.0
        return min(1.0, max(0.0, self.used_mb / self.total_mb))


Sites = Mapping[int, Site]


def by_devid(sites: Sequence[Site]) -> Sites:
    """Index sites by device id."""
    return {site.devid: site for site in sites}
