"""Starts, watches and stops child processes. Knows nothing of what they are.

- A child has a session of its own and writes to its log file; it is ready when its probe answers.
- A child that ends without having been told to is reported in one line. Those marked `restart` (they hold no data and nobody watches them
  die: trackers, gateway) are started again, at most RESTARTS_MAX times in RESTART_WINDOW_SECONDS; the others stay down until asked for.
- `stop_all` ends stage after stage, the last started first, each within STOP_STAGE_SECONDS; then what is left is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from mogile_cli.errors import CliError
from mogile_cli.local import processes
from mogile_cli.local.processes import ProcessRecord

READY_SECONDS = 45.0
PROBE_INTERVAL_SECONDS = 0.05
STOP_STAGE_SECONDS = 10.0
KILL_WAIT_SECONDS = 5.0
RESTARTS_MAX = 5
RESTART_WINDOW_SECONDS = 60.0
RESTART_DELAY_SECONDS = 0.5
LOG_BYTES_MAX = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """How to start one process and how to see that it is ready: `probe` is an http:// address that answers 200, or `address:port`."""

    name: str
    stage: int
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    probe: str
    restart: bool = False


@dataclass(slots=True)
class _Child:
    spec: ChildSpec
    process: asyncio.subprocess.Process
    record: ProcessRecord
    watcher: asyncio.Task[None] | None = None
    expected: bool = False  # its end was asked for
    ready: bool = False
    restarts: deque[float] = field(default_factory=deque)


class Supervisor:
    """The children of one local cluster. `report` gets one sentence per event; `changed` is called when the set of processes changed."""

    def __init__(self, report: Callable[[str], None], changed: Callable[[], None]) -> None:
        self._report = report
        self._changed = changed
        self._children: dict[str, _Child] = {}
        self._specs: dict[str, ChildSpec] = {}
        self._restarting: set[asyncio.Task[None]] = set()
        self._stopping = False

    def records(self) -> list[ProcessRecord]:
        """The running children, in the order in which they were started."""
        return [child.record for child in self._children.values()]

    def spec(self, name: str) -> ChildSpec | None:
        """How a child is started, also one that is down now."""
        return self._specs.get(name)

    def is_running(self, name: str) -> bool:
        return name in self._children

    async def start(self, spec: ChildSpec) -> None:
        """Start one child and wait until it is ready; CliError with the last line of its log when it is not."""
        await self._spawn(spec, deque())
        await self._wait_ready(spec)

    async def kill(self, name: str) -> ProcessRecord | None:
        """SIGKILL to the child's whole family, as a crash would; its record, or None when it was down already."""
        child = self._children.get(name)
        if child is None:
            return None
        child.expected = True
        processes.signal_family(child.record, signal.SIGKILL)
        await self._wait_gone([child], KILL_WAIT_SECONDS)
        return child.record

    async def stop(self, name: str) -> None:
        """SIGTERM, and SIGKILL after the deadline."""
        if (child := self._children.get(name)) is not None:
            await self._stop_stage([child])

    async def stop_all(self) -> None:
        """End all children in the reverse order of their stages."""
        self._stopping = True
        for task in list(self._restarting):
            task.cancel()
        await asyncio.gather(*self._restarting, return_exceptions=True)
        for stage in sorted({child.spec.stage for child in self._children.values()}, reverse=True):
            await self._stop_stage([c for c in self._children.values() if c.spec.stage == stage])

    async def _stop_stage(self, stage: Iterable[_Child]) -> None:
        children = list(stage)
        for child in children:
            child.expected = True
            processes.signal_family(child.record, signal.SIGTERM)
        for child in await self._wait_gone(children, STOP_STAGE_SECONDS):
            self._report(f"{child.spec.name} did not stop within {STOP_STAGE_SECONDS:.0f} s and was killed")
            processes.signal_family(child.record, signal.SIGKILL)
        await self._wait_gone(children, KILL_WAIT_SECONDS)

    async def _wait_gone(self, children: list[_Child], seconds: float) -> list[_Child]:
        """Wait for the ends of whole families; those left after the deadline."""
        end = time.monotonic() + seconds
        left = children
        while left := [c for c in left if c.process.returncode is None or processes.family(c.record)]:
            if time.monotonic() > end:
                return left
            await asyncio.sleep(PROBE_INTERVAL_SECONDS)
        for child in children:
            if child.watcher is not None:
                await child.watcher
        return []

    async def _spawn(self, spec: ChildSpec, restarts: deque[float]) -> None:
        assert spec.name not in self._children, f"{spec.name} runs already"
        spec.log.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if spec.log.stat().st_size > LOG_BYTES_MAX:
                spec.log.replace(spec.log.with_suffix(".old"))
        with spec.log.open("ab") as log:
            try:
                process = await asyncio.create_subprocess_exec(
                    *spec.argv,
                    env=dict(spec.environment),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    start_new_session=True,
                )
            except OSError as error:
                raise CliError(f"cannot start {spec.name}: {error}") from error
        record = processes.record(spec.name, process.pid)
        if record is None:  # not waited for yet, so at least a zombie is there
            raise CliError(f"{spec.name} ended at once: {last_line(spec.log)}")
        child = _Child(spec=spec, process=process, record=record, restarts=restarts)
        self._specs[spec.name] = spec
        self._children[spec.name] = child
        child.watcher = asyncio.create_task(self._watch(child), name=f"watch {spec.name}")
        self._changed()

    async def _watch(self, child: _Child) -> None:
        """Runs until the child has ended; restarts it where that is asked for."""
        status = await child.process.wait()
        del self._children[child.spec.name]
        self._changed()
        if child.expected or self._stopping or not child.ready:
            return
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        line = f"{child.spec.name} {how} unexpectedly: {last_line(child.spec.log)}"
        if not child.spec.restart:
            self._report(f"{line}; it is not restarted by itself")
            return
        now = time.monotonic()
        child.restarts.append(now)
        while child.restarts and child.restarts[0] < now - RESTART_WINDOW_SECONDS:
            child.restarts.popleft()
        if len(child.restarts) > RESTARTS_MAX:
            self._report(f"{line}; given up after {RESTARTS_MAX} restarts, see {child.spec.log}")
            return
        self._report(f"{line}; starting it again")
        task = asyncio.create_task(self._restart(child), name=f"restart {child.spec.name}")
        self._restarting.add(task)
        task.add_done_callback(self._restarting.discard)

    async def _restart(self, child: _Child) -> None:
        await asyncio.sleep(RESTART_DELAY_SECONDS)
        processes.signal_family(child.record, signal.SIGKILL)  # workers of a dead parent hold its port
        try:
            await self._spawn(child.spec, child.restarts)
            await self._wait_ready(child.spec)
        except CliError as error:
            self._report(str(error))

    async def _wait_ready(self, spec: ChildSpec) -> None:
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end:
            child = self._children.get(spec.name)
            if child is None or child.process.returncode is not None:
                raise CliError(f"{spec.name} did not start: {last_line(spec.log)}")
            if await answers(spec.probe):
                child.ready = True
                return
            await asyncio.sleep(PROBE_INTERVAL_SECONDS)
        raise CliError(f"{spec.name} was not ready within {READY_SECONDS:.0f} s; see {spec.log}")


async def answers(probe: str) -> bool:
    """Whether a probe succeeds now: 200 from an http:// address, or an accepted connection."""
    try:
        async with asyncio.timeout(2.0):
            if probe.startswith("http://"):
                async with aiohttp.ClientSession() as session, session.get(probe) as response:
                    return response.status == 200
            address, _, port = probe.rpartition(":")
            _, writer = await asyncio.open_connection(address, int(port))
            writer.close()
            await writer.wait_closed()
            return True
    except (OSError, TimeoutError, aiohttp.ClientError):
        return False


def last_line(log: Path, tail_bytes: int = 8192) -> str:
    """The last line of a log that says something: the reason why a process that just ended did so."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - tail_bytes))
            lines = [line.strip() for line in stream.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        lines = []
    return lines[-1] if lines else "it wrote nothing"
