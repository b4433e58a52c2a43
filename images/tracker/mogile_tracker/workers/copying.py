"""Making many copies at once: intents first, then one copy order per destination node, then the commit.

Used by replication and by moves. A copy is reported as made only after its location row is committed. Whatever else happens (a refusal,
a broken connection, this process being killed) the intent row turns into a copy delete, so no bytes stay where no row knows of them.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from mogile_core.checksum import HashType
from mogile_core.errors import StoreError
from mogile_core.model import DevId
from mogile_core.paths import fid_url
from mogile_core.runtime.logs import get_log
from mogile_core.runtime.workers import apart
from mogile_tracker.nodes import PullItem, PullReason, PullResult, Transfer, transfer
from mogile_tracker.store.copies import FileCopies, Made
from mogile_tracker.store.leases import Lease
from mogile_tracker.workers.base import Jobs
from mogile_tracker.workers.pacing import Load

ORDER_ITEMS_MAX = 200  # per copy order
ORDER_BYTES_MAX = 512 << 20  # per copy order, so that one unit of work stays bounded; a larger file goes alone
HEARTBEATS_PER_INTENT = 3
SLOWEST_BYTES_PER_SECOND = 1e6

log = get_log(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One copy that shall be made."""

    file: FileCopies
    source: int
    target: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of an order: `made`, or the reason why not."""

    order: Order
    made: bool
    reason: PullReason | None = None
    message: str = ""


def order_seconds(orders: Sequence[Order], intent_seconds: float) -> float:
    """How long the copies of one order may take before their intents are taken for abandoned.

    The whole order counts for each of them: a node that nobody hangs up on (a frozen tracker, a cut cable) works through all of it, and
    what it writes after the intent was settled would lie where no row knows of it.
    """
    return intent_seconds + sum(order.file.length for order in orders) / SLOWEST_BYTES_PER_SECOND


class Copier:
    """Carries out copy orders for one worker."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        # Without a heartbeat, beside the time of the order's bytes.
        self._intent_seconds = jobs.settings.copy_intent_seconds

    async def make(self, lease: Lease, orders: Sequence[Order], *, job: str) -> list[Outcome]:
        """All outcomes, in no particular order; within the limits of the job and of the devices (`workers.pacing`)."""
        if not orders:
            return []
        by_host: dict[int, list[Order]] = defaultdict(list)
        for order in orders:
            by_host[self._jobs.topology.devices[DevId(order.target)].hostid].append(order)
        parts = {hostid: self._bounded(job, part) for hostid, part in by_host.items()}
        intents = [
            (order.file.fid, order.target, order_seconds(part, self._intent_seconds))
            for of_host in parts.values()
            for part in of_host
            for order in part
        ]
        allowed = await self._jobs.copies.intend(lease, intents)
        outcomes = [
            Outcome(order=order, made=False, reason=PullReason.DEVICE, message="an older copy is still being deleted")
            for order in orders
            if (order.file.fid, order.target) not in allowed
        ]
        beat = asyncio.create_task(self._heartbeat([intent for intent in intents if intent[:2] in allowed]))
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._to_host(lease, job, of_host, allowed)) for of_host in parts.values()]
        finally:
            beat.cancel()
            await asyncio.gather(beat, return_exceptions=True)
        for task in tasks:
            outcomes += task.result()
        return outcomes

    async def _heartbeat(self, intents: Sequence[tuple[int, int, float]]) -> None:
        """As long as this maker lives its intents stand; those that are settled meanwhile are not touched, their rows are gone."""
        apart()
        while True:
            await asyncio.sleep(self._intent_seconds / HEARTBEATS_PER_INTENT)
            try:
                await self._jobs.copies.prolong(intents)
            except StoreError as error:
                log.warning("copy intents not prolonged", reason=str(error))

    async def _to_host(
        self, lease: Lease, job: str, parts: Sequence[Sequence[Order]], allowed: AbstractSet[tuple[int, int]]
    ) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for part in parts:
            if orders := [order for order in part if (order.file.fid, order.target) in allowed]:
                async with self._jobs.governor.admitted(job, [_load(order) for order in orders]) as waited:
                    standing = await self._standing(orders) if waited else orders
                    outcomes += await self._one_order(lease, standing)
                outcomes += [
                    Outcome(order=order, made=False, reason=PullReason.DEVICE, message="announced too long ago")
                    for order in orders
                    if order not in standing
                ]
        return outcomes

    async def _standing(self, orders: Sequence[Order]) -> list[Order]:
        """After a wait: the orders whose intent still stands, for as long as the order may take from now on.

        A tracker that was frozen while it waited must not have files written whose intents were settled meanwhile.
        """
        seconds = order_seconds(orders, self._intent_seconds)
        standing = await self._jobs.copies.prolong([(order.file.fid, order.target, seconds) for order in orders])
        return [order for order in orders if (order.file.fid, order.target) in standing]

    def _bounded(self, job: str, orders: Sequence[Order]) -> list[list[Order]]:
        """The orders to one node, divided into bounded ones."""
        loads = [_load(order) for order in orders]
        parts = self._jobs.governor.parts(job, loads, items_max=ORDER_ITEMS_MAX, bytes_max=ORDER_BYTES_MAX)
        return [[orders[index] for index in part] for part in parts]

    async def _one_order(self, lease: Lease, orders: Sequence[Order]) -> list[Outcome]:
        if not orders:
            return []
        jobs = self._jobs
        topology = jobs.topology
        host = topology.host_of(orders[0].target)
        copies = [self._transfer(order) for order in orders]
        results: dict[tuple[int, int], PullResult] = {}

        def seen(result: PullResult) -> None:
            results[result.fid, result.devid] = result

        if host is None or any(copy is None for copy in copies):
            problem = "a device of the copy has left the topology"
        else:
            problem = await transfer(jobs.nodes, host, [copy for copy in copies if copy], seen)
        await self._commit(lease, orders, results)
        return [_outcome(order, results.get((order.file.fid, order.target)), problem) for order in orders]

    def _transfer(self, order: Order) -> Transfer | None:
        source = self._jobs.topology.host_of(order.source)
        if source is None:
            return None
        file = order.file
        md5 = file.checksum.hex() if file.hashtype == HashType.MD5 and file.checksum else None
        item = PullItem(
            fid=file.fid,
            devid=order.target,
            source=fid_url(source.hostip, source.read_port, order.source, file.fid),
            length=file.length,
            md5=md5,
        )
        return Transfer(item=item, source=source, source_devid=order.source)

    async def _commit(self, lease: Lease, orders: Sequence[Order], results: dict[tuple[int, int], PullResult]) -> None:
        """Locations for what is there; the rest becomes copy deletes, delayed where the node may still be writing."""
        copies = self._jobs.copies
        good = [r for r in results.values() if r.ok]
        located = await copies.made(
            lease,
            [Made(fid=r.fid, devid=r.devid, copy_id=r.copy_id) for r in good],
            self._new_checksums(orders, results),
        )
        for result in good:
            if (result.fid, result.devid) not in located:
                results[result.fid, result.devid] = PullResult(
                    fid=result.fid, devid=result.devid, reason=PullReason.NOT_RECORDED, message="file or intent is gone"
                )
        patience = order_seconds(orders, self._intent_seconds)
        failed = [
            (order.file.fid, order.target, 0.0 if (order.file.fid, order.target) in results else patience)
            for order in orders
            if (order.file.fid, order.target) not in located
        ]
        await copies.not_made(failed)

    def _new_checksums(
        self, orders: Sequence[Order], results: Mapping[tuple[int, int], PullResult]
    ) -> dict[int, tuple[int, bytes]]:
        """First digests of files whose class wants MD5 and that have none yet."""
        found: dict[int, tuple[int, bytes]] = {}
        for order in orders:
            file, result = order.file, results.get((order.file.fid, order.target))
            if result is None or not result.ok or not result.md5 or file.checksum is not None:
                continue
            if self._jobs.topology.class_by_id(file.dmid, file.classid).hashtype is HashType.MD5:
                found[file.fid] = (int(HashType.MD5), bytes.fromhex(result.md5))
        return found


def _load(order: Order) -> Load:
    return Load((order.source, order.target), order.file.length)


def _outcome(order: Order, result: PullResult | None, problem: str) -> Outcome:
    if result is None:
        return Outcome(order=order, made=False, reason=PullReason.UNREACHABLE, message=problem)
    return Outcome(order=order, made=result.ok, reason=result.reason, message=result.message)
