"""Replication policies: the table of MogileFS's words, then properties under any state of the devices."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mogile_tracker.policy.composed import HostsPerNetwork, Union
from mogile_tracker.policy.landscape import Landscape
from mogile_tracker.policy.parsing import parse_policy
from mogile_tracker.policy.replication import MultipleDevices, MultipleHosts, MultipleNetworks, Policy, Verdict
from mogile_tracker.policy.sites import Site


def site(devid: int, hostid: int, zone: str | None = None, **overrides: object) -> Site:
    return replace(Site(devid=devid, hostid=hostid, zone=zone, total_mb=1000, used_mb=100), **overrides)  # type: ignore[arg-type]


def two_per_host(hosts: int) -> list[Site]:
    return [site(2 * host + part, host) for host in range(1, hosts + 1) for part in (0, 1)]


def ids(sites: tuple[Site, ...]) -> set[int]:
    return {s.devid for s in sites}


def test_one_copy_is_enough_for_a_class_that_wants_one() -> None:
    plan = MultipleHosts().plan(Landscape(two_per_host(2)), [2], 1, random.Random(1))
    assert plan.verdict is Verdict.HAPPY


def test_second_copy_goes_to_another_host_and_the_same_host_is_only_desperate() -> None:
    plan = MultipleHosts().plan(Landscape(two_per_host(3)), [2], 2, random.Random(1))
    assert plan.verdict is Verdict.WANTS_COPY
    assert ids(plan.ideal) == {4, 5, 6, 7}
    assert ids(plan.desperate) == {3}


def test_all_hosts_are_allowed_once_every_host_holds_a_copy() -> None:
    plan = MultipleHosts().plan(Landscape(two_per_host(2)), [2, 4], 3, random.Random(1))
    assert plan.verdict is Verdict.WANTS_COPY
    assert ids(plan.ideal) == {3, 5}
    assert MultipleHosts().satisfied(Landscape(two_per_host(2)), [2, 4, 5], 3)


def test_two_copies_on_the_only_two_devices_are_enough_for_any_class() -> None:
    landscape = Landscape([site(1, 1), site(2, 1)])
    assert MultipleHosts().plan(landscape, [1, 2], 5, random.Random(1)).verdict is Verdict.HAPPY
    assert MultipleDevices().plan(landscape, [1, 2], 5, random.Random(1)).verdict is Verdict.HAPPY


def test_enough_copies_on_too_few_hosts_get_no_desperate_copy() -> None:
    sites = [site(1, 1), site(2, 1), site(3, 1), site(4, 2, fit=False)]
    assert MultipleHosts().plan(Landscape(sites), [1, 2], 2, random.Random(1)).verdict is Verdict.NOTHING_NOW


def test_too_many_copies_name_the_ones_that_may_go_draining_ones_first() -> None:
    sites = [site(1, 1), site(2, 2, draining=True, fit=False), site(3, 3, used_mb=900)]
    plan = MultipleHosts().plan(Landscape(sites), [1, 2, 3], 2, random.Random(1))
    assert plan.verdict is Verdict.TOO_HAPPY
    assert [s.devid for s in plan.surplus] == [2, 3, 1]


def test_a_copy_that_must_not_be_deleted_is_no_surplus() -> None:
    sites = [site(n, n, removable=False) for n in (1, 2, 3)]
    assert MultipleHosts().plan(Landscape(sites), [1, 2, 3], 2, random.Random(1)).verdict is Verdict.HAPPY


def test_copies_on_dead_and_out_devices_do_not_count_and_are_not_suggested() -> None:
    sites = [site(1, 1), site(2, 2, counts=False, alive=False), site(3, 3)]
    plan = MultipleHosts().plan(Landscape(sites), [1, 2], 2, random.Random(1))
    assert plan.verdict is Verdict.WANTS_COPY
    assert ids(plan.ideal) == {3}


def test_two_copies_in_one_zone_want_one_more_in_another_zone_and_then_a_trim() -> None:
    sites = [site(1, 1, "a"), site(2, 2, "a"), site(3, 3, "b"), site(4, 4, "a")]
    landscape = Landscape(sites)
    plan = MultipleHosts().plan(landscape, [1, 2], 2, random.Random(1))
    assert MultipleHosts().violates_zones(landscape, [1, 2], 2)
    assert (plan.verdict, ids(plan.ideal), plan.desperate) == (Verdict.WANTS_COPY, {3}, ())
    after = MultipleHosts().plan(landscape, [1, 2, 3], 2, random.Random(1))
    assert after.verdict is Verdict.TOO_HAPPY
    assert ids(after.surplus) == {1, 2}


def test_a_new_zone_is_preferred_while_copies_are_missing_but_any_host_will_do() -> None:
    sites = [site(1, 1, "a"), site(2, 2, "a"), site(3, 3, "b")]
    plan = MultipleHosts().plan(Landscape(sites), [1], 2, random.Random(1))
    assert [s.devid for s in plan.ideal] == [3, 2]


def test_zones_that_hold_no_alive_device_are_not_asked_for() -> None:
    sites = [site(1, 1, "a"), site(2, 2, "a"), site(3, 3, "b", alive=False, counts=False, fit=False)]
    assert MultipleHosts().plan(Landscape(sites), [1, 2], 2, random.Random(1)).verdict is Verdict.HAPPY


def test_a_zone_that_is_only_away_for_now_keeps_the_file_waiting() -> None:
    sites = [site(1, 1, "a"), site(2, 2, "a"), site(3, 3, "b", fit=False)]
    assert MultipleHosts().plan(Landscape(sites), [1, 2], 2, random.Random(1)).verdict is Verdict.NOTHING_NOW


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        (None, MultipleHosts()),
        ("", MultipleHosts()),
        ("MultipleHosts()", MultipleHosts()),
        (" MultipleHosts ( 3 ) ", MultipleHosts(3)),
        ("MultipleDevices()", MultipleDevices()),
        ("MultipleDevices(2)", MultipleDevices(2)),
        ("MultipleNetworks()", MultipleNetworks()),
        ("MultipleNetworks(3)", MultipleNetworks(3)),
        ("HostsPerNetwork(near=2, far = 1)", HostsPerNetwork((("near", 2), ("far", 1)))),
        ("Union(MultipleHosts(2))", Union((MultipleHosts(2),))),
        (
            " Union ( MultipleHosts(2) , Union(HostsPerNetwork(near=1),MultipleDevices()) ) ",
            Union((MultipleHosts(2), Union((HostsPerNetwork((("near", 1),)), MultipleDevices())))),
        ),
    ],
)
def test_policy_texts(text: str | None, policy: Policy) -> None:
    assert parse_policy(text) == policy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MultipleHosts", r"^MogileFS::ReplicationPolicy::MultipleHosts failed to parse args: ''; expected"),
        ("MultipleHosts(", r"^MogileFS::ReplicationPolicy::MultipleHosts failed to parse args: '\('; expected"),
        ("Nonsense()", r"^Failed to load replication policy class MogileFS::ReplicationPolicy::Nonsense: known"),
        ("OnDevice(1)", r"^Failed to load replication policy class MogileFS::ReplicationPolicy::OnDevice: known"),
        ("MultipleHosts(0)", r"failed to parse args: '0'; a number of copies is from 1 to 1000"),
        ("MultipleHosts(x)", r"failed to parse args: 'x'; a number"),
        ("MultipleHosts(1,2)", r"failed to parse args: '1,2'; a number"),
        ("MultipleHosts()b", r"'b' is left over behind the policy"),
        ("MultipleHosts(-1)", r"failed to parse args"),
        ("(2)", r"^Failed to parse policy string: '\(2\)'; expected Name"),
        ("HostsPerNetwork()", r"^MogileFS::ReplicationPolicy::HostsPerNetwork failed to parse args: ''; expected each"),
        ("HostsPerNetwork(near)", r"HostsPerNetwork failed to parse args"),
        ("HostsPerNetwork(near=x)", r"HostsPerNetwork failed to parse args: 'x'; a number"),
        ("HostsPerNetwork(near=1,near=2)", r"expected each network once"),
        ("Union()", r"^Failed to parse policy string: '\)'"),
        ("Union(MultipleHosts()", r"^MogileFS::ReplicationPolicy::Union failed to parse args: .*; expected \(policy"),
        ("Union MultipleHosts()", r"Union failed to parse args"),
        ("Union(" * 9 + "MultipleHosts()" + ")" * 9, r"at most 8 Unions may be nested"),
    ],
)
def test_bad_policy_texts_are_refused_in_the_words_of_the_original(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_policy(text)


@st.composite
def landscapes(draw: st.DrawFn) -> list[Site]:
    zoned = draw(st.booleans())
    hosts = draw(st.integers(1, 6))
    sites: list[Site] = []
    for host in range(1, hosts + 1):
        zone = draw(st.sampled_from(["a", "b", "c", None])) if zoned else None
        network = draw(st.sampled_from(["near", "far", None]))
        for part in range(draw(st.integers(1, 3))):
            counts = draw(st.integers(0, 5)) > 0
            alive = counts and draw(st.integers(0, 5)) > 0
            fit = alive and draw(st.integers(0, 5)) > 0
            removable = alive and draw(st.integers(0, 5)) > 0
            used = draw(st.integers(0, 1000))
            sites.append(
                site(
                    10 * host + part,
                    host,
                    zone,
                    network=network,
                    counts=counts,
                    alive=alive,
                    fit=fit,
                    removable=removable,
                    used_mb=used,
                )
            )
    return sites


NEAR_AND_FAR = HostsPerNetwork((("near", 1), ("far", 2)))
policies = st.sampled_from(
    [
        MultipleHosts(),
        MultipleHosts(2),
        MultipleDevices(),
        MultipleNetworks(),
        NEAR_AND_FAR,
        Union((MultipleHosts(), NEAR_AND_FAR)),
        Union((MultipleDevices(3), MultipleNetworks(2))),
        Union((MultipleNetworks(), Union((MultipleHosts(2), HostsPerNetwork((("near", 1),)))))),
    ]
)


@settings(max_examples=150, deadline=None)
@given(sites=landscapes(), data=st.data(), wanted=st.integers(1, 4), policy=policies, seed=st.integers(0, 9))
def test_suggestions_are_fit_and_never_holders(
    sites: list[Site], data: st.DataObject, wanted: int, policy: Policy, seed: int
) -> None:
    devids = [s.devid for s in sites]
    holders = data.draw(st.lists(st.sampled_from(devids), unique=True))
    failed = data.draw(st.lists(st.sampled_from(devids), unique=True))
    landscape = Landscape(sites)
    plan = policy.plan(landscape, holders, wanted, random.Random(seed), failed)
    suggested = [*plan.ideal, *plan.desperate]
    assert all(s.fit and s.devid not in holders and s.devid not in failed for s in suggested)
    assert len({s.devid for s in suggested}) == len(suggested)
    if isinstance(policy, HostsPerNetwork) and plan.destinations:
        first = plan.destinations[0]
        used = {s.hostid for s in landscape.counting(holders) if s.network == first.network}
        free = [s for s in sites if s.fit and s.network == first.network and s.hostid not in used | {first.hostid}]
        if first.hostid in used:
            assert not [s for s in free if s.devid not in {*holders, *failed}], "two on one host while another is free"
    if isinstance(policy, MultipleHosts | MultipleNetworks):
        hosts = {s.hostid for s in landscape.counting(holders)}
        free_hosts = [s for s in sites if s.fit and s.hostid not in hosts and s.devid not in {*holders, *failed}]
        if free_hosts and plan.destinations and not hosts >= landscape.hosts_possible:
            assert plan.destinations[0].hostid not in hosts, "two on one host while another host is free"


@settings(max_examples=150, deadline=None)
@given(sites=landscapes(), data=st.data(), wanted=st.integers(1, 4), policy=policies, seed=st.integers(0, 9))
def test_every_run_ends_and_any_interruption_ends_in_the_same_verdict(
    sites: list[Site], data: st.DataObject, wanted: int, policy: Policy, seed: int
) -> None:
    """Steps are applied until the policy asks for nothing more; a run cut anywhere and begun anew ends equally satisfied."""
    devids = [s.devid for s in sites]
    landscape = Landscape(sites)
    start = set(data.draw(st.lists(st.sampled_from(devids), unique=True, min_size=1)))

    def run(holders: set[int], randomness: random.Random, steps: int) -> tuple[set[int], Verdict | None]:
        holders = set(holders)
        for _ in range(steps):
            plan = policy.plan(landscape, holders, wanted, randomness)
            if plan.verdict is Verdict.WANTS_COPY:
                holders.add(plan.destinations[0].devid)
            elif plan.verdict is Verdict.TOO_HAPPY:
                holders.remove(plan.surplus[0].devid)
                assert policy.satisfied(landscape, holders, wanted), "a trim must not break the policy"
            else:
                return holders, plan.verdict
        return holders, None

    bound = 3 * len(sites) + 3
    _, verdict = run(start, random.Random(seed), bound)
    assert verdict is not None, "did not terminate"
    cut, _ = run(start, random.Random(seed), data.draw(st.integers(0, bound)))
    _, again = run(cut, random.Random(seed + 1), bound)
    assert again is verdict


@settings(max_examples=100, deadline=None)
@given(
    hosts=st.integers(1, 5),
    parts=st.integers(1, 2),
    zones=st.integers(1, 3),
    wanted=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_a_healthy_cluster_always_ends_happy_and_spread(
    hosts: int, parts: int, zones: int, wanted: int, seed: int
) -> None:
    sites = [site(10 * h + p, h, "abc"[h % zones]) for h in range(hosts) for p in range(parts)]
    landscape = Landscape(sites)
    randomness = random.Random(seed)
    holders = {sites[0].devid}
    policy = MultipleHosts()
    if wanted > 1 and len(sites) == 1:
        assert policy.plan(landscape, holders, wanted, randomness).verdict is Verdict.NOTHING_NOW
        return
    for _ in range(3 * len(sites)):
        plan = policy.plan(landscape, holders, wanted, randomness)
        if plan.verdict is Verdict.WANTS_COPY:
            holders.add(plan.destinations[0].devid)
        elif plan.verdict is Verdict.TOO_HAPPY:
            holders.discard(plan.surplus[0].devid)
        else:
            break
    assert plan.verdict is Verdict.HAPPY
    on = landscape.counting(holders)
    assert len(on) == min(wanted, len(sites))
    assert len({s.hostid for s in on}) == min(wanted, hosts)
    assert len({s.zone for s in on}) == min(wanted, len({s.zone for s in sites}))
