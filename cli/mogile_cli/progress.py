"""How far something is, for the person at the terminal: shown once it has taken longer than a second, gone when it is done.

On stderr, and only when that is a terminal: results stay what they are, and a log is not filled with bars.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich import progress
from rich.console import Console

from mogile_cli import output

SHOWN_AFTER_SECONDS = 1.0
BYTES = (progress.DownloadColumn(binary_units=True), progress.TransferSpeedColumn(), progress.TimeRemainingColumn())
COUNT = (progress.MofNCompleteColumn(), progress.TimeElapsedColumn())


class Progress:
    """One bar; `advance` as things go on. Without `total` it only shows that something happens."""

    def __init__(
        self,
        what: str,
        *,
        total: float | None = None,
        columns: tuple[progress.ProgressColumn, ...] = BYTES,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what, self._total, self._columns = what, total, columns
        self._console = console or output.remarks
        self._clock = clock
        self._begun = clock()
        self._done = 0.0
        self._bar: progress.Progress | None = None
        self._task = progress.TaskID(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, amount: float = 1) -> None:
        """So much more is done."""
        self._done += amount
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done)
        elif self._console.is_terminal and self._clock() - self._begun >= SHOWN_AFTER_SECONDS:
            self._show()

    def restart(self) -> None:
        """What was done has to be done again."""
        self.advance(-self._done)

    def _show(self) -> None:
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            *self._columns,
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task(self._what, total=self._total, completed=int(self._done))
        self._bar.start()
