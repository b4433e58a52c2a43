"""What holds for every command of `mog`: JSON for programs, help in sentences; and bars that show themselves late and only to people."""

import io
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from rich.console import Console

from mogile_cli.main import app
from mogile_cli.progress import COUNT, SHOWN_AFTER_SECONDS, Progress

# They stay until Ctrl-C and tell a story; there is no one result.
STORIES = {"local up", "local demo"}
CLASSIC = {"db setup"}  # mogdbsetup with its own flags and output


def leaves(command: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, each in command.commands.items():
        if hasattr(each, "commands"):
            yield from leaves(each, f"{path}{name} ")
        else:
            yield f"{path}{name}", each


COMMANDS = dict(leaves(typer.main.get_command(app)))


def test_the_walk_finds_the_commands() -> None:
    assert {"put", "domain add", "local status", "fsck status"} <= set(COMMANDS)
    assert set(COMMANDS) >= STORIES


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - STORIES - CLASSIC))
def test_every_command_speaks_json(name: str) -> None:
    assert any("--json" in option.opts for option in COMMANDS[name].params), f"mog {name} has no --json"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_and_option_has_a_sentence_of_help(name: str) -> None:
    command = COMMANDS[name]
    assert command.help.rstrip().endswith("."), name
    for option in command.params:
        assert option.help, f"mog {name} {option.name}"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def shown(*, terminal: bool, seconds: float) -> str:
    screen, clock = io.StringIO(), Clock()
    console = Console(file=screen, force_terminal=terminal, width=100, _environ={})
    with Progress("cats[/]/tom.jpg", total=10, columns=COUNT, console=console, clock=clock) as bar:
        bar.advance(3)
        clock.now = seconds
        bar.advance(4)
        bar.restart()
        bar.advance(9)
        if bar._bar is not None:
            bar._bar.refresh()
    return screen.getvalue()


def test_a_bar_is_shown_once_something_takes_long() -> None:
    text = shown(terminal=True, seconds=SHOWN_AFTER_SECONDS + 0.1)
    assert "cats[/]/tom.jpg" in text
    assert "9/10" in text


def test_what_is_done_soon_shows_nothing() -> None:
    assert shown(terminal=True, seconds=SHOWN_AFTER_SECONDS / 2) == ""


def test_a_pipe_or_a_log_gets_no_bars() -> None:
    assert shown(terminal=False, seconds=60) == ""
