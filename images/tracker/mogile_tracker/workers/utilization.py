"""Utilization: one side-channel connection per reachable node, on which the node tells how busy its devices are.

The monitor publishes the figures with its observations and reads are weighted by them. A node that does not tell, or no longer, has no
figure: a stale one would steer reads for as long as it stayed.
"""

import asyncio

from mogile_core.errors import NodeError
from mogile_core.model import DevId, Host, HostId
from mogile_core.runtime.logs import get_log
from mogile_core.runtime.workers import Step, Throttled, WorkerStatus
from mogile_tracker.workers.base import Jobs

LOOK_SECONDS = 2.0

log = get_log(__name__)


class Utilization:
    """Keeps the connections; `close` ends them."""

    name = "utilization"
    job_class = "monitor"

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._watching: dict[HostId, tuple[str, asyncio.Task[None]]] = {}

    def status(self) -> WorkerStatus:
        """Nodes that are listened to."""
        return WorkerStatus(text=f"{len(self._watching)} nodes watched", done_total=len(self._jobs.utilization))

    async def wait_for_work(self) -> None:
        """Never idle."""

    async def work(self) -> Step:
        """Begin and end connections as hosts come and go."""
        topology = self._jobs.topology
        wanted = {
            hostid: host
            for hostid, host in topology.hosts.items()
            if any(topology.readable(device.devid) for device in topology.devices_of(hostid))
        }
        for hostid, (address, task) in list(self._watching.items()):
            host = wanted.get(hostid)
            if host is None or host.hostip != address:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                del self._watching[hostid]
        for hostid, host in wanted.items():
            if hostid not in self._watching:
                task = asyncio.create_task(self._watch(host), name=f"utilization of {host.hostname}")
                self._watching[hostid] = host.hostip, task
        return Throttled(LOOK_SECONDS)

    async def _watch(self, host: Host) -> None:
        mine: set[int] = set()

        def seen(devid: int, percent: float | None) -> None:
            device = self._jobs.topology.devices.get(DevId(devid))
            if device is None or device.hostid != host.hostid:
                return
            if percent is None:
                self._jobs.utilization.pop(devid, None)
            else:
                mine.add(devid)
                self._jobs.utilization[devid] = percent

        while True:
            try:
                silence = self._jobs.settings.side_channel_silence_seconds
                await self._jobs.nodes.watch(host, seen, silence_seconds=silence)
            except NodeError as error:
                log.debug("utilization unknown", host=host.hostname, reason=str(error))
            finally:
                for devid in mine:
                    self._jobs.utilization.pop(devid, None)
                mine.clear()
            await asyncio.sleep(self._jobs.settings.node_retry_seconds)

    async def close(self) -> None:
        """End all connections."""
        tasks = [task for _, task in self._watching.values()]
        self._watching.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
