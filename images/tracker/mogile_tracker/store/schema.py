"""What a database lacks of the schema this release needs: looked at, compared, said in sentences; nothing is changed here.

`sql/schema.sql` is the schema; this module reads it as data (its statements, its columns) and compares it with the database's catalogue.
The result is a `Plan`: the changes an upgrade will make with the lock each takes, what a person should know, and the reasons why it cannot
be safe. `migrate` carries plans out; `mog db upgrade` shows them. Reading takes no lock that anybody waits for.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib import resources
from typing import Any

from mogile_tracker.store.queries import load, sql_file

SCHEMA_VERSION = 17
SERVER_VERSION_MIN = 15
MIGRATION_NAME = re.compile(r"^\d{4}_(pre|post)_[a-z0-9_]+\.sql$")
OURS_MARKER = "-- ===== ours"
BYTE_ORDER_INDEX = "mogile_file_dkey_bytes"
FID_SEQUENCE = "tempfile_fid_seq"
_STATEMENT = re.compile(
    r"^CREATE (?P<kind>TABLE|(?:UNIQUE )?INDEX) IF NOT EXISTS (?P<name>\w+)(?: ON (?P<on>\w+))?[^;]*;$", re.MULTILINE
)
_COMMENT = re.compile(r"--[^\n]*")
_COLUMN = re.compile(r"^    (\w+) [a-z]", re.MULTILINE)
# MogileFS's columns that are too narrow, and what they become.
WIDENED = {
    ("tempfile", "fid"): "bigint",
    ("host", "hostip"): "text",
    ("host", "altip"): "text",
    ("host", "altmask"): "text",
    ("host", "hostname"): "character varying(255)",
}


class Origin(Enum):
    """Whose database it is."""

    NEW = "new"  # no table of MogileFS's
    MOGILEFS = "mogilefs"  # upstream's, not taken over yet
    OURS = "ours"


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One statement of schema.sql."""

    kind: str  # TABLE or INDEX
    name: str
    table: str
    text: str
    ours: bool

    @property
    def columns(self) -> tuple[str, ...]:
        """Column names of a table."""
        return tuple(_COLUMN.findall(_COMMENT.sub("", self.text)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change of the database; `lock` says who has to wait for it."""

    what: str
    lock: str = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What an upgrade would do. `refusals` (one sentence each): it must not be done."""

    origin: Origin
    changes: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    statements: tuple[Statement, ...] = ()  # of schema.sql, to be run
    migrations: tuple[str, ...] = ()  # to be run
    mark_applied: tuple[str, ...] = ()  # to be remembered as done
    adopt: bool = False  # adopt.sql has something to widen
    catch_up_fids: bool = False
    identity: bool = False  # version row or cluster id are missing
    byte_order_index: bool = False

    @property
    def transaction_needed(self) -> bool:
        """Something beside the index is to be done."""
        return bool(
            self.statements or self.migrations or self.mark_applied or self.adopt or self.catch_up_fids or self.identity
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """What the database has; `columns` maps table to column to type."""

    encoding: str
    server_version: int
    fsync: bool
    columns: Mapping[str, Mapping[str, str]]
    indexes: frozenset[str]
    foreign_tables: tuple[str, ...]  # tables of MogileFS's that this user may not alter
    applied: frozenset[str]
    schema_version: str | None
    cluster: bool
    sequence: str | None  # type of the fid sequence
    last_fid: int  # what the sequence has given
    highest_fid: int  # what is in use
    byte_order: bool  # keys can be listed in byte order by an index


FSYNC_OFF = "PostgreSQL runs with fsync off: when its machine fails, acknowledged uploads are lost, or the whole database; set fsync = on"


def migration_files() -> list[str]:
    """Names of all migrations, in order."""
    folder = resources.files("mogile_tracker.store").joinpath("sql", "migrations")
    return sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))


@functools.cache
def statements() -> tuple[Statement, ...]:
    """schema.sql as data; a statement of another form is a mistake and raises."""
    text = sql_file("schema.sql")
    border = text.index(OURS_MARKER)
    found = tuple(
        Statement(
            kind=match["kind"].rpartition(" ")[2],
            name=match["name"],
            table=match["on"] or match["name"],
            text=match[0],
            ours=match.start() > border,
        )
        for match in _STATEMENT.finditer(text)
    )
    if len(found) != len(re.findall(r";\s*(?:--[^\n]*)?$", _COMMENT.sub("", text), re.MULTILINE)):
        raise ValueError("schema.sql holds a statement that is no CREATE TABLE or CREATE INDEX ... IF NOT EXISTS")
    return found


async def read_catalogue(connection: Any) -> Catalogue:
    """Look at the database; inside a transaction of the caller's."""
    queries = load("schema")
    basics = await connection.fetchrow(queries["basics"])
    columns: dict[str, dict[str, str]] = {}
    for row in await connection.fetch(queries["columns"]):
        columns.setdefault(row["table_name"], {})[row["column_name"]] = row["type"]
    tables = [s.name for s in statements() if s.kind == "TABLE" and not s.ours and s.name in columns]
    version = await connection.fetchval(queries["schema_version"]) if "server_settings" in columns else None
    applied = await connection.fetch(queries["applied"]) if "mogile_migration" in columns else []
    fids = await connection.fetchrow(queries["fids"]) if {"file", "tempfile"} <= columns.keys() else None
    sequence = await connection.fetchrow(queries["fid_sequence"], FID_SEQUENCE)
    return Catalogue(
        encoding=basics["encoding"],
        server_version=basics["version"] // 10000,
        fsync=basics["fsync"],
        columns=columns,
        indexes=frozenset(row["name"] for row in await connection.fetch(queries["indexes"])),
        foreign_tables=tuple(row["name"] for row in await connection.fetch(queries["not_owned"], tables)),
        applied=frozenset(row["name"] for row in applied),
        schema_version=version,
        cluster="mogile_cluster" in columns and bool(await connection.fetchval(queries["has_cluster"])),
        sequence=sequence["type"] if sequence else None,
        last_fid=(sequence["last"] or 0) if sequence else 0,
        highest_fid=(fids["highest"] or 0) if fids else 0,
        byte_order="file" not in columns or not await connection.fetchval(queries["needs_byte_order_index"]),
    )


def plan_upgrade(found: Catalogue, *, migrations: Sequence[str] | None = None, rolled_out: bool = False) -> Plan:
    """Pure: what the database needs. `rolled_out`: no older tracker runs any more, so migrations that would break one may run."""
    known = list(migration_files() if migrations is None else migrations)
    ours = "mogile_migration" in found.columns
    mogilefs = "server_settings" in found.columns or "file" in found.columns
    origin = Origin.OURS if ours else Origin.MOGILEFS if mogilefs else Origin.NEW
    due = due_migrations(known, found.applied, rolled_out=rolled_out) if ours else []
    wanted = [s for s in statements() if _missing(s, found)]
    born = {s.name for s in wanted if s.kind == "TABLE"}
    adopt = any(_type(found, table, column) not in (None, type_) for (table, column), type_ in WIDENED.items())
    adopt = adopt or found.sequence not in (None, "bigint")
    # only once: later on a client's own (high) fid would carry the sequence away at every start
    catch_up = origin is Origin.MOGILEFS and found.sequence is not None and found.highest_fid > found.last_fid
    changes = [
        *(Change(what=f"migration {name}", lock="see the file") for name in due),
        *(Change(what=f"create table {s.name}") for s in wanted if s.kind == "TABLE"),
        *(
            Change(what=f"create index {s.name} on {s.table}", lock=f"writers of {s.table} wait while it is built")
            for s in wanted
            if s.kind == "INDEX" and s.table not in born
        ),
        *_widening(found),
    ]
    if catch_up:
        changes.append(
            Change(what=f"set the fid sequence from {found.last_fid} to {found.highest_fid}, the highest fid")
        )
    identity = found.schema_version is None or not found.cluster
    if found.schema_version is None:
        changes.append(Change(what=f"write schema_version {SCHEMA_VERSION}"))
    if not found.cluster:
        changes.append(Change(what="give the cluster its id"))
    index = not found.byte_order
    if index:
        changes.append(
            Change(
                what=f"build index {BYTE_ORDER_INDEX} on file (dmid, dkey in byte order)",
                lock="none: built concurrently",
            )
        )
    return Plan(
        origin=origin,
        changes=tuple(changes),
        notes=_notes(origin),
        warnings=() if found.fsync else (FSYNC_OFF,),
        refusals=tuple(_refusals(found)),
        statements=tuple(wanted),
        migrations=tuple(due),
        mark_applied=tuple(due if ours else known),
        adopt=adopt,
        catch_up_fids=catch_up,
        identity=identity,
        byte_order_index=index,
    )


def due_migrations(known: Sequence[str], applied: frozenset[str], *, rolled_out: bool) -> list[str]:
    """Migrations to run now. A `post` one would break trackers of the release before, so it waits until an upgrade is asked for by hand,
    or until a later release (whose `pre` migrations come after it) starts: no release is skipped while trackers run."""
    pending = [name for name in known if name not in applied]
    while pending and not rolled_out and "_post_" in pending[-1]:
        pending.pop()
    return pending


def _missing(statement: Statement, found: Catalogue) -> bool:
    if statement.kind == "TABLE":
        return statement.name not in found.columns
    if statement.ours or statement.table not in found.columns:
        return statement.name not in found.indexes
    return False  # tables of MogileFS's have their indexes under whatever names; a second set would only cost


def _type(found: Catalogue, table: str, column: str) -> str | None:
    return found.columns.get(table, {}).get(column)


def _widening(found: Catalogue) -> list[Change]:
    changes = []
    for (table, column), wanted in WIDENED.items():
        present = _type(found, table, column)
        if present not in (None, wanted):
            changes.append(
                Change(what=f"widen {table}.{column} from {present} to {wanted}", lock=f"exclusive on {table}, briefly")
            )
    if found.sequence not in (None, "bigint"):
        changes.append(
            Change(what=f"widen sequence {FID_SEQUENCE} to bigint", lock="exclusive on the sequence, briefly")
        )
    return changes


def _notes(origin: Origin) -> tuple[str, ...]:
    if origin is not Origin.MOGILEFS:
        return ()
    return (
        "from now on trackers of MogileFS on this database may answer queries only: start them with delete_jobs, replicate_jobs, "
        "fsck_jobs, reaper_jobs and monitor_jobs at 0 and job_master off, or stop them",
        "table file and table file_on keep their columns; tools that read the tables keep working; "
        "`mog db handback` gives the database back",
    )


def _refusals(found: Catalogue) -> list[str]:
    problems = []
    if found.server_version < SERVER_VERSION_MIN:
        problems.append(
            f"PostgreSQL {found.server_version} is too old: upgrade the server to {SERVER_VERSION_MIN} or newer first"
        )
    if found.encoding != "UTF8":
        problems.append(
            f"the database must have the encoding UTF8, it has {found.encoding}: dump it and load it into one that has"
        )
    if found.schema_version not in (None, str(SCHEMA_VERSION)):
        problems.append(
            f"the database has MogileFS schema version {found.schema_version}, this tracker needs {SCHEMA_VERSION}: "
            "bring it there with the mogdbsetup of MogileFS 2.73 first"
        )
    if found.foreign_tables:
        names = ", ".join(found.foreign_tables)
        problems.append(f"the database user may not change the schema: it does not own {names}; connect as their owner")
    for statement in statements():
        if statement.kind == "TABLE" and not statement.ours and statement.name in found.columns:
            lacking = [column for column in statement.columns if column not in found.columns[statement.name]]
            if lacking:
                problems.append(
                    f"table {statement.name} has no column {', '.join(lacking)}: this is not MogileFS's schema 17"
                )
    problems.extend(
        f"{table}.fid is {_type(found, table, 'fid')}, not bigint: this is not MogileFS's schema 17"
        for table in ("file", "file_on")
        if _type(found, table, "fid") not in (None, "bigint")
    )
    if "tempfile" in found.columns and found.sequence is None:
        problems.append(
            f"the sequence {FID_SEQUENCE} that gives fids is missing: make tempfile.fid a serial column again"
        )
    return problems
