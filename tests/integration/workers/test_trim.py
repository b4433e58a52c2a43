"""Removing copies: the most dangerous step, under the races it was designed for."""

import asyncio
from typing import Any

import pytest

from mogile_tracker.store.copies import Removal
from mogile_tracker.store.leases import LeaseLostError
from mogile_tracker.workers.copydeletes import DeleteCopies
from mogile_tracker.workers.replicate import Replicate
from mogile_tracker.workers.trimming import Trim, Trimmer, _Proof


async def trims(cluster: Any, fid: int, victim: int) -> list[Trim]:
    files = await cluster.jobs.copies.look([fid])
    return [Trim(file=files[fid], victim=victim)]


async def test_two_trimmers_with_the_first_transaction_held_open_never_drop_both_copies(two_zones: Any) -> None:
    """Without leases in the way: both decide to drop one of two surplus copies of a file that needs one more than remains."""
    fids = [await two_zones.put([1, 3, 4], queue=False) for _ in range(20)]
    copies = two_zones.jobs.copies
    everywhere = frozenset({1, 3, 4})
    inside, go_on = asyncio.Event(), asyncio.Event()

    class Unfenced:
        async def fence(self, connection: Any, names: Any) -> None:
            list(names)

    async def first() -> list[Any]:
        removals = [Removal(fid=f, devid=3, copy_id=None, verified=everywhere - {3}) for f in fids]
        original = copies._take

        async def held_open(*args: Any) -> Any:
            rows = await original(*args)
            inside.set()
            await go_on.wait()
            return rows

        copies._take = held_open
        task = asyncio.create_task(copies.remove(Unfenced(), removals, _Proof(two_zones.jobs), claim_seconds=2))
        await inside.wait()
        copies._take = original
        return await task

    async def second() -> list[Any]:
        await inside.wait()
        removals = [Removal(fid=f, devid=1, copy_id=None, verified=everywhere - {1}) for f in fids]
        return await copies.remove(Unfenced(), removals, _Proof(two_zones.jobs), claim_seconds=2)

    one, two = asyncio.create_task(first()), asyncio.create_task(second())
    await inside.wait()
    await asyncio.sleep(0.5)
    assert not two.done(), "the second trimmer waits for the first one's locks"
    go_on.set()
    assert len(await one) == 20
    assert await two == [], "with devices 1 and 4 left, dropping 1 would leave one copy"
    for fid in fids:
        assert await two_zones.holders(fid) == [1, 4]


async def test_a_survivor_whose_bytes_are_gone_keeps_the_surplus(two_zones: Any) -> None:
    fid = await two_zones.put([1, 2, 3], queue=False)
    two_zones.disk(3, fid).unlink()
    lease = await two_zones.jobs.leases.take_fids([fid])
    async with lease:
        for victim in (1, 2):
            assert await Trimmer(two_zones.jobs).remove(lease, await trims(two_zones, fid, victim)) == set()
    assert await two_zones.holders(fid) == [1, 2, 3]


async def test_a_survivor_of_another_length_keeps_the_surplus(two_zones: Any) -> None:
    fid = await two_zones.put([1, 2, 3], queue=False)
    path = two_zones.disk(3, fid)
    path.chmod(0o644)
    with path.open("ab") as stream:
        stream.write(b"x")
    lease = await two_zones.jobs.leases.take_fids([fid])
    async with lease:
        assert await Trimmer(two_zones.jobs).remove(lease, await trims(two_zones, fid, 1)) == set()


async def test_a_survivor_on_a_stopped_node_keeps_the_surplus(two_zones: Any) -> None:
    fid = await two_zones.put([1, 2, 3], queue=False)
    two_zones.agents[3].kill()
    lease = await two_zones.jobs.leases.take_fids([fid])
    async with lease:
        assert await Trimmer(two_zones.jobs).remove(lease, await trims(two_zones, fid, 1)) == set()


async def test_a_device_marked_dead_meanwhile_is_no_survivor(two_zones: Any) -> None:
    """The snapshot still says alive; the transaction reads the states again."""
    fid = await two_zones.put([1, 2, 3], queue=False)
    await two_zones.database.execute("UPDATE device SET status = 'dead' WHERE devid = 3")
    lease = await two_zones.jobs.leases.take_fids([fid])
    async with lease:
        assert two_zones.jobs.landscape().sites[3].counts
        assert await Trimmer(two_zones.jobs).remove(lease, await trims(two_zones, fid, 1)) == set()


async def test_a_lost_lease_removes_nothing(two_zones: Any) -> None:
    fid = await two_zones.put([1, 2, 3], queue=False)
    lease = await two_zones.jobs.leases.take_fids([fid])
    async with lease:
        await two_zones.database.execute("UPDATE mogile_lease SET until = now() - interval '1 second'")
        with pytest.raises(LeaseLostError):
            await Trimmer(two_zones.jobs).remove(lease, await trims(two_zones, fid, 1))
    assert await two_zones.holders(fid) == [1, 2, 3]


async def test_a_late_delete_does_not_hit_a_copy_that_was_made_again(two_zones: Any) -> None:
    """A tracker is stopped between the proof and its DELETE; the copy is deleted, made again, and then the DELETE arrives."""
    two_zones.jobs = jobs = await two_zones.make_jobs("stopped", lease_seconds=2.0)
    await two_zones.ready()
    fid = await two_zones.put([1, 2, 3], queue=False)
    lease = await jobs.leases.take_fids([fid])
    trimmer = Trimmer(jobs)
    stopped: list[Any] = []

    async def stop(rows: Any) -> None:
        stopped.extend(rows)

    trimmer.delete_bytes = stop  # type: ignore[method-assign]
    async with lease:
        assert await trimmer.remove(lease, await trims(two_zones, fid, 1)) == {(fid, 1)}
    assert two_zones.disk(1, fid).exists()
    plan_blocked = (await jobs.copies.look([fid]))[fid].blocked
    assert plan_blocked == (1,), "no destination while the old copy waits to be deleted"

    async def deleted_by_the_worker() -> bool:
        await DeleteCopies(jobs).work()
        return not two_zones.disk(1, fid).exists()

    await two_zones.wait_for(deleted_by_the_worker, "the delete worker to take over")
    for devid in (2, 4):
        await two_zones.set_device(devid, "readonly")
    await two_zones.database.execute("DELETE FROM file_on WHERE fid = $1 AND devid = 2", fid)
    await two_zones.database.execute("INSERT INTO file_to_replicate (fid, nexttry) VALUES ($1, 0)", fid)
    await two_zones.look()
    await two_zones.until_idle(Replicate(jobs))
    assert await two_zones.holders(fid) == [1, 3], "made again on the same device"
    await Trimmer(jobs).delete_bytes(stopped)
    assert two_zones.disk(1, fid).read_bytes() == two_zones.content[fid]


async def test_a_pull_that_ends_after_its_file_was_deleted_leaves_no_bytes(two_zones: Any) -> None:
    jobs = two_zones.jobs
    fid = await two_zones.put([1])
    original = jobs.copies.intend

    async def delete_meanwhile(*args: Any, **kwargs: Any) -> Any:
        allowed = await original(*args, **kwargs)
        await two_zones.database.execute("DELETE FROM file WHERE fid = $1", fid)
        await two_zones.database.execute("INSERT INTO file_to_delete2 (fid, nexttry) VALUES ($1, 0)", fid)
        return allowed

    jobs.copies.intend = delete_meanwhile
    await two_zones.until_idle(Replicate(jobs))
    assert await two_zones.holders(fid) == [1]
    await two_zones.until_idle(DeleteCopies(jobs))
    assert two_zones.stray_files() == {(1, fid)}, "the delete queue's own copy is all that is left"


async def test_an_abandoned_intent_becomes_a_delete_of_what_was_written(two_zones: Any) -> None:
    jobs = two_zones.jobs
    fid = await two_zones.put([1, 3], queue=False)
    await two_zones.database.execute("DELETE FROM file_on WHERE fid = $1 AND devid = 3", fid)
    await two_zones.database.execute("INSERT INTO mogile_copy_intent (fid, devid, until) VALUES ($1, 3, 1)", fid)
    await two_zones.until_idle(DeleteCopies(jobs))
    assert two_zones.stray_files() == {(1, fid)}


async def test_an_intent_stands_for_the_time_of_its_whole_order(two_zones: Any) -> None:
    """A node works through an order even when its tracker froze; an intent settled before that would leave bytes without a row."""
    jobs = two_zones.jobs
    fids = [await two_zones.put([1]) for _ in range(4)]
    for devid in (2, 4):
        await two_zones.set_device(devid, "readonly")
    await two_zones.look()
    await two_zones.database.execute("UPDATE file SET length = 100000000")  # at the pace allowed: 100 s each
    orders: list[Any] = []
    original, intend, asked = jobs.nodes.pull, jobs.copies.intend, 0

    async def intended(*args: Any, **kwargs: Any) -> Any:
        nonlocal asked
        asked = await two_zones.database.fetchval("SELECT extract(epoch FROM now())::int")
        return await intend(*args, **kwargs)

    jobs.copies.intend = intended

    def frozen_here(host: Any, items: Any) -> Any:
        orders.extend(items)
        raise RuntimeError("frozen")

    jobs.nodes.pull = frozen_here
    with pytest.raises(ExceptionGroup):
        await Replicate(jobs).work()
    jobs.nodes.pull = original
    assert {item.fid for item in orders} == set(fids)
    left = [row["until"] - asked for row in await two_zones.database.fetch("SELECT until FROM mogile_copy_intent")]
    assert len(left) == 4
    assert all(seconds >= 400 for seconds in left), left
