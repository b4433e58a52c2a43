"""What the demo shows: steps with their times, progress, and a picture of devices that changes while one watches.

At a terminal it is rich's progress bar and live table; anywhere else (a log, CI) plain lines, at most one per PLAIN_SECONDS.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from mogile_cli import output

PLAIN_SECONDS = 2.0
REFRESH_PER_SECOND = 8
BAR_WIDTH = 40


class Stage:
    """Numbered steps on one console."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._step = 0
        self.console = output.results

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """A step: its title before, its time after (only when it succeeded)."""
        self._step += 1
        self.console.print(f"[bold cyan]{self._step:>2}/{self._steps}[/] [bold]{title}[/]", soft_wrap=True)
        began = time.monotonic()
        yield
        self.console.print(f"      [green]done[/] [dim]in {time.monotonic() - began:.1f} s[/]")

    def line(self, text: str) -> None:
        """One remark inside a step."""
        self.console.print(f"      {text}", soft_wrap=True)

    def report(self, sentence: str) -> None:
        """What the cluster itself has to say."""
        self.line(f"[yellow]{output.cell(sentence)}[/]")

    def show(self, table: Table) -> None:
        """A table that stays."""
        self.console.print(table)

    @contextmanager
    def transfer(self, title: str, total_bytes: int, files: int) -> Iterator[Callable[[int], None]]:
        """A progress bar over bytes; the function is called with the size of each file that is through."""
        began, done = time.monotonic(), 0
        if self.console.is_terminal:
            columns = (TextColumn("      {task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
            with Progress(*columns, console=self.console, transient=True) as progress:
                task = progress.add_task(title, total=total_bytes)
                yield lambda size: progress.advance(task, size)
        else:
            last = began

            def advance(size: int) -> None:
                nonlocal done, last
                done += size
                if time.monotonic() - last > PLAIN_SECONDS:
                    last = time.monotonic()
                    self.line(f"{title}: {output.size(done)} of {output.size(total_bytes)}")

            yield advance
        seconds = max(time.monotonic() - began, 0.001)
        rate = output.size(int(total_bytes / seconds))
        self.line(f"{output.plural(files, 'file')}, {output.size(total_bytes)}, {rate}/s")

    @contextmanager
    def watching(self) -> Iterator[Callable[[str, Table], None]]:
        """A picture that changes: the function takes a line and a table and replaces what was shown before."""
        if self.console.is_terminal:
            with Live(console=self.console, refresh_per_second=REFRESH_PER_SECOND, transient=True) as live:

                def draw(line: str, table: Table) -> None:
                    content: RenderableType = Group(f"      {line}", table)
                    live.update(content)

                yield draw
        else:
            last, said = 0.0, ""

            def write(line: str, table: Table) -> None:
                nonlocal last, said
                del table
                if line != said and time.monotonic() - last > PLAIN_SECONDS:
                    last, said = time.monotonic(), line
                    self.line(line)

            yield write


def bar(share: float, width: int = BAR_WIDTH) -> str:
    """A share between 0 and 1 as a bar of blocks."""
    full = round(max(0.0, min(1.0, share)) * width)
    return "█" * full + "░" * (width - full)
