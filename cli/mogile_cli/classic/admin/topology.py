"""mogadm host and device: the machines and disks files are stored on."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence

from mogile_cli.classic import connection, program
from mogile_cli.classic.admin.grammar import BadUseError, Command, Request, need_rows, number
from mogile_cli.classic.connection import Connection, Pairs
from mogile_cli.classic.program import Died
from mogile_core.model import NODE_HTTP_PORT

NO_HOSTS = "Unable to retrieve host information from tracker(s)."
NO_DEVICES = "No devices found on tracker(s)."
MIB_PER_GIB = 1024
SUMMARY_STATES = "alive,readonly"


async def hosts(tracker: Connection) -> list[Pairs]:
    """All hosts by ascending id; fails when there are none."""
    found = connection.rows(await tracker.ask("get_hosts"), "hosts", "host{}_")
    need_rows(found, NO_HOSTS)
    return sorted(found, key=lambda host: connection.whole(host, "hostid"))


async def devices(tracker: Connection) -> dict[str, list[Pairs]]:
    """All devices by host id, ascending by devid."""
    found = connection.rows(await tracker.ask("get_devices"), "devices", "dev{}_")
    by_host: dict[str, list[Pairs]] = {}
    for device in sorted(found, key=lambda device: connection.whole(device, "devid")):
        by_host.setdefault(device["hostid"], []).append(device)
    return by_host


async def _host_list(request: Request) -> None:
    for host in await hosts(request.tracker):
        request.console.line(_host_line(host))
        fields = {
            "IP": f"{host['hostip']}:{host['http_port']}",
            "Alt IP": host.get("altip"),
            "Alt Mask": host.get("altmask"),
            "GET Port": host.get("http_get_port"),
        }
        for name, value in fields.items():
            if value:
                request.console.line(f"  {name + ':':<10}{value}")
        request.console.line()


def _host_line(host: Pairs) -> str:
    return f"{host['hostname']} [{host['hostid']}]: {host['status']}"


async def _host_add(request: Request) -> None:
    name = request["hostname"]
    address = request.get("ip") or await _resolve(name)
    with program.doing("creating host"):
        await request.tracker.ask(
            "create_host",
            host=name,
            ip=address,
            port=request.get("port") or NODE_HTTP_PORT,
            status=request.get("status") or "down",
            **_optional(request, ("getport", "altip", "altmask")),
        )
    request.done("Host created.")


async def _resolve(name: str) -> str:
    """The address of a host name, IPv4 first as it always was."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Died(
            f"host {name!r} has no address in the name service; say which: mogadm host add {name} --ip=<address>"
        ) from error
    ranked = sorted(found, key=lambda entry: entry[0] != socket.AF_INET)
    return str(ranked[0][4][0])


def _optional(request: Request, names: Sequence[str]) -> Mapping[str, str | None]:
    return {name: request.get(name) for name in names}


async def _host_modify(request: Request) -> None:
    """Changes what is given; an empty value (`--altip=`) clears."""
    changes = {name.partition("=")[0]: request.arguments.get(name.partition("=")[0]) for name in _HOST_OPTIONS}
    with program.doing("modifying host"):
        await request.tracker.ask("update_host", host=request["hostname"], **changes)
    request.done("Host modified.")


async def _host_mark(request: Request) -> None:
    with program.doing("updating host status"):
        await request.tracker.ask("update_host", host=request["hostname"], status=request["status"])
    request.done("Host status updated.")


async def _host_delete(request: Request) -> None:
    with program.doing("deleting host"):
        await request.tracker.ask("delete_host", host=request["hostname"])
    request.done("Host deleted.")


async def _device_list(request: Request) -> None:
    everything = "all" in request.arguments
    by_host = await devices(request.tracker)
    need_rows(by_host, NO_DEVICES)
    for host in await _chosen_hosts(request):
        request.console.line(_host_line(host))
        heads = "".join(f" {head:>10}" for head in ("used(G)", "free(G)", "total(G)", "weight(%)"))
        request.console.line(" " * 15 + heads)
        for device in by_host.get(host["hostid"], []):
            if device["status"] != "dead" or everything:
                request.console.line(_device_line(device))
        request.console.line()


def _device_line(device: Pairs) -> str:
    total, used = number(device.get("mb_total")) / MIB_PER_GIB, number(device.get("mb_used")) / MIB_PER_GIB
    name, weight = f"dev{device['devid']}", device.get("weight", "")
    return f"{name:>6}: {device['status']:>7} {used:>10.3f} {total - used:>10.3f} {total:>10.3f} {weight:>10}"


async def _chosen_hosts(request: Request) -> list[Pairs]:
    """All hosts, or those that --hostname names (comma list)."""
    found = await hosts(request.tracker)
    wanted = [name.strip() for name in (request.get("hostname") or "").split(",") if name.strip()]
    missing = set(wanted) - {host["hostname"] for host in found}
    if missing:
        raise Died(f"host {sorted(missing)[0]!r} does not exist")
    return [host for host in found if not wanted or host["hostname"] in wanted]


async def _device_summary(request: Request) -> None:
    states = set((request.get("status") or SUMMARY_STATES).split(","))
    by_host = await devices(request.tracker)
    need_rows(by_host, NO_DEVICES)
    request.console.line(
        f"{'Hostname':<15} {'HostID':>6} {'Status':>7}  {'used(G)':>8} {'free(G)':>8} {'total(G)':>8} {'%Used':>8}"
    )
    for host in await _chosen_hosts(request):
        shown = [device for device in by_host.get(host["hostid"], []) if device["status"] in states]
        total = sum(number(device.get("mb_total")) for device in shown) / MIB_PER_GIB
        used = sum(number(device.get("mb_used")) for device in shown) / MIB_PER_GIB
        line = f"{host['hostname']:<15} [{host['hostid']:>4}]: {host['status']:>6}"
        line += f"  {used:>8.3f} {total - used:>8.3f} {total:>8.3f} "
        request.console.line(line + (f"{100 * used / total:>8.2f}" if total else ""))


async def _device_add(request: Request) -> None:
    with program.doing("adding device"):
        await request.tracker.ask(
            "create_device",
            hostname=request["hostname"],
            devid=request["devid"],
            state=request.get("status") or "alive",
        )
    request.done("Device added.")


async def _device_mark(request: Request) -> None:
    with program.doing("updating device"):
        await request.tracker.ask(
            "set_state", host=request["hostname"], device=request["devid"], state=request["status"]
        )
    request.done("Device updated.")


async def _device_modify(request: Request) -> None:
    status, weight = request.get("status"), request.get("weight")
    if status is None and weight is None:
        raise BadUseError("Nothing to change: give --status or --weight")
    with program.doing("updating device"):
        if status is not None:
            await request.tracker.ask("set_state", host=request["hostname"], device=request["devid"], state=status)
        if weight is not None:
            await request.tracker.ask("set_weight", host=request["hostname"], device=request["devid"], weight=weight)
    request.done("Device updated.")


async def _device_next(request: Request) -> None:
    """The first devid above all that exist: devids are never used again."""
    found = await devices(request.tracker)
    request.console.line(
        str(max((connection.whole(device, "devid") for row in found.values() for device in row), default=0) + 1)
    )


_HOST_OPTIONS = {
    "status=s": "alive, down, readonly or dead",
    "ip=s": "Address of the machine",
    "port=i": "HTTP port of its storage node",
    "getport=i": "HTTP port to read from, where it is another one",
    "altip=s": "A second address of the machine",
    "altmask=s": "Clients within this netmask are given the second address",
}
_DEVICE_STATES = "alive, readonly, drain, down or dead"
COMMANDS = (
    Command(topic="host", verb="list", help="List all hosts.", run=_host_list),
    Command(
        topic="host",
        verb="add",
        help="Add a host (default: port 7500, down).",
        run=_host_add,
        words=("hostname",),
        options=_HOST_OPTIONS,
    ),
    Command(
        topic="host", verb="modify", help="Change a host.", run=_host_modify, words=("hostname",), options=_HOST_OPTIONS
    ),
    Command(
        topic="host", verb="mark", help="Change the status of a host.", run=_host_mark, words=("hostname", "status")
    ),
    Command(topic="host", verb="delete", help="Delete a host without devices.", run=_host_delete, words=("hostname",)),
    Command(
        topic="device",
        verb="list",
        help="List the devices of each host.",
        run=_device_list,
        options={"all": "Dead devices too", "hostname=s": "Of these hosts only (comma list)"},
    ),
    Command(
        topic="device",
        verb="summary",
        help="A line per host with the sums of its devices.",
        run=_device_summary,
        options={
            "status=s": f"Devices in these states (comma list; default {SUMMARY_STATES})",
            "hostname=s": "Of these hosts only (comma list)",
        },
    ),
    Command(
        topic="device",
        verb="add",
        help="Add a device to a host.",
        run=_device_add,
        words=("hostname", "devid"),
        options={"status=s": f"{_DEVICE_STATES}; default alive"},
    ),
    Command(
        topic="device",
        verb="mark",
        help="Change the status of a device.",
        run=_device_mark,
        words=("hostname", "devid", "status"),
    ),
    Command(
        topic="device",
        verb="modify",
        help="Change a device.",
        run=_device_modify,
        words=("hostname", "devid"),
        options={"status=s": _DEVICE_STATES, "weight=i": "Share of reads, 100 is usual"},
    ),
    Command(topic="device", verb="next", help="Print the next unused devid.", run=_device_next),
)
