"""SQL text by name. `sql/queries/<topic>.sql` holds statements, each under a header line `-- name: <name>` and a line that says what for.

Parameters are PostgreSQL's own ($1, $2, ...); the line after the header names them. Loaded once per topic; a name that occurs twice in a
topic is a mistake and raises at import time.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType

_HEADER = "-- name:"


def sql_file(name: str) -> str:
    """The text of a file under `sql/`."""
    return resources.files("mogile_tracker.store").joinpath("sql", name).read_text(encoding="utf-8")


def topics() -> list[str]:
    """All topics, for the test that prepares every statement once."""
    folder = resources.files("mogile_tracker.store").joinpath("sql", "queries")
    return sorted(entry.name.removesuffix(".sql") for entry in folder.iterdir() if entry.name.endswith(".sql"))


@functools.cache
def load(topic: str) -> Mapping[str, str]:
    """The statements of one topic."""
    statements: dict[str, str] = {}
    name = ""
    for line in sql_file(f"queries/{topic}.sql").splitlines():
        if line.startswith(_HEADER):
            name = line.removeprefix(_HEADER).strip()
            if name in statements:
                raise ValueError(f"{topic}.sql: statement {name!r} occurs twice")
            statements[name] = ""
        elif name and not line.lstrip().startswith("--"):
            statements[name] += line + "\n"
    return MappingProxyType({k: v.strip().removesuffix(";") for k, v in statements.items()})
