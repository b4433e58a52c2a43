"""Holds a local cluster for as long as this process should: signals, control orders, the orderly end.

The first Ctrl-C (or SIGTERM, or the terminal going away) ends the work under way and stops the cluster in order: exit 0 once the cluster
was ready, 130 when that cut something short. Further ones are answered with a line, since every step of the end has a deadline.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from mogile_cli.errors import CliError
from mogile_cli.local.cluster import LocalCluster
from mogile_cli.local.control import ControlServer
from mogile_cli.local.layout import Layout

T = TypeVar("T")
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class InterruptedBySignalError(CliError):
    """Interrupted; everything that was started is stopped."""

    status = 130


@asynccontextmanager
async def running(layout: Layout, report: Callable[[str], None]) -> AsyncIterator[LocalCluster]:
    """A started cluster that takes orders; stopped at the end of the block, however it ends."""
    cluster = LocalCluster(layout, report)
    control = ControlServer(cluster.orders())
    try:
        cluster.claim()
        await control.start(cluster.control_path)
        await cluster.start()
        yield cluster
    finally:
        await control.stop()
        await cluster.stop()


class Stopper:
    """Turns signals into the end of the work: of a wait that expects it (a normal end), else of whatever is under way."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._work: asyncio.Task[Any] | None = None
        self._waiting = False
        self._asked = asyncio.Event()

    async def until_asked(self, cluster: LocalCluster) -> None:
        """Hold a ready cluster until somebody wants it to stop; CliError when it cannot go on."""
        assert cluster.failure is not None
        cluster.failure.add_done_callback(lambda _: self._asked.set())
        self._waiting = True
        await self._asked.wait()
        if cluster.failure.done():
            raise CliError(cluster.failure.result())

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do the work; InterruptedBySignalError when a signal cut it short, after everything was cleaned up."""
        loop = asyncio.get_running_loop()
        self._work = asyncio.create_task(work)
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self._signalled)
        try:
            result: T = await self._work
            return result
        except asyncio.CancelledError:
            if self._asked.is_set():
                raise InterruptedBySignalError from None
            raise
        finally:
            for number in STOP_SIGNALS:
                loop.remove_signal_handler(number)

    def _signalled(self) -> None:
        if self._asked.is_set():
            self._report("already stopping; this takes seconds")
            return
        self._report("stopping")
        self._asked.set()
        if not self._waiting and self._work is not None:
            self._work.cancel()


def run(work: Callable[[Stopper], Coroutine[Any, Any, T]], report: Callable[[str], None]) -> T:
    """One event loop for work that ends in order when a signal comes."""

    async def main() -> T:
        stopper = Stopper(report)
        return await stopper.run(work(stopper))

    return asyncio.run(main())
