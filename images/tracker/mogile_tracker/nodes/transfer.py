"""Having copies made on one node: by its own pull, through the tracker where the node or the source cannot.

`transfer` carries out one order of any number of copies; `PullOrders` gathers single copies that are wanted at the same time into such
orders, so that many uploads cost one order per node, and a lone one goes at once.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mogile_core.errors import NodeError
from mogile_core.model import Host
from mogile_core.runtime.logs import get_log
from mogile_tracker.nodes.client import PULL_ITEMS_MAX, Nodes
from mogile_tracker.nodes.values import NodeCannotPullError, PullItem, PullReason, PullResult

RELAYS_MAX = 4  # streams through the tracker at once, per order
ORDERS_PER_NODE_MAX = 4  # under way at once: an order with a slow copy in it must not hold up the others
ORDER_BYTES_MAX = 32 << 20  # gathered copies of one order; a larger file goes alone
WAITING_PER_NODE_MAX = 10_000

log = get_log(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """One copy: what, and where from."""

    item: PullItem
    source: Host
    source_devid: int


async def transfer(nodes: Nodes, host: Host, copies: Sequence[Transfer], seen: Callable[[PullResult], None]) -> str:
    """Have the copies made on a node; `seen` gets each outcome once. The text says what happened to those it did not get."""
    if nodes.can_pull(host):
        foreign: set[tuple[int, int]] = set()
        try:
            async for result in nodes.pull(host, [copy.item for copy in copies]):
                if result.reason is PullReason.SOURCE_FOREIGN:
                    foreign.add((result.fid, result.devid))
                else:
                    seen(result)
        except NodeCannotPullError:
            log.info("node takes no copy orders, streaming through the tracker", host=host.hostname)
        except NodeError as error:
            return str(error)
        else:
            # Our nodes copy from each other only. A source of MogileFS's, in the middle of a migration, goes through us.
            copies = [copy for copy in copies if (copy.item.fid, copy.item.devid) in foreign]
    await _relay(nodes, host, copies, seen)
    return "the node ended its answer early"


async def _relay(nodes: Nodes, host: Host, copies: Sequence[Transfer], seen: Callable[[PullResult], None]) -> None:
    gate = asyncio.Semaphore(RELAYS_MAX)

    async def relay(copy: Transfer) -> None:
        async with gate:
            seen(await nodes.relay(copy.source, copy.source_devid, host, copy.item))

    async with asyncio.TaskGroup() as group:
        for copy in copies:
            group.create_task(relay(copy))


@dataclass(slots=True)
class _Lane:
    """What waits for one node, and how many orders are under way to it."""

    waiting: deque[tuple[Transfer, asyncio.Future[PullResult]]] = field(default_factory=deque)
    orders: int = 0


class PullOrders:
    """Gathers copies into orders, per destination node."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._lanes: dict[tuple[str, int], _Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def make(self, host: Host, copy: Transfer) -> PullResult:
        """One copy; never raises a NodeError, the result says why it is not there."""
        key = (host.hostip, host.http_port)
        lane = self._lanes.setdefault(key, _Lane())
        if len(lane.waiting) >= WAITING_PER_NODE_MAX:
            return _not_made(copy, "too many copies wait for this node")
        future: asyncio.Future[PullResult] = asyncio.get_running_loop().create_future()
        lane.waiting.append((copy, future))
        if lane.orders < ORDERS_PER_NODE_MAX:
            lane.orders += 1
            task = asyncio.create_task(self._run(host, lane), name=f"copies to {host.hostname}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await future

    async def close(self) -> None:
        """Give up what is under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, host: Host, lane: _Lane) -> None:
        try:
            while lane.waiting:
                await self._order(host, _take(lane.waiting))
        finally:
            lane.orders -= 1

    async def _order(self, host: Host, batch: Sequence[tuple[Transfer, asyncio.Future[PullResult]]]) -> None:
        futures = {(copy.item.fid, copy.item.devid): future for copy, future in batch}

        def seen(result: PullResult) -> None:
            future = futures.get((result.fid, result.devid))
            if future is not None and not future.done():
                future.set_result(result)

        problem = "the order was given up"
        try:
            problem = await transfer(self._nodes, host, [copy for copy, _ in batch], seen)
        finally:
            for copy, future in batch:
                if not future.done():
                    future.set_result(_not_made(copy, problem))


def _take(
    waiting: deque[tuple[Transfer, asyncio.Future[PullResult]]],
) -> list[tuple[Transfer, asyncio.Future[PullResult]]]:
    """The next order: those whose caller still waits, up to the limits."""
    batch: list[tuple[Transfer, asyncio.Future[PullResult]]] = []
    size = 0
    while waiting and len(batch) < PULL_ITEMS_MAX:
        copy, future = waiting[0]
        size += copy.item.length
        if batch and size > ORDER_BYTES_MAX:
            break
        waiting.popleft()
        if not future.done():
            batch.append((copy, future))
    return batch


def _not_made(copy: Transfer, problem: str) -> PullResult:
    return PullResult(fid=copy.item.fid, devid=copy.item.devid, reason=PullReason.UNREACHABLE, message=problem)
