"""Leadership and watches against a scripted API: what breaks them, and that they always begin again."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from mogile_operator import labels
from mogile_operator.informers import STALE_SECONDS, Informer, Informers
from mogile_operator.kube import KubeError, Page
from mogile_operator.leader import LEASE_SECONDS, RENEW_WITHIN_SECONDS, Leader

Obj = dict[str, Any]
pytestmark = pytest.mark.looptime


class Leases:
    """The API server as far as one Lease goes, with resource versions and a switch."""

    def __init__(self) -> None:
        self.lease: Obj | None = None
        self.version = 0
        self.up = True

    def _check(self) -> None:
        if not self.up:
            raise KubeError(503, "Unavailable", "the API server is away")

    async def get(self, kind: str, namespace: str, name: str) -> Obj | None:
        self._check()
        return None if self.lease is None else {**self.lease, "spec": dict(self.lease["spec"])}

    async def create(self, obj: Obj) -> Obj:
        self._check()
        if self.lease is not None:
            raise KubeError(409, "AlreadyExists", "it exists")
        self.version += 1
        self.lease = {"metadata": {"resourceVersion": str(self.version)}, "spec": dict(obj["spec"])}
        return self.lease

    async def merge(self, kind: str, namespace: str, name: str, body: Obj) -> Obj:
        self._check()
        assert self.lease is not None
        if body["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise KubeError(409, "Conflict", "it has changed")
        self.version += 1
        self.lease = {
            "metadata": {"resourceVersion": str(self.version)},
            "spec": {**self.lease["spec"], **body["spec"]},
        }
        return self.lease


def candidate(api: Leases, name: str, clock: Callable[[], float] | None = None, memory: Path | None = None) -> Leader:
    return Leader(api, "ns", name, clock or asyncio.get_running_loop().time, memory)  # type: ignore[arg-type]


async def killed_every_six_seconds(api: Leases, times: int, memory: Path | None) -> bool:
    """A candidate that is started again and again; whether one of them came to lead."""
    for _ in range(times):
        try:
            async with asyncio.timeout(6):
                await candidate(api, "b", memory=memory).acquire()
        except TimeoutError:
            continue
        return True
    return False


async def test_one_of_many_candidates_leads() -> None:
    api = Leases()
    leaders = [candidate(api, f"c{i}") for i in range(5)]
    tasks = [asyncio.create_task(leader.acquire()) for leader in leaders]
    await asyncio.sleep(60)
    # None renews here, so leadership passes on, but never to two at the same time.
    assert sum(leader.leading() for leader in leaders) <= 1
    assert any(task.done() for task in tasks)
    for task in tasks:
        task.cancel()


async def test_a_leader_that_renews_keeps_the_others_out() -> None:
    api = Leases()
    first, second = candidate(api, "a"), candidate(api, "b")
    await first.acquire()
    keeping = asyncio.create_task(first.keep())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(300):
            await second.acquire()
    assert first.leading()
    keeping.cancel()


async def test_a_leader_that_cannot_renew_stops_before_another_may_begin() -> None:
    api = Leases()
    first = candidate(api, "a")
    await first.acquire()
    keeping = asyncio.create_task(first.keep())
    api.up = False
    began = asyncio.get_running_loop().time()
    await keeping
    assert not first.leading()
    assert asyncio.get_running_loop().time() - began < LEASE_SECONDS
    assert RENEW_WITHIN_SECONDS < LEASE_SECONDS


async def test_a_process_that_was_stopped_knows_at_once_that_it_leads_no_more() -> None:
    api = Leases()
    offset = 0.0

    def clock() -> float:
        return asyncio.get_running_loop().time() + offset

    leader = candidate(api, "a", clock)
    await leader.acquire()
    assert leader.leading()
    offset = 30.0
    assert not leader.leading()


async def test_a_foreign_lease_is_judged_by_the_own_clock_only() -> None:
    api = Leases()
    spec = {"holderIdentity": "other", "leaseDurationSeconds": 15, "renewTime": "1999-01-01T00:00:00.000000Z"}
    await api.create({"spec": spec})
    leader = candidate(api, "a")
    began = asyncio.get_running_loop().time()
    await leader.acquire()
    assert asyncio.get_running_loop().time() - began >= LEASE_SECONDS


async def test_a_released_lease_is_taken_at_once_and_an_own_one_is_taken_back() -> None:
    api = Leases()
    first = candidate(api, "a")
    await first.acquire()
    again = candidate(api, "a")
    began = asyncio.get_running_loop().time()
    await again.acquire()
    assert asyncio.get_running_loop().time() - began < 1
    await again.release()
    await candidate(api, "b").acquire()
    assert asyncio.get_running_loop().time() - began < 4


async def test_an_abandoned_lease_is_taken_over_by_a_candidate_that_keeps_dying(tmp_path: Path) -> None:
    """The leader went with its machine, and the other replica is killed more often than the lease is long."""
    api = Leases()
    await candidate(api, "a").acquire()
    assert not await killed_every_six_seconds(api, 20, None), "without a memory each begins to wait anew"
    assert await killed_every_six_seconds(api, 4, tmp_path / "lease.json")


async def test_a_lease_that_is_renewed_is_left_alone_whatever_was_remembered(tmp_path: Path) -> None:
    api, memory = Leases(), tmp_path / "lease.json"
    first = candidate(api, "a")
    await first.acquire()
    keeping = asyncio.create_task(first.keep())
    assert not await killed_every_six_seconds(api, 20, memory)
    keeping.cancel()
    assert first.leading()


@pytest.mark.parametrize("content", ["", "{}", '{"holder": "a", "renewed": "r", "since": 0, "boot": "another"}', "[1]"])
async def test_a_memory_of_another_boot_or_none_at_all_is_not_used(tmp_path: Path, content: str) -> None:
    api, memory = Leases(), tmp_path / "lease.json"
    spec = {"holderIdentity": "a", "leaseDurationSeconds": 15, "renewTime": "r"}
    await api.create({"spec": spec})
    memory.write_text(content)
    await asyncio.sleep(60)
    began = asyncio.get_running_loop().time()
    await candidate(api, "b", memory=memory).acquire()
    assert asyncio.get_running_loop().time() - began >= LEASE_SECONDS


class Watches:
    """Answers lists; each watch is the next of a script: events, then an exception or the end."""

    def __init__(self, script: list[Any]) -> None:
        self.script = script
        self.lists = 0
        self.watches = 0
        self.versions: list[str] = []

    async def list(self, kind: str, namespace: str = "", selector: str = "") -> Page:
        self.lists += 1
        await asyncio.sleep(0.01)
        return Page(items=[pod("listed")], version=f"v{self.lists}")

    async def watch(self, kind: str, namespace: str, selector: str, version: str) -> AsyncIterator[Obj]:
        self.watches += 1
        self.versions.append(version)
        step = self.script.pop(0) if self.script else "hang"
        await asyncio.sleep(0.01)
        if isinstance(step, Exception):
            raise step
        if step == "hang":
            await asyncio.sleep(10**6)
        for name in step if isinstance(step, list) else []:
            yield {"type": "ADDED", "object": pod(name)}


def pod(name: str) -> Obj:
    return {
        "metadata": {"name": name, "namespace": "ns", "labels": {labels.CLUSTER: name}, "resourceVersion": f"r-{name}"}
    }


BREAKS = [
    KubeError(410, "Expired", "too old"),
    KubeError(500, "InternalError", "an error in the stream"),
    KubeError(503, "Unavailable", "away"),
    KubeError(403, "Forbidden", "no"),
    KubeError(429, "TooManyRequests", "slow down"),
    KubeError(0, "Unreachable", "connection reset"),
]


@pytest.mark.parametrize("error", BREAKS, ids=lambda error: str(error.status))
async def test_a_broken_watch_begins_again_with_a_list(error: KubeError) -> None:
    api = Watches([["one"], error, ["two"]])
    seen: list[str] = []
    informer = Informer(api, "Pod", "", "", lambda item: seen.append(item["metadata"]["name"]))  # type: ignore[arg-type]
    task = asyncio.create_task(informer.run())
    await asyncio.sleep(60)
    assert seen == ["listed", "one", "listed", "two"]
    assert api.lists == 2
    assert api.versions[:2] == ["v1", "r-one"]
    task.cancel()


async def test_even_a_hundred_breaks_in_a_row_do_not_end_a_watch() -> None:
    api = Watches([KubeError(503, "Unavailable", "away") for _ in range(100)] + [["at last"]])
    seen: list[str] = []
    informer = Informer(api, "Pod", "", "", lambda item: seen.append(item["metadata"]["name"]))  # type: ignore[arg-type]
    task = asyncio.create_task(informer.run())
    await asyncio.sleep(100 * 31)
    assert "at last" in seen
    task.cancel()


async def test_a_silent_watch_is_reported_as_dead() -> None:
    api = Watches(["hang"])
    informers = Informers(api, [""], lambda _ns, _name: None, lambda: None)  # type: ignore[arg-type]
    task = asyncio.create_task(informers.run())
    await asyncio.sleep(10)
    assert informers.stale() == []
    await asyncio.sleep(STALE_SECONDS + 5)
    assert "Pod" in informers.stale()
    task.cancel()


async def test_a_machine_that_only_reports_in_is_no_event() -> None:
    changes = 0

    def changed() -> None:
        nonlocal changes
        changes += 1

    informers = Informers(Watches([]), [""], lambda _ns, _name: None, changed)  # type: ignore[arg-type]
    machine = {
        "metadata": {"name": "m", "labels": {}},
        "spec": {},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }
    for beat in range(100):
        machine["metadata"]["resourceVersion"] = str(beat)  # type: ignore[index]
        informers._machine(machine)
    assert changes == 1
    machine["status"]["conditions"][0]["status"] = "Unknown"  # type: ignore[index]
    informers._machine(machine)
    assert changes == 2
