"""Network namespaces as machines, one bridge as the switch between them.

``<cluster>-sw`` holds the bridge; ``<cluster>-cp`` (control plane and test programs) and one namespace per node have
a cable each.  Nothing is added to the machine's own namespace: no route, rule, link or sysctl.  Test programs run
inside ``<cluster>-cp``, where node, pod and service addresses are all reachable with plain sockets.
"""

from __future__ import annotations

from pathlib import Path

from harness.layout import CONTROL_PLANE_ADDRESS, SERVICE_NETWORK, ClusterLayout, NodeLayout
from harness.proc import in_netns, run

NETNS_FOLDER = Path("/run/netns")
BRIDGE = "br0"
CLIENT_PORT = "p-cp"
PREFIX_LENGTH = 24


def existing(layout: ClusterLayout) -> list[str]:
    """Network namespaces of this cluster."""
    if not NETNS_FOLDER.is_dir():
        return []
    return sorted(entry.name for entry in NETNS_FOLDER.iterdir() if entry.name.startswith(f"{layout.name}-"))


def create(layout: ClusterLayout) -> None:
    """Switch, control plane and nodes, with routes to every pod range."""
    switch = layout.switch_netns
    run("ip", "netns", "add", switch)
    _batch(switch, f"link set lo up\nlink add {BRIDGE} type bridge\nlink set {BRIDGE} up")
    # Frames that only cross the switch must not be filtered there: each node filters for itself.
    run(*in_netns(switch, "sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=0"))
    _attach(layout, layout.client_netns, CLIENT_PORT, CONTROL_PLANE_ADDRESS)
    for node in layout.nodes:
        _attach(layout, node.netns, node.port, node.address)
    for node in layout.nodes:
        others = [other for other in layout.nodes if other != node]
        _batch(node.netns, "\n".join(f"route add {other.pod_range} via {other.address}" for other in others))
    _batch(layout.client_netns, "\n".join(f"route add {n.pod_range} via {n.address}" for n in layout.nodes))


def _attach(layout: ClusterLayout, netns: str, port: str, address: str) -> None:
    """A namespace with a cable to the switch; its default route makes service addresses routable before they are translated."""
    run("ip", "netns", "add", netns)
    _batch(
        layout.switch_netns,
        f"link add {port} type veth peer name eth0 netns {netns}\nlink set {port} master {BRIDGE} up",
    )
    _batch(
        netns,
        f"link set lo up\naddr add {address}/{PREFIX_LENGTH} dev eth0\nlink set eth0 up\nroute add default dev eth0",
    )
    sysctls = ["net.ipv4.ip_forward=1", "net.bridge.bridge-nf-call-iptables=1", "net.ipv6.conf.all.disable_ipv6=1"]
    run(*in_netns(netns, "sysctl", "-qw", *sysctls))


def _batch(netns: str, commands: str) -> None:
    run(*in_netns(netns, "ip", "-batch", "-"), stdin=commands + "\n")


def set_cable(layout: ClusterLayout, node: NodeLayout, *, up: bool) -> None:
    """Plug a node's cable in or out; the node itself sees its link go."""
    run(*in_netns(layout.switch_netns, "ip", "link", "set", node.port, "up" if up else "down"))


def cable_is_up(layout: ClusterLayout, node: NodeLayout) -> bool:
    out = run(*in_netns(layout.switch_netns, "ip", "-o", "link", "show", "dev", node.port)).stdout
    return "state DOWN" not in out and ",UP" in out.partition(">")[0]


def remove(layout: ClusterLayout) -> None:
    """Delete the cluster's namespaces; links and rules inside go with them."""
    for name in existing(layout):
        run("ip", "netns", "del", name, check=False)


__all__ = ["SERVICE_NETWORK", "cable_is_up", "create", "existing", "remove", "set_cable"]
