"""Makes a local cluster known to its trackers, by the tracker protocol alone: zones, hosts, devices, a domain and its classes.

Everything can be repeated: what is there already is left as it is (an address or a read port that changed is updated), so that a start
after any earlier end finds the cluster as it was, dead devices included.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from mogile_cli.errors import CliError
from mogile_cli.local.layout import Layout, NodeSpec
from mogile_cli.local.programs import DOMAIN
from mogile_core import model
from mogile_core.client import DeviceInfo, TrackerClient
from mogile_core.model import DeviceState, HostState, Observed

CLASSES = (("important", 3), ("cache", 1))  # name and copies; the class `default` has two
WRITEABLE_SECONDS = 30.0
POLL_SECONDS = 0.2


async def register(client: TrackerClient, layout: Layout, *, reader: bool) -> None:
    """All nodes and devices of the layout, and the domain; `reader`: nodes serve reads on their nginx port."""
    for node in layout.nodes:
        await register_node(client, layout, node, reader=reader)
    if DOMAIN not in {domain.name for domain in await client.get_domains()}:
        await client.create_domain(DOMAIN)
        for name, copies in CLASSES:
            await client.create_class(DOMAIN, name, copies)


async def register_node(client: TrackerClient, layout: Layout, node: NodeSpec, *, reader: bool) -> None:
    """One host with its zone and its devices."""
    address, port = layout.address(node.number), model.NODE_HTTP_PORT
    get_port = model.NODE_GET_PORT if reader else None
    known = {host.hostname: host for host in await client.get_hosts()}.get(node.name)
    if known is None:
        await client.create_host(node.name, address, port, getport=get_port, status=HostState.ALIVE)
    elif (known.hostip, known.http_port, known.http_get_port) != (address, port, get_port):
        await client.command(  # an empty getport clears it
            "update_host", {"host": node.name, "ip": address, "port": port, "getport": get_port or ""}, safe=True
        )
    await client.set_zone(node.name, node.zone)
    present = {device.devid for device in await client.get_devices()}
    for devid in node.devids:
        if devid not in present:
            await client.create_device(devid, node.name)


async def wait_writeable(client: TrackerClient, devids: Iterable[int]) -> str:
    """Wait until the trackers see these devices writeable; those that were taken out of service are not waited for.

    Returns '' or, after the deadline, one sentence that names what is missing; CliError when nothing can be written at all.
    """
    wanted = set(devids)
    end = time.monotonic() + WRITEABLE_SECONDS
    while True:
        devices = [device for device in await client.get_devices() if device.devid in wanted]
        missing = [device for device in devices if not _settled(device)]
        if not missing and len(devices) == len(
            wanted
        ):  # a tracker that was not told itself learns of them seconds later
            return ""
        if time.monotonic() > end:
            break
        await asyncio.sleep(POLL_SECONDS)
    unknown = [f"device {devid} (unknown)" for devid in sorted(wanted - {device.devid for device in devices})]
    names = ", ".join([*unknown, *(f"device {d.devid} ({d.observed or 'not probed yet'})" for d in missing)])
    sentence = f"the trackers cannot write to {names} after {WRITEABLE_SECONDS:.0f} s; see the logs"
    if not any(device.observed is Observed.WRITEABLE for device in devices):
        raise CliError(sentence)
    return sentence


def _settled(device: DeviceInfo) -> bool:
    return device.status is not DeviceState.ALIVE or device.observed is Observed.WRITEABLE
