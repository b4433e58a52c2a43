"""The small files of one copy order: many requests under way, without a task or a future for each.

At most `window` files are between request and sync at a time. Everything runs on the loop; `run` may be cancelled, then nothing more
is begun and what comes back is forgotten (a change that is already in a batch is made, as with a PUT whose client has gone).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from mogile_storage.commit import SmallPut
from mogile_storage.copies import Stored
from mogile_storage.errors import BusyError, LengthMismatchError, NodeRefusal
from mogile_storage.fetch import Fetched, Fetcher, FetchError
from mogile_storage.orders import Order, SourceUnreachableError, check_answer, room_for
from mogile_storage.pool import Job
from mogile_storage.registry import Registry

ATTEMPTS_AT_BUSY = 50
BUSY_SECONDS = 0.1

Report = Callable[[Order, Stored | NodeRefusal], None]


class SmallCopies:
    """Carries out orders; `report` is called once for each."""

    def __init__(self, orders: deque[Order], registry: Registry, fetcher: Fetcher, report: Report, window: int) -> None:
        self._orders, self._registry, self._fetcher, self._report = orders, registry, fetcher, report
        self._window = window
        self._under_way = 0
        self._filling = False
        self._finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Returns when every order was reported."""
        try:
            self._fill()
            await self._finished
        finally:
            self._orders.clear()

    def _fill(self) -> None:
        if self._filling:  # an order that failed at once called back: the loop below goes on by itself
            return
        self._filling = True
        while self._orders and self._under_way < self._window:
            self._under_way += 1
            order = self._orders.popleft()
            try:
                room_for(order, self._registry)
            except NodeRefusal as refusal:
                self._end(order, refusal)
                continue
            self._fetch(order)
        self._filling = False
        if not self._under_way and not self._orders and not self._finished.done():
            self._finished.set_result(None)

    def _fetch(self, order: Order) -> None:
        cluster_id = self._registry.cluster.id

        def answered(answer: Fetched | FetchError) -> None:
            if self._finished.done():
                return
            try:
                if isinstance(answer, FetchError):
                    raise SourceUnreachableError(f"{order.host}:{order.port}: {answer}")
                check_answer(order, answer.status, answer.cluster_id, answer.length, cluster_id)
                if answer.body is None:
                    raise LengthMismatchError
                self._store(order, answer.body)
            except NodeRefusal as refusal:
                self._end(order, refusal)

        self._fetcher.get(order.host, order.port, order.path, cluster_id, answered)

    def _store(self, order: Order, body: bytes, attempt: int = 1) -> None:
        device = self._registry.devices[order.devid]

        def done(job: Job) -> None:
            device.taken += order.length
            self._end(order, job.result if job.error is None else job.error)

        service = device.usable()
        try:
            service.changes.submit(SmallPut(service.store, done, order.name, body, order.digest, replace=order.replace))
        except BusyError:
            if attempt == ATTEMPTS_AT_BUSY:
                raise
            asyncio.get_running_loop().call_later(BUSY_SECONDS, self._store_again, order, body, attempt + 1)

    def _store_again(self, order: Order, body: bytes, attempt: int) -> None:
        if self._finished.done():
            return
        try:
            self._store(order, body, attempt)
        except NodeRefusal as refusal:
            self._end(order, refusal)

    def _end(self, order: Order, outcome: Stored | NodeRefusal) -> None:
        if self._finished.done():
            return
        self._under_way -= 1
        self._report(order, outcome)
        self._fill()
