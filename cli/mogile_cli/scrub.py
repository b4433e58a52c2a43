"""`mog scrub`: have storage nodes read every copy of a device again now, and see how far that is.

Nodes do this by themselves once in a while; what they find damaged is healed by the trackers. Here they are asked directly: which
nodes there are is known to the trackers, how far a scrub is only to the node.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import Annotated

import typer

from mogile_cli import output
from mogile_cli.errors import UsageError
from mogile_cli.nodes import Nodes, Scrub
from mogile_cli.progress import COUNT, Progress
from mogile_cli.session import JsonOption, TrackersOption, complete_host, with_client
from mogile_core.client import DeviceInfo, TrackerClient
from mogile_core.errors import NodeError
from mogile_core.model import NODE_HEALTH_PORT, DeviceState, Host

app = typer.Typer(no_args_is_help=True, help="Have nodes compare every copy with the digest it was stored with.")

POLL_SECONDS = 1.0
_RIGHT = ("device", "files", "of", "read", "damaged")

DevicesArgument = Annotated[list[int] | None, typer.Argument(metavar="[DEVICE]...", help="Numbers of devices.")]
HostOption = Annotated[str, typer.Option("--host", help="All devices of this host.", autocompletion=complete_host)]
HealthPortOption = Annotated[
    int, typer.Option("--health-port", min=1, max=65535, help="Port on which nodes tell their status.")
]


@app.command("start")
def start(
    devices: DevicesArgument = None,
    host: HostOption = "",
    everything: Annotated[bool, typer.Option("--all", help="All devices of the cluster.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until everything has been read.")] = False,
    health_port: HealthPortOption = NODE_HEALTH_PORT,
    trackers: TrackersOption = "",
    as_json: JsonOption = False,
) -> None:
    """Begin a scrub at the first file, also in the middle of one; exit status 1 when a node refuses, or the scrub stops."""
    if not (devices or host or everything):
        raise UsageError("say what to scrub: numbers of devices, --host NAME or --all")

    async def work(client: TrackerClient) -> tuple[list[Target], list[Scrub]]:
        targets = choose(await client.devices(), await client.get_hosts(), devices or [], host)
        async with Nodes((await client.cluster()).cluster_id, health_port) as nodes:
            before = await look(nodes, targets)
            ordered = await asyncio.gather(*(_order(nodes, target) for target in targets))
            if not wait:
                return targets, list(ordered)
            return targets, await until_finished(nodes, targets, before, list(ordered))

    targets, scrubs = with_client(trackers, work)
    if as_json:
        output.say_json(scrubs if wait else [{"devid": s.devid, "host": s.host, "error": s.error} for s in scrubs])
    elif wait:
        show(targets, scrubs)
    else:
        for scrub in scrubs:
            output.say_plain(f"device {scrub.devid} on {scrub.host}: {scrub.error or 'a scrub begins'}")
    if any(scrub.error or (wait and scrub.failure) for scrub in scrubs):
        raise SystemExit(1)


@app.command("status")
def status(
    devices: DevicesArgument = None,
    host: HostOption = "",
    health_port: HealthPortOption = NODE_HEALTH_PORT,
    trackers: TrackersOption = "",
    as_json: JsonOption = False,
) -> None:
    """The scrub of each device: the pass that runs, else the last one; exit status 1 when a node does not tell."""

    async def work(client: TrackerClient) -> tuple[list[Target], list[Scrub]]:
        targets = choose(await client.devices(), await client.get_hosts(), devices or [], host)
        async with Nodes((await client.cluster()).cluster_id, health_port) as nodes:
            return targets, await look(nodes, targets)

    targets, scrubs = with_client(trackers, work)
    if as_json:
        output.say_json(scrubs)
    else:
        show(targets, scrubs)
    if any(scrub.error for scrub in scrubs):
        raise SystemExit(1)


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """A device and where it is."""

    device: DeviceInfo
    host: Host


def choose(devices: list[DeviceInfo], hosts: list[Host], devids: list[int], host: str) -> list[Target]:
    """The devices that are meant, by number; all that are not dead when nothing is said. UsageError names what there is."""
    by_id = {each.hostid: each for each in hosts}
    known = {int(each.devid): Target(each, by_id[each.hostid]) for each in devices if each.hostid in by_id}
    for devid in devids:
        if devid not in known:
            raise UsageError(
                f"there is no device {devid}; there are {', '.join(map(str, sorted(known))) or 'none yet'}"
            )
    if host and host not in (names := sorted(each.hostname for each in hosts)):
        raise UsageError(f"there is no host {host}; there are {', '.join(names) or 'none yet'}")
    living = {devid for devid, target in known.items() if target.device.status is not DeviceState.DEAD}
    wanted = set(devids) if devids else living
    return [target for devid, target in sorted(known.items()) if devid in wanted and host in ("", target.host.hostname)]


async def look(nodes: Nodes, targets: list[Target]) -> list[Scrub]:
    """The scrub of each target; every node is asked once."""
    hosts = {target.host.hostid: target.host for target in targets}
    answers = dict(zip(hosts, await asyncio.gather(*(_ask(nodes, host) for host in hosts.values())), strict=True))
    return [_of(target, answers[target.host.hostid]) for target in targets]


async def _ask(nodes: Nodes, host: Host) -> dict[int, Scrub] | NodeError:
    try:
        return await nodes.scrubs(host)
    except NodeError as error:
        return error


def _of(target: Target, answer: dict[int, Scrub] | NodeError) -> Scrub:
    devid, host = int(target.device.devid), target.host.hostname
    if isinstance(answer, NodeError):
        return Scrub(devid=devid, host=host, error=str(answer))
    return answer.get(devid) or Scrub(devid=devid, host=host, error=f"there is no dev{devid} on this node")


async def _order(nodes: Nodes, target: Target) -> Scrub:
    devid, error = int(target.device.devid), ""
    try:
        await nodes.begin_scrub(target.host, devid)
    except NodeError as refusal:
        error = str(refusal)
    return Scrub(devid=devid, host=target.host.hostname, error=error)


async def until_finished(nodes: Nodes, targets: list[Target], before: list[Scrub], ordered: list[Scrub]) -> list[Scrub]:
    """Wait for the passes that were ordered; a device whose order was refused, or whose scrub stops, is waited for no longer."""
    old = {scrub.devid: scrub.started for scrub in before}
    ended = {scrub.devid: scrub for scrub in ordered if scrub.error}
    total = sum(target.device.files or 0 for target in targets)
    with Progress("reading copies", total=total or None, columns=COUNT) as bar:
        seen = 0
        while rest := [target for target in targets if int(target.device.devid) not in ended]:
            scrubs = await look(nodes, rest)
            begun = [scrub for scrub in scrubs if scrub.started != old[scrub.devid]]
            ended |= {scrub.devid: scrub for scrub in scrubs if scrub.error}
            ended |= {scrub.devid: scrub for scrub in begun if scrub.failure or not scrub.running}
            running = [scrub for scrub in begun if scrub.devid not in ended]
            done = sum(scrub.files for scrub in (*ended.values(), *running))
            bar.advance(done - seen)
            seen = done
            if len(ended) < len(targets):
                await asyncio.sleep(POLL_SECONDS)
    return [ended[int(target.device.devid)] for target in targets]


def show(targets: list[Target], scrubs: list[Scrub]) -> None:
    """The same for people. Files stored or deleted during a pass make its count differ from what the device holds."""
    columns = ("device", "host", "scrub", "files", "of", "read", "damaged", "started", "finished")
    rows = [
        (
            scrub.devid,
            scrub.host,
            _word(scrub),
            None if scrub.error else scrub.files,
            target.device.files,
            None if scrub.error else output.size(scrub.bytes),
            None if scrub.error else scrub.damaged,
            _moment(scrub.started),
            _moment(scrub.finished) if scrub.finished >= scrub.started else None,
        )
        for target, scrub in zip(targets, scrubs, strict=True)
    ]
    output.say_table(columns, rows, right=_RIGHT)
    for scrub in scrubs:
        if problem := scrub.error or scrub.failure:
            output.say(f"[yellow]device {scrub.devid} on {output.cell(scrub.host)}:[/] {output.cell(problem)}")


def _word(scrub: Scrub) -> str | None:
    if scrub.error:
        return None
    if scrub.running:
        return "running"
    return "done" if scrub.started else "never"


def _moment(seconds: float) -> str | None:
    """Local time, for people."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else None
