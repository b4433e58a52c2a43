"""A batch of changes as one statement: it takes the locks, makes the changes, leaves the mark that proves its commit, and commits.

Each step by itself costs a way to the server and back, and four of them cost more than the changes of a small batch. The steps are put into
a function of the connection's own (`pg_temp`), so there is nothing to install, to upgrade or to hand back; where that cannot be (behind a
pooler, without the right to make temporary objects) the engine goes step by step as for any other kind.

A connection lost meanwhile always leaves the outcome open: the statement may even reach the server later. `commits.settle` finds out what
it did, or sees to it that it does nothing any more.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

import asyncpg

from mogile_core.errors import MogError
from mogile_core.runtime.logs import get_log
from mogile_tracker.store.queries import sql_file

ITEM = TypeVar("ITEM")
RESULT = TypeVar("RESULT")
# The function may not be made, or is not there.
CANNOT: tuple[type[BaseException], ...] = (
    asyncpg.SyntaxOrAccessError,
    asyncpg.InvalidSchemaNameError,
    asyncpg.FeatureNotSupportedError,
)
log = get_log(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class OneStatement(Generic[ITEM, RESULT]):
    """How a batch becomes one statement: statements of PL/pgSQL that set the variable `result`, an array of numbers or NULL."""

    name: str
    body: str
    types: tuple[str, ...]  # of its arguments $1, $2, ...
    columns: Callable[[Sequence[ITEM]], Sequence[Sequence[Any]]]  # its arguments
    results: Callable[
        [Sequence[ITEM], Sequence[int]], Sequence[RESULT | MogError]
    ]  # one per item, in order, from `result`
    variables: str = ""  # further declarations

    @cached_property
    def _function(self) -> str:
        count = len(self.types)
        return sql_file("one_statement.sql").format(
            name=self.name, types=", ".join(self.types), body=self.body, variables=self.variables,
            names=count + 1, lane=count + 2, batch=count + 3,
        )  # fmt: skip

    @cached_property
    def _call(self) -> str:
        arguments = ", ".join(f"${number}" for number in range(1, len(self.types) + 4))
        return f"SELECT pg_temp.mogile_{self.name}({arguments})"

    async def make(self, connection: asyncpg.Connection) -> bool:
        """Make the function for a new connection. False: it cannot be had here."""
        try:
            await connection.execute(self._function)
        except CANNOT as error:
            log.info("batches go step by step", kind=self.name, reason=str(error))
            return False
        return True

    async def run(
        self, connection: asyncpg.Connection, items: Sequence[ITEM], locks: Sequence[str], lane: uuid.UUID, batch: int
    ) -> list[int]:
        """Run the batch; what its statement gave."""
        return await connection.fetchval(self._call, *self.columns(items), locks, lane, batch) or []
