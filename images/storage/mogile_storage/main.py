"""Entry of the storage node: `mogile-storage agent` and `mogile-storage nginx`. Wires, decides nothing.

The two are separate processes so that reads go on while the agent restarts, and so that each imports only what it needs.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from mogile_core.errors import MogError
from mogile_core.runtime import logs
from mogile_core.runtime.settings import exit_with_line, load_or_exit

USAGE = "usage: mogile-storage agent|nginx [--name=value ...]   (--help after the subcommand lists the settings)"


def main(argv: Sequence[str] | None = None) -> None:
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = arguments.pop(0) if arguments else ""
    if command == "agent":
        _agent(arguments)
    elif command == "nginx":
        _nginx(arguments)
    elif command in ("--help", "-h"):
        sys.stdout.write(USAGE + "\n")
    else:
        exit_with_line("mogile-storage", USAGE)


def _agent(arguments: list[str]) -> None:
    import uvloop  # noqa: PLC0415 - the nginx command must stay small

    from mogile_storage import agent  # noqa: PLC0415
    from mogile_storage.settings import AgentSettings  # noqa: PLC0415

    settings = load_or_exit(AgentSettings, arguments, "mogile-storage agent")
    logs.setup(settings.log_format, settings.log_level)
    try:
        agent.check(settings)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(agent.run(settings))
    except MogError as error:
        exit_with_line("mogile-storage agent", str(error))


def _nginx(arguments: list[str]) -> None:
    from mogile_storage import nginx  # noqa: PLC0415
    from mogile_storage.settings import NginxSettings  # noqa: PLC0415

    settings = load_or_exit(NginxSettings, arguments, "mogile-storage nginx")
    logs.setup(settings.log_format, settings.log_level)
    try:
        sys.exit(nginx.run(settings))
    except MogError as error:
        exit_with_line("mogile-storage nginx", str(error))


if __name__ == "__main__":
    main()
