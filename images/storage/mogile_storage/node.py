"""The storage node as its routes see it: devices, settings, who may change anything, and work that goes on when a route has returned."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from mogile_core.runtime.logs import get_log
from mogile_storage.devices import Device
from mogile_storage.errors import ForbiddenError, MissingError
from mogile_storage.listing import Lister
from mogile_storage.pull import Puller
from mogile_storage.registry import Registry
from mogile_storage.settings import AgentSettings
from mogile_storage.targets import Target

log = get_log(__name__)


class Node:
    """One per agent."""

    def __init__(self, settings: AgentSettings, registry: Registry) -> None:
        self.settings, self.registry = settings, registry
        self.buffered = 0  # bytes of small uploads, from their head to their answer
        self.buffered_max = settings.small_uploads_mb << 20
        self.puller = Puller(settings.pull_concurrency)
        self.lister = Lister()
        self._tasks: set[asyncio.Task[None]] = set()

    def device(self, target: Target) -> Device:
        """The device of a target; MissingError when this node has none of that number."""
        device = self.registry.devices.get(target.devid)
        if device is None:
            raise MissingError(f"there is no dev{target.devid} on this node")
        return device

    def known_or_full(self, *, known: bool) -> None:
        """ForbiddenError for those who do not show the id of our cluster, unless everybody may write."""
        if not known and self.settings.anonymous_writes == "safe":
            raise ForbiddenError

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run the rest of an answer; its failure ends the task and is logged, nothing else."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._reap)

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            log.error("an answer was cut short", reason=repr(failure))

    async def stop(self) -> None:
        """Cut what is still running."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.puller.close()
