"""The automatic balancer's decision: which copies to move so that the fullest and the emptiest device come close.

A move is planned only if (a) its source ends no emptier than its target, so a step can never be undone by a later one and the sum of
squared fills falls with every move: balancing ends and does not oscillate; (b) the file keeps at least the hosts and zones it has and a
policy that was satisfied stays so. Moves that wait already are counted as done. The order depends on the arguments alone.

It begins when the spread exceeds the target and plans down to half of it, so that ordinary writes do not start it again at once.

The spread is in percent points of file-system fill, and says nothing while all devices are nearly empty. There the share counts: how far
the bytes of files on a device are from what its size makes fair. Moves for the sake of the shares obey (a) by shares and never make the
spread of the fill larger than what is left alone, so the two aims never undo each other.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mogile_tracker.policy.landscape import Landscape
from mogile_tracker.policy.replication import Policy
from mogile_tracker.policy.sites import Site

MIB = 1 << 20
STOP_SHARE = 0.5  # of the target
PolicyOf = Callable[[int, int], tuple[Policy, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedFile:
    """One file with its holders, which could be moved away from one of them."""

    fid: int
    dmid: int
    classid: int
    length: int
    holders: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """Copy a file to the target, then remove it from the source."""

    fid: int
    source: int
    target: int
    length: int


def participants(landscape: Landscape) -> list[Site]:
    """Devices that are balanced: alive, answering, of known size."""
    return [site for site in landscape.sites.values() if site.alive and site.removable and site.total_mb]


class Fill:
    """How full every participant is, with planned moves counted as done; of all that is on it, or (`bytes_`) of files alone."""

    def __init__(
        self, sites: Sequence[Site], pending: Iterable[Move] = (), *, bytes_: Mapping[int, int] | None = None
    ) -> None:
        self._total = {site.devid: float(site.total_mb or 0) * MIB for site in sites}
        self._used = {
            site.devid: float(site.used_mb or 0) * MIB if bytes_ is None else float(bytes_.get(site.devid, 0))
            for site in sites
        }
        for move in pending:
            self.apply(move)

    def apply(self, move: Move) -> None:
        """Count a move as done."""
        if move.source in self._used:
            self._used[move.source] = max(0.0, self._used[move.source] - move.length)
        if move.target in self._used:
            self._used[move.target] += move.length

    def percent(self, devid: int, change: int = 0) -> float:
        """Fill of a device, as it would be after a change in bytes."""
        return 100.0 * (self._used[devid] + change) / self._total[devid]

    def spread(self, move: Move | None = None) -> float:
        """Percent points between the fullest and the emptiest, as it would be after a move; 0 with fewer than two devices."""
        change = {} if move is None else {move.source: -move.length, move.target: move.length}
        levels = [self.percent(devid, change.get(devid, 0)) for devid in self._total]
        return max(levels) - min(levels) if len(levels) >= 2 else 0.0

    def mean(self) -> float:
        """Fill of all participants taken together."""
        total = sum(self._total.values())
        return 100.0 * sum(self._used.values()) / total if total else 0.0

    def imbalance(self) -> float:
        """The largest difference from the mean, in percent of the mean; 0 with fewer than two devices."""
        mean = self.mean()
        if not mean or len(self._total) < 2:
            return 0.0
        return max(abs(self.percent(devid) / mean - 1) for devid in self._total) * 100

    def fullest_first(self) -> list[int]:
        """Device ids by fill."""
        return sorted(self._total, key=lambda devid: (-self.percent(devid), devid))


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """What is to be evened out, and until when."""

    fill: Fill
    reached: Callable[[], bool]
    words: str
    guard: Fill | None = None  # the spread of this fill must not grow beyond `slack` for it
    slack: float = 0.0

    def apply(self, move: Move) -> None:
        """Count a move as done."""
        self.fill.apply(move)
        if self.guard is not None:
            self.guard.apply(move)

    def allows(self, move: Move) -> bool:
        """The move brings the source no lower than the target, and does no harm to the guard."""
        if self.fill.percent(move.source, -move.length) < self.fill.percent(move.target, move.length):
            return False
        if self.guard is None:
            return True
        return self.guard.spread(move) <= max(self.slack, self.guard.spread())


def aim(fill: Fill, shares: Fill | None, *, spread_percent: float, share_percent: float) -> Aim | None:
    """What is worth moving files for: the fill when it is too far apart, else the shares where they are known; None: nothing."""
    spread = fill.spread()
    if spread > spread_percent:
        stop = spread_percent * STOP_SHARE
        return Aim(fill=fill, reached=lambda: fill.spread() <= stop, words=f"spread {spread:.2f}")
    if shares is None or (imbalance := shares.imbalance()) <= share_percent:
        return None
    return Aim(
        fill=shares,
        reached=lambda: shares.imbalance() <= share_percent * STOP_SHARE,
        words=f"a device is {imbalance:.0f} % off its fair share",
        guard=fill,
        slack=spread_percent * STOP_SHARE,
    )


def worth_sampling(fill: Fill) -> list[int]:
    """Devices to take samples of: those above the mean, fullest first."""
    mean = fill.mean()
    return [devid for devid in fill.fullest_first() if fill.percent(devid) > mean]


def plan_moves(
    landscape: Landscape,
    towards: Aim,
    samples: Mapping[int, Sequence[PlacedFile]],
    policy_of: PolicyOf,
    *,
    limit: int,
    bytes_max: int,
) -> list[Move]:
    """Moves towards an aim; its fills are left as they will be after them."""
    waiting = {devid: list(reversed(files)) for devid, files in samples.items()}
    moved: set[int] = set()
    moves: list[Move] = []
    planned_bytes = 0
    while len(moves) < limit and planned_bytes < bytes_max and not towards.reached():
        move = _next_move(landscape, towards, waiting, moved, policy_of)
        if move is None:
            break
        towards.apply(move)
        moved.add(move.fid)
        moves.append(move)
        planned_bytes += move.length
    return moves


def _next_move(
    landscape: Landscape, towards: Aim, waiting: dict[int, list[PlacedFile]], moved: set[int], policy_of: PolicyOf
) -> Move | None:
    """From the fullest device that has a file which can go to an emptier one, to the emptiest that can take it."""
    fill = towards.fill
    order = fill.fullest_first()
    for source in order:
        files = waiting.get(source, [])
        while files:
            sample = files.pop()
            if sample.fid in moved or sample.length <= 0 or source not in sample.holders:
                continue
            for target in reversed(order):
                if fill.percent(target) >= fill.percent(source):
                    break
                move = Move(fid=sample.fid, source=source, target=target, length=sample.length)
                if towards.allows(move) and _allowed(landscape, sample, source, target, policy_of):
                    return move
    return None


def _allowed(landscape: Landscape, sample: PlacedFile, source: int, target: int, policy_of: PolicyOf) -> bool:
    site = landscape.sites[target]
    if not site.fit or target in sample.holders or sample.length >= (site.free_mb or 0) * MIB:
        return False
    return keeps_spread(landscape, sample.holders, source, target, policy_of(sample.dmid, sample.classid))


def keeps_spread(
    landscape: Landscape, holders: Sequence[int], source: int, target: int, policy: tuple[Policy, int]
) -> bool:
    """A file moved so has at least the hosts and zones it has now, and a policy that is satisfied stays so."""
    before = landscape.counting(holders)
    after = [*(site for site in before if site.devid != source), landscape.sites[target]]
    if len({site.hostid for site in after}) < len({site.hostid for site in before}):
        return False
    if len({site.zone for site in after if site.zone}) < len({site.zone for site in before if site.zone}):
        return False
    rule, mindevcount = policy
    return not rule.satisfied(landscape, holders, mindevcount) or rule.satisfied(
        landscape, [site.devid for site in after], mindevcount
    )
