"""A rebalance by the operator's policy, from start to finished, over real nodes."""

from typing import Any

from mogile_tracker.policy.rebalance import RebalanceState
from mogile_tracker.store.rebalance import RebalanceStore
from mogile_tracker.workers.moves import Moves
from mogile_tracker.workers.rebalance import Rebalance


async def start(cluster: Any, policy: str, source: int) -> None:
    state = RebalanceState(source_devs=(source,), time_started=1)
    await RebalanceStore(cluster.database).change(
        lambda _: {"rebal_policy": policy, "rebal_host": "here", "rebal_state": state.to_text()}
    )
    await cluster.look()


async def finish(cluster: Any) -> RebalanceState:
    worker = Rebalance(cluster.jobs)
    for _ in range(20):
        await worker.work()
        await cluster.until_idle(Moves(cluster.jobs))
        await cluster.jobs.context.topology.refresh()
        if not cluster.jobs.topology.settings.get("rebal_host"):
            break
    return RebalanceState.parse(cluster.jobs.topology.settings["rebal_state"])


async def test_all_files_leave_a_device_and_keep_their_zones(two_zones: Any) -> None:
    fids = [await two_zones.put([1, 3], queue=False) for _ in range(15)]
    await start(two_zones, "from_devices=3", 3)
    state = await finish(two_zones)
    assert state.fids_queued == 15
    assert state.time_finished
    for fid in fids:
        assert await two_zones.holders(fid) == [1, 4], "device 2 would put both copies into one zone"
    await two_zones.check_files()
    assert two_zones.stray_files() == await two_zones.locations()
    assert await two_zones.database.fetchval("SELECT status FROM device WHERE devid = 3") == "alive"


async def test_a_limit_is_kept_and_drain_is_left_when_asked_for(two_zones: Any) -> None:
    fids = [await two_zones.put([1, 3], queue=False) for _ in range(10)]
    await start(two_zones, "from_devices=3 limit_by=count limit=4 leave_in_drain_mode=1 fid_age=new", 3)
    state = await finish(two_zones)
    assert state.fids_queued == 4
    on_new = [fid for fid in fids if await two_zones.holders(fid) == [1, 4]]
    assert on_new == fids[-4:], "the newest first"
    assert await two_zones.database.fetchval("SELECT status FROM device WHERE devid = 3") == "drain"


async def test_stop_keeps_the_place(two_zones: Any) -> None:
    for _ in range(10):
        await two_zones.put([1, 3], queue=False)
    await two_zones.database.execute("INSERT INTO server_settings (field, value) VALUES ('queue_rate_for_rebal', '3')")
    await start(two_zones, "from_devices=3", 3)
    worker = Rebalance(two_zones.jobs)
    await worker.work()
    await RebalanceStore(two_zones.database).change(lambda _: {"rebal_signal": "stop"})
    await worker.work()
    settings = await RebalanceStore(two_zones.database).settings()
    state = RebalanceState.parse(settings["rebal_state"])
    assert "rebal_host" not in settings
    assert (state.fids_queued, state.sdev_current) == (3, 3)
    assert state.time_stopped
