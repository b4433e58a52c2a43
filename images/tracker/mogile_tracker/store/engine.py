"""The coalescing engine: requests of one kind that arrive while a statement is under way are answered together by the next one.

K connections ("lanes"), one batch in flight on each. A lone request goes at once; under load batches form by themselves, because what
arrives while all lanes are busy waits and is taken together. That is where the speed of this tracker comes from.

Rules that keep it correct:
- one operation per key per batch, and a key that is in flight on one lane is not sent on another (`BatchKind.keys`); across processes
  and trackers the keys are locked with `pg_advisory_xact_lock` in sorted order in a statement of its own (`BatchKind.locks`): the next
  statement sees everything committed before the lock was had, and nobody deadlocks;
- serialization failures, deadlocks and lost races are run again; any other error bisects the batch, so that only the poisoned item fails;
- a connection lost before COMMIT rolled back, so the batch is run again; one lost *at* COMMIT, or while a batch that is one statement
  (`onestatement`) is under way, is settled by the mark that the transaction left (`commits`), on whatever server answers then, so nothing
  acknowledged is lost and nothing is done twice;
- everything is bounded: pending requests, batch size, retries, and how long a request waits for a lost database.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import asyncpg

from mogile_core.errors import MogError, StoreError, StoreUnavailableError
from mogile_core.runtime.logs import get_log
from mogile_core.runtime.metrics import Registry
from mogile_tracker.store.commits import SETTLE_SECONDS_MAX, CommitMark, settle
from mogile_tracker.store.onestatement import CANNOT, OneStatement
from mogile_tracker.store.postgres import RETRYABLE, UNREACHABLE, is_bad_value
from mogile_tracker.store.queries import load

PENDING_MAX = 20_000
RACE_RETRIES_MAX = 3
RECONNECT_PAUSE_SECONDS = 0.1
PENDING_SECONDS_MAX = (
    5.0  # longest wait for a free lane; only a database that does not answer makes anybody wait so long
)
HELD_SCAN_MAX = 256  # entries looked at behind ones whose key is busy, per batch

ITEM = TypeVar("ITEM")
RESULT = TypeVar("RESULT")
SQL = load("engine")
log = get_log(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BatchKind(Generic[ITEM, RESULT]):
    """How a list of requests becomes one statement."""

    name: str
    # One result per item, in order; an exception in a place fails that item alone.
    execute: Callable[[asyncpg.Connection, Sequence[ITEM]], Awaitable[Sequence[RESULT | MogError]]]
    keys: Callable[[ITEM], tuple[Hashable, ...]] | None = None
    locks: Callable[[ITEM], tuple[str, ...]] | None = None  # given: runs in a transaction that holds these
    # Where possible a batch runs so instead of by `execute`; needs `locks`.
    at_once: Callable[[Sequence[ITEM]], OneStatement[ITEM, RESULT]] | None = None
    on_error: Callable[[BaseException], MogError] | None = None  # the driver's error for a single item -> ours
    batch_max: int = 64


@dataclass(slots=True, eq=False)
class _Entry:
    item: Any
    future: asyncio.Future[Any]
    keys: tuple[Hashable, ...]
    since: float


class _CommitLostError(Exception):
    """The connection went away while COMMIT was under way. `results`: from the outcome that the transaction has left, if it committed."""

    def __init__(self, mark: CommitMark, results: Callable[[Sequence[int]], Sequence[Any]]) -> None:
        super().__init__(str(mark.lane))
        self.mark, self.results = mark, results


class Engine:
    """Runs batches on its lanes. `start` before use, `stop` finishes what was accepted."""

    def __init__(
        self,
        name: str,
        connect: Callable[[], Awaitable[asyncpg.Connection]],
        *,
        lanes: int,
        retry_seconds: float = 2.5,
        registry: Registry | None = None,
        pooled: bool = False,
    ) -> None:
        self._name = name
        self._connect = connect
        self._retry_seconds = retry_seconds
        self._pooled = pooled
        self._lanes = [_Lane(connect) for _ in range(lanes)]
        self._tasks: list[asyncio.Task[None]] = []
        self._queues: dict[BatchKind[Any, Any], deque[_Entry]] = {}
        self._ready: deque[BatchKind[Any, Any]] = deque()
        self._busy_keys: set[Hashable] = set()
        self._idle: list[asyncio.Future[None]] = []
        self._waking = False
        self._pending = 0
        self._stopping = False
        self._impatience: asyncio.Task[None] | None = None
        # Given: done with every new connection before anything else.
        self.on_connected: Callable[[asyncpg.Connection], Awaitable[None]] | None = None
        self.losses = 0  # connections lost so far
        registry = registry or Registry()
        self._batches = registry.counter("store_batches_total", "Statements run by the coalescing engine", ["kind"])
        self._items = registry.counter("store_batch_items_total", "Requests answered by those statements", ["kind"])
        self._retries = registry.counter("store_retries_total", "Batches run again, by reason", ["reason"])

    async def start(self) -> None:
        """Start the lanes; they connect with their first batch."""
        for lane in self._lanes:
            self._tasks.append(asyncio.create_task(self._run_lane(lane), name=f"{self._name} lane"))
        self._impatience = asyncio.create_task(self._expire(), name=f"{self._name} expiry")

    async def stop(self) -> None:
        """Finish what is pending, then close the connections."""
        self._stopping = True
        while self._idle:
            self._idle.pop().set_result(None)
        await asyncio.gather(*self._tasks)
        if self._impatience is not None:
            self._impatience.cancel()

    @property
    def pending(self) -> int:
        """Requests that wait or are under way."""
        return self._pending

    def submit(self, kind: BatchKind[ITEM, RESULT], item: ITEM) -> asyncio.Future[RESULT]:
        """Have an item answered by one of the next batches of its kind."""
        future: asyncio.Future[RESULT] = asyncio.get_running_loop().create_future()
        if self._pending >= PENDING_MAX or self._stopping:
            future.set_exception(StoreUnavailableError("too many requests are waiting for the database"))
            return future
        self._pending += 1
        queue = self._queues.setdefault(kind, deque())
        if not queue:
            self._ready.append(kind)
        queue.append(_Entry(item, future, kind.keys(item) if kind.keys else (), time.monotonic()))
        self._wake()
        return future

    def _wake(self) -> None:
        if self._idle and not self._waking:
            self._waking = True
            self._idle.pop().set_result(None)

    async def _run_lane(self, lane: _Lane) -> None:
        while True:
            taken = self._take()
            if taken is None:
                if self._stopping and not self._pending:
                    break
                if self._stopping:  # held back by a key that another lane is busy with
                    await asyncio.sleep(0.01)
                    continue
                waiter = asyncio.get_running_loop().create_future()
                self._idle.append(waiter)
                await waiter
                self._waking = False
                continue
            kind, entries = taken
            if self._ready:
                self._wake()
            try:
                await self._serve(lane, kind, entries)
            except Exception as error:
                log.exception("batch failed unexpectedly", kind=kind.name)
                _fail(entries, StoreError(f"{kind.name}: {error}"))
            finally:
                self._pending -= len(entries)
                for entry in entries:
                    self._busy_keys.difference_update(entry.keys)
        await lane.close()

    async def _expire(self) -> None:
        """Fail requests that no lane has taken for too long: all lanes hang on a database that does not answer."""
        while True:
            await asyncio.sleep(PENDING_SECONDS_MAX / 10)
            limit = time.monotonic() - PENDING_SECONDS_MAX
            for queue in self._queues.values():
                if queue and queue[0].since <= limit:
                    old = [entry for entry in queue if entry.since <= limit]
                    _fail(old, StoreUnavailableError("the database does not answer"))  # _take drops them

    def _take(self) -> tuple[BatchKind[Any, Any], list[_Entry]] | None:
        for _ in range(len(self._ready)):
            kind = self._ready.popleft()
            queue = self._queues[kind]
            batch: list[_Entry] = []
            held: list[_Entry] = []
            waiting_keys: set[Hashable] = set()
            while queue and len(batch) < kind.batch_max and len(held) < HELD_SCAN_MAX:
                entry = queue.popleft()
                if entry.future.done():  # its client is gone
                    self._pending -= 1
                elif entry.keys and not (
                    self._busy_keys.isdisjoint(entry.keys) and waiting_keys.isdisjoint(entry.keys)
                ):
                    held.append(entry)
                    waiting_keys.update(entry.keys)  # nobody overtakes on the same key
                else:
                    batch.append(entry)
                    self._busy_keys.update(entry.keys)
            queue.extendleft(reversed(held))
            if queue:
                self._ready.append(kind)
            if batch:
                return kind, batch
        return None

    async def _serve(self, lane: _Lane, kind: BatchKind[Any, Any], entries: list[_Entry]) -> None:
        self._batches.inc(kind=kind.name)
        self._items.inc(len(entries), kind=kind.name)
        races = losses = 0
        while entries:
            try:
                results = await self._execute(lane, kind, entries)
            except _CommitLostError as lost:
                self._lose(lane)
                self._retries.inc(reason="commit lost")
                seconds = max(self._retry_seconds, SETTLE_SECONDS_MAX)
                settled = await settle(self._connect, lost.mark, seconds=seconds)
                if settled is None:
                    return _fail(entries, StoreError("the database was lost at commit and does not know the outcome"))
                if not settled.committed:
                    losses += 1
                    if losses > 1:  # the time it took to settle the first one is not held against anybody
                        entries = self._give_up_on_old(entries, lost.__cause__ or lost)
                    continue
                results = lost.results(settled.outcome)
            except RETRYABLE as error:
                races += 1
                self._retries.inc(reason=type(error).__name__)
                if races > RACE_RETRIES_MAX:
                    return await self._bisect(lane, kind, entries, error)
                await asyncio.sleep(random.uniform(0.001, 0.01) * races)  # noqa: S311 - spreads retries, protects nothing
                continue
            except UNREACHABLE as error:
                if is_bad_value(error):
                    return await self._bisect(lane, kind, entries, error)
                self._lose(lane)
                self._retries.inc(reason="unreachable")
                entries = self._give_up_on_old(entries, error)
                await asyncio.sleep(RECONNECT_PAUSE_SECONDS)
                continue
            except (asyncpg.PostgresError, ValueError, TypeError, OverflowError) as error:
                return await self._bisect(lane, kind, entries, error)
            for entry, result in zip(entries, results, strict=True):
                if entry.future.done():
                    continue
                if isinstance(result, BaseException):
                    entry.future.set_exception(result)
                else:
                    entry.future.set_result(result)
            return None
        return None

    async def _bisect(
        self, lane: _Lane, kind: BatchKind[Any, Any], entries: list[_Entry], error: BaseException
    ) -> None:
        if len(entries) == 1:
            _fail(entries, kind.on_error(error) if kind.on_error else StoreError(f"{type(error).__name__}: {error}"))
            return
        self._retries.inc(reason="bisect")
        middle = len(entries) // 2
        await self._serve(lane, kind, entries[:middle])
        await self._serve(lane, kind, entries[middle:])

    async def _execute(self, lane: _Lane, kind: BatchKind[Any, Any], entries: list[_Entry]) -> Sequence[Any]:
        connection = lane.connected()
        if connection is None:
            self.losses += lane.used  # the server closed it while nobody looked
            connection = await lane.connect()
            if self.on_connected is not None:
                await self.on_connected(connection)
        items = [entry.item for entry in entries]
        if kind.locks is None:
            if not self._pooled:
                return await kind.execute(connection, items)
            async with connection.transaction():  # a pooler may give every statement another server connection
                return await kind.execute(connection, items)
        names = [name for item in items for name in kind.locks(item)]
        if kind.at_once is not None and not self._pooled:
            at_once = kind.at_once(items)
            try:
                if await lane.can(at_once):
                    return await self._execute_at_once(lane, connection, at_once, items, names)
            except CANNOT:  # a pooler has given us another server connection, say: nothing was done
                lane.cannot(at_once)
        transaction = connection.transaction()
        await transaction.start()
        try:
            await connection.fetchval(SQL["lock_keys"], names, lane.mark.lane, lane.mark.next())
            results = await kind.execute(connection, items)
        except BaseException:
            if not connection.is_closed():
                try:
                    await transaction.rollback()
                except UNREACHABLE:
                    self._lose(lane)
            raise
        try:
            await transaction.commit()
        except UNREACHABLE as error:
            raise _CommitLostError(lane.mark, lambda _: results) from error
        return results

    async def _execute_at_once(
        self,
        lane: _Lane,
        connection: asyncpg.Connection,
        at_once: OneStatement[Any, Any],
        items: list[Any],
        names: list[str],
    ) -> Sequence[Any]:
        try:
            outcome = await at_once.run(connection, items, names, lane.mark.lane, lane.mark.next())
        except UNREACHABLE as error:
            if is_bad_value(error) or isinstance(error, asyncpg.ReadOnlySQLTransactionError):  # nothing was done
                raise
            raise _CommitLostError(lane.mark, lambda outcome: at_once.results(items, outcome)) from error
        return at_once.results(items, outcome)

    def _lose(self, lane: _Lane) -> None:
        self.losses += 1
        lane.drop()

    def _give_up_on_old(self, entries: list[_Entry], error: BaseException) -> list[_Entry]:
        limit = time.monotonic() - self._retry_seconds
        _fail(
            [e for e in entries if e.since <= limit], StoreUnavailableError(f"the database cannot be reached: {error}")
        )
        return [e for e in entries if e.since > limit]


class _Lane:
    """One connection, made when needed; every new one has a mark of its own, so it never waits for what the last one left behind."""

    def __init__(self, connect: Callable[[], Awaitable[asyncpg.Connection]]) -> None:
        self._connect = connect
        self._connection: asyncpg.Connection | None = None
        self._can: dict[OneStatement[Any, Any], bool] = {}  # what has been made for this connection
        self.mark = CommitMark()

    @property
    def used(self) -> bool:
        """There has been a connection, and nobody has noticed yet that it is gone."""
        return self._connection is not None

    def connected(self) -> asyncpg.Connection | None:
        """The connection, unless it has to be made."""
        return None if self._connection is None or self._connection.is_closed() else self._connection

    async def connect(self) -> asyncpg.Connection:
        try:
            self._connection = await self._connect()
            self.mark, self._can = CommitMark(), {}
        except asyncpg.PostgresError as error:  # refused for whatever reason (starting, full, closed to us): wait
            raise ConnectionError(str(error)) from error
        return self._connection

    async def can(self, at_once: OneStatement[Any, Any]) -> bool:
        """Whether the connection runs such batches; the first time it is got ready for them."""
        known = self._can.get(at_once)
        if known is None:
            assert self._connection is not None
            known = self._can[at_once] = await at_once.make(self._connection)
        return known

    def cannot(self, at_once: OneStatement[Any, Any]) -> None:
        """Such batches go step by step until there is another connection."""
        self._can[at_once] = False

    def drop(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close(timeout=2)


def _fail(entries: Sequence[_Entry], error: MogError) -> None:
    for entry in entries:
        if not entry.future.done():
            entry.future.set_exception(error)
