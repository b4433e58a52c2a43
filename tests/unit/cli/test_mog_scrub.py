"""`mog scrub`: which devices are meant, and when the passes that were ordered are over."""

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from mogile_cli import scrub
from mogile_cli.errors import UsageError
from mogile_cli.nodes import Nodes, Scrub
from mogile_cli.scrub import Target, choose, until_finished
from mogile_core.client import DeviceInfo
from mogile_core.errors import NodeUnreachableError
from mogile_core.model import DeviceState, DevId, Host, HostId, HostState, Observed

HOSTS = [
    Host(hostid=HostId(number), hostname=f"node{number}", status=HostState.ALIVE, hostip=f"127.0.0.{number}")
    for number in (1, 2)
]


def device(devid: int, hostid: int, status: DeviceState = DeviceState.ALIVE) -> DeviceInfo:
    return DeviceInfo(
        devid=DevId(devid), hostid=HostId(hostid), status=status, weight=100, mb_total=10, mb_used=1, mb_free=9,
        observed=Observed.WRITEABLE, utilization=0.0,
    )  # fmt: skip


DEVICES = [device(3, 2), device(1, 1), device(2, 1, DeviceState.DEAD)]


@pytest.mark.parametrize(
    ("devids", "host", "chosen"),
    [([], "", [1, 3]), ([], "node1", [1]), ([3, 1], "", [1, 3]), ([2], "", [2]), ([3], "node1", [])],
)
def test_what_is_meant(devids: list[int], host: str, chosen: list[int]) -> None:
    targets = choose(DEVICES, HOSTS, devids, host)
    assert [target.device.devid for target in targets] == chosen
    assert all(target.device.hostid == target.host.hostid for target in targets)


@pytest.mark.parametrize(
    ("devids", "host", "sentence"),
    [
        ([9], "", "there is no device 9; there are 1, 2, 3"),
        ([], "node9", "there is no host node9; there are node1, node2"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(devids: list[int], host: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        choose(DEVICES, HOSTS, devids, host)


class Story(Nodes):
    """Nodes whose answers are written down: one `scrubs` after the other, the last one for ever."""

    def __init__(self, *answers: dict[int, Scrub] | NodeUnreachableError) -> None:
        self._answers = list(answers)
        self.asked = 0

    async def scrubs(self, host: Host) -> dict[int, Scrub]:
        answer = self._answers[min(self.asked, len(self._answers) - 1)]
        self.asked += 1
        if isinstance(answer, NodeUnreachableError):
            raise answer
        return answer


def told(**values: Any) -> dict[int, Scrub]:
    return {1: Scrub(devid=1, host="node1", **values)}


def wait(nodes: Nodes, before: Scrub, ordered: Iterable[Scrub] = (Scrub(devid=1, host="node1"),)) -> Scrub:
    (found,) = asyncio.run(until_finished(nodes, [Target(DEVICES[1], HOSTS[0])], [before], list(ordered)))
    return found


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrub, "POLL_SECONDS", 0.001)


BEFORE = told(started=5.0, finished=6.0)


def test_the_pass_before_the_ordered_one_does_not_count() -> None:
    nodes = Story(BEFORE, told(started=7.0, running=True), told(started=7.0, finished=8.0, files=4))
    assert wait(nodes, BEFORE[1]).files == 4
    assert nodes.asked == 3


@pytest.mark.parametrize(
    "answer", [told(started=7.0, running=True, failure="Input/output error"), NodeUnreachableError("away")]
)
def test_a_pass_that_does_not_get_on_is_waited_for_no_longer(answer: Any) -> None:
    found = wait(Story(answer), BEFORE[1])
    assert (found.failure or found.error) in ("Input/output error", "away")


def test_a_refused_order_is_not_waited_for() -> None:
    nodes = Story(BEFORE)
    refused = Scrub(devid=1, host="node1", error="nothing is recorded about the files of this device")
    assert wait(nodes, BEFORE[1], [refused]) == refused
    assert nodes.asked == 0
