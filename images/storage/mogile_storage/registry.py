"""All devices of the node and the cluster it belongs to."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time

from mogile_storage.devices import Device
from mogile_storage.marker import read_marker
from mogile_storage.pool import Delivery
from mogile_storage.scrub import Scrubber
from mogile_storage.service import Cluster
from mogile_storage.settings import AgentSettings

FIRST_PROBE_SECONDS = 5.0
SCRUB_STOP_SECONDS = 2.0


class Registry:
    """All devices of the node and the cluster it belongs to."""

    def __init__(self, settings: AgentSettings, delivery: Delivery) -> None:
        self._settings, self._delivery = settings, delivery
        self.cluster = Cluster(settings.cluster_id.lower())
        self.devices: dict[int, Device] = {}
        self.scrubbers: dict[int, Scrubber] = {}

    def start(self) -> None:
        """Find the devices and wait (bounded) for the first look at each."""
        found = self._found()
        if not self.cluster.id:
            self.cluster.learn(_learn_cluster(self._settings.docroot, found))
        self._add(found)
        deadline = time.monotonic() + FIRST_PROBE_SECONDS
        for device in self.devices.values():
            device.first_look.wait(max(0.0, deadline - time.monotonic()))

    async def rescan(self) -> None:
        """Take in device directories that appeared, and say which devices stopped answering."""
        for device in self.devices.values():
            device.tell_hang()
        self._add(await asyncio.get_running_loop().run_in_executor(None, self._found))

    def claim(self, cluster_id: str) -> None:
        """A node without a cluster joins the first one that writes to it; the watchers write it into the markers."""
        if self.cluster.learn(cluster_id):
            for device in self.devices.values():
                device.kick()

    def stop(self) -> None:
        deadline = time.monotonic() + SCRUB_STOP_SECONDS
        for wait in (False, True):  # tell all of them, then wait
            for scrubber in self.scrubbers.values():
                scrubber.stop(max(0.0, deadline - time.monotonic()) if wait else 0.0)
        for device in self.devices.values():
            device.stop()

    def _found(self) -> list[int]:
        names = os.listdir(self._settings.docroot)
        digits = (name[3:] for name in names if name.startswith("dev"))
        return sorted(
            int(d) for d in digits if d.isascii() and d.isdigit() and (d == "0" or d[0] != "0") and int(d) < 1 << 15
        )

    def _add(self, devids: list[int]) -> None:
        for devid in devids:
            if devid not in self.devices:
                device = Device(devid, self._settings, self._delivery, self.cluster)
                self.devices[devid] = device
                device.start()
                scrubber = self.scrubbers[devid] = Scrubber(
                    device,
                    interval_seconds=self._settings.scrub_interval_hours * 3600,
                    bytes_per_second=self._settings.scrub_bytes_per_second,
                    files_per_second=self._settings.scrub_files_per_second,
                    record=self._settings.scrub_records,
                )
                scrubber.start()


def _learn_cluster(docroot: str, devids: list[int]) -> str:
    """The cluster id in the first marker that has one. Read in a thread each, since one of the disks may hang."""
    known: dict[int, str] = {}

    def read(devid: int) -> None:
        with contextlib.suppress(OSError, ValueError):
            fd = os.open(os.path.join(docroot, f"dev{devid}"), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                marker = read_marker(fd)
            finally:
                os.close(fd)
            if marker is not None and marker.devid == devid and marker.cluster_id:
                known[devid] = marker.cluster_id

    threads = [threading.Thread(target=read, args=(devid,), daemon=True) for devid in devids]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + FIRST_PROBE_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return known[min(known)] if known else ""
