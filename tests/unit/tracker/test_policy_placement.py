"""Where new files go."""

import random
from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from mogile_tracker.policy.placement import BEST_CANDIDATES, Placement, free_space_order
from mogile_tracker.policy.sites import Site


def site(devid: int, hostid: int, zone: str | None = None, **overrides: object) -> Site:
    return replace(Site(devid=devid, hostid=hostid, zone=zone, total_mb=1000, used_mb=100), **overrides)  # type: ignore[arg-type]


def test_no_fit_device_gives_nothing() -> None:
    assert Placement([site(1, 1, fit=False)]).choose(random.Random(1)) == []


def test_the_draw_is_weighted_by_free_share_and_leaves_full_devices_out() -> None:
    placement = Placement([site(1, 1, used_mb=100), site(2, 2, used_mb=700), site(3, 3, used_mb=1000)])
    randomness = random.Random(7)
    seen = Counter(placement.choose(randomness)[0].devid for _ in range(4000))
    assert set(seen) == {1, 2}
    assert 2.6 < seen[1] / seen[2] < 3.4, "0.9 free against 0.3 free"


def test_only_the_twenty_emptiest_take_part() -> None:
    sites = [site(n, n, used_mb=n) for n in range(1, 41)]
    assert {s.devid for s in free_space_order(sites, random.Random(1))} == set(range(1, BEST_CANDIDATES + 1))


def test_a_size_must_fit_and_unknown_devices_are_the_last_resort() -> None:
    placement = Placement([site(1, 1, used_mb=990), site(2, 2, used_mb=500), site(3, 3, total_mb=None, used_mb=None)])
    randomness = random.Random(1)
    assert {placement.choose(randomness, size=100 << 20)[0].devid for _ in range(50)} == {2}
    assert {placement.choose(randomness, size=600 << 20)[0].devid for _ in range(50)} == {3}


def test_devices_of_unknown_size_are_used_when_nothing_else_is_there() -> None:
    placement = Placement([site(1, 1, total_mb=None, used_mb=None), site(2, 2, total_mb=None, used_mb=None)])
    assert {s.devid for s in placement.choose(random.Random(1), count=3)} == {1, 2}


def test_several_destinations_are_on_distinct_hosts_and_zones() -> None:
    sites = [site(1, 1, "a"), site(2, 1, "a"), site(3, 2, "a"), site(4, 3, "b"), site(5, 4, "b")]
    for seed in range(50):
        chosen = Placement(sites).choose(random.Random(seed), count=3)
        assert len({s.hostid for s in chosen}) == 3
        assert {s.zone for s in chosen[:2]} == {"a", "b"}


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 5), st.sampled_from(["a", "b", None]), st.booleans(), st.integers(0, 1000)),
        max_size=30,
    ),
    st.integers(1, 4),
    st.integers(0, 99),
)
def test_choices_are_fit_and_on_distinct_hosts(
    rows: list[tuple[int, str | None, bool, int]], count: int, seed: int
) -> None:
    sites = [site(n, host, zone, fit=fit, used_mb=used) for n, (host, zone, fit, used) in enumerate(rows, 1)]
    chosen = Placement(sites).choose(random.Random(seed), count=count)
    assert all(s.fit for s in chosen)
    assert len({s.hostid for s in chosen}) == len(chosen) <= count
