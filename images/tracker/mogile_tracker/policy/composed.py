"""Policies made of parts: so many hosts in each of some networks, and several policies at once.

`Union` parses in MogileFS but was never implemented there. Here a file satisfies it when its copies, taken together, satisfy every part;
a copy may serve several parts, and the next copy goes where most of the unsatisfied parts want it.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mogile_tracker.policy.landscape import Landscape
from mogile_tracker.policy.replication import Policy
from mogile_tracker.policy.sites import Site


@dataclass(frozen=True, slots=True)
class HostsPerNetwork(Policy):
    """That many copies in each of the named networks, on distinct hosts, or on distinct devices where a network has fewer hosts.

    The class's mindevcount plays no part. Copies elsewhere count for nothing and are trimmed once the networks have theirs. A network
    without enough devices is never satisfied: the operator asked for these places by name.
    """

    copies: tuple[tuple[str, int], ...]

    def wanted(self, mindevcount: int) -> int:
        """All networks together."""
        return sum(count for _, count in self.copies)

    def _lacking(self, landscape: Landscape, on: Sequence[Site]) -> dict[str, set[int]]:
        """Networks that want a copy more, with the hosts used there."""
        lacking = {}
        for network, count in self.copies:
            inside = [site for site in on if site.network == network]
            hosts = {site.hostid for site in inside}
            possible = landscape.hosts_in_network.get(network, frozenset())
            if len(hosts) < count and not (len(inside) >= count and hosts >= possible):
                lacking[network] = hosts
        return lacking

    def satisfied(self, landscape: Landscape, holders: Iterable[int], mindevcount: int) -> bool:
        """Every network has its copies."""
        return not self._lacking(landscape, landscape.counting(holders))

    def violates_zones(self, landscape: Landscape, holders: Iterable[int], mindevcount: int) -> bool:
        """Copies enough, in the wrong places."""
        on = landscape.counting(holders)
        return len(on) >= self.wanted(mindevcount) and bool(self._lacking(landscape, on))

    def places(
        self, landscape: Landscape, on: Sequence[Site], mindevcount: int, candidates: Sequence[Site]
    ) -> tuple[Sequence[Site], Sequence[Site]]:
        """New hosts of the networks that lack; hosts used already once the network has no other, before that only in need."""
        ideal: list[Site] = []
        desperate: list[Site] = []
        lacking = self._lacking(landscape, on)
        counts = dict(self.copies)
        for site in candidates:
            hosts = lacking.get(site.network or "")
            if hosts is None:
                continue
            assert site.network is not None
            if site.hostid not in hosts or hosts >= landscape.hosts_in_network.get(site.network, frozenset()):
                ideal.append(site)
            elif sum(1 for other in on if other.network == site.network) < counts[site.network]:
                desperate.append(site)
        return ideal, desperate


@dataclass(frozen=True, slots=True)
class Union(Policy):
    """All of several policies."""

    parts: tuple[Policy, ...]

    def wanted(self, mindevcount: int) -> int:
        """The most any part wants; disjoint parts may need more."""
        return max(part.wanted(mindevcount) for part in self.parts)

    def satisfied(self, landscape: Landscape, holders: Iterable[int], mindevcount: int) -> bool:
        """Every part is."""
        devids = list(holders)
        return all(part.satisfied(landscape, devids, mindevcount) for part in self.parts)

    def violates_zones(self, landscape: Landscape, holders: Iterable[int], mindevcount: int) -> bool:
        """Copies enough for any part, and yet a part is not satisfied."""
        on = [site.devid for site in landscape.counting(holders)]
        return len(on) >= self.wanted(mindevcount) and not self.satisfied(landscape, on, mindevcount)

    def places(
        self, landscape: Landscape, on: Sequence[Site], mindevcount: int, candidates: Sequence[Site]
    ) -> tuple[Sequence[Site], Sequence[Site]]:
        """What the unsatisfied parts want, places wanted by several first."""
        devids = [site.devid for site in on]
        ideal: Counter[int] = Counter()
        desperate: Counter[int] = Counter()
        for part in self.parts:
            if not part.satisfied(landscape, devids, mindevcount):
                first, second = part.places(landscape, on, mindevcount, candidates)
                ideal.update(site.devid for site in first)
                desperate.update(site.devid for site in second)
        order = {site.devid: (-ideal[site.devid], n) for n, site in enumerate(candidates)}
        chosen = sorted((site for site in candidates if site.devid in ideal), key=lambda site: order[site.devid])
        return chosen, [site for site in candidates if site.devid in desperate and site.devid not in ideal]
