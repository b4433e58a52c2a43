"""Copies wanted at the same time become few orders per node; a lone one goes at once; nobody waits for ever."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from mogile_core.errors import NodeUnreachableError
from mogile_core.model import Host, HostId, HostState
from mogile_tracker.nodes import Nodes, PullItem, PullOrders, PullReason, PullResult, Transfer
from mogile_tracker.nodes.transfer import ORDER_BYTES_MAX, ORDERS_PER_NODE_MAX


def host(number: int) -> Host:
    return Host(hostid=HostId(number), hostname=f"n{number}", status=HostState.ALIVE, hostip=f"10.0.0.{number}")


def copy(fid: int, length: int = 10) -> Transfer:
    item = PullItem(fid=fid, devid=1, source="http://x/", length=length)
    return Transfer(item=item, source=host(9), source_devid=9)


class Recorder(Nodes):
    """Answers orders when told to; no connection is ever made."""

    def __init__(self) -> None:
        super().__init__(cluster_id="c")
        self.orders: list[tuple[str, list[int]]] = []
        self.go = asyncio.Event()
        self.error: Exception | None = None
        self.answered = 10**9  # copies answered per order before it ends

    def can_pull(self, host: Host) -> bool:
        return True

    async def pull(self, host: Host, items: Sequence[PullItem]) -> AsyncIterator[PullResult]:
        self.orders.append((host.hostname, [item.fid for item in items]))
        await self.go.wait()
        if self.error is not None:
            raise self.error
        for item in items[: self.answered]:
            yield PullResult(fid=item.fid, devid=item.devid)


async def fill_lanes(nodes: Recorder, orders: PullOrders, hosts: tuple[int, ...]) -> list[asyncio.Task[PullResult]]:
    """As many orders under way to these nodes as there may be, each with one copy that is not answered yet."""
    tasks: list[asyncio.Task[PullResult]] = []
    for _ in range(ORDERS_PER_NODE_MAX):
        for number in hosts:
            tasks.append(asyncio.create_task(orders.make(host(number), copy(len(tasks)))))
            while len(nodes.orders) < len(tasks):
                await asyncio.sleep(0)
    return tasks


async def test_a_lone_copy_goes_at_once() -> None:
    nodes = Recorder()
    nodes.go.set()
    result = await asyncio.wait_for(PullOrders(nodes).make(host(1), copy(1)), 60)
    assert result.ok
    assert nodes.orders == [("n1", [1])]


async def test_what_comes_while_orders_are_under_way_is_gathered_per_node() -> None:
    nodes = Recorder()
    orders = PullOrders(nodes)
    tasks = await fill_lanes(nodes, orders, (1, 2))
    tasks += [asyncio.create_task(orders.make(host(1 + n % 2), copy(n))) for n in range(len(tasks), 400)]
    await asyncio.sleep(0.01)
    assert len(nodes.orders) == 2 * ORDERS_PER_NODE_MAX
    nodes.go.set()
    results = await asyncio.wait_for(asyncio.gather(*tasks), 60)
    assert sorted(r.fid for r in results if r.ok) == list(range(400))
    assert len(nodes.orders) == 2 * (ORDERS_PER_NODE_MAX + 1), "400 copies to two nodes in a handful of orders"
    assert all(fid % 2 == (name == "n2") for name, fids in nodes.orders for fid in fids)


async def test_an_order_is_bounded_in_bytes_and_a_large_file_goes_alone() -> None:
    nodes = Recorder()
    orders = PullOrders(nodes)
    first = await fill_lanes(nodes, orders, (1,))
    rest = [asyncio.create_task(orders.make(host(1), copy(100 + n, ORDER_BYTES_MAX // 2 + 1))) for n in range(4)]
    await asyncio.sleep(0.01)
    nodes.go.set()
    await asyncio.wait_for(asyncio.gather(*first, *rest), 60)
    assert all(len(fids) == 1 for _, fids in nodes.orders)


async def test_a_broken_order_fails_what_it_had_not_answered() -> None:
    nodes = Recorder()
    nodes.error = NodeUnreachableError("gone")
    nodes.go.set()
    result = await asyncio.wait_for(PullOrders(nodes).make(host(1), copy(1)), 60)
    assert (result.reason, result.message) == (PullReason.UNREACHABLE, "gone")
    nodes.error, nodes.answered = None, 0
    result = await asyncio.wait_for(PullOrders(nodes).make(host(1), copy(2)), 60)
    assert result.reason is PullReason.UNREACHABLE


async def test_close_leaves_nobody_waiting() -> None:
    nodes = Recorder()
    orders = PullOrders(nodes)
    task = asyncio.create_task(orders.make(host(1), copy(1)))
    await asyncio.sleep(0.01)
    await orders.close()
    assert not (await asyncio.wait_for(task, 60)).ok
