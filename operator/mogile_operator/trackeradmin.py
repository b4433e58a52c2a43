"""The operator's view of the trackers: one visit reads everything a plan needs, one call carries out one command.

Reads are a handful of commands on one connection. A tracker that does not answer is not an error of the pass: the snapshot then
says so, and what needs no tracker goes on.
"""

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from mogile_core.client import BalanceInfo, Census, CensusDevice, ClassInfo, DeviceInfo, TrackerClient
from mogile_core.errors import CommandError
from mogile_core.model import Host
from mogile_operator.plan import observed

CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 10.0
# Doing these twice is the same as doing them once; of the others a lost answer is settled by looking again.
REPEATABLE = frozenset(
    {
        "update_host",
        "set_state",
        "mogile_set_zone",
        "mogile_set_out",
        "mogile_balance",
        "mogile_set_class",
        "update_class",
    }
)


class TrackerAdmin:
    """One connection to the trackers of one cluster, for one pass."""

    def __init__(self, address: str) -> None:
        self._client = TrackerClient(
            address, connect_timeout_seconds=CONNECT_SECONDS, answer_timeout_seconds=ANSWER_SECONDS, rounds=2
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def view(self) -> observed.TrackerView:
        """Everything at once."""
        cluster = await self._client.cluster()
        hosts = await self._client.get_hosts()
        devices = await self._client.devices()
        census = await self._client.census()
        balance = await self._client.balance()
        domains = await self._client.domains()
        names = {int(host.hostid): host.hostname for host in hosts}
        zones = {host.hostname: host.zone for host in hosts if host.zone}
        zones |= {names[int(d.hostid)]: d.zone for d in devices if d.zone and int(d.hostid) in names}
        counted = {int(row.devid): row for row in census.devices}
        return observed.TrackerView(
            cluster_id=cluster.cluster_id,
            hosts={host.hostname: read_host(host) for host in hosts},
            devices=tuple(read_device(device, counted.get(int(device.devid))) for device in devices),
            zones=zones,
            census=read_census(census) if census.complete else None,  # half a count proves nothing
            balance=read_balance(balance),
            domains={domain.name: {c.name: read_class(c) for c in domain.classes} for domain in domains},
        )

    async def tell(self, command: str, args: Mapping[str, str], fine: frozenset[str]) -> None:
        """One command; CommandError for refusals that are not `fine`."""
        try:
            await self._client.command(command, args, safe=command in REPEATABLE)
        except CommandError as error:
            if error.wire_code not in fine:
                raise


def read_host(host: Host) -> observed.HostRow:
    """A host row."""
    return observed.HostRow(
        hostid=int(host.hostid),
        name=host.hostname,
        status=host.status.value,
        address=host.hostip,
        port=host.http_port,
        get_port=host.http_get_port,
    )


def read_device(device: DeviceInfo, counted: CensusDevice | None) -> observed.DeviceRow:
    """A device row; the census counts files where the listing does not."""
    return observed.DeviceRow(
        devid=int(device.devid),
        hostid=int(device.hostid),
        state=device.status.value,
        observed=device.observed.value,
        out=device.out,
        zone=device.zone or "",
        files=max(device.files or 0, counted.files if counted is not None else 0),
        no_copy=counted.no_copy if counted is not None else None,
        mb_total=device.mb_total or 0,
        mb_used=device.mb_used or 0,
    )


def read_census(census: Census) -> observed.Census:
    """The totals of the census."""
    return observed.Census(
        files=census.files,
        bytes=census.bytes,
        to_replicate=census.to_replicate,
        fewer_copies=census.fewer_copies,
        one_copy=census.one_copy,
        no_copy=census.no_copy,
        zone_violations=census.zone_violations,
    )


def read_balance(balance: BalanceInfo) -> observed.Balance:
    """Mode, spread and state of the rebalancer."""
    return observed.Balance(mode=balance.mode, spread=round(balance.spread), state=balance.state)


def read_class(item: ClassInfo) -> observed.ClassRow:
    """A class row."""
    return observed.ClassRow(
        mindevcount=item.mindevcount,
        replpolicy=item.replpolicy,
        hashtype=item.hashtype.wire_name if item.hashtype is not None else "NONE",
        write_copies=item.write_copies or 1,
        degraded_writes=item.degraded_writes,
    )
