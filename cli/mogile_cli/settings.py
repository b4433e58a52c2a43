"""`mog setting`: settings of the cluster that hold at run time, such as limits on copying."""

from __future__ import annotations

from typing import Annotated

import typer

from mogile_cli import output
from mogile_cli.session import JsonOption, TrackersOption, with_client
from mogile_core.client import TrackerClient

app = typer.Typer(no_args_is_help=True, help="Settings of the cluster that are changed at run time.")


@app.command("list")
def setting_list(trackers: TrackersOption = "", as_json: JsonOption = False) -> None:
    """All settings with their values."""

    async def work(client: TrackerClient) -> None:
        settings = await client.settings()
        if as_json:
            output.say_json([output.plain(setting) for setting in settings])
            return
        rows = [(s.name, s.value, s.default, s.help) for s in settings]
        output.say_table(("setting", "value", "default", "meaning"), rows, right=("value", "default"))

    with_client(trackers, work)


@app.command("set")
def setting_set(
    name: Annotated[
        str, typer.Argument(help="Name; also dev<N>_bytes_per_second and dev<N>_concurrency of one device.")
    ],
    value: Annotated[str, typer.Argument(help="New value; an empty one goes back to the default.")],
    trackers: TrackersOption = "",
    as_json: JsonOption = False,
) -> None:
    """Change a setting; all trackers follow within seconds."""

    async def work(client: TrackerClient) -> None:
        output.say_done("", as_json=as_json, name=name, value=await client.set_setting(name, value))

    with_client(trackers, work)
