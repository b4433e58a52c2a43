"""`mog status` names what is not well, worst first, and nothing else."""

from typing import Any

import pytest

from mogile_cli.status import problems
from mogile_core.client import Census, DeviceInfo
from mogile_core.model import DeviceState, DevId, Host, HostId, HostState, Observed

HOSTS = [Host(hostid=HostId(1), hostname="node1", status=HostState.ALIVE, hostip="127.0.0.1")]


def make_census(**changes: int) -> Census:
    values: dict[str, Any] = {
        "files": 10, "bytes": 100, "to_replicate": 0, "to_delete": 0, "fewer_copies": 0, "one_copy": 0, "no_copy": 0,
        "zone_violations": 0, "devices": (),
    }  # fmt: skip
    return Census(**{**values, **changes})


def make_device(**changes: Any) -> DeviceInfo:
    values: dict[str, Any] = {
        "devid": DevId(1), "hostid": HostId(1), "status": DeviceState.ALIVE, "weight": 100, "mb_total": 10, "mb_used": 1,
        "mb_free": 9, "observed": Observed.WRITEABLE, "utilization": 0.0,
    }  # fmt: skip
    return DeviceInfo(**{**values, **changes})


def test_a_well_cluster_has_no_problems() -> None:
    assert problems(make_census(), [make_device()], HOSTS) == []


@pytest.mark.parametrize(
    ("census", "device", "sentences"),
    [
        (
            {"no_copy": 1, "fewer_copies": 3},
            {},
            ["1 file without any copy on a living device", "2 files with fewer copies than wanted"],
        ),
        ({"zone_violations": 4}, {}, ["4 files in fewer zones than possible"]),
        ({}, {"observed": Observed.UNREACHABLE}, ["device 1 on node1 cannot be reached"]),
        (
            {},
            {"observed": Observed.UNREACHABLE, "cluster_ok": False},
            ["device 1 on node1 is not the one the trackers know (other cluster, number or volume)"],
        ),
        ({}, {"observed": Observed.READABLE}, ["device 1 on node1 cannot be written"]),
        ({}, {"damaged": 3}, ["device 1 on node1 has damaged copies to replace: 3"]),
        ({}, {"observed": Observed.READABLE, "status": DeviceState.READONLY}, []),
        ({}, {"observed": Observed.UNKNOWN, "status": DeviceState.DEAD}, []),
        (
            {},
            {"observed": Observed.UNREACHABLE, "hostid": HostId(9)},
            ["device 1 on an unknown host cannot be reached"],
        ),
    ],
)
def test_each_problem_is_a_sentence(census: dict[str, int], device: dict[str, Any], sentences: list[str]) -> None:
    assert problems(make_census(**census), [make_device(**device)], HOSTS) == sentences
