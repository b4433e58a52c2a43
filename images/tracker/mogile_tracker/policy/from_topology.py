"""Topology snapshot -> what the policies see. The one place where states are translated into what a policy may do with a device."""

from mogile_core.model import Device, DeviceState, HostState
from mogile_tracker.policy.landscape import Landscape
from mogile_tracker.policy.networks import Networks
from mogile_tracker.policy.sites import Site
from mogile_tracker.topology import Topology


def sites_of(topology: Topology) -> list[Site]:
    """All devices whose host is known."""
    networks = Networks(topology.settings)
    of_host = {hostid: networks.of(host.hostip, host.zone) for hostid, host in topology.hosts.items()}
    return [
        _site(topology, device, of_host[device.hostid])
        for device in topology.devices.values()
        if device.hostid in topology.hosts
    ]


def landscape_of(topology: Topology) -> Landscape:
    """The same, ready for replication decisions."""
    return Landscape(sites_of(topology))


def _site(topology: Topology, device: Device, network: str | None) -> Site:
    host = topology.hosts[device.hostid]
    devid = device.devid
    return Site(
        devid=devid,
        hostid=device.hostid,
        zone=host.zone,
        network=network,
        counts=topology.counts_as_copy(devid),
        alive=device.status is DeviceState.ALIVE and not device.out and host.status is not HostState.DEAD,
        fit=topology.fit_for_new_files(devid),
        readable=topology.readable(devid),
        removable=topology.deletable(devid) and topology.writeable(devid),
        draining=device.status is DeviceState.DRAIN,
        total_mb=device.mb_total,
        used_mb=device.mb_used,
    )


def reliable_now(device_status: DeviceState, host_status: HostState, *, out: bool) -> bool:
    """By these states a copy can be read and counts: what a proof before a removal relies on."""
    return device_status.may_read and host_status in (HostState.ALIVE, HostState.READONLY) and not out
