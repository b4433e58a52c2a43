"""Deleting copies, for whichever job wants it: what stands against a deletion now, and many deletions in few orders."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mogile_core.errors import NodeError
from mogile_core.model import DeviceState, DevId
from mogile_tracker.nodes import DeleteOutcome
from mogile_tracker.policy import backoff
from mogile_tracker.workers.base import Jobs

PARALLEL = 32  # orders or questions under way at once
COPIES_IN_AN_ORDER = 250

T = TypeVar("T")
Doomed = tuple[int, int, str | None]  # fid, devid, copy id


@dataclass(frozen=True, slots=True)
class Fate:
    """What is to be done about one copy: it is gone (delay None), or the row waits."""

    delay_seconds: float | None = None


def waiting_for(jobs: Jobs, devid: int, failures: int) -> Fate | None:
    """None when a copy on the device can be deleted now; else that it is gone with its device, or how long to wait."""
    topology, base = jobs.topology, jobs.settings.retry_base_seconds
    device = topology.devices.get(DevId(devid))
    if device is None or topology.host_of(devid) is None or device.status is DeviceState.DEAD:
        return Fate()
    if not topology.deletable(devid):
        return Fate(backoff.forbidden_delay_seconds(failures, base_seconds=base))
    if not topology.writeable(devid):
        return Fate(backoff.unreachable_delay_seconds(failures, base_seconds=base))
    return None


async def delete_copies(jobs: Jobs, copies: Sequence[Doomed]) -> dict[tuple[int, int], DeleteOutcome | NodeError]:
    """Delete copies on devices that `waiting_for` has nothing against, in few orders; the outcome of each (fid, devid)."""
    by_device: dict[int, list[tuple[int, str | None]]] = defaultdict(list)
    for fid, devid, copy_id in copies:
        by_device[devid].append((fid, copy_id))
    outcomes: dict[tuple[int, int], DeleteOutcome | NodeError] = {}

    def order(devid: int, part: Sequence[tuple[int, str | None]]) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            host = jobs.topology.host_of(devid)
            if host is None:  # since a moment ago
                found: Sequence[DeleteOutcome | NodeError] = [NodeError(f"device {devid} has no host")] * len(part)
            else:
                found = await jobs.nodes.delete_many(host, devid, part)
            outcomes.update({(fid, devid): outcome for (fid, _), outcome in zip(part, found, strict=True)})

        return run

    await bounded_gather(
        PARALLEL,
        [
            order(devid, mine[at : at + COPIES_IN_AN_ORDER])
            for devid, mine in by_device.items()
            for at in range(0, len(mine), COPIES_IN_AN_ORDER)
        ],
    )
    return outcomes


async def bounded_gather(limit: int, tasks: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """Results in order, at most `limit` under way."""
    gate = asyncio.Semaphore(limit)

    async def one(task: Callable[[], Awaitable[T]]) -> T:
        async with gate:
            return await task()

    return list(await asyncio.gather(*map(one, tasks)))
