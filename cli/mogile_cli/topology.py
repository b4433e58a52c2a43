"""`mog domain|class|host|device`: what the cluster consists of, over the tracker protocol."""

from __future__ import annotations

from typing import Annotated

import typer

from mogile_cli import output
from mogile_cli.errors import UsageError
from mogile_cli.session import (
    DomainOption,
    JsonOption,
    TrackersOption,
    complete_class,
    complete_domain,
    complete_host,
    domain_or_only,
    with_client,
)
from mogile_core.checksum import HashType
from mogile_core.client import ClassInfo, TrackerClient
from mogile_core.model import NODE_HTTP_PORT, DeviceState, HostState

domain_app = typer.Typer(no_args_is_help=True, help="Domains: separate spaces of keys.")
class_app = typer.Typer(no_args_is_help=True, help="Classes: how files of a domain are kept.")
host_app = typer.Typer(no_args_is_help=True, help="Storage hosts.")
device_app = typer.Typer(no_args_is_help=True, help="Devices: the disks of storage hosts.")

NameArgument = Annotated[str, typer.Argument(help="Name.")]
OldDomainArgument = Annotated[str, typer.Argument(help="Name.", autocompletion=complete_domain)]
OldClassArgument = Annotated[str, typer.Argument(help="Name.", autocompletion=complete_class)]
OldHostArgument = Annotated[str, typer.Argument(help="Name.", autocompletion=complete_host)]
CopiesOption = Annotated[
    int, typer.Option("--copies", "-n", min=1, help="How many copies are kept, on as many devices.")
]
PolicyOption = Annotated[str, typer.Option("--policy", help="Replication policy, such as 'MultipleHosts(3)'.")]
HashOption = Annotated[str, typer.Option("--hash", help="Digest kept of every file: MD5, SHA-1 or NONE.")]
WriteCopiesOption = Annotated[
    int | None,
    typer.Option("--write-copies", min=1, help="On how many machines an upload is before it is acknowledged."),
]
DegradedOption = Annotated[
    bool | None,
    typer.Option("--degraded-writes/--no-degraded-writes", help="Acknowledge uploads on fewer machines if need be."),
]
ZoneOption = Annotated[str, typer.Option("--zone", help="Zone; copies are spread over zones.")]


@domain_app.command("list")
def domain_list(trackers: TrackersOption = "", as_json: JsonOption = False) -> None:
    """All domains with their classes."""
    _show_classes("", trackers, as_json=as_json)


@domain_app.command("add")
def domain_add(name: NameArgument, trackers: TrackersOption = "", as_json: JsonOption = False) -> None:
    """Make a domain; it has the class `default`."""
    with_client(trackers, lambda client: client.create_domain(name))
    output.say_done("", as_json=as_json, domain=name)


@domain_app.command("rm")
def domain_rm(name: OldDomainArgument, trackers: TrackersOption = "", as_json: JsonOption = False) -> None:
    """Remove a domain that holds no files."""
    with_client(trackers, lambda client: client.delete_domain(name))
    output.say_done("", as_json=as_json, removed=name)


@class_app.command("list")
def class_list(domain: DomainOption = "", trackers: TrackersOption = "", as_json: JsonOption = False) -> None:
    """The classes of one domain, or of all."""
    _show_classes(domain, trackers, as_json=as_json)


@class_app.command("add")
def class_add(
    name: NameArgument,
    copies: CopiesOption = 2,
    policy: PolicyOption = "",
    hash_name: HashOption = "NONE",
    write_copies: WriteCopiesOption = None,
    degraded_writes: DegradedOption = None,
    domain: DomainOption = "",
    trackers: TrackersOption = "",
    as_json: JsonOption = False,
) -> None:
    """Make a class."""
    hashtype = _hashtype(hash_name)

    async def work(client: TrackerClient) -> None:
        chosen = await domain_or_only(client, domain)
        await client.create_class(chosen, name, copies, replpolicy=policy or None, hashtype=hashtype)
        await _set_write_rule(client, chosen, name, write_copies, degraded_writes)

    with_client(trackers, work)
    output.say_done("", as_json=as_json, name=name, mindevcount=copies, replpolicy=policy or None, hashtype=hash_name)


@class_app.command("set")
def class_set(
    name: OldClassArgument,
    copies: CopiesOption,
    policy: PolicyOption = "",
    hash_name: Annotated[str, typer.Option("--hash", help="MD5, SHA-1 or NONE; left as it is when not given.")] = "",
    write_copies: WriteCopiesOption = None,
    degraded_writes: DegradedOption = None,
    domain: DomainOption = "",
    trackers: TrackersOption = "",
    as_json: JsonOption = False,
) -> None:
    """Change a class; its files are copied or trimmed accordingly."""
    hashtype = _hashtype(hash_name or "NONE")
    wire_name = (hashtype.wire_name if hashtype is not None else "NONE") if hash_name else None  # None keeps it

    async def work(client: TrackerClient) -> None:
        chosen = await domain_or_only(client, domain)
        await client.update_class(chosen, name, copies, replpolicy=policy or None, hashtype=wire_name)
        await _set_write_rule(client, chosen, name, write_copies, degraded_writes)

    with_client(trackers, work)
    output.say_done("", as_json=as_json, name=name, mindevcount=copies, replpolicy=policy or None, hashtype=wire_name)


async def _set_write_rule(
    client: TrackerClient, domain: str, name: str, write_copies: int | None, degraded_writes: bool | None
) -> None:
    if write_copies is not None or degraded_writes is not None:
        await client.set_class(domain, name, write_copies=write_copies, degraded_writes=degraded_writes)


@class_app.command("rm")
def class_rm(
    name: OldClassArgument, domain: DomainOption = "", trackers: TrackersOption = "", as_json: JsonOption = False
) -> None:
    """Remove a class without files."""

    async def work(client: TrackerClient) -> None:
        await client.delete_class(await domain_or_only(client, domain), name)

    with_client(trackers, work)
    output.say_done("", as_json=as_json, removed=name)


@host_app.command("list")
def host_list(trackers: TrackersOption = "", as_json: JsonOption = False) -> None:
    """All hosts with zone and devices."""

    async def work(client: TrackerClient) -> None:
        hosts, devices = await client.get_hosts(), await client.devices()
        zones = {device.hostid: device.zone for device in devices}
        of_host = {host.hostid: [d.devid for d in devices if d.hostid == host.hostid] for host in hosts}
        if as_json:
            output.say_json(
                [{**output.plain(h), "zone": zones.get(h.hostid), "devices": of_host[h.hostid]} for h in hosts]
            )
            return
        rows = [
            (
                h.hostname,
                h.hostid,
                h.status,
                h.hostip,
                h.http_port,
                h.http_get_port,
                zones.get(h.hostid),
                ",".join(map(str, of_host[h.hostid])),
            )
            for h in hosts
        ]
        columns = ("name", "id", "state", "address", "port", "get port", "zone", "devices")
        output.say_table(columns, rows, right=("id", "port", "get port"))

    with_client(trackers, work)


@host_app.command("add")
def host_add(
    name: NameArgument,
    address: Annotated[str, typer.Argument(help="Address under which trackers and clients reach it.")],
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port of the storage agent.")] = NODE_HTTP_PORT,
    get_port: Annotated[int, typer.Option("--get-port", min=0, max=65535, help="Port for reads; 0: the same.")] = 0,
    zone: ZoneOption = "",
    trackers: TrackersOption = "",
    as_json: JsonOption = False,
) -> None:
    """Make a host known, in state alive."""

    async def work(client: TrackerClient) -> None:
        await client.create_host(name, address, port, getport=get_port or None, status=HostState.ALIVE)
        if zone:
            await client.set_zone(name, zone)

    with_client(trackers, work)
    output.say_done("", as_json=as_json, hostname=name, hostip=address, http_port=port, zone=zone or None)


@host_app.command("mark")
def host_mark(
    name: OldHostArgument,
    state: Annotated[HostState, typer.Argument(help="New state.")],
    trackers: TrackersOption = "",
    as_json: JsonOption = False,
) -> None:
    """Change a host's state."""
    with_client(trackers, lambda client: client.update_host(name, status=state))
    output.say_done("", as_json=as_json, hostname=name, status=state)


@host_app.command("zone")
def host_zone(
    name: OldHostArgument,
    zone: Annotated[str, typer.Argument(help="Zone.")],
    trackers: TrackersOption = "",
    as_json: JsonOption = False,
) -> None:
    """Say in which zone a host is."""
    with_client(trackers, lambda client: client.set_zone(name, zone))
    output.say_done("", as_json=as_json, hostname=name, zone=zone)


@host_app.command("rm")
def host_rm(name: OldHostArgument, trackers: TrackersOption = "", as_json: JsonOption = False) -> None:
    """Remove a host without devices."""
    with_client(trackers, lambda client: client.delete_host(name))
    output.say_done("", as_json=as_json, removed=name)


@device_app.command("list")
def device_list(trackers: TrackersOption = "", as_json: JsonOption = False) -> None:
    """All devices with what they hold and how they are."""

    async def work(client: TrackerClient) -> None:
        hosts = {host.hostid: host.hostname for host in await client.get_hosts()}
        devices = await client.devices()
        if as_json:
            output.say_json([{"host": hosts.get(d.hostid), **output.plain(d)} for d in devices])
            return
        rows = [
            (
                d.devid,
                hosts.get(d.hostid, d.hostid),
                d.zone,
                f"{d.status}{' (out)' if d.out else ''}",
                d.observed if d.cluster_ok else "not ours",
                d.files,
                "-" if d.mb_used is None or not d.mb_total else f"{100 * d.mb_used / d.mb_total:.1f} %",
                d.mb_free,
                d.weight,
            )
            for d in devices
        ]
        columns = ("device", "host", "zone", "state", "seen", "files", "used", "free MB", "weight")
        output.say_table(columns, rows, right=("device", "files", "used", "free MB", "weight"))

    with_client(trackers, work)


@device_app.command("add")
def device_add(
    host: Annotated[str, typer.Argument(help="Name of its host.", autocompletion=complete_host)],
    devid: Annotated[int, typer.Argument(min=1, max=32767, help="A number no device has had.")],
    trackers: TrackersOption = "",
    as_json: JsonOption = False,
) -> None:
    """Make a device known, in state alive. Its directory dev<N> must be there on the host."""
    with_client(trackers, lambda client: client.create_device(devid, host))
    output.say_done("", as_json=as_json, devid=devid, host=host)


@device_app.command("mark")
def device_mark(
    devid: Annotated[int, typer.Argument(help="Device.")],
    state: Annotated[DeviceState, typer.Argument(help="New state. dead: its copies are lost and made anew elsewhere.")],
    trackers: TrackersOption = "",
    as_json: JsonOption = False,
) -> None:
    """Change a device's state."""

    async def work(client: TrackerClient) -> None:
        await client.set_state(await host_of(client, devid), devid, state)

    with_client(trackers, work)
    output.say_done("", as_json=as_json, devid=devid, status=state)


@device_app.command("forget")
def device_forget(
    devid: Annotated[int, typer.Argument(help="A dead device.")],
    lost_files: Annotated[
        int | None,
        typer.Option(
            "--lost-files", min=0, help="Give up this many files that have no copy elsewhere; fsck logs each."
        ),
    ] = None,
    trackers: TrackersOption = "",
    as_json: JsonOption = False,
) -> None:
    """Remove a dead device; one that lost files needs their number as confirmation (a wrong number is answered with the right one)."""
    with_client(trackers, lambda client: client.forget_device(devid, lost_files=lost_files))
    output.say_done("", as_json=as_json, forgotten=devid, lost_files=lost_files)


@device_app.command("weight")
def device_weight(
    devid: Annotated[int, typer.Argument(help="Device.")],
    weight: Annotated[int, typer.Argument(min=0, help="A device of 200 is read from twice as often as one of 100.")],
    trackers: TrackersOption = "",
    as_json: JsonOption = False,
) -> None:
    """Change how much a device is preferred for reads (as long as nobody knows how busy it is)."""

    async def work(client: TrackerClient) -> None:
        await client.set_weight(await host_of(client, devid), devid, weight)

    with_client(trackers, work)
    output.say_done("", as_json=as_json, devid=devid, weight=weight)


async def host_of(client: TrackerClient, devid: int) -> str:
    """The name of a device's host; UsageError names the devices there are."""
    devices: dict[int, int] = {device.devid: device.hostid for device in await client.get_devices()}
    for host in await client.get_hosts():
        if devices.get(devid) == host.hostid:
            return host.hostname
    raise UsageError(f"there is no device {devid}; there are {', '.join(map(str, sorted(devices))) or 'none yet'}")


def _show_classes(only: str, trackers: str, *, as_json: bool) -> None:
    async def work(client: TrackerClient) -> None:
        domains = [d for d in await client.domains() if only in ("", d.name)]
        if only and not domains:
            raise UsageError(f"there is no domain {only}")
        if as_json:
            output.say_json(
                [
                    {
                        "name": d.name,
                        "classes": [{**output.plain(c), "hashtype": _hash_words(c.hashtype)} for c in d.classes],
                    }
                    for d in domains
                ]
            )
            return
        rows = [
            (d.name, c.name, c.mindevcount, _write_words(c), c.replpolicy, _hash_words(c.hashtype))
            for d in domains
            for c in d.classes
        ]
        output.say_table(
            ("domain", "class", "copies", "at write", "policy", "hash"), rows, right=("copies", "at write")
        )

    with_client(trackers, work)


def _write_words(item: ClassInfo) -> str:
    return f"{item.write_copies} or fewer" if item.degraded_writes else str(item.write_copies or 1)


def _hash_words(hashtype: HashType | None) -> str | None:
    return None if hashtype is None else hashtype.wire_name


def _hashtype(name: str) -> HashType | None:
    if name.upper() == "NONE":
        return None
    try:
        return HashType.from_wire(name.upper())
    except ValueError as error:
        raise UsageError(f"--hash must be MD5, SHA-1 or NONE, got {name!r}") from error
