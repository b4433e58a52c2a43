"""How a classic tool runs: console, usage text, exit code.

Utilities (mogupload and friends) print their usage and exit 0 when called without arguments; everything that goes wrong is one line on
stderr and exit 255, as `die` does in Perl. A wrong command line is that too (the originals print the usage and exit 0, which hides the
mistake from scripts). mogadm and mogstats pass their own status.

Text inside the tools is text of people (see `text`), so that keys of any bytes come out as they went in. This module alone touches the
process's streams and environment.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from mogile_cli.classic import configuration, getopt
from mogile_cli.classic.text import arguments, encode
from mogile_cli.errors import CliError
from mogile_core.errors import CommandError, MogError

DIED = 255
INTERRUPTED = 130
BROKEN_PIPE = 141
COMMON_OPTIONS = ("help", "trackers=s", "domain=s", "conf=s", "lib=s")


class Died(CliError):  # noqa: N818 - named after what the originals do
    """The tool stops here with one sentence for the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Console:
    """The three streams, as bytes."""

    stdin: BinaryIO
    stdout: BinaryIO
    stderr: BinaryIO

    def line(self, text: str = "") -> None:
        self.stdout.write(encode(text) + b"\n")

    def text(self, text: str) -> None:
        self.stdout.write(encode(text))

    def flush(self) -> None:
        self.stdout.flush()

    def complain(self, text: str) -> None:
        """One line on stderr, after what was printed so far."""
        self.stdout.flush()
        self.stderr.write(encode(text.rstrip("\n")) + b"\n")
        self.stderr.flush()


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a utility: all values in force and the streams."""

    values: Mapping[str, str]
    trackers: tuple[str, ...]
    console: Console

    def need(self, name: str) -> str:
        """The value of option `name`; Died when it is missing or empty."""
        value = self.values.get(name, "")
        if not value:
            raise Died(f"missing --{name}")
        return value

    def number(self, name: str, default: int) -> int:
        """A whole number, not negative."""
        text = self.values.get(name, str(default))
        if not (text.isascii() and text.isdigit()):
            raise Died(f"--{name} must be a whole number, not {text!r}")
        return int(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Utility:
    """A small tool: its own options beside the common ones, and what it does."""

    name: str
    usage: tuple[str, ...]
    options: tuple[str, ...]
    run: Callable[[Call], Awaitable[None]]


Program = Callable[[Sequence[str], Mapping[str, str], Console], Awaitable[int]]


def launch(program: Program, words: Sequence[str] | None = None) -> int:
    """Run a tool on this process's arguments (or `words`), environment and streams; the exit code for `sys.exit`."""
    console = Console(stdin=sys.stdin.buffer, stdout=sys.stdout.buffer, stderr=sys.stderr.buffer)
    try:
        status = asyncio.run(run(program, arguments(sys.argv[1:] if words is None else words), os.environ, console))
        console.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # `moglistkeys | head`: nobody reads on, so nothing more can be said
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return status


def launch_utility(utility: Utility) -> int:
    """Run one of the small tools."""

    async def run_it(argv: Sequence[str], environ: Mapping[str, str], console: Console) -> int:
        return await run_utility(utility, argv, environ, console)

    return launch(run_it)


async def run(program: Program, argv: Sequence[str], environ: Mapping[str, str], console: Console) -> int:
    """`program`, with whatever it could not handle turned into one line and exit 255."""
    try:
        return await program(argv, environ, console)
    except BrokenPipeError:
        raise
    except (MogError, OSError) as error:
        console.complain(describe(error))
        return DIED


async def run_utility(utility: Utility, argv: Sequence[str], environ: Mapping[str, str], console: Console) -> int:
    """The common frame of the small tools."""
    if not argv:
        _print_usage(utility, console)
        return 0
    try:
        parsed = getopt.parse(argv, (*utility.options, *COMMON_OPTIONS))
        if parsed.words:
            raise getopt.OptionError(f"Unexpected argument: {parsed.words[0]}")
    except getopt.OptionError as error:
        console.complain(str(error))
        _print_usage(utility, console)
        return DIED
    if "help" in parsed.values:
        _print_usage(utility, console)
        return 0
    files = configuration.sources(environ, parsed.values.get("conf"), variable="MOGUTILSCONF")
    values = configuration.read(files, parsed.values)
    trackers = configuration.trackers(values.get("trackers"))
    if not trackers:
        raise Died("no trackers: use --trackers=host:7001 or set `trackers` in ~/.mogilefs.conf")
    await utility.run(Call(values=values, trackers=trackers, console=console))
    console.flush()
    return 0


def _print_usage(utility: Utility, console: Console) -> None:
    for line in utility.usage:
        console.line(line)


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Say in which step a tool failed: `Error <what>: <why>`."""
    try:
        yield
    except MogError as error:
        if isinstance(error, CliError):  # says it all already
            raise
        raise Died(f"Error {what}: {describe(error)}") from error


def describe(error: BaseException) -> str:
    """What went wrong, as one line: for a tracker's refusal its text, which users and scripts know."""
    if isinstance(error, CommandError):
        return error.text
    return str(error) or type(error).__name__
