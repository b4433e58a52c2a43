"""The topology snapshot: states times permissions (facts: states), observations on the wire, default classes."""

import pytest

from mogile_core.model import (
    ClassId,
    Device,
    DeviceState,
    DevId,
    Domain,
    DomainId,
    FileClass,
    Host,
    HostId,
    HostState,
    Observed,
)
from mogile_tracker.topology import Observation, Observations, Topology


def make(
    device_state: str = "alive", host_state: str = "alive", observed: str = "writeable", *, out: bool = False,
    free_mb: int | None = 1000, unreachable: bool = False, cluster_ok: bool = True,
) -> Topology:  # fmt: skip
    seen = Observation(devid=DevId(1), state=Observed(observed), cluster_ok=cluster_ok)
    return Topology(
        hosts=[Host(hostid=HostId(7), hostname="h", status=HostState(host_state), hostip="10.0.0.1")],
        devices=[
            Device(
                devid=DevId(1),
                hostid=HostId(7),
                status=DeviceState(device_state),
                mb_total=None if free_mb is None else 2000,
                mb_used=None if free_mb is None else 2000 - free_mb,
                out=out,
            )
        ],
        observations=Observations(
            rounds=1,
            devices={DevId(1): seen},
            unreachable_hosts=frozenset({HostId(7)}) if unreachable else frozenset(),
        ),
    )


@pytest.mark.parametrize(
    ("state", "read", "delete", "new", "counts", "monitored"),
    [
        ("alive", True, True, True, True, True),
        ("readonly", True, False, False, True, True),
        ("drain", True, True, False, True, True),
        ("down", False, False, False, True, False),
        ("dead", False, False, False, False, False),
    ],
)
def test_device_states(state: str, read: bool, delete: bool, new: bool, counts: bool, monitored: bool) -> None:
    topology = make(state)
    assert topology.readable(1) is read
    assert topology.deletable(1) is delete
    assert topology.fit_for_new_files(1) is new
    assert topology.counts_as_copy(1) is counts
    assert topology.should_be_monitored(1) is monitored


@pytest.mark.parametrize(
    ("state", "read", "delete", "new"),
    [
        ("alive", True, True, True),
        ("readonly", True, False, False),
        ("down", False, False, False),
        ("dead", False, False, False),
    ],
)
def test_host_states(state: str, read: bool, delete: bool, new: bool) -> None:
    topology = make(host_state=state)
    assert (topology.readable(1), topology.deletable(1), topology.fit_for_new_files(1)) == (read, delete, new)
    assert topology.counts_as_copy(1), "a dead host does not make its devices dead"


def test_what_makes_a_device_unfit_for_new_files() -> None:
    assert make().fit_for_new_files(1)
    assert make(free_mb=None).fit_for_new_files(1)
    assert not make(free_mb=99).fit_for_new_files(1)
    assert not make(observed="readable").fit_for_new_files(1)
    assert not make(observed="").fit_for_new_files(1)
    assert not make(out=True).fit_for_new_files(1)
    assert not make(unreachable=True).fit_for_new_files(1)
    assert not make(cluster_ok=False).fit_for_new_files(1)
    assert not make().fit_for_new_files(99)


def test_what_makes_a_device_unreadable() -> None:
    assert make(observed="readable").readable(1)
    assert make(out=True).readable(1)
    assert not make(observed="unreachable").readable(1)
    assert not make(observed="").readable(1)
    assert not make(unreachable=True).readable(1)
    assert not make(cluster_ok=False).readable(1)
    assert not make().readable(99)
    assert not make(out=True).counts_as_copy(1)


def test_observations_travel_as_json_and_renew_space() -> None:
    seen = Observations(
        rounds=3,
        devices={
            DevId(1): Observation(
                devid=DevId(1), state=Observed.WRITEABLE, utilization=2.5, reject_bad_md5=True, mb_total=10, mb_used=4
            ),
            DevId(2): Observation(devid=DevId(2), cluster_ok=False),
        },
        unreachable_hosts=frozenset({HostId(5)}),
    )
    again = Observations.from_json(seen.to_json())
    assert again == seen
    device = make().with_observations(again).devices[DevId(1)]
    assert (device.mb_total, device.mb_free) == (10, 6)


def test_default_class_is_always_there() -> None:
    dmid = DomainId(1)
    row = FileClass(dmid=dmid, classid=ClassId(2), name="b", mindevcount=3)
    topology = Topology(domains=[Domain(dmid=dmid, name="d")], classes=[row], default_mindevcount=4)
    assert [c.name for c in topology.classes_of(1)] == ["default", "b"]
    assert topology.class_named(1, "") == topology.class_named(1, "default") == topology.class_by_id(1, 0)
    assert topology.class_by_id(1, 0).mindevcount == 4
    assert topology.class_by_id(1, 99) == topology.class_by_id(1, 0), "files of a deleted class"
    assert topology.class_named(1, "none") is None
