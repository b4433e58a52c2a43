"""`mog`: one command for files, administration and local clusters. One module per group; this one only puts them together.

Exit status: 0 done, 1 failed (one sentence on stderr says why), 2 called in a way that cannot work, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import importlib.metadata
import sys
from typing import Annotated

import typer

from mogile_cli import database, files, fsck, jobs, output, scrub, settings, status, topology
from mogile_cli.local import commands as local_commands
from mogile_core.errors import CommandError, MogError, SettingError

app = typer.Typer(
    name="mog",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="The object store mogile: files, administration, and clusters on this machine.",
)


def _version(wanted: bool) -> None:
    if wanted:
        output.say_plain(f"mog {importlib.metadata.version('mogile')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version


app.command("status")(status.status)
app.command("jobs")(jobs.jobs)
app.add_typer(files.app)
app.add_typer(topology.domain_app, name="domain")
app.add_typer(topology.class_app, name="class")
app.add_typer(topology.host_app, name="host")
app.add_typer(topology.device_app, name="device")
app.add_typer(settings.app, name="setting")
app.add_typer(fsck.app, name="fsck")
app.add_typer(scrub.app, name="scrub")
app.add_typer(database.app, name="db")
app.add_typer(local_commands.app, name="local")


# typer carries its own copy of click in newer versions: its errors are found through a name that both have
ClickError: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def main() -> None:
    """The entry point: errors become one sentence and an exit status."""
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except ClickError as error:
        message = error.format_message().rstrip(".")  # type: ignore[attr-defined]
        if message:  # a group called without a command has shown its help instead
            output.remark(f"mog: {message}; see mog --help")
        sys.exit(2)
    except MogError as error:
        output.remark(f"mog: {_sentence(error)}")
        sys.exit(exit_status(error))


def exit_status(error: MogError) -> int:
    """2 for a mistake in the call, else what the error says, else 1."""
    if isinstance(error, SettingError):
        return 2
    return int(getattr(error, "status", 1))


def _sentence(error: MogError) -> str:
    return error.text if isinstance(error, CommandError) and " " in error.text else str(error)


if __name__ == "__main__":
    main()
