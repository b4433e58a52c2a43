"""While commands come at a high rate the jobs give way: they say so, and yet all they have to do gets done."""

import asyncio
import contextlib
from typing import Any

from mogile_core.runtime.workers import Supervisor
from mogile_tracker.foreground import MEASURE_SECONDS
from mogile_tracker.jobclasses import GIVE_WAY
from mogile_tracker.workers import workers_of
from mogile_tracker.workers.giving_way import Pauses
from mogile_tracker.workers.replicate import Replicate

DELETIONS = 4000  # of fids that have nothing left anywhere: eight units of work


async def press(cluster: Any) -> None:
    """Say what the parent says while the servers are busy, for ever."""
    while True:
        cluster.jobs.context.foreground.told({"busy": 1.0})
        await asyncio.sleep(MEASURE_SECONDS)


async def test_pressed_jobs_are_throttled_and_none_is_starved(two_zones: Any) -> None:
    jobs, database = two_zones.jobs, two_zones.database
    fids = [await two_zones.put(devids) for devids in ([1], [1], [1, 2], [3])]
    await database.execute(
        "INSERT INTO file_to_delete2 (fid, nexttry) SELECT n, 0 FROM generate_series(1000001, 1000000 + $1::int) n",
        DELETIONS,
    )
    pauses = Pauses(jobs.context.foreground, lambda: jobs.topology.our_settings, jobs.context.registry)
    supervisor = Supervisor([worker for job in sorted(GIVE_WAY) for worker in workers_of(jobs, job, pauses)])
    throttled: set[str] = set()

    async def all_done_while_some_were_throttled() -> bool:
        throttled.update(
            report.name
            for report in supervisor.reports()
            if report.state == "throttled" and report.status.text.startswith("gives way to commands")
        )
        return "delete" in throttled and await two_zones.quiet()

    running = [asyncio.create_task(press(two_zones)), asyncio.create_task(supervisor.run())]
    try:
        await two_zones.wait_for(all_done_while_some_were_throttled, "a pressed tracker to do its work")
    finally:
        supervisor.stop()
        running[0].cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*running)
    assert [len(two_zones.zones(await two_zones.holders(fid))) for fid in fids] == [2, 2, 2, 2], "the policy is met"
    metrics = jobs.context.registry.snapshot()["mogile_worker_gave_way_seconds_total"]["values"]
    assert {labels[0]: seconds for labels, seconds in metrics}["delete"] > 0


async def test_work_on_files_with_a_single_copy_is_urgent(two_zones: Any) -> None:
    replicate = Replicate(two_zones.jobs)
    await two_zones.put([1])
    assert (await replicate.work()).urgent
    await two_zones.put([1, 3])
    assert not (await replicate.work()).urgent
    fid = await two_zones.put([1, 2])
    assert not (await replicate.work()).urgent, "it is made anew elsewhere, but there are two copies"
    assert len(await two_zones.holders(fid)) == 2
