"""What the tools ask of trackers: one command at a time, text of people in and out.

The wire knows bytes; here everything is UTF-8 text with surrogate escapes for the rest, converted in this module and nowhere else. The
tools show answers as they came (a field of a newer tracker is printed, not dropped), so they use plain pairs and not the typed methods.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from mogile_cli.classic import configuration
from mogile_core.client import TrackerClient
from mogile_core.errors import ProtocolError
from mogile_core.paths import FID_MAX
from mogile_core.wire import to_text

ANSWER_SECONDS = 15.0  # what mogadm always waited; admin commands may take a monitor round
ROWS_MAX = 1_000_000  # an answer that announces more rows is not believed

DIGITS_MAX = 19

Pairs = Mapping[str, str]

# Commands that may simply be sent again when an answer was lost: look-ups, and changes that say what shall be so.
_REPEATABLE_PREFIXES = (
    "get_",
    "list_",
    "file_",
    "server_setting",
    "fsck_status",
    "fsck_getlog",
    "rebalance_status",
    "rebalance_test",
)
_REPEATABLE = frozenset(
    {"set_state", "set_weight", "set_server_setting", "update_host", "update_class", "rebalance_set_policy"}
)


class Answer(dict[str, str]):
    """The pairs of an answer, or of one row of it. A pair that must be there and is not is the tracker's mistake, not ours."""

    def __missing__(self, name: str) -> str:
        raise ProtocolError(f"the tracker's answer lacks {name!r}")


class Connection:
    """Any of the trackers."""

    def __init__(self, client: TrackerClient) -> None:
        self.client = client

    async def ask(self, command: str, **arguments: str | int | None) -> Pairs:
        """Send a command; arguments that are None are left out. CommandError when the tracker refuses."""
        safe = command.startswith(_REPEATABLE_PREFIXES) or command in _REPEATABLE
        answer = await self.client.command(command, arguments, safe=safe)
        return Answer({to_text(name): to_text(value) for name, value in answer.items()})


@asynccontextmanager
async def connect(
    trackers: Sequence[str], values: Mapping[str, str] | None = None, *, rounds: int = 3
) -> AsyncIterator[Connection]:
    """A connection to `trackers` with the answer time of the configuration `values`."""
    seconds = configuration.timeout_seconds(values or {}, ANSWER_SECONDS)
    async with TrackerClient(list(trackers), answer_timeout_seconds=seconds, rounds=rounds) as client:
        yield Connection(client)


def whole(pairs: Pairs, name: str, most: int = FID_MAX) -> int:
    """A whole number that must be there."""
    text = pairs[name]
    if not (text.isascii() and text.isdigit() and len(text) <= DIGITS_MAX) or int(text) > most:
        raise ProtocolError(f"the tracker's answer has {name}={text[:40]!r}, expected a whole number of at most {most}")
    return int(text)


def count(pairs: Pairs, name: str) -> int:
    """A number of rows that an answer announces; 0 when it is not there."""
    return whole(pairs, name, ROWS_MAX) if pairs.get(name) else 0


def rows(pairs: Pairs, total: str, prefix: str) -> list[Pairs]:
    """`hosts=2&host1_ip=..&host2_ip=..` -> one mapping per row: rows(pairs, "hosts", "host{}_")."""
    head, tail = prefix.split("{}")
    by_index: dict[str, Answer] = {}
    for name, value in pairs.items():
        rest = name.removeprefix(head) if name.startswith(head) else ""
        field = rest.lstrip("0123456789")
        if field and field != rest and field.startswith(tail):
            by_index.setdefault(rest[: -len(field)], Answer())[field.removeprefix(tail)] = value
    return [by_index.get(str(number), Answer()) for number in range(1, count(pairs, total) + 1)]
