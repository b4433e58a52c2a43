"""mogstats: counts straight from the database. The only module of the command line that speaks to PostgreSQL.

It works on any database of MogileFS's schema 17, ours or the original's. Full scans by nature (`files`, `devices` and `replication` read a
whole table); `mog status` shows the same from the census for nothing. Every statement runs alone in a read-only transaction, so that a
long count holds back no vacuum longer than it must, and nothing is prepared on the server (PgBouncer).
"""

from __future__ import annotations

import importlib.resources
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from mogile_cli.classic import configuration, getopt, program
from mogile_cli.classic.program import Console, Died
from mogile_core.model import DEFAULT_CLASS, DEFAULT_CLASS_ID

BAD_USE = 1
CONNECT_SECONDS = 10.0
STATEMENT_SECONDS = 3600.0
MIB = 1 << 20
OPTIONS = ("config=s", "lib=s", "help", "verbose", "stats=s", "db_dsn=s", "db_user=s", "db_pass=s")
ALL = "all"
USAGE = """Usage:
    mogstats --db_dsn="DBI:Pg:dbname=mogilefs;host=dbhost" --db_user="mogile" \\
             --db_pass="secret" --verbose --stats="devices,files"
    mogstats --stats="all"
    mogstats [all options in ~/.mogilefs.conf]
"""
# Words of a Perl DSN (DBD::Pg) -> arguments of asyncpg.connect.
_DSN_WORDS = {
    "dbname": "database",
    "db": "database",
    "database": "database",
    "host": "host",
    "hostaddr": "host",
    "port": "port",
    "user": "user",
    "username": "user",
    "password": "password",
    "sslmode": "ssl",
}

Rows = Sequence[Sequence[Any]]


@dataclass(slots=True, kw_only=True)
class Names:
    """dmid and classid -> the words people use."""

    domains: dict[int, str] = field(default_factory=dict)
    classes: dict[tuple[int, int], str] = field(default_factory=dict)

    def of(self, dmid: int, classid: int) -> tuple[str, str]:
        """(domain, class) of a row, the numbers where a name is missing."""
        default = DEFAULT_CLASS if classid == DEFAULT_CLASS_ID else f"class {classid}"
        return self.domains.get(dmid, f"domain {dmid}"), self.classes.get((dmid, classid), default)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A statistic as it is printed: columns (width, negative = left-aligned), rule and rows."""

    title: str
    columns: tuple[tuple[str, int], ...]
    rule: tuple[int, ...]
    rows: Callable[[Rows, Names], list[tuple[object, ...]]]


def _by_name(columns: int) -> Callable[[Rows, Names], list[tuple[object, ...]]]:
    """Rows (dmid, classid, ...) with names, sorted; `columns` more values as they are."""

    def rows(found: Rows, names: Names) -> list[tuple[object, ...]]:
        return sorted((*names.of(row[0], row[1]), *row[2 : 2 + columns]) for row in found)

    return rows


def _files(found: Rows, names: Names) -> list[tuple[object, ...]]:
    return sorted((*names.of(row[0], row[1]), row[2], (row[3] or 0) // MIB, (row[4] or 0) // MIB) for row in found)


def _devices(found: Rows, _names: Names) -> list[tuple[object, ...]]:
    return [(f"dev{devid}", host or "", files, status or "") for devid, host, status, files in found]


def _plain(found: Rows, _names: Names) -> list[tuple[object, ...]]:
    return [tuple(row) for row in found]


_PLACE = (("domain", -20), ("class", -10))
_STATUS = (("status", -20), ("count", 12))
# The order in which they are printed.
TABLES: Mapping[str, Table] = {
    "devices": Table(
        title="devices",
        columns=(("device", -10), ("host", -16), ("files", 12), ("status", 10)),
        rule=(10, 16, 12, 10),
        rows=_devices,
    ),
    "files": Table(
        title="files",
        columns=(*_PLACE, ("files", 10), ("size (m)", 11), ("fullsize (m)", 13)),
        rule=(20, 11, 10, 11, 13),
        rows=_files,
    ),
    "domains": Table(title="domains", columns=(*_PLACE, ("files", 10)), rule=(20, 11, 10), rows=_by_name(1)),
    "replication": Table(
        title="replication",
        columns=(*_PLACE, ("devcount", 10), ("files", 10)),
        rule=(20, 11, 10, 10),
        rows=_by_name(2),
    ),
    "replication-queue": Table(title="replication queue", columns=_STATUS, rule=(20, 12), rows=_plain),
    "delete-queue": Table(title="delete queue", columns=_STATUS, rule=(20, 12), rows=_plain),
    "general-queues": Table(
        title="general queues",
        columns=(("queue", -15), ("status", -20), ("count", 12)),
        rule=(15, 20, 12),
        rows=_plain,
    ),
}
STATISTICS = ("fids", *TABLES)


async def mogstats(argv: Sequence[str], environ: Mapping[str, str], console: Console) -> int:
    """The whole tool; its exit code."""
    try:
        parsed = getopt.parse(argv, OPTIONS)
        if parsed.words:
            raise getopt.OptionError(f"Unexpected argument: {parsed.words[0]}")
    except getopt.OptionError as error:
        return _usage(console, str(error))
    if "help" in parsed.values:
        return _usage(console)
    values = configuration.read(configuration.sources(environ, parsed.values.get("config")), parsed.values)
    wanted = values.get("stats") or ALL
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    for name in names:
        if name not in STATISTICS and name != ALL:
            return _usage(console, f"Invalid stat {name}")
    if not values.get("db_dsn"):
        return _usage(console, "no database: use --db_dsn or set `db_dsn` in ~/.mogilefs.conf")
    console.line(f"Fetching statistics... ({wanted})")
    verbose = console.line if values.get("verbose") else (lambda _text: None)
    async with _database(values) as fetch:
        await _print_all(fetch, _selected(names), console, verbose)
    console.line()
    console.line("done")
    return 0


def _selected(names: Sequence[str]) -> list[str]:
    """In printing order; `domains` says less than `files`, so `all` leaves it out and `files` replaces it."""
    order = ("devices", "fids", *(name for name in TABLES if name != "devices"))
    chosen = [name for name in order if name in names or ALL in names]
    return [name for name in chosen if name != "domains" or "files" not in chosen]


Fetch = Callable[[str], Any]


async def _print_all(fetch: Fetch, chosen: Sequence[str], console: Console, verbose: Callable[[str], None]) -> None:
    names = Names()
    for dmid, domain, classid, class_name in await fetch("classes"):
        names.domains[dmid] = _text(domain)
        if classid is not None:
            names.classes[dmid, classid] = _text(class_name)
    for name in chosen:
        verbose(f"... {name} stats...")
        rows = await fetch(name)
        verbose("... done")
        console.line()
        if name == "fids":
            console.line("Statistics for file ids...")
            console.line(f"  Max file id: {rows[0][0] or 'none'}")
        else:
            for line in table_lines(TABLES[name], rows, names):
                console.line(line)
        console.flush()


def table_lines(table: Table, rows: Rows, names: Names) -> list[str]:
    """A table as printed: title, heads, rule, rows, rule."""
    rule = "  " + " ".join("-" * width for width in table.rule)
    lines = [_row(table, row) for row in table.rows(rows, names)]
    return [f"Statistics for {table.title}...", _row(table, [head for head, _ in table.columns]), rule, *lines, rule]


def _row(table: Table, cells: Sequence[object]) -> str:
    padded = [
        f"{cell!s:<{-width}}" if width < 0 else f"{cell!s:>{width}}"
        for cell, (_, width) in zip(cells, table.columns, strict=True)
    ]
    return "  " + " ".join(padded)


def _text(stored: str) -> str:
    """A name out of the database: bytes as Latin-1 characters where our tracker wrote it, real characters where the original did."""
    try:
        return stored.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return stored


def _usage(console: Console, message: str | None = None) -> int:
    if message:
        console.line(f"ERROR: {message}")
        console.line()
    console.line(USAGE)
    console.line(f"valid stats: {', '.join(sorted((*STATISTICS, ALL)))}")
    return BAD_USE


def statements() -> dict[str, str]:
    """The named statements of mogstats.sql."""
    text = importlib.resources.files("mogile_cli.classic").joinpath("mogstats.sql").read_text(encoding="utf-8")
    parts = text.split("-- name: ")[1:]
    return {part.partition("\n")[0].strip(): part.partition("\n")[2].strip() for part in parts}


def connect_arguments(values: Mapping[str, str]) -> dict[str, Any]:
    """`db_dsn` (a Perl DSN or a postgresql:// URL) with db_user and db_pass -> arguments of asyncpg.connect."""
    dsn = values["db_dsn"]
    arguments: dict[str, Any] = {}
    if dsn.startswith(("postgresql://", "postgres://")):
        arguments["dsn"] = dsn
    else:
        scheme, driver, rest = ([*dsn.split(":", 2), "", ""])[:3]
        if scheme.lower() != "dbi" or driver.lower() != "pg":
            raise Died(f"db_dsn: {dsn!r} is no PostgreSQL database; expected DBI:Pg:dbname=mogilefs;host=dbhost")
        for pair in filter(None, (part.strip() for part in rest.split(";"))):
            word, separator, value = pair.partition("=")
            name = _DSN_WORDS.get(word.strip().lower())
            if not separator or name is None:
                raise Died(f"db_dsn: {pair!r} is not understood; known: {', '.join(sorted(_DSN_WORDS))}")
            arguments[name] = value.strip()
    if "port" in arguments:
        if not arguments["port"].isdigit():
            raise Died(f"db_dsn: port {arguments['port']!r} is not a number")
        arguments["port"] = int(arguments["port"])
    for option, name in (("db_user", "user"), ("db_pass", "password")):
        if values.get(option):
            arguments[name] = values[option]
    return arguments


@asynccontextmanager
async def _database(values: Mapping[str, str]) -> AsyncIterator[Fetch]:
    """A function that runs a named statement and returns its rows."""
    try:
        import asyncpg  # noqa: PLC0415 - only mogstats needs it, and it says so when it is missing
    except ImportError as error:
        raise Died("mogstats needs the Python package asyncpg; install mogile[cli]") from error
    arguments = connect_arguments(values)
    texts = statements()
    try:
        connection = await asyncpg.connect(
            **arguments, timeout=CONNECT_SECONDS, command_timeout=STATEMENT_SECONDS, statement_cache_size=0
        )
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError, ValueError) as error:
        raise Died(f"Failed to connect to database: {error or 'no answer'}") from error

    async def fetch(name: str) -> Rows:
        try:
            async with connection.transaction(readonly=True):
                return [tuple(row) for row in await connection.fetch(texts[name])]
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
            raise Died(f"Can't fetch stats ({name}): {error or 'no answer'}") from error

    try:
        yield fetch
    finally:
        await connection.close(timeout=CONNECT_SECONDS)


def main() -> int:
    """Entry point of `mogstats`."""
    return program.launch(mogstats)
