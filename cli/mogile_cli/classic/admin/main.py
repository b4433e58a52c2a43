"""mogadm's command line: global options, topic, verb; then the command's own words and options (see `grammar`)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from mogile_cli.classic import configuration, connection, getopt, program
from mogile_cli.classic.admin import check, domains, fsck, grammar, rebalance, settings, topology
from mogile_cli.classic.admin.grammar import BadUseError, Command, Request
from mogile_cli.classic.program import Console, Died
from mogile_core.errors import MogError
from mogile_core.model import TRACKER_PORT

FAILED = 1
GLOBAL_OPTIONS = ("trackers=s", "config=s", "lib=s", "help", "verbose")
LOCAL_TRACKER = f"127.0.0.1:{TRACKER_PORT}"
LOCAL_TRACKER_SECONDS = 1.0
NO_TRACKERS = """No trackers are configured and none answers on this machine. Say where they are, in a configuration file

    trackers = 10.10.0.33:7001, 10.10.0.34:7001

or on the command line:

    mogadm --trackers=10.10.0.33:7001,10.10.0.34:7001 ..."""


async def _stats(_request: Request) -> None:
    raise Died("mogadm stats is deprecated: use mogstats")


STATS = Command(topic="stats", verb="", help="Deprecated; use mogstats.", run=_stats)
COMMANDS: tuple[Command, ...] = (
    check.COMMAND,
    STATS,
    *topology.COMMANDS,
    *domains.COMMANDS,
    *settings.SLAVE_COMMANDS,
    *fsck.COMMANDS,
    *rebalance.COMMANDS,
    *settings.COMMANDS,
)


async def mogadm(argv: Sequence[str], environ: Mapping[str, str], console: Console) -> int:
    """The whole tool; its exit code."""
    try:
        return await _mogadm(argv, environ, console)
    except (MogError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        console.complain(program.describe(error))
        return FAILED


async def _mogadm(argv: Sequence[str], environ: Mapping[str, str], console: Console) -> int:
    try:
        parsed = getopt.parse(argv, GLOBAL_OPTIONS, in_order=True, pass_through=True)
    except getopt.OptionError as error:
        return _bad_use(console, grammar.help_all(COMMANDS), error)
    values = configuration.read(configuration.sources(environ, parsed.values.get("config")), parsed.values)
    topic = parsed.words[0] if parsed.words else ""
    members = [command for command in COMMANDS if command.topic == topic]
    if "help" in parsed.values or not members:
        return _bad_use(console, grammar.help_all(COMMANDS))
    has_verbs = bool(members[0].verb)
    verb = parsed.words[1] if has_verbs and len(parsed.words) > 1 else ""
    command = next((member for member in members if member.verb == verb), None)
    if command is None:
        return _bad_use(console, grammar.help_topic(COMMANDS, topic))
    rest = parsed.words[2 if has_verbs else 1 :]
    try:
        arguments = command.read(rest)
    except BadUseError as error:
        return _bad_use(console, grammar.help_command(command), error)
    trackers = configuration.trackers(values.get("trackers")) or await _local_tracker()
    verbose = "verbose" in values
    async with connection.connect(trackers, values) as tracker:
        request = Request(arguments=arguments, trackers=trackers, tracker=tracker, console=console, verbose=verbose)
        try:
            await command.run(request)
        except BadUseError as error:
            return _bad_use(console, grammar.help_command(command), error)
    console.flush()
    return 0


async def _local_tracker() -> tuple[str, ...]:
    """The tracker of this machine, when one listens."""
    host, _, port = LOCAL_TRACKER.rpartition(":")
    try:
        async with asyncio.timeout(LOCAL_TRACKER_SECONDS):
            _, writer = await asyncio.open_connection(host, int(port))
    except (OSError, TimeoutError) as error:
        raise Died(NO_TRACKERS) from error
    writer.close()
    return (LOCAL_TRACKER,)


def _bad_use(console: Console, lines: Sequence[str], error: BadUseError | getopt.OptionError | None = None) -> int:
    if error is not None:
        console.line()
        console.line(f"ERROR: {error}")
        console.line()
    for line in lines:
        console.line(line)
    return FAILED


def main() -> int:
    """Entry point of `mogadm`."""
    return program.launch(mogadm)
