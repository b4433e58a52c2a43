"""Closing uploads: the statement that makes an upload the file of its key, and the further copies that may go with it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from mogile_core.checksum import Checksum
from mogile_core.errors import CommandError, MogError, StoreError
from mogile_tracker.store.onestatement import OneStatement
from mogile_tracker.store.queries import load, sql_file

SQL = load("files")


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """What create_close commits."""

    fid: int
    dmid: int
    dkey: str
    length: int
    devid: int
    checksum: Checksum | None = None
    copies: tuple[int, ...] = ()  # devices with further copies, announced by `intend` and made
    queue: bool = True  # whether replication shall look at the file


async def run_close(connection: asyncpg.Connection, items: Sequence[Closing]) -> list[bool | MogError]:
    """Close a batch of uploads, step by step, in a transaction that holds the locks of their keys."""
    copies = [(item.fid, devid) for item in items for devid in item.copies]
    if not copies:
        closed = await _close(connection, items)
        return [item.fid in closed for item in items]
    rows = await connection.fetch(SQL["settle_intents"], *_pairs(copies))
    standing = {(row["fid"], row["devid"]) for row in rows}
    ready = [item for item in items if all((item.fid, devid) in standing for devid in item.copies)]
    closed = await _close(connection, ready)
    await connection.execute(SQL["place_copies"], *_pairs([copy for copy in standing if copy[0] in closed]))
    await connection.execute(SQL["discard_copies"], *_pairs([copy for copy in standing if copy[0] not in closed]))
    late = {item.fid for item in items} - {item.fid for item in ready}
    return _results(items, [*closed, *(-fid for fid in late)])


def close_error(error: BaseException) -> MogError:
    """The driver's error for a single upload."""
    if isinstance(error, asyncpg.UniqueViolationError) and error.constraint_name == "file_pkey":
        return CommandError("fid_exists")
    return StoreError(f"{type(error).__name__}: {error}")


async def _close(connection: asyncpg.Connection, items: Sequence[Closing]) -> set[int]:
    return set(await connection.fetchval(SQL["close"], *_columns(items)) or ())


def _pairs(copies: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    return [fid for fid, _ in copies], [devid for _, devid in copies]


def _columns(items: Sequence[Closing]) -> list[list[Any]]:
    return [
        [i.fid for i in items],
        [i.dmid for i in items],
        [i.dkey for i in items],
        [i.length for i in items],
        [i.devid for i in items],
        [int(i.checksum.hashtype) if i.checksum else None for i in items],
        [i.checksum.digest if i.checksum else None for i in items],
        [i.queue for i in items],
    ]


def _columns_and_copies(items: Sequence[Closing]) -> list[list[Any]]:
    return [*_columns(items), *_pairs([(item.fid, devid) for item in items for devid in item.copies])]


def _results(items: Sequence[Closing], outcome: Sequence[int]) -> list[bool | MogError]:
    """`outcome`: the fids that are closed, and less than 0 those whose further copies came too late."""
    numbers = set(outcome)
    late = CommandError("no_devices", "a further copy of the file took too long; close it again")
    return [late if -item.fid in numbers else item.fid in numbers for item in items]


def _bound(statement: str, *names: str) -> str:
    """A statement with variables for its arguments."""
    return re.sub(r"\$(\d+)", lambda number: names[int(number[1]) - 1], SQL[statement])


_TYPES = ("bigint[]", "smallint[]", "text[]", "bigint[]", "smallint[]", "smallint[]", "bytea[]", "boolean[]")
CLOSE: OneStatement[Closing, bool] = OneStatement(
    name="close", body=f"{SQL['close']} INTO result;", types=_TYPES, columns=_columns, results=_results
)
CLOSE_WITH_COPIES: OneStatement[Closing, bool] = OneStatement(
    name="close_with_copies",
    types=(*_TYPES, "bigint[]", "smallint[]"),
    columns=_columns_and_copies,
    results=_results,
    variables="""standing_fids bigint[]; standing_devids smallint[]; late bigint[];
    placed_fids bigint[]; placed_devids smallint[]; lost_fids bigint[]; lost_devids smallint[];""",
    body=sql_file("close_with_copies.sql").format(
        close=SQL["close"],
        settle_intents=_bound("settle_intents", "$9", "$10"),
        place_copies=_bound("place_copies", "placed_fids", "placed_devids"),
        discard_copies=_bound("discard_copies", "lost_fids", "lost_devids"),
    ),
)


def close_at_once(items: Sequence[Closing]) -> OneStatement[Closing, bool]:
    """How these become one statement."""
    return CLOSE_WITH_COPIES if any(item.copies for item in items) else CLOSE
