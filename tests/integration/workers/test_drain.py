"""Devices in state drain: nothing moves by itself, as in MogileFS; with the setting they are emptied, and keep their state."""

from typing import Any

from mogile_tracker.workers.drain import Drain
from mogile_tracker.workers.moves import Moves


async def step(cluster: Any, drain: Drain) -> None:
    await drain.work()
    await cluster.until_idle(Moves(cluster.jobs))


async def test_a_device_set_to_drain_by_hand_keeps_its_files(two_zones: Any) -> None:
    fids = [await two_zones.put([1, 3], queue=False) for _ in range(5)]
    await two_zones.set_device(3, "drain")
    await two_zones.look()
    drain = Drain(two_zones.jobs)
    for _ in range(5):
        await step(two_zones, drain)
    assert all([await two_zones.holders(fid) == [1, 3] for fid in fids])
    assert await two_zones.count("file_to_queue") == 0


async def test_with_the_setting_it_is_emptied_and_stays_in_drain(two_zones: Any) -> None:
    fids = [await two_zones.put([1, 3], queue=False) for _ in range(12)]
    stays = await two_zones.put([1, 4], queue=False)
    await two_zones.set_device(3, "drain")
    await two_zones.set_setting("drain_moves", "on")
    await two_zones.look()
    drain = Drain(two_zones.jobs)

    async def empty() -> bool:
        await step(two_zones, drain)
        return await two_zones.database.fetchval("SELECT count(*) FROM file_on WHERE devid = 3") == 0

    await two_zones.wait_for(empty, "device 3 to be empty")
    for fid in fids:
        assert await two_zones.holders(fid) == [1, 4], "device 2 would put both copies into one zone"
    assert await two_zones.holders(stays) == [1, 4]
    assert await two_zones.database.fetchval("SELECT status FROM device WHERE devid = 3") == "drain"
    await two_zones.check_files()
    assert two_zones.stray_files() == await two_zones.locations()


async def test_turned_off_again_it_stops(two_zones: Any) -> None:
    for _ in range(6):
        await two_zones.put([1, 3], queue=False)
    await two_zones.set_device(3, "drain")
    await two_zones.set_setting("drain_moves", "on")
    await two_zones.look()
    await two_zones.set_setting("drain_moves", "off")
    drain = Drain(two_zones.jobs)
    for _ in range(3):
        await step(two_zones, drain)
    assert await two_zones.database.fetchval("SELECT count(*) FROM file_on WHERE devid = 3") == 6


async def test_what_cannot_go_anywhere_stays(two_zones: Any) -> None:
    """The only other device of the zone is full of copies of the same files: moving would spoil them."""
    fids = [await two_zones.put([1, 3, 4], queue=False) for _ in range(3)]
    await two_zones.set_device(3, "drain")
    await two_zones.set_device(2, "readonly")
    await two_zones.set_setting("drain_moves", "on")
    await two_zones.look()
    drain = Drain(two_zones.jobs)
    for _ in range(4):
        await step(two_zones, drain)
    for fid in fids:
        assert {1, 4} <= set(await two_zones.holders(fid))
    await two_zones.check_files()
