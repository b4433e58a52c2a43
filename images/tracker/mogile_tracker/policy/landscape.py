"""The sites of one topology snapshot with what every replication decision asks of them, counted once instead of once per file."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal

from mogile_tracker.policy.sites import Site

Area = Literal["zone", "network"]  # attributes of a site that name a place shared by several hosts


class Landscape:
    """An immutable view of all devices for the policies."""

    __slots__ = ("areas_possible", "copies_possible", "fit", "hosts_in_network", "hosts_possible", "sites")

    def __init__(self, sites: Iterable[Site]) -> None:
        known = {site.devid: site for site in sites}
        alive = [site for site in known.values() if site.alive]
        self.sites: Mapping[int, Site] = MappingProxyType(known)
        self.fit = tuple(site for site in known.values() if site.fit)
        self.hosts_possible = frozenset(site.hostid for site in alive)
        self.areas_possible: Mapping[Area, frozenset[str]] = {
            "zone": frozenset(site.zone for site in alive if site.zone is not None),
            "network": frozenset(site.network for site in alive if site.network is not None),
        }
        in_network: dict[str, set[int]] = defaultdict(set)
        for site in alive:
            if site.network is not None:
                in_network[site.network].add(site.hostid)
        self.hosts_in_network = {network: frozenset(hosts) for network, hosts in in_network.items()}
        self.copies_possible = sum(1 for site in known.values() if site.counts)

    def counting(self, holders: Iterable[int]) -> list[Site]:
        """The holders whose copies count, by device id; unknown, dead and out devices are left out."""
        found = (self.sites.get(devid) for devid in sorted(set(holders)))
        return [site for site in found if site is not None and site.counts]
