"""The automatic balancer's plans: they end, do not oscillate, and never spoil a file."""

import random
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from mogile_tracker.policy.balance import (
    MIB,
    Aim,
    Fill,
    Move,
    PlacedFile,
    aim,
    participants,
    plan_moves,
    worth_sampling,
)
from mogile_tracker.policy.landscape import Landscape
from mogile_tracker.policy.replication import MultipleHosts, Policy
from mogile_tracker.policy.sites import Site

SIZE_MB = 1000


def policy_of(dmid: int, classid: int) -> tuple[Policy, int]:
    return MultipleHosts(), classid


class Store:
    """Files on devices, on which plans are carried out."""

    def __init__(
        self,
        sites: list[Site],
        copies: int,
        files: int,
        seed: int,
        largest_mb: int,
        new: int,
        foreign_mb: dict[int, int] | None = None,
    ) -> None:
        randomness = random.Random(seed)
        self.foreign_mb = foreign_mb or {}  # devid -> what others keep on its file system
        self.sites = sites
        self.files: dict[int, tuple[int, set[int]]] = {}
        self.copies = copies
        old = sites[: len(sites) - new] or sites
        for fid in range(1, files + 1):
            hosts = sorted({s.hostid for s in old})
            randomness.shuffle(hosts)
            chosen = {randomness.choice([s.devid for s in old if s.hostid == h]) for h in hosts[:copies]}
            self.files[fid] = (randomness.randrange(1, largest_mb * MIB), chosen)

    def bytes(self) -> dict[int, int]:
        used = dict.fromkeys([s.devid for s in self.sites], 0)
        for length, on in self.files.values():
            for devid in on:
                used[devid] += length
        return used

    def landscape(self) -> Landscape:
        used = self.bytes()
        return Landscape(replace(s, used_mb=used[s.devid] // MIB + self.foreign_mb.get(s.devid, 0)) for s in self.sites)

    def shares(self) -> Fill:
        return Fill(participants(self.landscape()), bytes_=self.bytes())

    def samples(self, fill: Fill) -> dict[int, list[PlacedFile]]:
        return {
            devid: [
                PlacedFile(fid=fid, dmid=1, classid=self.copies, length=length, holders=tuple(sorted(on)))
                for fid, (length, on) in self.files.items()
                if devid in on
            ]
            for devid in worth_sampling(fill)
        }

    def aim(self, *, with_shares: bool) -> Aim | None:
        fill = Fill(participants(self.landscape()))
        return aim(fill, self.shares() if with_shares else None, spread_percent=5, share_percent=50)

    def plan(self, *, with_shares: bool = False) -> list[Move]:
        towards = self.aim(with_shares=with_shares)
        if towards is None:
            return []
        samples = self.samples(towards.fill)
        return plan_moves(self.landscape(), towards, samples, policy_of, limit=50, bytes_max=1 << 40)

    def apply(self, moves: list[Move]) -> None:
        for move in moves:
            on = self.files[move.fid][1]
            assert move.source in on
            assert move.target not in on
            on.remove(move.source)
            on.add(move.target)


def sites(hosts: int, zones: int, size_mb: int = SIZE_MB) -> list[Site]:
    return [
        Site(devid=h, hostid=h, zone="abc"[h % zones] if zones else None, total_mb=size_mb, used_mb=0)
        for h in range(1, hosts + 1)
    ]


def by_spread(fill: Fill) -> Aim:
    found = aim(fill, None, spread_percent=5, share_percent=50)
    assert found is not None
    return found


def test_two_new_devices_end_within_the_spread_with_a_fair_share() -> None:
    store = Store(sites(8, 3), copies=2, files=600, seed=1, largest_mb=5, new=2)
    zone = {s.devid: s.zone for s in store.sites}
    spread_out = {fid for fid, (_, on) in store.files.items() if len({zone[d] for d in on}) == 2}
    for _ in range(100):
        moves = store.plan()
        if not moves:
            break
        store.apply(moves)
    assert not store.plan()
    assert Fill(participants(store.landscape())).spread() <= 5
    on_new = sum(1 for _, on in store.files.values() if on & {7, 8})
    assert on_new / len(store.files) >= 0.15
    assert all(len({zone[d] for d in store.files[fid][1]}) == 2 for fid in spread_out)


def test_the_same_state_gives_the_same_plan() -> None:
    store = Store(sites(5, 2), copies=2, files=100, seed=3, largest_mb=9, new=1)
    assert store.plan() == store.plan()


def test_pending_moves_count_as_done() -> None:
    two = [replace(s, used_mb=used) for s, used in zip(sites(2, 0), (800, 200), strict=True)]
    pending = [Move(fid=1, source=1, target=2, length=300 * MIB)]
    assert Fill(two).spread() == 60
    assert Fill(two, pending).spread() == 0


def test_a_file_larger_than_half_the_difference_is_left_alone() -> None:
    two = [replace(s, used_mb=used) for s, used in zip(sites(2, 0), (500, 300), strict=True)]
    landscape = Landscape(two)
    sample = PlacedFile(fid=1, dmid=1, classid=1, length=150 * MIB, holders=(1,))
    assert not plan_moves(landscape, by_spread(Fill(two)), {1: [sample]}, policy_of, limit=10, bytes_max=1 << 40)


def test_devices_that_are_not_fit_take_nothing() -> None:
    three = [replace(s, used_mb=used) for s, used in zip(sites(3, 0), (800, 100, 300), strict=True)]
    landscape = Landscape([three[0], replace(three[1], fit=False), three[2]])
    samples = {1: [PlacedFile(fid=n, dmid=1, classid=1, length=10 * MIB, holders=(1,)) for n in range(20)]}
    towards = by_spread(Fill(participants(landscape)))
    moves = plan_moves(landscape, towards, samples, policy_of, limit=50, bytes_max=1 << 40)
    assert {move.target for move in moves} == {3}


HUGE_MB = 1_000_000  # devices that these files do not fill by a percent


def test_a_nearly_empty_cluster_gives_new_devices_their_share_too() -> None:
    store = Store(sites(6, 3, HUGE_MB), copies=2, files=300, seed=1, largest_mb=5, new=2)
    assert Fill(participants(store.landscape())).spread() < 1
    assert not store.plan(), "by fill alone nothing would ever go there"
    for _ in range(50):
        moves = store.plan(with_shares=True)
        if not moves:
            break
        store.apply(moves)
    assert store.aim(with_shares=True) is None
    bytes_ = store.bytes()
    mean = sum(bytes_.values()) / 6
    assert all(0.5 * mean <= on <= 1.5 * mean for on in bytes_.values())


def test_ordinary_differences_in_share_are_left_alone() -> None:
    store = Store(sites(6, 3, HUGE_MB), copies=2, files=300, seed=1, largest_mb=5, new=0)
    assert store.aim(with_shares=True) is None


def test_shares_do_not_fill_a_device_that_others_have_filled() -> None:
    """Device 1 holds few of the files and much of something else: it stays so, and no move is taken back."""
    store = Store(sites(3, 0), copies=1, files=60, seed=2, largest_mb=4, new=2, foreign_mb={3: 130})
    for _ in range(50):
        moves = store.plan(with_shares=True)
        if not moves:
            break
        store.apply(moves)
    assert not store.plan(with_shares=True)
    assert Fill(participants(store.landscape())).spread() <= 15


@settings(max_examples=60, deadline=None)
@given(
    hosts=st.integers(2, 7),
    size_mb=st.sampled_from([1000, 20_000, HUGE_MB]),
    copies=st.integers(1, 3),
    files=st.integers(0, 120),
    seed=st.integers(0, 1000),
    new=st.integers(0, 2),
    foreign=st.lists(st.integers(0, 300), min_size=7, max_size=7),
)
def test_fill_and_shares_together_end_and_never_undo_each_other(
    hosts: int, size_mb: int, copies: int, files: int, seed: int, new: int, foreign: list[int]
) -> None:
    kept = dict(enumerate(foreign, 1))
    store = Store(sites(hosts, 2, size_mb), copies, files, seed, largest_mb=12, new=new, foreign_mb=kept)
    for _ in range(200):
        moves = store.plan(with_shares=True)
        if not moves:
            break
        store.apply(moves)
    else:
        raise AssertionError("did not end")
    assert not store.plan(with_shares=True), "it stays at rest"


@settings(max_examples=60, deadline=None)
@given(
    hosts=st.integers(2, 7),
    zones=st.integers(0, 3),
    copies=st.integers(1, 3),
    files=st.integers(0, 120),
    seed=st.integers(0, 1000),
    new=st.integers(0, 2),
    cut=st.integers(0, 60),
)
def test_balancing_ends_and_never_spoils_a_file(
    hosts: int, zones: int, copies: int, files: int, seed: int, new: int, cut: int
) -> None:
    """Rounds are planned and carried out, one of them only in part, until nothing is planned any more."""
    store = Store(sites(hosts, zones), copies, files, seed, largest_mb=12, new=new)
    landscape = store.landscape()
    policy = MultipleHosts()
    happy = {fid for fid, (_, on) in store.files.items() if policy.satisfied(landscape, on, copies)}
    hosts_before = {fid: len(on) for fid, (_, on) in store.files.items()}
    total = 0
    for round_ in range(200):
        moves = store.plan()
        if not moves:
            break
        store.apply(moves[:cut] if round_ == 0 else moves)
        total += len(moves)
    else:
        raise AssertionError("did not end")
    landscape = store.landscape()
    for fid, (_, on) in store.files.items():
        assert len(on) == hosts_before[fid]
        assert len({landscape.sites[d].hostid for d in on}) == len(on)
        if fid in happy:
            assert policy.satisfied(landscape, on, copies)
    assert total <= 60 + 50 * len(store.files), "every move lowers the sum of squares, so there cannot be many"
