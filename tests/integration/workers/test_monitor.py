"""What the monitor sees, on real nodes."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import aiohttp

from mogile_core.model import Observed
from mogile_tracker.workers.monitor import Monitor
from mogile_tracker.workers.utilization import Utilization


async def test_sizes_and_states_are_published_and_recorded(two_zones: Any) -> None:
    topology = two_zones.jobs.topology
    assert {devid: topology.observed(devid) for devid in topology.devices} == dict.fromkeys(
        (1, 2, 3, 4), Observed.WRITEABLE
    )
    assert topology.devices[1].mb_total == 1000
    row = await two_zones.database.fetchrow("SELECT mb_total, mb_used, mb_asof FROM device WHERE devid = 1")
    assert row["mb_total"] == 1000
    assert row["mb_asof"] > 1_700_000_000
    assert topology.observation(1).reject_bad_md5 is True


async def test_a_killed_node_is_unreachable_at_once_and_comes_back(two_zones: Any) -> None:
    two_zones.agents[3].kill()
    await two_zones.look()
    topology = two_zones.jobs.topology
    assert topology.observed(3) is Observed.UNREACHABLE
    assert not topology.host_reachable(3)
    assert not topology.fit_for_new_files(3)
    assert topology.readable(1)
    two_zones.agents[3].start()
    await two_zones.ready(4)


async def test_a_device_of_another_cluster_is_left_out(two_zones: Any) -> None:
    await two_zones.database.execute("UPDATE mogile_cluster SET id = gen_random_uuid()")
    await two_zones.jobs.context.topology.refresh()
    await Monitor(two_zones.jobs).work()
    topology = two_zones.jobs.topology
    assert not any(topology.readable(devid) for devid in topology.devices)
    assert not topology.observation(1).cluster_ok


async def test_another_volume_under_a_known_devid_is_not_taken_for_the_device(two_zones: Any) -> None:
    agent = two_zones.agents[2]
    agent.process.terminate()
    agent.process.wait(60)
    shutil.rmtree(agent.docroot / "dev2")
    (agent.docroot / "dev2").mkdir()
    agent.start()

    async def answers() -> bool:
        return bool(await two_zones.answers(agent.address))

    await two_zones.wait_for(answers, "the agent to be back")

    async def refused() -> bool:
        await two_zones.look()
        return not two_zones.jobs.topology.observation(2).cluster_ok

    await two_zones.wait_for(refused, "the new volume to be refused")
    assert two_zones.jobs.topology.observed(2) is Observed.UNREACHABLE


async def test_a_device_in_state_down_is_not_asked(two_zones: Any) -> None:
    await two_zones.set_device(4, "down")
    await two_zones.look()
    assert two_zones.jobs.topology.observed(4) is Observed.UNKNOWN


async def test_utilization_is_listened_to_and_forgotten_with_its_node(cluster: Any, tmp_path: Path) -> None:
    cluster.folder = tmp_path  # on a disk, of which there is something to tell
    for devid in (1, 2, 3):
        await cluster.add_node([devid])
    await cluster.ready()
    jobs = cluster.jobs
    worker = Utilization(jobs)
    await worker.work()
    try:

        async def measured() -> set[int]:
            """A node on a file system without a disk of its own (tmpfs) cannot tell, and says so."""
            found: set[int] = set()
            async with aiohttp.ClientSession() as session:
                for agent in cluster.agents.values():
                    async with session.get(f"http://{agent.address}:7502/status") as response:
                        devices = (await response.json())["devices"]
                    found |= {d["devid"] for d in devices if d["utilization"] is not None}
            return found

        async def told() -> bool:
            return set(jobs.utilization) == await measured()

        await cluster.wait_for(told, "every node to tell how busy it is")
        assert all(0 <= percent <= 100 for percent in jobs.utilization.values())

        async def published() -> bool:
            """A first figure may arrive while the monitor looks."""
            await Monitor(jobs).work()
            return (jobs.topology.observation(1).utilization is not None) == (1 in jobs.utilization)

        await cluster.wait_for(published, "the monitor to publish it")
        cluster.agents[3].kill()

        async def forgotten() -> bool:
            return 3 not in jobs.utilization

        await cluster.wait_for(forgotten, "the figure of the killed node to go")
    finally:
        await worker.close()


async def test_a_thousand_sizes_at_once_are_answered_in_order(two_zones: Any) -> None:
    fids = [await two_zones.put([2], queue=False) for _ in range(5)]
    host = two_zones.jobs.topology.host_of(2)
    wanted = [fids[n % 5] if n % 7 else 10**6 + n for n in range(1000)]
    sizes = await asyncio.gather(*(two_zones.jobs.nodes.size(host, 2, fid) for fid in wanted))
    assert sizes == [len(two_zones.content[fid]) if fid in two_zones.content else None for fid in wanted]
