"""Monitor: every few seconds asks every device for its usage, tests writing now and then, and publishes what it saw.

All devices are asked at once, each with its own time limit, so one dead node costs a round no more than that limit. A device whose node
names another cluster, devid or volume than we know it by is treated as unreachable: its bytes are not ours, whatever the address says.
"""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from mogile_core.errors import NodeError, NodeUnreachableError
from mogile_core.model import Device, DevId, Host, HostId
from mogile_core.runtime.logs import get_log
from mogile_core.runtime.workers import Step, Throttled, WorkerStatus
from mogile_tracker.nodes import NodeForeignError, NodeUsage, WriteTest
from mogile_tracker.policy.health import Health, Probe
from mogile_tracker.topology import Observation, Observations
from mogile_tracker.workers.base import Jobs

PROBES_PARALLEL = 128
WRITE_TEST_TRIES = 2  # trackers test with the same names; the second try settles a race
WRITE_TEST_NAMES = 100
SPACE_LEASE = "device-space"

log = get_log(__name__)


@dataclass(slots=True)
class _Watch:
    """What the monitor remembers about one device."""

    health: Health = field(default_factory=Health)
    usage: NodeUsage | None = None
    tested_at: float = float("-inf")
    reject_bad_md5: bool | None = None
    problem: str = ""
    measurements: int = 0  # of its usage that were new
    unreachable: bool = False  # the last probe got no connection at all


class Monitor:
    """One per tracker, on every tracker: each tracker trusts its own eyes."""

    name = "monitor"
    job_class = "monitor"

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._watches: dict[DevId, _Watch] = {}
        self._volumes: dict[int, str] = {}
        self._lost_hosts: frozenset[HostId] = frozenset()
        self._rounds = 0
        self._space_at = float("-inf")
        self._recorded: frozenset[int] = frozenset()

    def status(self) -> WorkerStatus:
        """Rounds, and what is not well."""
        bad = [f"dev{devid}: {watch.problem}" for devid, watch in self._watches.items() if watch.problem]
        return WorkerStatus(text="; ".join(bad[:10]), done_total=self._rounds)

    async def wait_for_work(self) -> None:
        """Never idle: rounds are paced by `work`."""

    async def work(self) -> Step:
        """One round over all devices."""
        clock = self._jobs.context.clock
        began = clock.monotonic()
        topology = self._jobs.topology
        watched = [device for device in topology.devices.values() if topology.should_be_monitored(device.devid)]
        self._watches = {device.devid: self._watches.get(device.devid, _Watch()) for device in watched}
        if self._rounds == 0 or any(device.devid not in self._volumes for device in watched):
            self._volumes = await self._jobs.copies.volumes()
        gate = asyncio.Semaphore(PROBES_PARALLEL)
        async with asyncio.TaskGroup() as group:
            for device in watched:
                group.create_task(self._probe(topology.hosts[device.hostid], device, gate))
        self._rounds += 1
        await self._drop_lost(watched)
        self._jobs.context.publish(self._observations())
        await self._record(watched)
        took = clock.monotonic() - began
        return Throttled(max(0.05, self._jobs.settings.monitor_interval_seconds - took))

    # ------------------------------------------------------------------ one device

    async def _probe(self, host: Host, device: Device, gate: asyncio.Semaphore) -> None:
        watch = self._watches[device.devid]
        before = watch.health.state
        async with gate:
            probe, watch.problem = await self._ask(host, device, watch)
            watch.unreachable = probe is Probe.SILENT or (probe is Probe.REFUSED and watch.unreachable)
            watch.health = watch.health.after(probe)
            if watch.health.reachable and probe is Probe.GOOD:
                await self._test_writing(host, device, watch)
            elif not watch.health.reachable:
                watch.tested_at = float("-inf")
        if watch.health.state is not before:
            log.info(
                "device observed",
                devid=device.devid,
                host=host.hostname,
                state=watch.health.state.value,
                before=before.value,
                reason=watch.problem,
            )

    async def _ask(self, host: Host, device: Device, watch: _Watch) -> tuple[Probe, str]:
        limit = self._jobs.settings.node_timeout_seconds
        watch.unreachable = False
        try:
            usage = await self._jobs.nodes.usage(host, device.devid, timeout_seconds=limit)
        except NodeForeignError as error:
            return Probe.FOREIGN, str(error)
        except NodeUnreachableError as error:
            watch.unreachable = True
            silent = isinstance(error.__cause__, TimeoutError)
            return (Probe.SILENT if silent else Probe.REFUSED), str(error)
        except NodeError as error:
            return Probe.REFUSED, str(error)
        problem = self._not_ours(device.devid, usage)
        if problem:
            return Probe.FOREIGN, problem
        if watch.usage is None or usage.measured is None or usage.measured != watch.usage.measured:
            watch.measurements += 1
        watch.usage = usage
        return Probe.GOOD, ""

    def _not_ours(self, devid: DevId, usage: NodeUsage) -> str:
        """Why the device behind the address is not the one we know; empty when it is, or when the node cannot tell."""
        ours = self._jobs.topology.cluster_id
        if usage.cluster_id is not None and usage.cluster_id != ours:
            return f"belongs to cluster {usage.cluster_id}"
        if usage.devid is not None and usage.devid != devid:
            return f"is marked as dev{usage.devid}"
        known = self._volumes.get(devid)
        if known is not None and usage.volume_id is not None and usage.volume_id != known:
            return f"volume {usage.volume_id} is not the volume {known} this device was made with"
        return ""

    async def _test_writing(self, host: Host, device: Device, watch: _Watch) -> None:
        now = self._jobs.context.clock.monotonic()
        if not self._jobs.topology.deletable(device.devid) and not device.status.may_write:
            watch.health = watch.health.after_write_test(writes=False)
            return
        if now - watch.tested_at < self._jobs.settings.write_test_interval_seconds:
            return
        watch.tested_at = now
        limit = self._jobs.settings.node_timeout_seconds
        result = WriteTest.MISMATCH
        try:
            for _ in range(WRITE_TEST_TRIES):
                number = int(self._jobs.randomness.random() * WRITE_TEST_NAMES)
                text = f"time={time.time():.6f} tracker={self._jobs.context.owner}"
                result = await self._jobs.nodes.write_test(
                    host, device.devid, name=f"test-write-{number}", text=text, timeout_seconds=limit
                )
                if result is not WriteTest.MISMATCH:
                    break
            if result is WriteTest.WRITEABLE and watch.reject_bad_md5 is None:
                watch.reject_bad_md5 = await self._jobs.nodes.rejects_bad_md5(host, device.devid, timeout_seconds=limit)
        except NodeError as error:
            watch.problem = str(error)
            # One write test that got no answer does not make a device read-only while its usage can be read.
            if watch.health.writes and isinstance(error, NodeUnreachableError):
                watch.tested_at = float("-inf")
                watch.health = watch.health.after(Probe.SILENT)
                return
        watch.health = watch.health.after_write_test(writes=result is WriteTest.WRITEABLE)

    # ------------------------------------------------------------------ the whole round

    async def _drop_lost(self, watched: Iterable[Device]) -> None:
        """A host none of whose devices got a connection is unreachable; nobody should wait on its pooled connections."""
        by_host: dict[HostId, list[bool]] = {}
        for device in watched:
            watch = self._watches[device.devid]
            by_host.setdefault(device.hostid, []).append(watch.unreachable and not watch.health.reachable)
        lost = frozenset(hostid for hostid, gone in by_host.items() if all(gone))
        for hostid in lost - self._lost_hosts:
            host = self._jobs.topology.hosts.get(hostid)
            if host is not None:
                log.warning("host unreachable", host=host.hostname, address=host.hostip)
                await self._jobs.nodes.drop(host)
        self._lost_hosts = lost

    def _observations(self) -> Observations:
        devices = {}
        for devid, watch in self._watches.items():
            usage = watch.usage
            devices[devid] = Observation(
                devid=devid,
                state=watch.health.state,
                utilization=self._jobs.utilization.get(devid),
                reject_bad_md5=watch.reject_bad_md5,
                cluster_ok=not watch.health.foreign,
                mb_total=usage.total_kib // 1024 if usage is not None else None,
                mb_used=usage.used_kib // 1024 if usage is not None else None,
                damaged=usage.damaged if usage is not None else 0,
                measurements=watch.measurements,
            )
        return Observations(rounds=self._rounds, devices=devices, unreachable_hosts=self._lost_hosts)

    async def _record(self, watched: Iterable[Device]) -> None:
        """Sizes and first-seen volumes go to the database, by one tracker."""
        now = self._jobs.context.clock.monotonic()
        new_volumes = {
            int(device.devid): watch.usage.volume_id
            for device in watched
            if (watch := self._watches[device.devid]).usage is not None
            and watch.usage.volume_id
            and device.devid not in self._volumes
        }
        if new_volumes:
            await self._jobs.copies.record_volumes(new_volumes)
            self._volumes = await self._jobs.copies.volumes()
        space = {
            int(devid): (watch.usage.total_kib // 1024, watch.usage.used_kib // 1024)
            for devid, watch in self._watches.items()
            if watch.usage is not None and watch.health.reachable
        }
        if now - self._space_at < self._jobs.settings.space_interval_seconds and space.keys() <= self._recorded:
            return
        self._space_at, self._recorded = now, frozenset(space)
        async with self._jobs.leases.only_one(SPACE_LEASE) as lease:
            if lease is not None:
                await self._jobs.copies.record_space(space)
