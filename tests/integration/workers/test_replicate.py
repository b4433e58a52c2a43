"""Replication against real nodes: copies reach the policy, whatever dies on the way."""

import asyncio
import hashlib
from typing import Any

import pytest

from mogile_tracker.store.queues import Queues
from mogile_tracker.workers.copydeletes import DeleteCopies
from mogile_tracker.workers.replicate import Replicate


async def test_files_reach_two_hosts_in_two_zones(two_zones: Any) -> None:
    fids = [await two_zones.put([1 + n % 4]) for n in range(40)]
    await two_zones.until_idle(Replicate(two_zones.jobs))
    for fid in fids:
        devids = await two_zones.holders(fid)
        assert len(devids) == 2
        assert two_zones.zones(devids) == {"a", "b"}
    await two_zones.check_files()
    assert await two_zones.count("file_to_replicate") == 0
    assert await two_zones.count("mogile_copy_intent") == 0
    assert await two_zones.count("mogile_lease WHERE what LIKE 'fid:%'") == 0
    assert two_zones.stray_files() == await two_zones.locations()
    counts = await two_zones.database.fetch("SELECT DISTINCT devcount FROM file")
    assert [row["devcount"] for row in counts] == [2]


async def test_a_copy_too_many_is_trimmed_and_zones_stay_covered(two_zones: Any) -> None:
    fid = await two_zones.put([1, 2, 3])
    await two_zones.until_idle(Replicate(two_zones.jobs))
    devids = await two_zones.holders(fid)
    assert len(devids) == 2
    assert two_zones.zones(devids) == {"a", "b"}
    assert two_zones.stray_files() == await two_zones.locations()


async def test_two_copies_in_one_zone_become_two_copies_in_two_zones(two_zones: Any) -> None:
    fid = await two_zones.put([1, 2])
    assert (await two_zones.totals()).zone_violations == 1
    await two_zones.until_idle(Replicate(two_zones.jobs))
    devids = await two_zones.holders(fid)
    assert len(devids) == 2
    assert two_zones.zones(devids) == {"a", "b"}
    assert (await two_zones.totals()).zone_violations == 0


async def test_a_file_without_any_location_waits_for_ever_and_says_so(two_zones: Any) -> None:
    fid = await two_zones.put([1])
    await two_zones.database.execute("DELETE FROM file_on WHERE fid = $1", fid)
    await two_zones.until_idle(Replicate(two_zones.jobs))
    assert await two_zones.database.fetchval("SELECT nexttry FROM file_to_replicate") == 2147483647


async def test_a_missing_source_is_gone_around(two_zones: Any) -> None:
    fid = await two_zones.put([1, 2])
    two_zones.disk(1, fid).unlink()
    await two_zones.until_idle(Replicate(two_zones.jobs))
    devids = await two_zones.holders(fid)
    assert {3, 4} & set(devids), "a copy in the other zone was made from the sound source"
    assert 2 in devids, "the only verified copy in its zone is never trimmed"


async def test_an_out_device_keeps_its_rows_and_its_files_get_another_copy(two_zones: Any) -> None:
    fid = await two_zones.put([1, 3], queue=True)
    await two_zones.set_out(3, True)
    await two_zones.until_idle(Replicate(two_zones.jobs))
    assert await two_zones.holders(fid) == [1, 3, 4]


async def test_a_worker_that_dies_between_its_steps_leaves_nothing_behind(two_zones: Any) -> None:
    """Killed (cancelled without a chance to clean up) after each of its calls in turn; another tracker finishes within seconds."""
    other, victim = await two_zones.make_jobs("tracker-2"), await two_zones.make_jobs("victim", lease_seconds=2.0)
    await two_zones.ready()
    steps = ["look", "intend", "made", "not_made"]
    for step in steps:
        fid = await two_zones.put([1])
        original = getattr(victim.copies, step)
        reached = asyncio.Event()

        async def die(*args: Any, _reached: asyncio.Event = reached, _call: Any = original, **kwargs: Any) -> Any:
            result = await _call(*args, **kwargs)
            _reached.set()
            await asyncio.sleep(3600)
            return result

        setattr(victim.copies, step, die)
        task = asyncio.create_task(Replicate(victim).work())
        await asyncio.wait_for(reached.wait(), 60)
        # As after SIGKILL: no clean-up runs, the lease is not given back, its heartbeat stops.
        for waiting in asyncio.all_tasks():
            if waiting.get_name() == "lease heartbeat":
                waiting.cancel()
        setattr(victim.copies, step, original)

        async def healed(_fid: int = fid) -> bool:
            await Replicate(other).work()
            await DeleteCopies(other).work()
            return len(await two_zones.holders(_fid)) == 2 and await two_zones.count("file_to_replicate") == 0

        await two_zones.wait_for(healed, f"the other tracker to finish after a death in {step}")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert two_zones.zones(await two_zones.holders(fid)) == {"a", "b"}
    await two_zones.until_idle(DeleteCopies(other))
    await two_zones.check_files()


async def test_rows_of_a_dead_claimer_are_due_again_within_the_lease(two_zones: Any) -> None:
    fid = await two_zones.put([1])
    queues = Queues(two_zones.database, claim_seconds=4)
    assert [row.fid for row in await queues.claim_replicate(10)] == [fid]
    assert await queues.claim_replicate(10) == []

    async def due() -> bool:
        return [row.fid for row in await queues.claim_replicate(10)] == [fid]

    await two_zones.wait_for(due, "the row to be due again")


async def test_a_row_queued_again_while_it_is_worked_on_stays(two_zones: Any) -> None:
    fid = await two_zones.put([1])
    queues = two_zones.jobs.queues
    rows = await queues.claim_replicate(10)
    await queues.enqueue_replicate([fid], nexttry=0)
    await queues.finish_replicate(rows)
    assert await two_zones.count("file_to_replicate") == 1


@pytest.mark.parametrize("hashtype", [1])
async def test_the_first_digest_of_a_class_that_wants_one_is_stored(cluster: Any, hashtype: int) -> None:
    await cluster.add_node([1])
    await cluster.add_node([2])
    await cluster.make_jobs()
    await cluster.add_class(hashtype=hashtype)
    await cluster.ready()
    fid = await cluster.put([1])
    await cluster.until_idle(Replicate(cluster.jobs))
    stored = await cluster.database.fetchval("SELECT checksum FROM checksum WHERE fid = $1", fid)
    assert stored == hashlib.md5(cluster.content[fid]).digest()
