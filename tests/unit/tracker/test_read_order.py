"""get_paths prefers devices that are less busy; MogileFS means to and fails on the decimals that nodes report."""

import random
from collections import Counter
from types import SimpleNamespace

from mogile_core.model import Device, DeviceState, DevId, Host, HostId, HostState, Observed
from mogile_tracker.commands.paths import read_order
from mogile_tracker.topology import Observation, Observations, Topology


def topology(busy: dict[int, float | None], weights: dict[int, int] | None = None) -> Topology:
    weights = weights or {}
    seen = {
        DevId(devid): Observation(devid=DevId(devid), state=Observed.WRITEABLE, utilization=percent)
        for devid, percent in busy.items()
    }
    return Topology(
        hosts=[Host(hostid=HostId(n), hostname=f"n{n}", status=HostState.ALIVE, hostip=f"10.0.0.{n}") for n in busy],
        devices=[
            Device(devid=DevId(n), hostid=HostId(n), status=DeviceState.ALIVE, weight=weights.get(n, 100)) for n in busy
        ],
        observations=Observations.from_json(Observations(rounds=1, devices=seen).to_json()),
    )


def first_choices(of: Topology, devids: tuple[int, ...], draws: int = 4000) -> Counter[int]:
    tracker = SimpleNamespace(random=random.Random(3))
    return Counter(read_order(of, devids, tracker)[0][0][0] for _ in range(draws))  # type: ignore[arg-type]  # all it uses


def test_a_busy_device_is_read_less_in_proportion() -> None:
    """Weight 102 - utilization, decimals included: 2.40 % busy against 92.15 %."""
    seen = first_choices(topology({1: 2.40, 2: 92.15}), (1, 2))
    assert 7 < seen[1] / seen[2] < 15, "99.6 against 9.85"


def test_without_a_figure_the_weight_of_the_device_counts() -> None:
    seen = first_choices(topology({1: None, 2: None}, {1: 300, 2: 100}), (1, 2))
    assert 2.5 < seen[1] / seen[2] < 3.6


def test_a_saturated_device_is_still_read_when_it_has_the_only_copy() -> None:
    assert first_choices(topology({1: 100.0, 2: 0.0}), (1,), draws=5) == {1: 5}
