"""Replication policies: do the copies of a file suffice, and if not, where may the next one go. Here the words and the policies that
count copies, hosts and areas; those made of parts are in `policy.composed`, their texts are read in `policy.parsing`.

The words are MogileFS's. *happy*: leave it. *too happy*: a copy may go. *nothing now*: not satisfied, and no device can take a copy
at the moment. *ideal* and *desperate*: devices for the next copy; the desperate ones are used only when there is no ideal one, and
never improve on hosts. A policy is asked again after each copy, so a plan names the next step and never a whole schedule: that is
why a worker that dies anywhere leaves nothing to repair.

Areas: `MultipleHosts` wants its copies in as many *zones* as it wants copies and as there are zones with an alive device (ours: zones are
labels of hosts); `MultipleNetworks`, of the add-on MogileFS-Network, means the same by *networks*. The way there is one more copy in a
new area and then a trim, so the number of copies never falls below the class's on the way. Hosts without a zone (or network) spread by
host alone and count for none.

Every policy decides alike (`Policy.plan`): satisfied with copies to spare is too happy, satisfied is happy, anything else is the policy's
own choice of places. Copies are added only while unsatisfied and removed only while satisfied without them, so every run ends.

One difference from upstream: it calls a file with more copies than wanted, all on too few hosts, "too good" and then backs off for
ever, because no copy can be dropped. Here such a file still wants a copy on another host.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import ClassVar

from mogile_tracker.policy.landscape import Area, Landscape
from mogile_tracker.policy.placement import free_space_order
from mogile_tracker.policy.sites import Randomness, Site


class Verdict(Enum):
    """What a policy says about the copies of one file."""

    HAPPY = auto()
    TOO_HAPPY = auto()
    NOTHING_NOW = auto()
    WANTS_COPY = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A verdict with the devices it is about, best first."""

    verdict: Verdict
    ideal: tuple[Site, ...] = ()
    desperate: tuple[Site, ...] = ()
    surplus: tuple[Site, ...] = ()  # TOO_HAPPY: any one of these may go

    @property
    def destinations(self) -> tuple[Site, ...]:
        """Where to try the next copy, in order."""
        return self.ideal or self.desperate


class Policy(ABC):
    """One replication policy with its arguments bound."""

    __slots__ = ()

    @abstractmethod
    def wanted(self, mindevcount: int) -> int:
        """The number of copies a file of a class with this mindevcount should have."""

    @abstractmethod
    def satisfied(self, landscape: Landscape, holders: Iterable[int], mindevcount: int) -> bool:
        """True when the copies on these devices are enough."""

    @abstractmethod
    def violates_zones(self, landscape: Landscape, holders: Iterable[int], mindevcount: int) -> bool:
        """True when there are copies enough, but not spread as widely as possible and wanted."""

    @abstractmethod
    def places(
        self, landscape: Landscape, on: Sequence[Site], mindevcount: int, candidates: Sequence[Site]
    ) -> tuple[Sequence[Site], Sequence[Site]]:
        """(ideal, desperate) of the candidates for the next copy of a file that is not satisfied on these sites."""

    def plan(
        self,
        landscape: Landscape,
        holders: Collection[int],
        mindevcount: int,
        randomness: Randomness,
        failed: Collection[int] = (),
    ) -> Plan:
        """The next step for a file, decided alike by all policies; devices in `failed` are not suggested this time."""
        on = landscape.counting(holders)
        if self.satisfied(landscape, holders, mindevcount):
            # `wanted` is the least number of copies that can satisfy, so the search for surplus is spared to nearly all files.
            too_many = len(on) > self.wanted(mindevcount)
            surplus = _surplus(self, landscape, on, mindevcount) if too_many else ()
            return Plan(verdict=Verdict.TOO_HAPPY if surplus else Verdict.HAPPY, surplus=surplus)
        ideal, desperate = self.places(landscape, on, mindevcount, _candidates(landscape, holders, failed, randomness))
        if not ideal and not desperate:
            return Plan(verdict=Verdict.NOTHING_NOW)
        return Plan(verdict=Verdict.WANTS_COPY, ideal=tuple(ideal), desperate=tuple(desperate))


def _surplus(policy: Policy, landscape: Landscape, on: Sequence[Site], mindevcount: int) -> tuple[Site, ...]:
    """Copies that may go one at a time: draining devices first, then the fullest."""
    expendable = [
        site
        for site in on
        if site.removable
        and policy.satisfied(landscape, [other.devid for other in on if other is not site], mindevcount)
    ]
    expendable.sort(key=lambda site: (not site.draining, site.free_fraction, site.devid))
    return tuple(expendable)


def _candidates(
    landscape: Landscape, holders: Collection[int], failed: Collection[int], randomness: Randomness
) -> list[Site]:
    excluded = set(holders) | set(failed)
    return free_space_order((site for site in landscape.fit if site.devid not in excluded), randomness)


@dataclass(frozen=True, slots=True)
class _Counting(Policy):
    """What the policies share that want a number of copies."""

    copies: int | None = None

    def wanted(self, mindevcount: int) -> int:
        """N of the policy, else the class's mindevcount."""
        return self.copies or max(1, mindevcount)


@dataclass(frozen=True, slots=True)
class _SpreadOverAreas(_Counting):
    """Copies on that many distinct hosts, in as many areas as possible."""

    area: ClassVar[Area]
    used_areas_are_desperate: ClassVar[bool]

    def _areas(self, on: Iterable[Site]) -> set[str]:
        return {name for site in on if (name := getattr(site, self.area)) is not None}

    def _enough_hosts(self, landscape: Landscape, on: Sequence[Site], minimum: int) -> bool:
        count = len(on)
        hosts = {site.hostid for site in on}
        if len(hosts) >= minimum:
            return True
        if count >= minimum and hosts >= landscape.hosts_possible:
            return True
        return count >= 2 and count == landscape.copies_possible

    def _areas_lacking(self, landscape: Landscape, on: Sequence[Site], minimum: int) -> bool:
        covered = self._areas(on)
        return len(covered) < min(minimum, len(landscape.areas_possible[self.area] | covered))

    def satisfied(self, landscape: Landscape, holders: Iterable[int], mindevcount: int) -> bool:
        """Hosts and areas both."""
        on = landscape.counting(holders)
        minimum = self.wanted(mindevcount)
        return (
            bool(on) and self._enough_hosts(landscape, on, minimum) and not self._areas_lacking(landscape, on, minimum)
        )

    def violates_zones(self, landscape: Landscape, holders: Iterable[int], mindevcount: int) -> bool:
        """Enough copies on enough hosts, too few areas."""
        on = landscape.counting(holders)
        minimum = self.wanted(mindevcount)
        return (
            len(on) >= minimum
            and self._enough_hosts(landscape, on, minimum)
            and self._areas_lacking(landscape, on, minimum)
        )

    def places(
        self, landscape: Landscape, on: Sequence[Site], mindevcount: int, candidates: Sequence[Site]
    ) -> tuple[Sequence[Site], Sequence[Site]]:
        """Other hosts, those in new areas first while areas lack; hosts used already only when nothing else is left."""
        minimum = self.wanted(mindevcount)
        hosts = {site.hostid for site in on}
        used = self._areas(on)
        new_area = [
            site
            for site in candidates
            if site.hostid not in hosts and (name := getattr(site, self.area)) is not None and name not in used
        ]
        if self._enough_hosts(landscape, on, minimum):
            return new_area, ()
        others = [site for site in candidates if site.hostid not in hosts]
        same_host = [site for site in candidates if site.hostid in hosts]
        if hosts >= landscape.hosts_possible:
            return others + same_host, ()
        if len(on) >= minimum:
            same_host = []
        if not self._areas_lacking(landscape, on, minimum):
            return others, same_host
        rest = [site for site in others if site not in new_area]
        if self.used_areas_are_desperate:
            return new_area, rest + same_host
        return new_area + rest, same_host


@dataclass(frozen=True, slots=True)
class MultipleHosts(_SpreadOverAreas):
    """Copies on that many distinct hosts, spread over zones where they are known."""

    area = "zone"
    used_areas_are_desperate = False


@dataclass(frozen=True, slots=True)
class MultipleNetworks(_SpreadOverAreas):
    """Copies on that many distinct hosts in as many networks as possible; another host on a used network is a makeshift."""

    area = "network"
    used_areas_are_desperate = True


@dataclass(frozen=True, slots=True)
class MultipleDevices(_Counting):
    """Copies on that many devices, wherever they are."""

    def satisfied(self, landscape: Landscape, holders: Iterable[int], mindevcount: int) -> bool:
        """Only devices are counted."""
        count = len(landscape.counting(holders))
        return count >= self.wanted(mindevcount) or (count >= 2 and count == landscape.copies_possible)

    def violates_zones(self, landscape: Landscape, holders: Iterable[int], mindevcount: int) -> bool:
        """Never: this policy does not know zones."""
        return False

    def places(
        self, landscape: Landscape, on: Sequence[Site], mindevcount: int, candidates: Sequence[Site]
    ) -> tuple[Sequence[Site], Sequence[Site]]:
        """Anywhere."""
        return candidates, ()
