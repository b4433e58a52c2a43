"""Commands for hosts and devices, MogileFS's and ours."""

from __future__ import annotations

from collections.abc import Iterable

from mogile_core.errors import CommandError
from mogile_core.model import Device, DeviceState, Host, HostState
from mogile_core.paths import DEVID_MAX
from mogile_tracker.commands.registry import NOTHING, Call, Pairs, Registry, Tracker, is_number
from mogile_tracker.store.admin import HostChange
from mogile_tracker.store.copies import Copies
from mogile_tracker.topology import Topology

PORT_MAX = 65535
WEIGHT_MAX = 2**31 - 1

LOST_FILES_MAX = 1_000_000  # given up at once with a device
LOST_FILES_PER_TRANSACTION = 5000


def register(registry: Registry) -> None:
    """The commands of this module."""
    registry.add("get_hosts", get_hosts)
    registry.add("create_host", create_host)
    registry.add("update_host", update_host)
    registry.add("delete_host", delete_host)
    registry.add("get_devices", get_devices)
    registry.add("create_device", create_device)
    registry.add("set_state", set_state)
    registry.add("set_weight", set_weight)
    registry.add("mogile_set_zone", mogile_set_zone)
    registry.add("mogile_set_out", mogile_set_out)
    registry.add("mogile_forget_device", mogile_forget_device)


async def get_hosts(tracker: Tracker, call: Call) -> Pairs:
    """All hosts, or one. No further pairs: clients break on them."""
    wanted = call.get("hostid")
    topology = await tracker.newest_topology()
    hosts = [h for h in topology.hosts.values() if not wanted or str(h.hostid) == wanted]
    pairs: dict[str, object] = {"hosts": len(hosts)}
    for i, host in enumerate(hosts, 1):
        pairs[f"host{i}_hostid"] = host.hostid
        pairs[f"host{i}_status"] = host.status
        pairs[f"host{i}_hostname"] = host.hostname
        pairs[f"host{i}_hostip"] = host.hostip
        pairs[f"host{i}_http_port"] = host.http_port
        pairs[f"host{i}_http_get_port"] = host.http_get_port
        pairs[f"host{i}_altip"] = host.altip
        pairs[f"host{i}_altmask"] = host.altmask
    return pairs


async def create_host(tracker: Tracker, call: Call) -> Pairs:
    """A new host."""
    name = call.need_true("host", "no_host")
    if name in tracker.topology.hosts_by_name:
        raise CommandError("host_exists")
    call.need_true("ip", "no_ip")
    call.need_true("port", "no_port")
    hostid = await tracker.admin.create_host(name, _host_change(call))
    await tracker.changed()
    return {"hostid": hostid, "hostname": name}


async def update_host(tracker: Tracker, call: Call) -> Pairs:
    """Change what is given."""
    name = call.need_true("host", "no_host")
    if name not in tracker.topology.hosts_by_name:
        await tracker.live.look_again()
        if name not in tracker.topology.hosts_by_name:
            raise CommandError("host_not_found")
    hostid = await tracker.admin.update_host(name, _host_change(call))
    await tracker.changed()
    return {"hostid": hostid, "hostname": name}


def _host_change(call: Call) -> HostChange:
    status = None
    if call.get("status"):
        try:
            status = HostState(call.get("status"))
        except ValueError as error:
            raise CommandError("unknown_state") from error
    ports = {name: _port(call, name) for name in ("port", "getport")}
    return HostChange(
        ip=call.get("ip") or None,
        port=ports["port"] or None,
        getport=ports["getport"],
        altip=call.args.get("altip"),
        altmask=call.args.get("altmask"),
        status=status,
    )


def _port(call: Call, name: str) -> int | None:
    """None: not given; 0 (also empty): cleared."""
    text = call.args.get(name)
    if text is None:
        return None
    if not text:
        return 0
    if not is_number(text) or int(text) > PORT_MAX:
        raise CommandError("bad_params", f"{name} must be a port number")
    return int(text)


async def delete_host(tracker: Tracker, call: Call) -> Pairs:
    """Remove a host without devices."""
    name = call.get("host")
    if not name:
        raise CommandError("unknown_host")
    await tracker.admin.delete_host(name)
    await tracker.changed()
    return NOTHING


async def get_devices(tracker: Tracker, call: Call) -> Pairs:
    """All devices, or one. No further pairs: clients break on them."""
    wanted = call.get("devid")
    topology = await tracker.newest_topology()
    devices = [d for d in topology.devices.values() if not wanted or str(d.devid) == wanted]
    return device_pairs(topology, devices)


def device_pairs(topology: Topology, devices: Iterable[Device]) -> dict[str, object]:
    """MogileFS's view of devices."""
    listed = list(devices)
    pairs: dict[str, object] = {"devices": len(listed)}
    for i, device in enumerate(listed, 1):
        seen = topology.observation(device.devid)
        pairs[f"dev{i}_devid"] = device.devid
        pairs[f"dev{i}_hostid"] = device.hostid
        pairs[f"dev{i}_status"] = device.status
        pairs[f"dev{i}_weight"] = device.weight
        pairs[f"dev{i}_mb_total"] = device.mb_total
        pairs[f"dev{i}_mb_used"] = device.mb_used
        pairs[f"dev{i}_mb_free"] = device.mb_free
        pairs[f"dev{i}_mb_asof"] = None  # always empty in the original
        pairs[f"dev{i}_observed_state"] = topology.observed(device.devid)
        pairs[f"dev{i}_utilization"] = None if seen.utilization is None else f"{seen.utilization:.2f}"
        pairs[f"dev{i}_reject_bad_md5"] = None if seen.reject_bad_md5 is None else int(seen.reject_bad_md5)
    return pairs


async def create_device(tracker: Tracker, call: Call) -> Pairs:
    """A new device; the database arbitrates."""
    state = DeviceState.ALIVE
    if call.get("state"):
        try:
            state = DeviceState(call.get("state"))
        except ValueError as error:
            raise CommandError("invalid_state") from error
    devid = call.number("devid", "invalid_devid", low=1, high=DEVID_MAX)
    host = await _host_of_call(tracker, call)
    await tracker.admin.create_device(devid, host.hostid, state)
    await tracker.changed()
    return NOTHING


async def _host_of_call(tracker: Tracker, call: Call) -> Host:
    hostid, name = call.get("hostid"), call.get("hostname")
    if not hostid and not name:
        raise CommandError("bad_args", "No hostid/hostname parameter")
    for again in (False, True):
        if again:
            await tracker.live.look_again()
        for host in tracker.topology.hosts.values():
            if str(host.hostid) == hostid if hostid else host.hostname == name:
                return host
    raise CommandError("unknown_hostid" if hostid else "unknown_host")


async def _device_of_call(tracker: Tracker, call: Call) -> Device:
    devid = call.get("device")
    for again in (False, True):
        if again:
            await tracker.live.look_again()
        device = next((d for d in tracker.topology.devices.values() if str(d.devid) == devid), None)
        if device is not None:
            host = tracker.topology.hosts.get(device.hostid)
            if host is None or host.hostname != call.get("host"):
                raise CommandError("host_mismatch")
            return device
    raise CommandError("no_device")


async def set_state(tracker: Tracker, call: Call) -> Pairs:
    """Change the state of a device."""
    if not call.get("host") or not call.get("device"):
        raise CommandError("bad_params")
    try:
        state = DeviceState(call.get("state"))
    except ValueError as error:
        raise CommandError("bad_params") from error
    device = await _device_of_call(tracker, call)
    await tracker.admin.set_state(device.devid, state)
    await tracker.changed()
    return NOTHING


async def set_weight(tracker: Tracker, call: Call) -> Pairs:
    """Change the weight of a device."""
    if not call.get("host") or not call.get("device"):
        raise CommandError("bad_params")
    weight = call.number("weight", "bad_params", high=WEIGHT_MAX)
    device = await _device_of_call(tracker, call)
    await tracker.admin.set_weight(device.devid, weight)
    await tracker.changed()
    return NOTHING


async def mogile_set_zone(tracker: Tracker, call: Call) -> Pairs:
    """Say in which zone a host is; an empty zone is forgotten."""
    name = call.need("host", "no_host")
    await tracker.admin.set_zone(name, call.get("zone"))
    await tracker.changed()
    return NOTHING


async def mogile_set_out(tracker: Tracker, call: Call) -> Pairs:
    """Stop (1) or start again (0) counting the copies of a device."""
    devid = call.number("devid", "invalid_devid", low=1, high=DEVID_MAX)
    if call.get("out") not in ("0", "1"):
        raise CommandError("bad_params", "out must be 0 or 1")
    await tracker.admin.set_out(devid, out=call.get("out") == "1")
    await tracker.changed()
    return NOTHING


async def mogile_forget_device(tracker: Tracker, call: Call) -> Pairs:
    """Remove a dead device that holds no files; with `lost_files` also one whose files are lost, which must be that many.

    The number is the confirmation: whoever gives it has seen how much is given up. Each loss is written into the log of fsck; the keys of
    the files stay, without a copy, until somebody deletes them.
    """
    devid = call.number("devid", "invalid_devid", low=1, high=DEVID_MAX)
    if call.get("lost_files"):
        confirmed = call.number("lost_files", "bad_params", high=LOST_FILES_MAX)
        copies = Copies(tracker.database)
        lost = await copies.lost_on(devid, LOST_FILES_MAX + 1)
        if len(lost) != confirmed:
            raise CommandError("device_not_empty", f"{len(lost)} files are lost with device {devid}, not {confirmed}")
        for start in range(0, len(lost), LOST_FILES_PER_TRANSACTION):
            await copies.forget_lost(devid, lost[start : start + LOST_FILES_PER_TRANSACTION])
    await tracker.admin.forget_device(devid)
    await tracker.changed()
    return NOTHING
