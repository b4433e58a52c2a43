"""Giving a database back to MogileFS: what has to be finished or changed first, and what is tidied away.

MogileFS's tables keep their columns and meanings while we use them, so there is little to do: no tracker of ours may run, no copy may be
waiting for a delete that only `mogile_copy_delete` knows, and nothing may be stored that MogileFS cannot understand. The widened columns
stay (MogileFS reads them as it did); the index in byte order, which only costs it, goes. Our tables stay unless they are to be dropped:
MogileFS does not look at them, and a later adoption finds zones, cluster id and volumes again.
"""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from mogile_tracker.store.migrate import Tell
from mogile_tracker.store.queries import load
from mogile_tracker.store.schema import BYTE_ORDER_INDEX, statements

SQL = load("handback")
SCHEMA = load("schema")


@dataclass(frozen=True, slots=True, kw_only=True)
class Handback:
    """What stands in the way (one sentence each), what a person should know, what will be done."""

    refusals: tuple[str, ...]
    notes: tuple[str, ...]
    changes: tuple[str, ...]


async def look(connection: asyncpg.Connection, *, drop_tables: bool) -> Handback:
    """Can the database be given back? Reads all of table file once."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        if not await connection.fetchval(SCHEMA["table_exists"], "mogile_migration"):
            return Handback(
                refusals=("this database was not taken over by us: nothing to give back",), notes=(), changes=()
            )
        return Handback(
            refusals=tuple(await _refusals(connection)),
            notes=tuple(await _notes(connection)),
            changes=(
                "forget the automatic moves that wait",
                "forget leases, walks and the census",
                "forget which tracker ran fsck and rebalance",
                f"drop index {BYTE_ORDER_INDEX}, if there is one",
                *(("drop the tables mogile_*",) if drop_tables else ()),
            ),
        )


async def carry_out(connection: asyncpg.Connection, *, drop_tables: bool, tell: Tell) -> None:
    """Tidy up; harmless to repeat."""
    async with connection.transaction():
        await connection.execute(SCHEMA["lock_migrations"])
        for name in ("forget_own_moves", "forget_owners", "forget_work"):
            await connection.execute(SQL[name])
    tell("work of our own is forgotten", {})
    await connection.execute(SCHEMA["drop_byte_order_index"])
    if drop_tables:
        names = [s.name for s in statements() if s.kind == "TABLE" and s.ours]
        await connection.execute("DROP TABLE IF EXISTS " + ", ".join(names))
        tell("our tables are dropped", {})


async def _refusals(connection: asyncpg.Connection) -> list[str]:
    problems = []
    trackers = await connection.fetchval(SQL["trackers"])
    if trackers:
        problems.append(f"our trackers are still connected ({trackers} connections): stop them all first")
    pending = await connection.fetchrow(SQL["pending"])
    if pending["copy_deletes"] or pending["copy_intents"]:
        problems.append(
            f"{pending['copy_deletes']} copies wait to be deleted and {pending['copy_intents']} are being made, which MogileFS would "
            "never finish: let the trackers run until mogile_copy_delete and mogile_copy_intent are empty"
        )
    out = [str(row["devid"]) for row in await connection.fetch(SQL["out_devices"])]
    if out:
        problems.append(
            f"devices {', '.join(out)} are out, a state MogileFS does not know and would count as copies: "
            "set them to dead, or take the mark away (mogile_set_out)"
        )
    hosts = [row["hostname"] for row in await connection.fetch(SQL["foreign_hosts"])]
    if hosts:
        problems.append(
            f"hosts {', '.join(hosts)} have a name or address MogileFS cannot use: give them IPv4 addresses and short names"
        )
    return problems


async def _notes(connection: asyncpg.Connection) -> list[str]:
    notes = [
        f"class {row['namespace']}/{row['classname']} has the policy {row['replpolicy']}, which MogileFS has in an add-on or not at all"
        for row in await connection.fetch(SQL["foreign_policies"])
    ]
    nulls = await connection.fetchval(SQL["null_keys"])
    if nulls:
        notes.append(
            f"{nulls}{' or more' if nulls >= 1000 else ''} keys hold a NUL byte, which MogileFS shows as another character"
        )
    return notes
