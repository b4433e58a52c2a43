"""Fids reserved ahead, and the uploads that a crash of the database may have forgotten: what lets an open commit without a sync of its own.

An open may commit asynchronously, because nobody was promised that an upload survives that is not closed; the close syncs, and with it
everything before it. A *fid* must never be given twice, though, and a sequence whose log record was not flushed gives the same numbers
again after a crash. So such an open uses a fid of a block that was reserved by a statement of its own, committed synchronously.

A block is good for the server it came from (checked again in the opening statement: a standby that was promoted may have a sequence that
is behind), for a few seconds, and until any connection was lost. That keeps fids in the order of opening up to those few seconds. Blocks
are taken only at a rate at which they are used up; below it, and whenever there is none, an open takes its fid and its sync as ever.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

# PostgreSQL logs a sequence 32 numbers ahead: a block of more than that always writes a log record of its own, which its commit flushes.
BLOCK_MIN = 64
BLOCK_MAX = 4096
BLOCK_SECONDS = 0.5  # of opens at the present rate in a block
BLOCK_AGE_SECONDS_MAX = 5.0
RATE_MIN = 100.0  # opens a second from which on blocks are taken
RATE_WINDOW_SECONDS = 1.0
# PostgreSQL flushes by itself within three `wal_writer_delay` (0.6 s unless configured, 30 s at most).
RECENT_SECONDS = 30.0
RECENT_MAX = 20_000


@dataclass(slots=True)
class Block:
    """Fids that nobody else will ever be given by the server that reserved them."""

    fids: list[int]
    server: object  # when that server was started: no other one has the same
    losses: int  # connections lost before it was asked for
    since: float = field(default_factory=time.monotonic)


class FidBlocks:
    """The blocks of one process. `order(count)` is called when another one is wanted; it ends in `put` or `failed`."""

    def __init__(self, order: Callable[[int], None]) -> None:
        self._order = order
        self._blocks: list[Block] = []
        self._ordered = False
        self._counted, self._counted_since = 0, time.monotonic()
        self._rate = 0.0

    def take(self, count: int, losses: int) -> tuple[list[int], object] | None:
        """So many fids and the server they are of, or None: there are not as many now."""
        now = time.monotonic()
        self._count(count, now)
        limit = now - BLOCK_AGE_SECONDS_MAX
        self._blocks = [b for b in self._blocks if b.fids and b.losses == losses and b.since >= limit]
        wanted = min(BLOCK_MAX, int(self._rate * BLOCK_SECONDS))
        if not self._ordered and self._rate >= RATE_MIN and sum(len(b.fids) for b in self._blocks) - count < wanted / 2:
            self._ordered = True
            self._order(max(BLOCK_MIN, wanted))
        for block in self._blocks:
            if len(block.fids) >= count:
                fids, block.fids = block.fids[:count], block.fids[count:]
                return fids, block.server
        return None

    def put(self, block: Block) -> None:
        """The block that was ordered."""
        self._ordered = False
        self._blocks.append(block)

    def failed(self) -> None:
        """The block that was ordered cannot be had now."""
        self._ordered = False

    def drop(self) -> None:
        """Use none of what is here any more."""
        self._blocks = []

    def _count(self, count: int, now: float) -> None:
        self._counted += count
        passed = now - self._counted_since
        if passed >= RATE_WINDOW_SECONDS:
            self._rate = self._counted / passed
            self._counted, self._counted_since = 0, now


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """An upload whose row may not be on disk yet."""

    at: float
    fid: int
    classid: int
    dmid: int
    dkey: str
    devids: str


class RecentOpens:
    """Uploads opened lately and not closed: the oldest are forgotten, and those that must be on disk by now."""

    def __init__(self, wall_clock: Callable[[], float] = time.time) -> None:
        self._clock = wall_clock
        self._opens: dict[int, Opened] = {}

    def __contains__(self, fid: int) -> bool:
        return fid in self._opens

    def add(self, fid: int, *, classid: int, dmid: int, dkey: str, devids: str) -> None:
        """Just opened."""
        if len(self._opens) >= RECENT_MAX:
            del self._opens[next(iter(self._opens))]
        self._opens[fid] = Opened(at=self._clock(), fid=fid, classid=classid, dmid=dmid, dkey=dkey, devids=devids)

    def discard(self, fid: int) -> None:
        """It has ended, durably."""
        self._opens.pop(fid, None)

    def all(self) -> list[Opened]:
        """Those that a crash just now may have taken."""
        limit = self._clock() - RECENT_SECONDS
        while self._opens and (oldest := next(iter(self._opens.values()))).at < limit:
            del self._opens[oldest.fid]
        return list(self._opens.values())
