"""The operator's rebalance policy: every key, and the state of a run."""

import random
from dataclasses import replace

import pytest

from mogile_tracker.policy.landscape import Landscape
from mogile_tracker.policy.rebalance import RebalancePolicy, RebalanceState, limit_for, take
from mogile_tracker.policy.sites import Site


def landscape() -> Landscape:
    """Device 1: 90 % used; 2: 50 %; 3: 10 %; 4: 10 %, not fit. Host n holds device n."""
    used = {1: 900, 2: 500, 3: 100, 4: 100}
    return Landscape(Site(devid=n, hostid=n, total_mb=1000, used_mb=u, fit=n != 4) for n, u in used.items())


@pytest.mark.parametrize(
    ("text", "sources"),
    [
        ("", {1, 2, 3, 4}),
        ("from_all_devs=0", set()),
        ("from_hosts=1,3", {1, 3}),
        ("from_devices=2", {2}),
        ("from_percent_used=40", {1, 2}),
        ("from_percent_free=60", {3, 4}),
        ("from_space_used=600", {1}),
        ("from_space_free=400", {2, 3, 4}),
    ],
)
def test_sources(text: str, sources: set[int]) -> None:
    assert {s.devid for s in RebalancePolicy.parse(text).sources(landscape())} == sources


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("", {2, 3}),
        ("to_all_devs=0", set()),
        ("to_hosts=3", {3}),
        ("to_devices=2,4", {2}),
        ("to_percent_free=60", {3}),
        ("to_percent_used=40", {2}),
        ("to_space_free=600", {3}),
        ("to_space_used=400", {2}),
        ("not_to_hosts=2", {3}),
        ("not_to_devices=3", {2}),
    ],
)
def test_destinations_are_fit_and_no_sources(text: str, targets: set[int]) -> None:
    assert {s.devid for s in RebalancePolicy.parse(text).destinations(landscape(), [1])} == targets


def test_use_dest_devs_cuts_the_list() -> None:
    policy = RebalancePolicy.parse("use_dest_devs=1")
    assert len(policy.ordered_destinations(landscape(), [1], random.Random(1))) == 1
    assert len(RebalancePolicy.parse("use_dest_devs=all").ordered_destinations(landscape(), [1], random.Random(1))) == 2


def test_a_source_must_be_deletable() -> None:
    sites = [replace(s, removable=s.devid != 1) for s in landscape().sites.values()]
    assert {s.devid for s in RebalancePolicy.parse("from_devices=1,2").sources(Landscape(sites))} == {2}


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("limit_by=count limit=7", 7),
        ("limit_by=size limit=5m", 5 << 20),
        ("limit_by=size limit=2G", 2 << 30),
        ("limit_by=percent limit=25", 250),
        ("limit_by=none limit=9", None),
    ],
)
def test_limits(text: str, limit: int | None) -> None:
    assert limit_for(RebalancePolicy.parse(text), 1000) == limit


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bogus=1", "Invalid setting bogus"),
        ("from_hosts", "needs a value"),
        ("from_hosts=a", "from_hosts"),
        ("fid_age=middle", "old, new"),
        ("limit_by=weight", "limit_by"),
        ("limit_by=percent limit=101", "percent"),
    ],
)
def test_bad_texts_are_refused_in_one_sentence(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RebalancePolicy.parse(text)


def test_state_survives_its_text() -> None:
    state = RebalanceState(
        source_devs=(2, 3), completed_devs=(1,), sdev_current=4, sdev_limit=0, fids_queued=9, time_started=5
    )
    assert RebalanceState.parse(state.to_text()) == state
    assert RebalanceState.parse("unknown=1 fids_queued=x sdev_current=2") == RebalanceState(sdev_current=2)


def test_a_run_goes_through_all_devices_within_their_limits() -> None:
    policy = RebalancePolicy.parse("limit_by=count limit=2")
    state = RebalanceState(source_devs=(1, 2)).next_device(policy, {})
    assert (state.sdev_current, state.sdev_limit) == (1, 2)
    fids, state, full = take(policy, state, [(10, 5), (11, None), (12, 5), (13, 5)], now=99)
    assert (fids, full, state.sdev_lastfid, state.bytes_queued) == ([10, 12], True, 12, 10)
    state = state.next_device(policy, {})
    assert (state.sdev_current, state.completed_devs, state.sdev_limit) == (2, (1,), 2)
    state = state.next_device(policy, {})
    assert (state.sdev_current, state.completed_devs) == (0, (1, 2))


def test_a_global_limit_ends_the_run() -> None:
    policy = RebalancePolicy.parse("limit_type=global limit_by=size limit=10b")
    state = RebalanceState(source_devs=(1, 2), limit=10).next_device(policy, {})
    fids, state, full = take(policy, state, [(1, 6), (2, 4), (3, 1)], now=1)
    assert (fids, full, state.limit) == ([1, 2], True, 0)
    assert state.next_device(policy, {}).sdev_current == 0


KEYS = {
    "from_all_devs": ("0", True),
    "from_hosts": ("1,2", ()),
    "from_devices": ("1,2", ()),
    "from_percent_used": ("50", None),
    "from_percent_free": ("50", None),
    "from_space_used": ("50", None),
    "from_space_free": ("50", None),
    "fid_age": ("new", "old"),
    "limit_type": ("global", "device"),
    "limit_by": ("count", "none"),
    "limit": ("7", 0),
    "to_all_devs": ("0", True),
    "to_hosts": ("1,2", ()),
    "to_devices": ("1,2", ()),
    "to_percent_used": ("50", None),
    "to_percent_free": ("50", None),
    "to_space_used": ("50", None),
    "to_space_free": ("50", None),
    "not_to_hosts": ("1,2", ()),
    "not_to_devices": ("1,2", ()),
    "use_dest_devs": ("3", None),
    "leave_in_drain_mode": ("1", False),
}


@pytest.mark.parametrize("key", KEYS)
def test_every_key_of_the_policy_has_its_default_and_is_taken_alone(key: str) -> None:
    text, default = KEYS[key]
    assert getattr(RebalancePolicy(), key) == default
    changed = RebalancePolicy.parse(f"{key}={text}")
    assert getattr(changed, key) != default
    assert replace(changed, **{key: default}) == RebalancePolicy()


def test_there_is_no_other_key() -> None:
    assert set(RebalancePolicy.__dataclass_fields__) == set(KEYS)


@pytest.mark.parametrize(
    ("unit", "bytes_"), [("", 1), ("b", 1), ("k", 2**10), ("m", 2**20), ("g", 2**30), ("t", 2**40), ("p", 2**50)]
)
def test_every_unit_of_a_size(unit: str, bytes_: int) -> None:
    assert limit_for(RebalancePolicy.parse(f"limit_by=size limit=3{unit}"), 1) == 3 * bytes_


STATE = [
    "completed_devs",
    "source_devs",
    "sdev_current",
    "sdev_lastfid",
    "sdev_limit",
    "limit",
    "fids_queued",
    "bytes_queued",
    "time_started",
    "time_finished",
    "time_stopped",
    "time_latest_run",
    "time_latest_empty_run",
    "empty_runs",
]


def test_every_word_of_the_state_is_kept() -> None:
    assert set(STATE) <= set(RebalanceState.__dataclass_fields__)
