"""A server process that was told of a change answers from it: a re-read never counts for who asked after it had begun."""

import asyncio
from typing import Any

from mogile_core.runtime.clock import SystemClock
from mogile_tracker.context import LiveTopology
from mogile_tracker.topology import Topology


class Store:
    """Loads that end when they are told to."""

    def __init__(self) -> None:
        self.loads: list[asyncio.Event] = []

    async def load(self) -> Topology:
        end = asyncio.Event()
        self.loads.append(end)
        await end.wait()
        return Topology()

    async def begun(self, number: int) -> None:
        async with asyncio.timeout(10):
            while len(self.loads) < number:
                await asyncio.sleep(0)

    def end(self, number: int) -> None:
        self.loads[number - 1].set()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_every_caller_waits_for_a_load_that_begins_after_its_call() -> None:
    store: Any = Store()
    live = LiveTopology(store, SystemClock(), 60)
    first = asyncio.create_task(live.refresh())
    await store.begun(1)
    second = asyncio.create_task(live.refresh())
    also_second = asyncio.create_task(live.refresh())
    await settle()
    assert len(store.loads) == 1, "one load at a time"
    store.end(1)
    await store.begun(2)
    third = asyncio.create_task(live.refresh())  # while the load that the second waited for is running
    await settle()
    assert first.done()
    assert not second.done()
    store.end(2)
    await store.begun(3)
    await settle()
    assert second.done()
    assert also_second.done(), "callers that waited meanwhile share one"
    assert not third.done(), "what the second load has read may be from before the third call"
    store.end(3)
    async with asyncio.timeout(10):
        await asyncio.gather(first, second, also_second, third)
    assert len(store.loads) == 3
