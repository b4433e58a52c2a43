"""What a local cluster consists of: pure values, kept as `cluster.json` in the data folder so that a second start is the same cluster.

Storage nodes are `<base address>.<number>` with the fixed ports of a storage node, because trackers know one side-channel port for all
nodes and host addresses are unique. Trackers and the gateway share one address and differ by port.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mogile_cli.errors import UsageError
from mogile_core import model

ZONES = ("a", "b", "c")
NODES_MAX = 32
DEVICES_PER_NODE_MAX = 32
TRACKERS_MAX = 8
TRACKER_PORT_STEP = 10
BASE_ADDRESS = "127.0.1"
LISTEN = "127.0.0.1"
GATEWAY_PORT = 8080
FILE_NAME = "cluster.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """One storage node and the devices it was given."""

    number: int
    zone: str
    devids: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"node{self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A whole cluster. Paths are below `data`; nothing here touches the disk except `load` and `save`."""

    data: Path
    nodes: tuple[NodeSpec, ...]
    trackers: int = 1
    base_address: str = BASE_ADDRESS
    listen: str = LISTEN
    tracker_port: int = model.TRACKER_PORT
    gateway_port: int = GATEWAY_PORT
    device_limit_mb: int = 0
    min_free_mb: int = 100
    nginx: bool = True  # use the system's when it is there

    def address(self, number: int) -> str:
        return f"{self.base_address}.{number}"

    def node(self, number: int) -> NodeSpec:
        """The node of that number; UsageError names those that exist."""
        for node in self.nodes:
            if node.number == number:
                return node
        names = ", ".join(str(node.number) for node in self.nodes)
        raise UsageError(f"there is no storage node {number}; there are {names}")

    @property
    def local_address(self) -> str:
        """Where processes of this machine reach trackers and gateway."""
        return LISTEN if ipaddress.ip_address(self.listen).is_unspecified else self.listen

    @property
    def open_to_others(self) -> bool:
        """Whether other machines reach the gateway: then uploads need a token."""
        return not ipaddress.ip_address(self.listen).is_loopback

    def tracker_ports(self, index: int) -> tuple[int, int]:
        """(line protocol, health) of tracker `index`, from 0."""
        first = self.tracker_port + index * TRACKER_PORT_STEP
        return first, first + 1

    @property
    def tracker_addresses(self) -> list[str]:
        return [f"{self.local_address}:{self.tracker_ports(i)[0]}" for i in range(self.trackers)]

    @property
    def gateway_url(self) -> str:
        return f"http://{self.local_address}:{self.gateway_port}"

    @property
    def gateway_health_port(self) -> int:
        return self.gateway_port + 1

    def docroot(self, node: NodeSpec) -> Path:
        return self.data / "nodes" / node.name

    def device_folders(self, node: NodeSpec) -> Iterator[Path]:
        return (self.docroot(node) / f"dev{devid}" for devid in node.devids)

    @property
    def logs(self) -> Path:
        return self.data / "logs"

    @property
    def devids(self) -> list[int]:
        return [devid for node in self.nodes for devid in node.devids]

    def with_node(self, devices: int) -> tuple[Layout, NodeSpec]:
        """One more storage node; its zone continues a, b, c."""
        number = max((node.number for node in self.nodes), default=0) + 1
        _check_count("nodes", number, NODES_MAX)
        first = max(self.devids, default=0) + 1
        node = NodeSpec(number=number, zone=zone_of(number), devids=tuple(range(first, first + devices)))
        return dataclasses.replace(self, nodes=(*self.nodes, node)), node

    def with_device(self, number: int) -> tuple[Layout, NodeSpec, int]:
        """One more device on a node."""
        old = self.node(number)
        _check_count("devices of one node", len(old.devids) + 1, DEVICES_PER_NODE_MAX)
        devid = max(self.devids, default=0) + 1
        new = dataclasses.replace(old, devids=(*old.devids, devid))
        return dataclasses.replace(self, nodes=tuple(new if n is old else n for n in self.nodes)), new, devid

    def ports(self) -> Iterator[tuple[str, int, str]]:
        """Every (address, port, option that moves it) this cluster listens on, PostgreSQL's own free port aside."""
        for index in range(self.trackers):
            for port in self.tracker_ports(index):
                yield self.listen, port, "--tracker-port"
        yield self.listen, self.gateway_port, "--gateway-port"
        yield self.local_address, self.gateway_health_port, "--gateway-port"
        for node in self.nodes:
            for port in (model.NODE_HTTP_PORT, model.NODE_MGMT_PORT, model.NODE_HEALTH_PORT, model.NODE_GET_PORT):
                yield self.address(node.number), port, "--base-address"


def zone_of(number: int) -> str:
    return ZONES[(number - 1) % len(ZONES)]


def new_layout(
    data: Path,
    *,
    nodes: int = 3,
    devices: int = 1,
    trackers: int = 1,
    base_address: str = BASE_ADDRESS,
    listen: str = LISTEN,
    tracker_port: int = model.TRACKER_PORT,
    gateway_port: int = GATEWAY_PORT,
    device_limit_mb: int = 0,
    min_free_mb: int = 100,
    nginx: bool = True,
) -> Layout:
    """A fresh cluster; UsageError names the option that cannot be."""
    _check_count("--nodes", nodes, NODES_MAX)
    _check_count("--devices", devices, DEVICES_PER_NODE_MAX)
    _check_count("--trackers", trackers, TRACKERS_MAX)
    _check_addresses(base_address, listen)
    for option, port, top in (
        ("--tracker-port", tracker_port, trackers * TRACKER_PORT_STEP),
        ("--gateway-port", gateway_port, 1),
    ):
        if not 1 <= port <= 65535 - top:
            raise UsageError(f"{option} must be between 1 and {65535 - top}, got {port}")
    layout = Layout(
        data=data,
        nodes=(),
        trackers=trackers,
        base_address=base_address,
        listen=listen,
        tracker_port=tracker_port,
        gateway_port=gateway_port,
        device_limit_mb=device_limit_mb,
        min_free_mb=min_free_mb,
        nginx=nginx,
    )
    for _ in range(nodes):
        layout, _node = layout.with_node(devices)
    return layout


def save(layout: Layout) -> None:
    """Write `cluster.json` (a whole new file, then renamed)."""
    value = {"version": 1, **dataclasses.asdict(layout)}
    del value["data"]  # the folder may be moved
    draft = layout.data / f".{FILE_NAME}.new"
    draft.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    draft.replace(layout.data / FILE_NAME)


def load(data: Path) -> Layout | None:
    """The layout of a data folder; None when there is none, UsageError when it cannot be read."""
    path = data / FILE_NAME
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}); repair it or choose another folder with --data") from error
    try:
        if value.pop("version") != 1:
            raise UsageError(f"{path} was written by a newer version; choose another folder with --data")
        nodes = tuple(
            NodeSpec(number=int(n["number"]), zone=str(n["zone"]), devids=tuple(int(d) for d in n["devids"]))
            for n in value.pop("nodes")
        )
        return Layout(data=data, nodes=nodes, **value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{path} is damaged ({error!r}); repair it or choose another folder with --data") from error


def _check_count(option: str, value: int, limit: int) -> None:
    if not 1 <= value <= limit:
        raise UsageError(f"{option} must be between 1 and {limit}, got {value}")


def _check_addresses(base_address: str, listen: str) -> None:
    try:
        base = ipaddress.IPv4Address(f"{base_address}.1")
    except ValueError:
        base = None
    if base is None or not base.is_loopback:
        raise UsageError(
            f"--base-address must be three numbers of a loopback network such as 127.0.1, got {base_address!r}"
        )
    try:
        ipaddress.ip_address(listen)
    except ValueError as error:
        raise UsageError(f"--listen must be an IP address such as 127.0.0.1, got {listen!r}") from error
