"""What a mogadm command is: `mogadm <topic> <verb> <words> [options]`, its help, and the call that reaches it.

mogadm is silent when it succeeds (`Request.done` speaks only with --verbose), says why on stderr and exits 1 when it fails, and prints
help on stdout and exits 1 when it is called wrongly.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence, Sized
from dataclasses import dataclass

from mogile_cli.classic import getopt
from mogile_cli.classic.connection import Connection
from mogile_cli.classic.program import Console, Died
from mogile_cli.errors import UsageError


class BadUseError(UsageError):
    """The command cannot be called like this; help is printed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call: positional words and options by name, and what to work with."""

    arguments: Mapping[str, str]
    trackers: tuple[str, ...]
    tracker: Connection
    console: Console
    verbose: bool

    def __getitem__(self, name: str) -> str:
        return self.arguments[name]

    def get(self, name: str) -> str | None:
        """An option that may be missing; an empty one counts as missing."""
        return self.arguments.get(name) or None

    def done(self, text: str) -> None:
        """It worked."""
        if self.verbose:
            self.console.line(text)


Run = Callable[[Request], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """`words` are the positional arguments in their order; `options` map getopt specs to help."""

    topic: str
    verb: str
    help: str
    run: Run
    words: tuple[str, ...] = ()
    options: Mapping[str, str] | None = None

    @property
    def form(self) -> str:
        """`mogadm host add <hostname> [opts]`."""
        words = [f"<{word}>" for word in self.words] + (["[opts]"] if self.options else [])
        return " ".join(["mogadm", self.topic, self.verb, *words]).replace("  ", " ")

    def read(self, argv: Sequence[str]) -> dict[str, str]:
        """The words and options of a call; BadUseError says what is wrong."""
        arguments: dict[str, str] = {}
        rest = list(argv)
        for word in self.words:
            if not rest:
                raise BadUseError(f"Missing argument '{word}'")
            value = rest.pop(0)
            if value.startswith("-"):
                raise BadUseError(f"Unexpected option.  Expected argument '{word}'")
            arguments[word] = devid_of(value) if word == "devid" else value
        if rest and not (self.options and rest[0].startswith("-")):
            raise BadUseError(
                "Unexpected extra argument."
                if self.words or self.options
                else "Unexpected arguments when expecting none."
            )
        try:
            parsed = getopt.parse(rest, tuple(self.options or ()))
        except getopt.OptionError as error:
            raise BadUseError(str(error)) from error
        if parsed.words:
            raise BadUseError(f"Unexpected extra argument: {parsed.words[0]}")
        return {**arguments, **parsed.values}


def devid_of(text: str) -> str:
    """`dev5` and `5` are both device 5."""
    digits = text.removeprefix("dev")
    if not (digits.isascii() and digits.isdigit()):
        raise BadUseError(f"devid should be a number or dev<number>, not {text!r}")
    return str(int(digits))


def help_all(commands: Sequence[Command]) -> list[str]:
    """The overview."""
    lines = ["Usage:  (enter any part of a command to see more of it)", ""]
    topics = list(dict.fromkeys(command.topic for command in commands))
    for topic in topics:
        members = sorted((c for c in commands if c.topic == topic), key=lambda c: c.verb)
        if members[0].verb:
            lines.append(f"  mogadm {topic} ...")
            for command in members:
                more = " ..." if command.words or command.options else ""
                lines.append(f"         {f'{topic} {command.verb}{more}':<25} {command.help}")
        else:
            lines.append(f"  mogadm {topic:<25} {members[0].help}")
    return [*lines, ""]


def help_topic(commands: Sequence[Command], topic: str) -> list[str]:
    """The verbs of a topic."""
    members = sorted((c for c in commands if c.topic == topic), key=lambda c: c.verb)
    lines = [f"Help for '{topic}' command:", " (enter any part of a command to see more of it)", ""]
    return [*lines, *(f"  {command.form:<50} {command.help}" for command in members), ""]


def help_command(command: Command) -> list[str]:
    """One command with its options."""
    lines = [
        f"Help for '{f'{command.topic}-{command.verb}'.rstrip('-')}' command:",
        "",
        f"  {command.form:<50} {command.help}",
        "",
    ]
    for spec, text in (command.options or {}).items():
        lines.append(f"      {'--' + spec:<20} {text}")
    return [*lines, ""] if command.options else lines


def number(text: str | None) -> float:
    """A figure of an answer; what is missing or no number counts as 0 (a new device has no sizes yet)."""
    try:
        figure = float(text or 0)
    except ValueError:
        return 0.0
    return figure if math.isfinite(figure) else 0.0


def need_rows(rows: Sized, message: str) -> None:
    """Died with `message` when there are none."""
    if not len(rows):
        raise Died(message)
