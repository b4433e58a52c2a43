"""What a command is given, and the table of commands.

A command is `async def (tracker, call) -> pairs`; it raises CommandError(code) for everything the protocol has a code for. It keeps the
order of checks of the original, because clients rely on which error wins. Commands hold no state; what they need is on the Tracker.
"""

from __future__ import annotations

import functools
import ipaddress
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from mogile_core.errors import CommandError, StoreError
from mogile_core.model import KEY_BYTES_MAX, Domain, FileClass, Host
from mogile_core.paths import fid_url
from mogile_core.runtime.clock import Clock
from mogile_core.runtime.logs import get_log
from mogile_tracker.context import LiveTopology
from mogile_tracker.jobstate import TrackerState
from mogile_tracker.nodes import Nodes, PullOrders
from mogile_tracker.policy.from_topology import sites_of
from mogile_tracker.policy.landscape import Landscape
from mogile_tracker.policy.parsing import Policies
from mogile_tracker.policy.placement import Placement
from mogile_tracker.policy.replication import Verdict
from mogile_tracker.policy.writing import write_rule
from mogile_tracker.settings import TrackerSettings
from mogile_tracker.store.admin import AdminStore
from mogile_tracker.store.files import FileStore
from mogile_tracker.store.postgres import Database
from mogile_tracker.topology import Topology, WriteRule

INT8_MAX = 2**63 - 1
CONTENT_MAX = 10_000  # sets of devices whose verdict is remembered until the topology changes

Pairs = Mapping[str, object]
NOTHING: Pairs = {}

log = get_log(__name__)


@dataclass(frozen=True, slots=True)
class Call:
    """One request: its arguments as wire text and where it came from."""

    args: Mapping[str, str]
    peer: str = ""

    def get(self, name: str) -> str:
        """An argument; '' when missing."""
        return self.args.get(name, "")

    def flag(self, name: str) -> bool:
        """True if non-empty and not 0."""
        return self.args.get(name, "") not in ("", "0")

    def need(self, name: str, code: str) -> str:
        """An argument that must be there and not empty."""
        value = self.args.get(name, "")
        if not value:
            raise CommandError(code)
        return value

    def need_true(self, name: str, code: str) -> str:
        """An argument that must be there and neither empty nor 0."""
        value = self.args.get(name, "")
        if value in ("", "0"):
            raise CommandError(code)
        return value

    def number(self, name: str, code: str, *, low: int = 0, high: int = 2**63 - 1) -> int:
        """A whole number within limits."""
        value = self.args.get(name, "")
        if not is_number(value) or not low <= int(value) <= high:
            raise CommandError(code)
        return int(value)


def is_number(text: str) -> bool:
    """Only decimal digits, and not more than the database can hold."""
    if not (0 < len(text) <= 19 and text.isascii() and text.isdigit()):
        return False
    return len(text) < 19 or int(text) <= INT8_MAX


class Tracker:
    """All that commands may use; one per server process."""

    def __init__(
        self,
        *,
        settings: TrackerSettings,
        database: Database,
        files: FileStore,
        admin: AdminStore,
        topology: LiveTopology,
        nodes: Nodes,
        clock: Clock,
        announce_change: Callable[[], Awaitable[None]],
        processes: TrackerState | None = None,
    ) -> None:
        self.settings = settings
        self.database = database
        self.files = files
        self.admin = admin
        self.live = topology
        self.nodes = nodes
        self.orders = PullOrders(nodes)
        self.clock = clock
        self.processes = processes if processes is not None else TrackerState()
        self.random = random.Random()  # noqa: S311 - spreads load, protects nothing
        self._announce_change = announce_change
        self.policies = Policies()
        self._content: dict[tuple[str, int, tuple[int, ...]], bool] = {}
        self._on_topology(topology.current)
        topology.on_change.append(self._on_topology)

    @property
    def topology(self) -> Topology:
        """The newest snapshot."""
        return self.live.current

    async def changed(self) -> None:
        """A host, device, domain or class row was changed: every process of this tracker has re-read them when this returns."""
        try:
            await self._announce_change()
        except StoreError as error:  # the change itself is done
            log.warning("cannot re-read the topology after a change", error=error)

    async def newest_topology(self) -> Topology:
        """Hosts, devices, domains and classes as the database has them now, whoever made them; the last known when it is silent."""
        try:
            await self.live.refresh()
        except StoreError as error:
            log.warning("cannot re-read the topology for a list", error=error)
        return self.topology

    def _on_topology(self, topology: Topology) -> None:
        sites = sites_of(topology)
        self.placement, self.landscape = Placement(sites), Landscape(sites)
        self._content.clear()

    def write_rule(self, dmid: int, classid: int) -> tuple[WriteRule, bool]:
        """How uploads of a class are acknowledged, and whether the class says so itself."""
        return write_rule(self.topology, dmid, classid)

    def content(self, file_class: FileClass, holders: tuple[int, ...]) -> bool:
        """True when the class's policy wants neither more nor fewer copies of a file on these devices, as far as is known now."""
        if self.live.age_seconds > 2 * self.settings.topology_interval_seconds:
            return False  # the second walk over a changed device does not wait for a picture as old as this
        case = (file_class.policy, file_class.mindevcount, holders)
        known = self._content.get(case)
        if known is None:
            if len(self._content) >= CONTENT_MAX:
                self._content.clear()
            plan = self.policies.get(file_class.policy).plan(
                self.landscape, holders, file_class.mindevcount, self.random
            )
            known = self._content[case] = plan.verdict is Verdict.HAPPY
        return known

    # ---- the checks that most commands begin with

    async def domain(self, call: Call) -> Domain:
        """The request's domain: `no_domain`, `unreg_domain`."""
        name = call.need_true("domain", "no_domain")
        domain = self.live.current.domains.get(name)
        if domain is None:
            await self.live.look_again()  # another tracker may just have made it
            domain = self.live.current.domains.get(name)
            if domain is None:
                raise CommandError("unreg_domain")
        return domain

    async def file_class(self, domain: Domain, name: str, code: str) -> FileClass:
        """A class of a domain by name; '' is default."""
        found = self.live.current.class_named(domain.dmid, name)
        if found is None:
            await self.live.look_again()
            found = self.live.current.class_named(domain.dmid, name)
            if found is None:
                raise CommandError(code)
        return found

    # ---- addresses

    def write_url(self, host: Host, devid: int, fid: int, call: Call) -> str:
        """Where a client PUTs a copy."""
        return fid_url(_address(host, call), host.http_port, devid, fid)

    def read_url(self, host: Host, devid: int, fid: int, call: Call) -> str:
        """Where a client GETs a copy."""
        return fid_url(_address(host, call), host.read_port, devid, fid)


def known_key(key: str) -> bool:
    """False for keys so long that no file can have them."""
    return len(key) <= KEY_BYTES_MAX


def _address(host: Host, call: Call) -> str:
    if host.altip and (call.args.get("zone") == "alt" or (host.altmask and _in_network(call.peer, host.altmask))):
        return host.altip
    return host.hostip


@functools.lru_cache(maxsize=65536)
def _in_network(address: str, mask: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(mask, strict=False)
    except ValueError:
        return False


Handler = Callable[[Tracker, Call], Awaitable[Pairs]]


class Registry:
    """Commands by name."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    def add(self, name: str, handler: Handler) -> None:
        """A command; each name once."""
        if name in self._handlers:
            raise ValueError(f"command {name} is registered twice")
        self._handlers[name] = handler

    def get(self, name: str) -> Handler | None:
        """The handler of a command."""
        return self._handlers.get(name)

    def names(self) -> list[str]:
        """All commands, sorted."""
        return sorted(self._handlers)
