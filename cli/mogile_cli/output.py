"""How commands speak: tables for people, JSON for programs, one sentence for errors. Nothing else in this package prints.

Results go to stdout and remarks to stderr, so that results can be piped. JSON is one document with stable, lower-case names.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from mogile_core.checksum import Checksum

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
PIPE_WIDTH = 160  # tables that go into a file or a pipe are not squeezed to a screen

results = Console(highlight=False, soft_wrap=False)
remarks = Console(stderr=True, highlight=False)
if not results.is_terminal:
    results.width = PIPE_WIDTH


def remark(sentence: str) -> None:
    """One line for the person at the terminal."""
    remarks.print(escape(sentence), soft_wrap=True)


def say(line: str = "") -> None:
    """One line of result, with rich's markup."""
    results.print(line, soft_wrap=True)


def say_plain(line: str) -> None:
    """One line of result exactly as it is (keys may hold anything)."""
    sys.stdout.write(line.encode("utf-8", "surrogateescape").decode("utf-8", "replace") + "\n")
    sys.stdout.flush()  # whoever reads a pipe should not wait for the next line


def say_json(value: Any) -> None:
    """One JSON document."""
    sys.stdout.write(json.dumps(plain(value), indent=2, ensure_ascii=False) + "\n")


def say_done(sentence: str, *, as_json: bool, **what: object) -> None:
    """What a change has done: a sentence for people (none: they asked for it and know), the facts for programs."""
    if as_json:
        say_json(what)
    elif sentence:
        say_plain(sentence)


def plain(value: Any) -> Any:
    """Dataclasses, tuples and enums as what JSON knows."""
    if isinstance(value, Checksum):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, str):
        return str(value).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if isinstance(value, Iterable) and not isinstance(value, bytes):
        return [plain(v) for v in value]
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Iterable[str] = ()) -> Table:
    """A plain table; columns named in `right` are aligned to the right; a cell may be text or something rich draws."""
    made = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    to_right = set(right)
    for column in columns:
        made.add_column(column, justify="right" if column in to_right else "left", no_wrap=True)
    for row in rows:
        made.add_row(*(cell(value) for value in row))
    return made


def say_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Iterable[str] = ()) -> None:
    """Print a table."""
    results.print(table(columns, rows, right=right))


def cell(value: object) -> str | Text:
    """One value in a table."""
    if isinstance(value, Text):
        return value
    return "-" if value is None or value == "" else escape(str(value))


def size(count: int | None) -> str:
    """1536 -> '1.5 KiB'."""
    if count is None:
        return "-"
    amount, unit = float(count), 0
    while amount >= 1024 and unit < len(UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{count} B" if unit == 0 else f"{amount:.1f} {UNITS[unit]}"


def plural(count: int, noun: str) -> str:
    """1 file, 2 files."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
