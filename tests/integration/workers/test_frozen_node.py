"""A storage node that takes connections and never answers (frozen machine): nobody waits on it longer than the monitor needs to see it."""

import asyncio
import dataclasses
import signal
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from mogile_core.model import Host, Observed
from mogile_tracker.context import Assignment
from mogile_tracker.jobstate import WorkerState
from mogile_tracker.nodes import Nodes, PullItem, PullResult
from mogile_tracker.workers import run
from mogile_tracker.workers.monitor import Monitor
from mogile_tracker.workers.replicate import Replicate

QUICK = {"node_timeout_seconds": 0.5}


class Patient(Nodes):
    """A client without any limit on its waits: while the node is frozen nothing but the limit on units of work ends them."""

    frozen = True

    async def pull(self, host: Host, items: Sequence[PullItem]) -> AsyncIterator[PullResult]:
        if Patient.frozen:
            reader, writer = await asyncio.open_connection(host.hostip, host.http_port)
            try:
                await reader.readline()
            finally:
                writer.close()
        async for result in super().pull(host, items):
            yield result


async def frozen(cluster: Any, hostid: int) -> None:
    cluster.agents[hostid].process.send_signal(signal.SIGSTOP)


async def thaw(cluster: Any, hostid: int) -> None:
    cluster.agents[hostid].process.send_signal(signal.SIGCONT)


async def test_a_copy_order_to_a_frozen_node_is_dropped_when_the_monitor_sees_it(two_zones: Any) -> None:
    jobs = await two_zones.make_jobs("quick", **QUICK)
    two_zones.jobs = jobs
    await two_zones.ready()
    fids = [await two_zones.put([1]) for _ in range(10)]
    for devid in (2, 3):
        await two_zones.set_device(devid, "readonly")
    await frozen(two_zones, 4)
    try:
        began = time.monotonic()
        copying = asyncio.create_task(Replicate(jobs).work())
        monitor = Monitor(jobs)
        await asyncio.sleep(0.5)
        assert not copying.done(), "the order is under way"
        # A monitor that has seen the device well forgives one silent probe, one that starts now does not.
        await monitor.work()
        assert jobs.topology.observed(4) is Observed.UNREACHABLE
        await asyncio.wait_for(copying, 30)
        assert time.monotonic() - began < 35, "less than the idle limit of a transfer"
        assert all([await two_zones.holders(fid) == [1] for fid in fids])
        assert await two_zones.count("mogile_copy_delete") == 10, "what the node may still have written will be deleted"
    finally:
        await thaw(two_zones, 4)


async def test_a_frozen_node_does_not_hold_up_the_others(two_zones: Any) -> None:
    jobs = await two_zones.make_jobs("quick", **QUICK)
    two_zones.jobs = jobs
    await two_zones.ready()
    running = asyncio.create_task(run(jobs.context))
    await frozen(two_zones, 4)
    try:
        fids = [await two_zones.put([1]) for _ in range(20)]

        async def copied() -> bool:
            """Where they belong: on a busy machine node 3 may be taken for frozen too for a moment, and another one be chosen."""
            return all([await two_zones.holders(fid) == [1, 3] for fid in fids])

        await two_zones.wait_for(copied, "copies on the nodes that work")
    finally:
        await thaw(two_zones, 4)
        jobs.context.stop.set()
        await asyncio.wait_for(running, 60)


async def test_a_unit_that_waits_for_ever_for_a_node_is_ended_and_the_worker_goes_on(
    two_zones: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = await two_zones.make_jobs("quick", watchdog_seconds="replicate=3", retry_base_seconds=0.1)
    two_zones.jobs = jobs
    await two_zones.ready()
    monkeypatch.setattr("mogile_tracker.workers.make_nodes", lambda context: Patient(cluster_id=jobs.nodes.cluster_id))
    workers: list[WorkerState] = []
    context = dataclasses.replace(jobs.context, assignment=Assignment(["replicate"]), report=workers.extend)
    for devid in (2, 3):
        await two_zones.set_device(devid, "readonly")
    await frozen(two_zones, 4)
    running = asyncio.create_task(run(context))
    try:
        fid = await two_zones.put([1])

        async def ended() -> bool:
            return any("no progress for 3 s" in worker.last_error for worker in workers)

        await two_zones.wait_for(ended, "the unit to be ended")
        assert await two_zones.holders(fid) == [1]
        await thaw(two_zones, 4)
        monkeypatch.setattr(Patient, "frozen", False)
        assert await two_zones.count("mogile_copy_intent") == 1, (
            "whatever the node may have written will be deleted first"
        )
        other = await two_zones.put([1])

        async def copied() -> bool:
            return len(await two_zones.holders(other)) == 2

        await two_zones.wait_for(copied, "the next copy")
    finally:
        await thaw(two_zones, 4)
        context.stop.set()
        await asyncio.wait_for(running, 60)
