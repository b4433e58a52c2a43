"""What follows from a device being dead, out, or back."""

from typing import Any

from mogile_tracker.workers.copydeletes import DeleteCopies
from mogile_tracker.workers.reaper import Reaper
from mogile_tracker.workers.replicate import Replicate


async def test_files_of_a_dead_device_are_rebuilt_and_their_rows_dropped(two_zones: Any) -> None:
    fids = [await two_zones.put([1, 3], queue=False) for _ in range(12)]
    two_zones.agents[3].kill()
    await two_zones.look()
    assert (await two_zones.totals()).fewer_copies == 12
    await two_zones.set_device(3, "dead")
    await two_zones.until_idle(Reaper(two_zones.jobs))
    await two_zones.until_idle(Replicate(two_zones.jobs))
    for fid in fids:
        assert await two_zones.holders(fid) == [1, 4]
    await two_zones.check_files()
    totals = await two_zones.totals()
    assert (totals.fewer_copies, totals.no_copy, totals.zone_violations) == (0, 0, 0)


async def test_the_last_location_is_never_dropped_however_many_devices_are_dead(two_zones: Any) -> None:
    lost = await two_zones.put([1, 3], queue=False)
    rescued = await two_zones.put([2, 3], queue=False)
    await two_zones.set_device(1, "dead")
    await two_zones.set_device(3, "dead")
    await two_zones.until_idle(Reaper(two_zones.jobs))
    assert await two_zones.holders(lost) == [1, 3], "the rows are all that tells where the file was"
    assert await two_zones.holders(rescued) == [2]
    totals = await two_zones.totals()
    assert (totals.no_copy, totals.one_copy) == (1, 1)


async def test_out_makes_copies_without_dropping_rows_and_back_trims_them(two_zones: Any) -> None:
    fids = [await two_zones.put([1, 3], queue=False) for _ in range(12)]
    reaper, replicate = Reaper(two_zones.jobs), Replicate(two_zones.jobs)
    await two_zones.set_out(3, True)
    await two_zones.until_idle(reaper)
    await two_zones.until_idle(replicate)
    for fid in fids:
        assert await two_zones.holders(fid) == [1, 3, 4]
    await two_zones.until_idle(reaper)
    assert await two_zones.count("file_to_replicate") == 0, "an out device is not walked over again at once"
    await two_zones.set_out(3, False)
    await two_zones.until_idle(reaper)
    await two_zones.until_idle(replicate)
    await two_zones.until_idle(DeleteCopies(two_zones.jobs))
    for fid in fids:
        devids = await two_zones.holders(fid)
        assert len(devids) == 2
        assert two_zones.zones(devids) == {"a", "b"}
    await two_zones.check_files()
    assert two_zones.stray_files() == await two_zones.locations()


async def test_what_was_decided_from_an_old_picture_is_mended_by_the_second_walk(two_zones: Any) -> None:
    """Another process did not know of the change yet: it was content with a file on the device, or made a copy too many."""
    start_walk = two_zones.jobs.copies.start_walk

    async def again_soon(devid: int, why: str, *, again_in_seconds: float) -> None:
        assert again_in_seconds > two_zones.jobs.settings.lease_seconds, (
            "what began before the change has ended by then"
        )
        await start_walk(devid, why, again_in_seconds=1)

    two_zones.jobs.copies.start_walk = again_soon
    reaper, replicate = Reaper(two_zones.jobs), Replicate(two_zones.jobs)

    async def walked() -> bool:
        await two_zones.until_idle(reaper)
        await two_zones.until_idle(replicate)
        walks = await two_zones.jobs.copies.walks()
        return all(walk.why == "out" and walk.finished and not walk.again for walk in walks.values())

    await two_zones.set_out(3, True)
    await two_zones.until_idle(reaper)
    content = await two_zones.put([1, 3], queue=False)
    await two_zones.wait_for(walked, "the second walk over the device that is out")
    assert await two_zones.holders(content) == [1, 3, 4]
    await two_zones.set_out(3, False)
    await two_zones.until_idle(reaper)
    one_too_many = await two_zones.put([1, 3, 4], queue=False)
    await two_zones.wait_for(walked, "the second walk over the device that is back")
    for fid in (content, one_too_many):
        devids = await two_zones.holders(fid)
        assert len(devids) == 2
        assert two_zones.zones(devids) == {"a", "b"}
    assert await two_zones.count("mogile_device_walk") == 0


async def test_a_walk_goes_on_where_a_dead_tracker_left_it(two_zones: Any) -> None:
    fids = [await two_zones.put([1, 3], queue=False) for _ in range(9)]
    await two_zones.database.execute("INSERT INTO server_settings (field, value) VALUES ('queue_rate_for_reaper', '4')")
    await two_zones.set_out(3, True)
    first = Reaper(two_zones.jobs)
    await first.work()
    await first.work()
    assert await two_zones.count("file_to_replicate") == 4
    second = Reaper(await two_zones.make_jobs("tracker-2"))
    await two_zones.ready(3)
    await two_zones.until_idle(second)
    assert await two_zones.count("file_to_replicate") == len(fids)


async def test_files_with_one_copy_left_go_first(two_zones: Any) -> None:
    safe = [await two_zones.put([1, 2, 3], queue=False) for _ in range(5)]
    endangered = await two_zones.put([2, 3], queue=False)
    await two_zones.set_device(3, "dead")
    await Reaper(two_zones.jobs).work()
    claimed = await two_zones.jobs.queues.claim_replicate(1)
    assert [row.fid for row in claimed] == [endangered]
    assert len(await two_zones.jobs.queues.claim_replicate(100)) == len(safe)


async def test_a_device_with_lost_files_is_forgotten_only_by_their_number(two_zones: Any) -> None:
    """Files whose only copies were on a dead device: given up by whoever names how many, each one in the log of fsck."""
    lost = [await two_zones.put([3], queue=False) for _ in range(3)]
    kept = await two_zones.put([1, 3], queue=False)
    await two_zones.set_device(3, "dead")
    await two_zones.look()
    await two_zones.until_idle(Reaper(two_zones.jobs))
    copies = two_zones.jobs.copies
    assert await two_zones.holders(kept) == [1]
    assert await copies.lost_on(3, 100) == lost
    assert await copies.lost_on(1, 100) == [], "nothing is lost on a device that lives"
    assert await copies.forget_lost(1, [kept]) == 0
    assert await copies.forget_lost(3, [*lost, kept]) == 3
    assert await copies.forget_lost(3, lost) == 0
    log = await two_zones.database.fetch("SELECT fid, trim(evcode) AS code, devid FROM fsck_log ORDER BY fid")
    assert [tuple(row) for row in log] == [(fid, "GONE", 3) for fid in lost]
    assert await two_zones.count("file") == 4, "the keys stay until somebody deletes them"
    assert await two_zones.holders(kept) == [1]
