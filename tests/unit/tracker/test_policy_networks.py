"""Policies that know networks, and Unions: the rows of the facts, then properties on clusters where everything can be had."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mogile_tracker.policy.composed import HostsPerNetwork, Union
from mogile_tracker.policy.landscape import Landscape
from mogile_tracker.policy.networks import Networks
from mogile_tracker.policy.replication import MultipleDevices, MultipleHosts, MultipleNetworks, Policy, Verdict
from mogile_tracker.policy.sites import Site


def site(devid: int, hostid: int, network: str | None = None, **overrides: object) -> Site:
    return replace(Site(devid=devid, hostid=hostid, network=network, total_mb=1000, used_mb=100), **overrides)  # type: ignore[arg-type]


def ids(sites: tuple[Site, ...]) -> list[int]:
    return sorted(s.devid for s in sites)


# ----- which network is a host in


@pytest.mark.parametrize(
    ("address", "label", "network"),
    [
        ("10.1.2.3", None, "near"),
        ("10.1.2.3", "rack1", "near"),
        ("10.2.9.9", None, "far"),
        ("192.168.7.7", None, "far"),
        ("172.16.5.4", None, "172.16.0.0/16"),
        ("172.16.5.4", "rack1", "rack1"),
        ("2001:db8:1:2::5", None, "2001:db8:1::/48"),
        ("node1.example", None, None),
        ("node1.example", "rack1", "rack1"),
    ],
)
def test_network_is_the_configured_zone_else_the_label_else_the_16(
    address: str, label: str | None, network: str | None
) -> None:
    settings_ = {
        "network_zones": "near, far,unset",
        "zone_near": "10.1.0.0/16",
        "zone_far": "10.2.0.0/16 192.168.0.0/16",
    }
    assert Networks(settings_).of(address, label) == network


def test_a_spoilt_range_is_passed_over() -> None:
    assert Networks({"network_zones": "near", "zone_near": "x,10.0.0.0/8"}).of("10.3.4.5", None) == "near"


# ----- MultipleNetworks


def test_multiple_networks_wants_copies_on_min_networks_before_it_is_satisfied() -> None:
    landscape = Landscape([site(1, 1, "a"), site(2, 2, "a"), site(3, 3, "b")])
    assert not MultipleNetworks().satisfied(landscape, [1, 2], 2)
    assert MultipleNetworks().violates_zones(landscape, [1, 2], 2)
    plan = MultipleNetworks().plan(landscape, [1, 2], 2, random.Random(1))
    assert (plan.verdict, ids(plan.ideal), plan.desperate) == (Verdict.WANTS_COPY, [3], ())
    after = MultipleNetworks().plan(landscape, [1, 2, 3], 2, random.Random(1))
    assert (after.verdict, ids(after.surplus)) == (Verdict.TOO_HAPPY, [1, 2])


def test_multiple_networks_is_content_with_all_networks_there_are() -> None:
    landscape = Landscape([site(1, 1, "a"), site(2, 2, "a"), site(3, 3, "b")])
    assert MultipleNetworks().satisfied(landscape, [1, 2, 3], 3)
    assert MultipleNetworks(2).plan(landscape, [1, 3], 9, random.Random(1)).verdict is Verdict.HAPPY


def test_multiple_networks_in_need_takes_another_host_of_a_used_network_then_the_same_host() -> None:
    sites = [site(1, 1, "a"), site(2, 1, "a"), site(3, 2, "a"), site(4, 3, "b", fit=False)]
    plan = MultipleNetworks().plan(Landscape(sites), [1], 2, random.Random(1))
    assert plan.ideal == ()
    assert [s.devid for s in plan.desperate] == [3, 2]


# ----- HostsPerNetwork


def test_hosts_per_network_counts_per_network_and_ignores_mindevcount() -> None:
    policy = HostsPerNetwork((("near", 2), ("far", 1)))
    landscape = Landscape([site(1, 1, "near"), site(2, 2, "near"), site(3, 3, "far"), site(4, 4, "else")])
    assert policy.wanted(7) == 3
    plan = policy.plan(landscape, [1, 4], 1, random.Random(1))
    assert (plan.verdict, ids(plan.ideal)) == (Verdict.WANTS_COPY, [2, 3])
    assert policy.plan(landscape, [1, 2, 3], 9, random.Random(1)).verdict is Verdict.HAPPY
    trim = policy.plan(landscape, [1, 2, 3, 4], 9, random.Random(1))
    assert (trim.verdict, ids(trim.surplus)) == (Verdict.TOO_HAPPY, [4])


def test_hosts_per_network_takes_devices_where_a_network_has_fewer_hosts() -> None:
    policy = HostsPerNetwork((("near", 2),))
    landscape = Landscape([site(1, 1, "near"), site(2, 1, "near"), site(3, 2, "far")])
    plan = policy.plan(landscape, [1], 2, random.Random(1))
    assert (plan.verdict, ids(plan.ideal)) == (Verdict.WANTS_COPY, [2])
    assert policy.satisfied(landscape, [1, 2], 2)


def test_hosts_per_network_in_need_takes_a_used_host_and_names_a_network_nobody_is_in() -> None:
    sites = [site(1, 1, "near"), site(2, 1, "near"), site(3, 2, "near", fit=False)]
    plan = HostsPerNetwork((("near", 2),)).plan(Landscape(sites), [1], 2, random.Random(1))
    assert (ids(plan.ideal), ids(plan.desperate)) == ([], [2])
    nobody = HostsPerNetwork((("moon", 1),)).plan(Landscape(sites), [1], 2, random.Random(1))
    assert nobody.verdict is Verdict.NOTHING_NOW


# ----- Union


def test_union_prefers_a_place_that_serves_several_parts() -> None:
    policy = Union((MultipleHosts(2), HostsPerNetwork((("far", 1),))))
    landscape = Landscape(
        [site(1, 1, "near"), *(site(n, n, "near") for n in range(2, 8)), site(9, 9, "far", used_mb=900)]
    )
    for seed in range(20):
        plan = policy.plan(landscape, [1], 2, random.Random(seed))
        assert plan.destinations[0].devid == 9
    assert policy.plan(landscape, [1, 9], 2, random.Random(1)).verdict is Verdict.HAPPY


def test_union_wants_every_part_and_trims_only_what_no_part_needs() -> None:
    policy = Union((HostsPerNetwork((("near", 1),)), HostsPerNetwork((("far", 1),))))
    landscape = Landscape([site(1, 1, "near"), site(2, 2, "far"), site(3, 3, "far")])
    assert not policy.satisfied(landscape, [1], 1)
    assert policy.violates_zones(landscape, [1], 1)
    assert policy.plan(landscape, [1, 2], 1, random.Random(1)).verdict is Verdict.HAPPY
    trim = policy.plan(landscape, [1, 2, 3], 1, random.Random(1))
    assert (trim.verdict, ids(trim.surplus)) == (Verdict.TOO_HAPPY, [2, 3])


ALL: list[Policy] = [
    MultipleHosts(),
    MultipleDevices(),
    MultipleNetworks(),
    HostsPerNetwork((("n0", 1), ("n1", 2))),
    Union((MultipleHosts(3), HostsPerNetwork((("n1", 1),)))),
    Union((MultipleNetworks(), Union((MultipleDevices(), HostsPerNetwork((("n0", 2),)))))),
]


@settings(max_examples=150, deadline=None)
@given(
    policy=st.sampled_from(ALL),
    per_network=st.integers(2, 3),
    networks=st.integers(2, 3),
    parts=st.integers(1, 2),
    wanted=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_where_devices_suffice_every_policy_ends_happy(
    policy: Policy, per_network: int, networks: int, parts: int, wanted: int, seed: int
) -> None:
    sites = [
        site(100 * n + 10 * h + p, 10 * n + h, f"n{n}")
        for n in range(networks)
        for h in range(per_network)
        for p in range(parts)
    ]
    landscape = Landscape(sites)
    randomness = random.Random(seed)
    holders = {randomness.choice(sites).devid}
    for _ in range(3 * len(sites)):
        plan = policy.plan(landscape, holders, wanted, randomness)
        if plan.verdict is Verdict.WANTS_COPY:
            holders.add(plan.destinations[0].devid)
        elif plan.verdict is Verdict.TOO_HAPPY:
            holders.discard(plan.surplus[0].devid)
            assert policy.satisfied(landscape, holders, wanted)
        else:
            break
    assert plan.verdict is Verdict.HAPPY
    assert not policy.violates_zones(landscape, holders, wanted)
