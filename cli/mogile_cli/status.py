"""`mog status`: is the cluster well, in one look."""

from __future__ import annotations

import asyncio
from typing import Any

from mogile_cli import output
from mogile_cli.jobs import failing
from mogile_cli.session import JsonOption, TrackersOption, with_client
from mogile_core.client import Census, ClusterInfo, DeviceInfo, TrackerClient, WorkerInfo
from mogile_core.model import DeviceState, Host, Observed


def status(trackers: TrackersOption = "", as_json: JsonOption = False) -> None:
    """Files, copies and devices of the cluster; exit status 1 when files have too few copies or a device is missing."""
    found = with_client(trackers, collect)
    if as_json:
        output.say_json(found)
    else:
        show(found)
    if found["problems"]:
        raise SystemExit(1)


async def collect(client: TrackerClient) -> dict[str, Any]:
    """Everything `show` needs, as plain values."""
    cluster, census, devices, hosts, balance, workers = await asyncio.gather(
        client.cluster(),
        client.census(detail=True),
        client.devices(),
        client.get_hosts(),
        client.balance(),
        client.jobs(),
    )
    return {
        "cluster": cluster,
        "files": census,
        "balance": balance,
        "devices": devices,
        "hosts": hosts,
        "workers": workers.workers,
        "problems": [*problems(census, devices, hosts), *map(_failing, failing(workers))],
    }


def _failing(worker: WorkerInfo) -> str:
    return f"the tracker's worker {worker.name} keeps failing: {worker.last_error}"


def problems(census: Census, devices: list[DeviceInfo], hosts: list[Host]) -> list[str]:
    """What is not as it should be, in sentences, worst first."""
    names = {host.hostid: host.hostname for host in hosts}
    found = []
    if census.no_copy:
        found.append(f"{output.plural(census.no_copy, 'file')} without any copy on a living device")
    if census.fewer_copies - census.no_copy > 0:
        found.append(f"{output.plural(census.fewer_copies - census.no_copy, 'file')} with fewer copies than wanted")
    if census.zone_violations:
        found.append(f"{output.plural(census.zone_violations, 'file')} in fewer zones than possible")
    if not census.complete:
        found.append("the files have not all been counted yet; the figures grow until they are")
    for device in devices:
        if device.status is DeviceState.DEAD:
            continue
        name = f"device {device.devid} on {names.get(device.hostid, 'an unknown host')}"
        if not device.cluster_ok:
            found.append(f"{name} is not the one the trackers know (other cluster, number or volume)")
        elif device.observed is Observed.UNREACHABLE:
            found.append(f"{name} cannot be reached")
        elif device.status is DeviceState.ALIVE and device.observed is Observed.READABLE:
            found.append(f"{name} cannot be written")
        if device.damaged:
            found.append(f"{name} has damaged copies to replace: {device.damaged}")
    return found


def show(found: dict[str, Any]) -> None:
    """The same for people."""
    cluster: ClusterInfo = found["cluster"]
    census: Census = found["files"]
    balance = found["balance"]
    output.say(f"cluster {cluster.cluster_id}, tracker {cluster.version}")
    output.say(
        f"{output.plural(census.files, 'file')}, {output.size(census.bytes)}; {census.to_replicate} to copy, "
        f"{census.to_delete} to delete; balancing {balance.mode}, {balance.state}"
    )
    names = {host.hostid: host.hostname for host in found["hosts"]}
    output.say_table(*device_table(found["devices"], names), right=("device", "files", "used"))
    if census.shorts:
        columns = ("domain", "class", "copies left", "files", "bytes")
        rows = [(row.domain, row.name, row.copies, row.files, output.size(row.bytes)) for row in census.shorts]
        output.say_table(columns, rows, right=columns[2:])
    for problem in found["problems"]:
        output.say(f"[yellow]attention:[/] {output.cell(problem)}")
    if not found["problems"]:
        output.say("[green]all files have their copies and all devices answer[/]")


def device_table(devices: list[DeviceInfo], names: dict[Any, str]) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """Columns and rows of a short table of devices."""
    rows: list[tuple[object, ...]] = [
        (
            d.devid,
            names.get(d.hostid, d.hostid),
            d.zone,
            f"{d.status}{' (out)' if d.out else ''}",
            d.observed if d.cluster_ok else "not ours",
            d.files,
            "-" if d.mb_used is None or not d.mb_total else f"{100 * d.mb_used / d.mb_total:.1f} %",
        )
        for d in devices
    ]
    return ("device", "host", "zone", "state", "seen", "files", "used"), rows
