"""Files as sets: look-up, open, close, delete, rename, change of class. Every method returns a future of the coalescing engine.

Keys arrive as wire text (each character a byte) and are stored so; NUL, which PostgreSQL cannot hold, is stored as U+0100, a character
no byte has. Callers pass keys of at most 255 bytes: longer ones cannot exist.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Hashable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, TypeVar

import asyncpg

from mogile_core.checksum import Checksum, HashType
from mogile_core.errors import CommandError, MogError, StoreError
from mogile_core.runtime.logs import get_log
from mogile_tracker.store.closing import Closing, close_at_once, close_error, run_close
from mogile_tracker.store.engine import BatchKind, Engine
from mogile_tracker.store.fids import Block, FidBlocks, RecentOpens
from mogile_tracker.store.postgres import UNREACHABLE
from mogile_tracker.store.queries import load

OPEN_TRIES_MAX = 1000
OPENED_MAX = 20_000  # uploads remembered between open and close
NUL_STAND_IN = "\u0100"

SQL = load("files")
COPIES = load("copies")
ITEM = TypeVar("ITEM")
log = get_log(__name__)


def key_to_db(key: str) -> str:
    """Wire text -> column text."""
    return key.replace("\0", NUL_STAND_IN) if "\0" in key else key


def key_from_db(text: str) -> str:
    """Column text -> wire text."""
    return text.replace(NUL_STAND_IN, "\0") if NUL_STAND_IN in text else text


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFile:
    """A file row with the devices it is recorded on."""

    fid: int
    length: int
    classid: int
    devcount: int
    devids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """An upload between open and close."""

    fid: int
    classid: int
    dmid: int
    devids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewUpload:
    """What create_open records."""

    classid: int
    dmid: int
    dkey: str
    devids: tuple[int, ...]
    fid: int = 0  # 0: the database gives one


class RenameOutcome(Enum):
    """What came of a rename."""

    DONE = "done"
    UNKNOWN_KEY = "unknown_key"
    KEY_EXISTS = "key_exists"


class ClassOutcome(Enum):
    """What came of a change of class."""

    DONE = "done"
    UNKNOWN_KEY = "invalid_key"
    NO_COPIES = "no_devices"


@dataclass(frozen=True, slots=True)
class _Key:
    dmid: int
    dkey: str


@dataclass(frozen=True, slots=True)
class _Rename:
    dmid: int
    dkey: str
    new_key: str


@dataclass(frozen=True, slots=True)
class _ClassChange:
    dmid: int
    dkey: str
    classid: int


def _lock(dmid: int, dkey: str) -> str:
    return f"{dmid}:{dkey}"


class FileStore:
    """The store methods behind the file commands."""

    def __init__(self, reads: Engine, writes: Engine, *, batch_max: int = 64) -> None:
        self._reads, self._writes = reads, writes
        self._opened: dict[int, Upload] = {}
        self._blocks, self._recent = FidBlocks(self._order_block), RecentOpens()
        self._ordering: asyncio.Task[None] | None = None  # kept so that it is not collected
        writes.on_connected = self._reopen
        self._reserve = BatchKind(name="reserve", execute=_run_reserve, batch_max=1)
        self._reopens = BatchKind(name="reopen", execute=self._run_reopen, batch_max=batch_max)
        self._lookup = BatchKind(name="lookup", execute=_run_lookup, batch_max=batch_max)
        self._checksums = BatchKind(name="checksum", execute=_run_checksums, batch_max=batch_max)
        self._uploads = BatchKind(name="upload", execute=_run_uploads, batch_max=batch_max)
        self._open = BatchKind(name="open", execute=self._run_open, batch_max=batch_max)
        self._open_as = BatchKind(
            name="open_as",
            execute=_run_open_as,
            keys=lambda i: (("fid", i.fid),),
            locks=lambda i: (f"fid:{i.fid}",),  # a repeat after a lost connection would find the fid in use: by itself
            batch_max=1,
        )
        self._abandon = BatchKind(
            name="abandon",
            execute=_run_abandon,
            keys=lambda i: (("fid", i[0]),),
            locks=lambda i: (f"fid:{i[0]}",),
            batch_max=batch_max,
        )
        self._close = BatchKind(
            name="close",
            execute=run_close,
            at_once=close_at_once,
            keys=lambda i: ((i.dmid, i.dkey), ("fid", i.fid)),
            locks=lambda i: (_lock(i.dmid, i.dkey),),
            on_error=close_error,
            batch_max=batch_max,
        )
        self._intend = BatchKind(name="intend", execute=_run_intend, batch_max=batch_max)
        self._delete = BatchKind(
            name="delete",
            execute=_run_delete,
            keys=_key_of,
            locks=lambda i: (_lock(i.dmid, i.dkey),),
            batch_max=batch_max,
        )
        self._rename = BatchKind(
            name="rename",
            execute=_run_rename,
            keys=lambda i: ((i.dmid, i.dkey), (i.dmid, i.new_key)),
            locks=lambda i: (_lock(i.dmid, i.dkey), _lock(i.dmid, i.new_key)),
            batch_max=batch_max,
        )
        self._updateclass = BatchKind(
            name="updateclass",
            execute=_run_updateclass,
            keys=_key_of,
            locks=lambda i: (_lock(i.dmid, i.dkey),),
            batch_max=batch_max,
        )

    def lookup(self, dmid: int, key: str) -> Awaitable[FoundFile | None]:
        """The file a key means."""
        return self._reads.submit(self._lookup, _Key(dmid, key_to_db(key)))

    def checksum(self, fid: int) -> Awaitable[Checksum | None]:
        """The stored digest of a file."""
        return self._reads.submit(self._checksums, fid)

    async def upload(self, fid: int) -> Upload | None:
        """An open upload; asked of the database unless this process opened it and nobody has asked for it since.

        A remembered one may be gone: `close` and `abandon` are what decides.
        """
        remembered = self._opened.pop(fid, None)
        return remembered or await self._writes.submit(self._uploads, fid)

    def _remember(self, fid: int, new: NewUpload) -> int:
        if len(self._opened) >= OPENED_MAX:
            del self._opened[next(iter(self._opened))]
        self._opened[fid] = Upload(fid=fid, classid=new.classid, dmid=new.dmid, devids=new.devids)
        return fid

    async def open(self, new: NewUpload) -> int:
        """Record a new upload; its fid. With `fid` set: `fid_in_use` when that is taken."""
        if new.fid:
            return self._remember(await self._writes.submit(self._open_as, new), new)
        for _ in range(OPEN_TRIES_MAX):
            fid = await self._writes.submit(self._open, new)
            if fid:
                return self._remember(fid, new)
        raise StoreError(f"the next {OPEN_TRIES_MAX} fids are all taken")

    def _order_block(self, count: int) -> None:
        self._ordering = asyncio.create_task(self._fetch_block(count))

    async def _fetch_block(self, count: int) -> None:
        losses = self._writes.losses
        try:
            fids, server = await self._writes.submit(self._reserve, count)
            self._blocks.put(Block(fids=fids, server=server, losses=losses))
        except MogError as error:
            log.info("no fids reserved", reason=str(error))
            self._blocks.failed()

    async def _run_open(self, connection: asyncpg.Connection, items: Sequence[NewUpload]) -> list[int | MogError]:
        columns: list[list[Any]] = [
            [i.classid for i in items],
            [i.dmid for i in items],
            [key_to_db(i.dkey) for i in items],
            [",".join(map(str, i.devids)) for i in items],
        ]
        reserved = self._blocks.take(len(items), self._writes.losses)
        if reserved is None:
            rows = await connection.fetch(SQL["open"], *columns)
        else:
            rows = await connection.fetch(SQL["open_reserved"], *columns, *reserved)
            if not rows[0]["same"]:
                self._blocks.drop()
                await self._reopen(connection)
        fids: list[int | MogError] = [0] * len(items)
        for n, fid, made, *_ in rows:
            if made:
                fids[n - 1] = fid
                if reserved is not None:
                    classid, dmid, dkey, devids = (column[n - 1] for column in columns)
                    self._recent.add(fid, classid=classid, dmid=dmid, dkey=dkey, devids=devids)
        return fids

    async def _run_reopen(self, connection: asyncpg.Connection, items: Sequence[None]) -> list[MogError | None]:
        await self._reopen(connection)
        return [None] * len(items)

    async def _reopen(self, connection: asyncpg.Connection) -> None:
        """Perhaps the database has crashed: have it know again what was opened last."""
        opens = self._recent.all()
        if not opens:
            return
        names = ("fid", "at", "classid", "dmid", "dkey", "devids")
        columns = [[int(v) if name == "at" else v for v in (getattr(o, name) for o in opens)] for name in names]
        try:
            async with connection.transaction():
                rows = await connection.fetch(SQL["reopen"], *columns)
                await connection.execute(SQL["reopened_in_vain"], [row["fid"] for row in rows])
        except UNREACHABLE:
            raise
        except asyncpg.PostgresError as error:
            log.warning("uploads opened last were not looked up", uploads=len(opens), error=error)
            return
        if rows:
            log.warning("the database had forgotten uploads that were just opened", uploads=len(rows))

    def close(self, closing: Closing) -> Awaitable[bool]:
        """Commit an upload: the key means this file now. False: no such upload (any more).

        Further copies are recorded with it, in one transaction; if one of them took longer than announced nothing is.
        """
        if "\0" in closing.dkey:
            closing = replace(closing, dkey=key_to_db(closing.dkey))
        return self._end(self._close, closing, closing.fid)

    def intend(self, fid: int, devid: int, seconds: int) -> Awaitable[bool]:
        """Announce a further copy of an upload, which may take so long. False: not there, an older one is being deleted or made."""
        return self._writes.submit(self._intend, (fid, devid, seconds))

    def abandon(self, fid: int, devid: int) -> Awaitable[bool]:
        """Give up an upload whose bytes may lie on a device: they will be deleted. False: no such upload."""
        return self._end(self._abandon, (fid, devid), fid)

    def _end(self, kind: BatchKind[ITEM, bool], item: ITEM, fid: int) -> Awaitable[bool]:
        first = self._writes.submit(kind, item)
        return self._end_recent(first, kind, item, fid) if fid in self._recent else first

    async def _end_recent(self, first: Awaitable[bool], kind: BatchKind[ITEM, bool], item: ITEM, fid: int) -> bool:
        """Behind a pooler a crash of the database may go unseen: what was opened here and is unknown there is looked into once."""
        ended = await first
        if not ended:
            await self._writes.submit(self._reopens, None)
            ended = await self._writes.submit(kind, item)
        if ended:
            self._recent.discard(fid)
        return ended

    def delete(self, dmid: int, key: str) -> Awaitable[bool]:
        """Remove a key. False: it was not there."""
        return self._writes.submit(self._delete, _Key(dmid, key_to_db(key)))

    def rename(self, dmid: int, key: str, new_key: str) -> Awaitable[RenameOutcome]:
        """Give a file another key."""
        return self._writes.submit(self._rename, _Rename(dmid, key_to_db(key), key_to_db(new_key)))

    def updateclass(self, dmid: int, key: str, classid: int) -> Awaitable[ClassOutcome]:
        """Put a file into another class and have its copies looked at."""
        return self._writes.submit(self._updateclass, _ClassChange(dmid, key_to_db(key), classid))


def _key_of(item: _Key | _ClassChange) -> tuple[Hashable, ...]:
    return ((item.dmid, item.dkey),)


async def _run_lookup(connection: asyncpg.Connection, items: Sequence[_Key]) -> list[FoundFile | MogError | None]:
    if len(items) == 1:
        row = await connection.fetchrow(SQL["lookup_one"], items[0].dmid, items[0].dkey)
        return [None if row is None else _found_file(*row)]
    rows = await connection.fetch(SQL["lookup"], [i.dmid for i in items], [i.dkey for i in items])
    found: list[FoundFile | MogError | None] = [None] * len(items)
    for n, *columns in rows:
        found[n - 1] = _found_file(*columns)
    return found


def _found_file(fid: int, length: int | None, classid: int, devcount: int, devids: list[int]) -> FoundFile:
    return FoundFile(fid=fid, length=length or 0, classid=classid, devcount=devcount, devids=tuple(devids))


async def _run_checksums(connection: asyncpg.Connection, items: Sequence[int]) -> list[Checksum | MogError | None]:
    rows = await connection.fetch(SQL["checksums"], list(set(items)))
    known = {row["fid"]: Checksum(HashType(row["hashtype"]), row["checksum"]) for row in rows}
    return [known.get(fid) for fid in items]


async def _run_uploads(connection: asyncpg.Connection, items: Sequence[int]) -> list[Upload | MogError | None]:
    rows = await connection.fetch(SQL["uploads"], list(set(items)))
    known = {
        row["fid"]: Upload(
            fid=row["fid"],
            classid=row["classid"],
            dmid=row["dmid"],
            devids=tuple(int(d) for d in (row["devids"] or "").split(",") if d.isdigit()),
        )
        for row in rows
    }
    return [known.get(fid) for fid in items]


async def _run_reserve(
    connection: asyncpg.Connection, items: Sequence[int]
) -> list[tuple[list[int], object] | MogError]:
    row = await connection.fetchrow(SQL["reserve"], items[0])
    return [(row["fids"], row["server"])]


async def _run_open_as(connection: asyncpg.Connection, items: Sequence[NewUpload]) -> list[int | MogError]:
    (item,) = items
    devids = ",".join(map(str, item.devids))
    fid = await connection.fetchval(SQL["open_as"], item.fid, item.classid, item.dmid, key_to_db(item.dkey), devids)
    return [CommandError("fid_in_use") if fid is None else fid]


async def _run_abandon(connection: asyncpg.Connection, items: Sequence[tuple[int, int]]) -> list[bool | MogError]:
    rows = await connection.fetch(SQL["abandon"], [fid for fid, _ in items], [devid for _, devid in items])
    gone = {row["fid"] for row in rows}
    return [fid in gone for fid, _ in items]


async def _run_intend(connection: asyncpg.Connection, items: Sequence[tuple[int, int, int]]) -> list[bool | MogError]:
    columns = [[item[n] for item in items] for n in range(3)]
    allowed = {(row["fid"], row["devid"]) for row in await connection.fetch(COPIES["intend"], *columns)}
    return [item[:2] in allowed for item in items]


async def _run_delete(connection: asyncpg.Connection, items: Sequence[_Key]) -> list[bool | MogError]:
    rows = await connection.fetch(SQL["delete"], [i.dmid for i in items], [i.dkey for i in items])
    done = {row["n"] for row in rows}
    return [n in done for n in range(1, len(items) + 1)]


async def _run_rename(connection: asyncpg.Connection, items: Sequence[_Rename]) -> list[RenameOutcome | MogError]:
    rows = await connection.fetch(
        SQL["rename"], [i.dmid for i in items], [i.dkey for i in items], [i.new_key for i in items]
    )
    taken = {row["n"]: row["taken"] for row in rows}
    outcomes: dict[bool | None, RenameOutcome | MogError] = {
        None: RenameOutcome.UNKNOWN_KEY,
        True: RenameOutcome.KEY_EXISTS,
        False: RenameOutcome.DONE,
    }
    return [outcomes[taken.get(n)] for n in range(1, len(items) + 1)]


async def _run_updateclass(
    connection: asyncpg.Connection, items: Sequence[_ClassChange]
) -> list[ClassOutcome | MogError]:
    rows = await connection.fetch(
        SQL["updateclass"], [i.dmid for i in items], [i.dkey for i in items], [i.classid for i in items]
    )
    placed = {row["n"]: row["placed"] for row in rows}
    outcomes: dict[bool | None, ClassOutcome | MogError] = {
        None: ClassOutcome.UNKNOWN_KEY,
        False: ClassOutcome.NO_COPIES,
        True: ClassOutcome.DONE,
    }
    return [outcomes[placed.get(n)] for n in range(1, len(items) + 1)]
