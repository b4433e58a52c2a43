"""What the census says of files."""

from dataclasses import replace

from mogile_tracker.policy.landscape import Landscape
from mogile_tracker.policy.replication import MultipleHosts
from mogile_tracker.policy.sites import Site
from mogile_tracker.policy.totals import Totals, examine


def landscape(**changes: Site) -> Landscape:
    zones = {1: "a", 2: "a", 3: "b", 4: "b"}
    sites = [Site(devid=n, hostid=n, zone=zone, total_mb=100, used_mb=1) for n, zone in zones.items()]
    return Landscape(changes.get(f"dev{s.devid}", s) for s in sites)


def lost(devid: int, zone: str, **states: bool) -> Site:
    return replace(Site(devid=devid, hostid=devid, zone=zone), **states)


def test_two_copies_in_two_zones_are_well() -> None:
    found = examine(landscape(), MultipleHosts(), 2, (1, 3))
    assert not any((found.fewer, found.one, found.none, found.zones, found.lacking))


def test_a_copy_that_cannot_be_read_is_not_live_but_asks_for_no_new_one() -> None:
    stopped = landscape(dev3=lost(3, "b", readable=False, fit=False))
    found = examine(stopped, MultipleHosts(), 2, (1, 3))
    assert (found.fewer, found.one, found.none, found.lacking) == (True, True, False, False)


def test_a_copy_on_an_out_device_asks_for_a_new_one() -> None:
    out = landscape(dev3=lost(3, "b", counts=False, alive=False, fit=False))
    found = examine(out, MultipleHosts(), 2, (1, 3))
    assert (found.fewer, found.one, found.lacking) == (True, True, True)


def test_zones_are_violated_only_with_copies_enough() -> None:
    assert examine(landscape(), MultipleHosts(), 2, (1, 2)).zones
    assert not examine(landscape(), MultipleHosts(), 2, (1,)).zones


def test_no_copy_at_all() -> None:
    found = examine(landscape(), MultipleHosts(), 2, ())
    assert (found.fewer, found.one, found.none) == (True, False, True)


def test_one_copy_is_no_problem_for_a_class_that_wants_one() -> None:
    found = examine(landscape(), MultipleHosts(), 1, (1,))
    assert not any((found.fewer, found.one))


def test_totals_add_up_and_survive_storage() -> None:
    totals = Totals()
    well = examine(landscape(), MultipleHosts(), 2, (1, 3))
    poor = examine(landscape(), MultipleHosts(), 2, (1,))
    totals.add(dmid=1, classid=0, holders=(1, 3), files=10, bytes_=1000, found=well)
    totals.add(dmid=1, classid=2, holders=(1,), files=3, bytes_=30, found=poor)
    assert (totals.files, totals.bytes, totals.fewer_copies, totals.one_copy) == (13, 1030, 3, 3)
    assert totals.devices == {1: (13, 1030), 3: (10, 1000)}
    assert totals.classes == {"1:0": (10, 1000), "1:2": (3, 30)}
    assert Totals.from_data(totals.to_data()) == totals


def test_what_is_short_is_kept_by_class_and_copies_left_and_survives_being_stored() -> None:
    totals = Totals()
    for classid, holders, files in ((0, (1, 3), 5), (0, (1,), 3), (1, (1,), 2), (1, (), 1)):
        found = examine(landscape(), MultipleHosts(), 2, holders)
        totals.add(dmid=7, classid=classid, holders=holders, files=files, bytes_=10 * files, found=found)
    assert totals.short == {"7:0:1": (3, 30), "7:1:1": (2, 20), "7:1:0": (1, 10)}
    assert sum(files for files, _ in totals.short.values()) == totals.fewer_copies
    assert Totals.from_data(totals.to_data()) == totals
