"""Which devices take a new file or a further copy.

The order is MogileFS's: by free share, the best twenty, then a draw without replacement weighted by free share, so that empty
devices fill faster without taking every write. Two differences, both on purpose: devices whose size is not known yet are used
when no known one is left (upstream's weight of 0 shuts them out, so a fresh cluster refuses its first uploads), and several
destinations are on distinct hosts, and in distinct zones as long as there are any, which upstream means to do and does not.
"""

from collections.abc import Iterable, Sequence

from mogile_tracker.policy.sites import Randomness, Site

BEST_CANDIDATES = 20
MULTI_DEST_COUNT = 3


def free_space_order(sites: Iterable[Site], randomness: Randomness) -> list[Site]:
    """The sites in the order in which they should be tried."""
    ranked = sorted(sites, key=lambda site: (-site.free_fraction, site.devid))
    return _draw(ranked[:BEST_CANDIDATES], randomness, BEST_CANDIDATES)


def _draw(sites: Sequence[Site], randomness: Randomness, count: int) -> list[Site]:
    known = [(site, weight) for site in sites if (weight := site.free_fraction) > 0.0]
    order = _weighted_draw(known, randomness, count)
    if len(order) == count:
        return order
    unknown = [(site, 1.0) for site in sites if site.total_mb is None or site.used_mb is None]
    return order + _weighted_draw(unknown, randomness, count - len(order))


def _weighted_draw(remaining: list[tuple[Site, float]], randomness: Randomness, count: int) -> list[Site]:
    total = sum(weight for _, weight in remaining)
    order: list[Site] = []
    while remaining and len(order) < count:
        mark = randomness.random() * total
        chosen = len(remaining) - 1
        for index, (_, weight) in enumerate(remaining):
            mark -= weight
            if mark < 0.0:
                chosen = index
                break
        site, weight = remaining.pop(chosen)
        total -= weight
        order.append(site)
    return order


class Placement:
    """Chooses destinations for new files; built once per topology snapshot, because create_open asks thousands of times a second."""

    __slots__ = ("_ranked",)

    def __init__(self, sites: Iterable[Site]) -> None:
        fit = [site for site in sites if site.fit]
        self._ranked = sorted(fit, key=lambda site: (-site.free_fraction, site.devid))

    def choose(self, randomness: Randomness, *, count: int = 1, size: int | None = None) -> list[Site]:
        """Up to `count` devices on distinct hosts (and zones where possible), best first; empty when no device is fit."""
        if count <= 1:
            return _draw(self._candidates(size), randomness, 1)
        return _spread(_draw(self._candidates(size), randomness, BEST_CANDIDATES), count)

    def _candidates(self, size: int | None) -> list[Site]:
        if not size:
            return self._ranked[:BEST_CANDIDATES]
        known: list[Site] = []
        for site in self._ranked:
            free_mb = site.free_mb
            if free_mb is not None and free_mb * 1048576 > size:
                known.append(site)
                if len(known) == BEST_CANDIDATES:
                    return known
        return known or [site for site in self._ranked if site.free_mb is None][:BEST_CANDIDATES]


def _spread(order: Sequence[Site], count: int) -> list[Site]:
    """The first `count` sites on distinct hosts, new zones before used ones; a host without a zone spreads by host alone."""
    chosen: list[Site] = []
    hosts: set[int] = set()
    zones: set[str] = set()
    for new_zones_only in (True, False):
        for site in order:
            if len(chosen) == count:
                return chosen
            if site.hostid in hosts or (new_zones_only and site.zone is not None and site.zone in zones):
                continue
            chosen.append(site)
            hosts.add(site.hostid)
            if site.zone is not None:
                zones.add(site.zone)
    return chosen
