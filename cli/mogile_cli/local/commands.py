"""`mog local`: a whole cluster on this machine, for trying things out and for development.

`up` and `demo` hold the cluster in this process; the other commands find it through its state file and send it orders.
"""

from __future__ import annotations

import asyncio
import dataclasses
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from mogile_cli import output
from mogile_cli import status as cluster_status
from mogile_cli.errors import CliError, UsageError
from mogile_cli.local import cluster, control, demo, folders, processes, state
from mogile_cli.local import layout as layouts
from mogile_cli.local.cluster import LocalCluster
from mogile_cli.local.layout import BASE_ADDRESS, GATEWAY_PORT, LISTEN, Layout
from mogile_cli.local.programs import DOMAIN
from mogile_cli.local.running import Stopper, run, running
from mogile_cli.local.supervisor import last_line
from mogile_cli.session import JsonOption
from mogile_core.client import TrackerClient
from mogile_core.errors import MogError
from mogile_core.model import TRACKER_PORT, DeviceState

DOWN_SECONDS = 90.0
DETACH_SECONDS = 180.0
POLL_SECONDS = 0.1

app = typer.Typer(no_args_is_help=True, help="A whole cluster on this machine: no root, no Kubernetes.")

DataOption = Annotated[
    Path | None, typer.Option("--data", help="Folder of the cluster.", show_default="~/.local/share/mogile/local")
]
BaseAddressOption = Annotated[
    str | None,
    typer.Option("--base-address", help="Storage nodes are this plus a number.", show_default=str(BASE_ADDRESS)),
]
TrackerPortOption = Annotated[
    int | None, typer.Option("--tracker-port", help="Port of the first tracker.", show_default=str(TRACKER_PORT))
]
GatewayPortOption = Annotated[
    int | None, typer.Option("--gateway-port", help="Port of the HTTP gateway.", show_default=str(GATEWAY_PORT))
]
ListenOption = Annotated[
    str | None, typer.Option("--listen", help="Address of trackers and gateway.", show_default=str(LISTEN))
]
NginxOption = Annotated[
    bool | None,
    typer.Option("--nginx/--no-nginx", help="Use the system's nginx when it is there.", show_default="nginx"),
]


@app.command("up")
def up(  # noqa: PLR0917 - options of a command line
    nodes: Annotated[int | None, typer.Option(help="Storage nodes.", show_default="3")] = None,
    devices: Annotated[int | None, typer.Option(help="Devices of each node.", show_default="1")] = None,
    trackers: Annotated[int | None, typer.Option(help="Trackers.", show_default="1")] = None,
    data: DataOption = None,
    gateway_port: GatewayPortOption = None,
    tracker_port: TrackerPortOption = None,
    base_address: BaseAddressOption = None,
    listen: ListenOption = None,
    nginx: NginxOption = None,
    foreground: Annotated[
        bool, typer.Option("--foreground/--detach", help="Stay until Ctrl-C, or return when the cluster is ready.")
    ] = True,
) -> None:
    """Start PostgreSQL, trackers, storage nodes and a gateway. The data stays when they are stopped."""
    folder = (data or folders.default_folder()).absolute()
    if _said_that_it_runs(folder):
        return
    options = {
        "trackers": trackers,
        "gateway_port": gateway_port,
        "tracker_port": tracker_port,
        "base_address": base_address,
        "listen": listen,
        "nginx": nginx,
    }
    given = {name: value for name, value in options.items() if value is not None}
    layout = wanted_layout(folder, nodes, devices, given)
    if not foreground:
        _detach(folder, nodes, devices, given)
        return

    async def work(stopper: Stopper) -> None:
        output.say_plain(f"starting PostgreSQL, trackers, {len(layout.nodes)} storage nodes and a gateway in {folder}")
        async with running(layout, output.say_plain) as held:
            show_running(held)
            await stopper.until_asked(held)

    run(work, output.say_plain)
    output.say_plain(f"stopped; the data stays in {folder}")


@app.command("demo")
def demo_command(
    check: Annotated[
        bool, typer.Option("--check", help="Verify every step, remove everything, exit 0 only if all of it held.")
    ] = False,
    data: DataOption = None,
    gateway_port: GatewayPortOption = None,
    tracker_port: TrackerPortOption = None,
    base_address: BaseAddressOption = None,
    nginx: NginxOption = None,
) -> None:
    """See it work: files are stored, spread, moved to a new device, and healed after a node is killed."""
    wanted = {
        "gateway_port": gateway_port,
        "tracker_port": tracker_port,
        "base_address": base_address,
        "nginx": nginx,
    }
    demo.main(check=check, data=data, given={name: value for name, value in wanted.items() if value is not None})


@app.command("status")
def status(data: DataOption = None, as_json: JsonOption = False) -> None:
    """Processes and health of the running cluster."""
    found = _running(data)
    rows: list[dict[str, Any]] = [
        {"name": p.name, "pid": p.pid, "state": "running" if processes.alive(p) else "down"} for p in found.processes
    ]
    down = [n.name for n in _layout(found).nodes if n.name not in {row["name"] for row in rows}]
    rows += [{"name": name, "pid": None, "state": "down"} for name in down]
    health: dict[str, Any] | None = None
    problem = ""
    try:
        health = asyncio.run(_health(found))
    except MogError as error:
        problem = str(error)
    if as_json:
        output.say_json(
            {
                "data": str(found.data),
                "ready": found.ready,
                "gateway": found.gateway,
                "trackers": found.trackers,
                "processes": rows,
                "health": health,
                "problem": problem or None,
            }
        )
    else:
        output.say_plain(f"{found.data}: gateway {found.gateway}/{DOMAIN}/, trackers {','.join(found.trackers)}")
        output.say_table(("process", "pid", "state"), [tuple(row.values()) for row in rows], right=("pid",))
        if health is not None:
            cluster_status.show(health)
    if problem:
        raise CliError(problem)


@app.command("add-device")
def add_device(
    node: Annotated[int, typer.Option("--node", help="Number of the storage node.")],
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a storage node one more device; files move to it."""
    devid = _order(data, "add-device", node=node)
    output.say_done(f"node{node} has a new device {devid}", as_json=as_json, node=node, devid=devid)


@app.command("add-node")
def add_node(
    devices: Annotated[int, typer.Option("--devices", min=1, help="Devices of the new node.")] = 1,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start one more storage node; files move to its devices."""
    made = _order(data, "add-node", devices=devices)
    names = ", ".join(map(str, made["devids"]))
    output.say_done(f"node{made['node']} in zone {made['zone']} serves device {names}", as_json=as_json, **made)


@app.command("kill-node")
def kill_node(
    number: Annotated[int, typer.Argument(help="Number of the storage node.")],
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """kill -9 of a storage node's processes, as if its machine had lost power."""
    pids = _order(data, "kill-node", number=number)
    sentence = f"node{number} is dead: killed {' and '.join(map(str, pids))}; mog local start-node {number} starts it"
    output.say_done(sentence, as_json=as_json, node=number, killed=pids)


@app.command("start-node")
def start_node(
    number: Annotated[int, typer.Argument(help="Number of the storage node.")],
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a storage node that is down."""
    _order(data, "start-node", number=number)
    output.say_done(f"node{number} runs", as_json=as_json, node=number)


@app.command("mark")
def mark(
    devid: Annotated[int, typer.Argument(help="Device.")],
    device_state: Annotated[DeviceState, typer.Argument(metavar="STATE", help="alive, readonly, drain, down or dead.")],
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Set the state of a device. dead: its copies are made anew on other devices."""
    _order(data, "mark", devid=devid, device_state=str(device_state))
    output.say_done(f"device {devid} is {device_state}", as_json=as_json, devid=devid, status=device_state)


@app.command("down")
def down(data: DataOption = None, as_json: JsonOption = False) -> None:
    """Stop the running cluster, or what a killed one left behind. The data stays."""
    places = [data.absolute()] if data is not None else folders.candidates()
    found = state.find_running(places)
    if found is None:
        stopped = [name for folder in places for name in _stop_leftovers(folder)]
        sentence = f"stopped what was left: {', '.join(stopped)}" if stopped else "no cluster runs here"
        output.say_done(sentence, as_json=as_json, stopped=stopped, data=None)
        return
    if not processes.signal_process(found.supervisor, signal.SIGTERM):
        raise CliError(f"the cluster in {found.data} is held by a process that cannot be found; try again")
    end = time.monotonic() + DOWN_SECONDS
    while state.is_running(found.data):
        if time.monotonic() > end:
            raise CliError(
                f"the cluster in {found.data} did not stop within {DOWN_SECONDS:.0f} s; see {found.data / 'logs'}"
            )
        time.sleep(POLL_SECONDS)
    sentence = f"stopped; the data stays in {found.data}"
    output.say_done(sentence, as_json=as_json, stopped=[each.name for each in found.processes], data=str(found.data))


def wanted_layout(folder: Path, nodes: int | None, devices: int | None, given: dict[str, Any]) -> Layout:
    """The layout to start: a new one, or the one of the folder with what was asked to change."""
    old = layouts.load(folder)
    if old is None:
        return layouts.new_layout(
            folder, nodes=3 if nodes is None else nodes, devices=1 if devices is None else devices, **given
        )
    layouts.new_layout(folder, **given)  # the same checks as for a new one
    if nodes is not None and nodes < len(old.nodes):
        raise UsageError(
            f"--nodes {nodes}: the cluster in {folder} has {len(old.nodes)} and cannot shrink so; choose another --data"
        )
    if devices is not None and nodes is None and any(len(n.devids) != devices for n in old.nodes):
        raise UsageError(f"--devices: the cluster in {folder} has its devices already; mog local add-device adds one")
    layout = dataclasses.replace(old, **given)
    while nodes is not None and len(layout.nodes) < nodes:
        layout, _ = layout.with_node(devices or 1)
    return layout


def show_running(held: LocalCluster) -> None:
    """Where everything is and what to do next."""
    layout = held.layout
    url = f"{layout.gateway_url}/{DOMAIN}/"
    token = f' -H "Authorization: Bearer $(cat {held.token_file})"' if held.token_file else ""
    output.say()
    output.say(f"[bold]gateway[/]   {url}  [dim]({output.cell(held.gateway_kind)})[/]")
    output.say(f"[bold]trackers[/]  {', '.join(layout.tracker_addresses)}")
    for node in layout.nodes:
        devices = ", ".join(f"dev{d}" for d in node.devids)
        output.say(f"[bold]{node.name:<9}[/] {layout.address(node.number)}, zone {node.zone}, {devices}")
    output.say(f"[bold]data[/]      {output.cell(layout.data)}  [dim](logs in logs/)[/]")
    output.say()
    output.say_plain(f"  curl -T picture.jpg{token} {url}picture.jpg")
    output.say_plain(f"  curl -O {url}picture.jpg")
    output.say_plain("  mog ls; mog info picture.jpg; mog status; mog local kill-node 1; mog local --help")
    output.say()
    output.say("Ctrl-C stops it; the data stays.")
    sys.stdout.flush()


def _said_that_it_runs(folder: Path) -> bool:
    if not state.is_running(folder):
        return False
    found = state.read(folder)
    who = f" (pid {found.supervisor.pid}), gateway {found.gateway}/{DOMAIN}/" if found is not None else ""
    output.say_plain(f"the cluster in {folder} runs already{who}; mog local down stops it")
    return True


def _detach(folder: Path, nodes: int | None, devices: int | None, given: dict[str, Any]) -> None:
    """Start `up` in a session of its own and wait until it is ready."""
    words = ["--foreground", "--data", str(folder)]
    for name, value in {"nodes": nodes, "devices": devices, **given}.items():
        if isinstance(value, bool):
            words.append(f"--{'' if value else 'no-'}{name}")
        elif value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    log = folder / "logs" / "mog.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as stream:
            child = subprocess.Popen(
                [sys.executable, "-m", "mogile_cli.main", "local", "up", *words],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                cwd="/",
            )
    except OSError as error:
        raise UsageError(f"cannot write to {folder} ({error.strerror}); choose another folder with --data") from error
    end = time.monotonic() + DETACH_SECONDS
    while time.monotonic() < end:
        status_code = child.poll()
        if status_code is not None:
            sentence = last_line(log).removeprefix("mog: ")
            raise (UsageError if status_code == 2 else CliError)(sentence)
        found = state.read(folder) if state.is_running(folder) else None
        if found is not None and found.ready and found.supervisor.pid == child.pid:
            output.say_plain(f"running (pid {child.pid}): gateway {found.gateway}/{DOMAIN}/; mog local down stops it")
            return
        time.sleep(POLL_SECONDS)
    raise CliError(f"the cluster was not ready within {DETACH_SECONDS:.0f} s; see {log}")


def _running(data: Path | None) -> state.RunState:
    places = [data.absolute()] if data is not None else folders.candidates()
    found = state.find_running(places)
    if found is None:
        raise CliError(f"no cluster runs in {' or '.join(map(str, places))}; start one with: mog local up")
    return found


def _layout(found: state.RunState) -> Layout:
    layout = layouts.load(found.data)
    if layout is None:
        raise CliError(f"{found.data} has no {layouts.FILE_NAME}")
    return layout


async def _health(found: state.RunState) -> dict[str, Any]:
    async with TrackerClient(list(found.trackers), rounds=1) as client:
        return await cluster_status.collect(client)


def _order(data: Path | None, name: str, **arguments: object) -> Any:
    return asyncio.run(control.order(_running(data).control, name, **arguments))


def _stop_leftovers(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    lock = state.Lock(folder)
    lock.acquire()
    try:
        return cluster.stop_leftovers(folder)
    finally:
        lock.release()
