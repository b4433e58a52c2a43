"""`mog local demo`: the whole story in about a minute, every claim checked.

Files go in over plain HTTP, lie on two devices in two zones each, move when a device joins, stay readable while a node is dead, and are
copied again until each has two living copies. The node that dies is a killed process (SIGKILL), every byte read back is compared.
Nothing is simulated: whatever is shown was asked from the trackers at that moment. A step that does not hold is one sentence and exit 1.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
from rich.table import Table
from rich.text import Text

from mogile_cli import output
from mogile_cli.errors import CliError, UsageError
from mogile_cli.local import folders, preflight, samples, state
from mogile_cli.local import layout as layouts
from mogile_cli.local.cluster import LocalCluster
from mogile_cli.local.layout import BASE_ADDRESS, GATEWAY_PORT, LISTEN, Layout, new_layout
from mogile_cli.local.programs import DOMAIN
from mogile_cli.local.running import Stopper, run, running
from mogile_cli.local.samples import Sample
from mogile_cli.local.stage import Stage, bar
from mogile_core.model import NODE_HTTP_PORT, TRACKER_PORT, DeviceState

STEPS = 10
COPIES = 2
PARALLEL = 4
DEVICE_LIMIT_MB = 128  # small devices, so that some megabytes make a visible share of one
SPREAD_POINTS = 5.0  # asked for
EVEN_POINTS = 10.0  # reached: whole files move, and the largest is 4 points of such a device
NEW_DEVICE_SHARE = 0.10  # of all files, on a fourth device that joins
SPREAD_SECONDS = 60.0
BALANCE_SECONDS = 90.0
HEAL_SECONDS = 120.0
REQUEST_SECONDS = 60.0
POLL_SECONDS = 0.3
ALTERNATIVES = 40
MARKER = "demo-files"

Places = dict[str, tuple[int, ...]]


class DemoError(CliError):
    """The demo does not hold."""


def main(*, check: bool, data: Path | None, given: dict[str, Any]) -> None:
    """Run the demo with the layout options given; interactive it stays up afterwards, with `check` everything is removed."""
    stage = Stage(STEPS)
    temporary = data is None and check
    folder = _folder(data, check=check)
    try:
        layout = _layout(folder, **given)
        run(lambda stopper: _story(layout, stage, stopper, check=check), stage.report)
    except CliError as error:
        if temporary and isinstance(error, DemoError):
            raise DemoError(f"{error} (logs are kept in {folder / 'logs'})") from error
        if temporary:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if temporary:
        shutil.rmtree(folder)
        output.say_plain("demo: everything held; all processes are stopped and all data is removed")


async def _story(layout: Layout, stage: Stage, stopper: Stopper, *, check: bool) -> None:
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        with stage.step("starting PostgreSQL, a tracker, three storage nodes in three zones and a gateway"):
            cluster = await stack.enter_async_context(running(layout, stage.report))
            stage.line(f"gateway: {cluster.gateway_kind}")
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout, auto_decompress=False))
        demo = Demo(cluster, session, stage)
        await demo.tell()
        stage.console.print(f"\n[bold green]Everything held[/] [dim]({time.monotonic() - began:.0f} s in all)[/]")
        if not check:
            show_what_next(cluster, demo.victim)
            await stopper.until_asked(cluster)


class Demo:
    """The steps, on a started cluster."""

    def __init__(self, cluster: LocalCluster, session: aiohttp.ClientSession, stage: Stage) -> None:
        self._cluster = cluster
        self._client = cluster.client
        self._session = session
        self._stage = stage
        self._samples: list[Sample] = []
        self.victim = 0  # the storage node that is killed

    async def tell(self) -> None:
        """All steps after the start, in order."""
        stage = self._stage
        folder = self._cluster.layout.data / MARKER
        with stage.step("generating pictures and texts"):
            self._samples = await asyncio.to_thread(lambda: list(samples.generate()))
            await asyncio.to_thread(samples.write, folder, self._samples)
            sizes = [len(sample.content) for sample in self._samples]
            stage.line(f"{len(sizes)} files from {min(sizes)} B to {output.size(max(sizes))} in {folder}")
        with stage.step("storing them through the gateway with plain HTTP PUT"):
            await self._each("storing", self._put)
        with stage.step(f"every file gets {COPIES} copies, in different zones"):
            places = await self._wait_spread("copies", SPREAD_SECONDS, frozenset())
            stage.show(self._where(places))
        await self._read_back("reading everything back through the gateway and comparing every byte")
        with stage.step("one more storage node with a new device joins: files move to it"):
            await self._grow()
        self.victim = self._fullest(await self._places())
        with stage.step(f"kill -9: node{self.victim} dies"):
            await self._kill()
        await self._read_back("reading everything while the node is dead")
        with stage.step(f"its devices are marked dead: every file gets {COPIES} living copies again"):
            await self._heal()
        await self._read_back("reading everything once more")

    async def _read_back(self, title: str) -> None:
        with self._stage.step(title):
            await self._each("reading", self._get)

    async def _grow(self) -> None:
        await self._client.balance(mode="auto", spread=SPREAD_POINTS)
        node = await self._cluster.add_node(1)
        (devid,) = node.devids
        self._stage.line(f"{node.name} in zone {node.zone} with device {devid}")
        wanted = max(1, int(len(self._samples) * NEW_DEVICE_SHARE))
        end = time.monotonic() + BALANCE_SECONDS
        with self._stage.watching() as draw:
            while True:
                places = await self._places()
                balance = await self._client.balance()
                moved = self._counts(places)[devid]
                draw(
                    f"{output.plural(moved, 'file')} on device {devid}, fullest and emptiest differ by "
                    f"{balance.current_spread:.1f} points, {balance.state}",
                    self._devices(places),
                )
                settled = balance.state == "idle" and balance.current_spread <= EVEN_POINTS
                if moved >= wanted and settled and not self._lacking(places, frozenset()):
                    break
                if time.monotonic() > end:
                    raise DemoError(
                        f"after {BALANCE_SECONDS:.0f} s device {devid} holds {moved} files (wanted at least {wanted}) "
                        f"and usage differs by {balance.current_spread:.1f} points"
                    )
                await asyncio.sleep(POLL_SECONDS)
        self._stage.line(f"{output.plural(moved, 'file')} moved to device {devid}")
        self._stage.show(self._devices(places))

    async def _kill(self) -> None:
        pids = await self._cluster.kill_node(self.victim)
        address = self._cluster.layout.address(self.victim)
        try:
            _, writer = await asyncio.open_connection(address, NODE_HTTP_PORT)
        except ConnectionRefusedError:
            self._stage.line(f"process {' and '.join(map(str, pids))} killed; {address}:{NODE_HTTP_PORT} refuses")
        else:
            writer.close()
            raise DemoError(f"{address}:{NODE_HTTP_PORT} still answers after its processes were killed")

    async def _heal(self) -> None:
        dead = frozenset(self._cluster.layout.node(self.victim).devids)
        before = self._lacking(await self._places(), dead)
        self._stage.line(f"{output.plural(len(before), 'file')} lost a copy")
        if not before:
            raise DemoError("the node that was killed held no file: nothing to heal was shown")
        for devid in dead:
            await self._cluster.mark(devid, DeviceState.DEAD)
        places = await self._wait_spread("healed", HEAL_SECONDS, dead)
        self._stage.show(self._devices(places))

    async def _wait_spread(self, word: str, seconds: float, dead: frozenset[int]) -> Places:
        """Until every file has its copies on living devices of different zones."""
        end = time.monotonic() + seconds
        total = len(self._samples)
        with self._stage.watching() as draw:
            while True:
                places = await self._places()
                lacking = self._lacking(places, dead)
                share = (total - len(lacking)) / total
                draw(f"{word} {bar(share)} {total - len(lacking)} of {total} files", self._devices(places))
                if not lacking:
                    self._stage.line(f"{total} of {total} files have {COPIES} living copies in different zones")
                    return places
                if time.monotonic() > end:
                    raise DemoError(
                        f"after {seconds:.0f} s {output.plural(len(lacking), 'file')} lack copies in two zones, "
                        f"for example {lacking[0]} on devices {places[lacking[0]]}"
                    )
                await asyncio.sleep(POLL_SECONDS)

    async def _each(self, title: str, work: Callable[[Sample], Awaitable[None]]) -> None:
        """Do `work` for every file, some at a time, with a progress bar."""
        limit = asyncio.Semaphore(PARALLEL)
        total = sum(len(sample.content) for sample in self._samples)
        with self._stage.transfer(title, total, len(self._samples)) as advance:

            async def one(sample: Sample) -> None:
                async with limit:
                    await work(sample)
                    advance(len(sample.content))

            try:
                async with asyncio.TaskGroup() as group:
                    for sample in self._samples:
                        group.create_task(one(sample))
            except ExceptionGroup as failures:
                raise failures.exceptions[0] from failures

    def _url(self, sample: Sample) -> str:
        return f"{self._cluster.layout.gateway_url}/{DOMAIN}/{sample.key}"

    async def _put(self, sample: Sample) -> None:
        try:
            async with self._session.put(self._url(sample), data=sample.content) as response:
                if response.status != 201:
                    body = (await response.text(errors="replace")).strip()[:200]
                    raise DemoError(f"PUT {self._url(sample)} was answered {response.status} {body}")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise DemoError(f"PUT {self._url(sample)} failed: {error or type(error).__name__}") from error

    async def _get(self, sample: Sample) -> None:
        try:
            async with self._session.get(self._url(sample)) as response:
                body = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise DemoError(f"GET {self._url(sample)} failed: {error or type(error).__name__}") from error
        if response.status != 200:
            raise DemoError(f"GET {self._url(sample)} was answered {response.status} {body[:200]!r}")
        if body != sample.content:
            raise DemoError(
                f"GET {self._url(sample)} gave {len(body)} bytes that differ from the {len(sample.content)} stored"
            )

    # ---- what the trackers say

    async def _places(self) -> Places:
        """The devices of every file's copies, asked now."""
        infos = await asyncio.gather(*(self._client.file_info(DOMAIN, s.key, devices=True) for s in self._samples))
        return {info.key: tuple(sorted(info.devids)) for info in infos}

    def _counts(self, places: Places) -> Counter[int]:
        return Counter(devid for devids in places.values() for devid in devids)

    def _fullest(self, places: Places) -> int:
        """The number of the node with most copies: its loss shows most."""
        counts = self._counts(places)
        return max(self._cluster.layout.nodes, key=lambda node: sum(counts[d] for d in node.devids)).number

    def _lacking(self, places: Places, dead: frozenset[int]) -> list[str]:
        """Keys with too few living copies, or all of them in one zone."""
        zones = {devid: node.zone for node in self._cluster.layout.nodes for devid in node.devids}
        return [
            key
            for key, devids in places.items()
            if len(living := [d for d in devids if d not in dead]) < COPIES or len({zones[d] for d in living}) < COPIES
        ]

    def _where(self, places: Places) -> Table:
        sizes = {sample.key: len(sample.content) for sample in self._samples}
        nodes = {devid: node for node in self._cluster.layout.nodes for devid in node.devids}
        rows = [
            (
                f"      {key}",
                output.size(sizes[key]),
                *(f"{nodes[d].name} zone {nodes[d].zone} dev{d}" for d in devids[:3]),
            )
            for key, devids in places.items()
        ]
        wide = max(len(row) for row in rows)
        padded = [(*row, *[""] * (wide - len(row))) for row in rows]
        return output.table(("      file", "size", *(f"copy {i}" for i in range(1, wide - 1))), padded, right=("size",))

    def _devices(self, places: Places) -> Table:
        counts = self._counts(places)
        down = self._cluster.nodes_down()
        rows = [
            (
                f"      device {devid}",
                node.name,
                node.zone,
                counts[devid],
                bar(counts[devid] / len(self._samples), 30),
                Text("killed", style="bold red") if node.name in down else " ",
            )
            for node in self._cluster.layout.nodes
            for devid in node.devids
        ]
        return output.table(("      device", "host", "zone", "files", "", " "), rows, right=("files",))


def show_what_next(cluster: LocalCluster, victim: int) -> None:
    """URLs and commands to go on with."""
    layout = cluster.layout
    url = f"{layout.gateway_url}/{DOMAIN}"
    living = next(node.number for node in layout.nodes if node.number != victim)
    data = "" if layout.data in folders.candidates() else f" --data {layout.data}"
    for line in (
        "",
        "Go on with it (in another terminal):",
        f"  a picture in your browser   {url}/pictures/20-1024x768.png",
        f"  store a file                curl -T README.md {url}/README.md",
        "  list and inspect            .venv/bin/mog ls pictures/; .venv/bin/mog info pictures/20-1024x768.png",
        f"  health                      .venv/bin/mog local status{data}",
        f"  one more device             .venv/bin/mog local add-device --node {living}{data}",
        f"  one more storage node       .venv/bin/mog local add-node{data}",
        f"  lose another one            .venv/bin/mog local kill-node {living}{data}",
        f"  a MogileFS client           trackers = {layout.tracker_addresses[0]}, domain = {DOMAIN}",
        "",
        "Ctrl-C ends the demo"
        + ("; the next demo removes its data" if layout.data == folders.default_folder("demo") else ""),
        "A cluster for your own files: .venv/bin/mog local up",
    ):
        output.say_plain(line)


def _folder(data: Path | None, *, check: bool) -> Path:
    """An empty folder for the demo: a temporary one to check, your own, or one that is made anew every time."""
    if data is not None:
        folder = data.absolute()
        if folder.exists() and any(folder.iterdir()):
            raise UsageError(f"{folder} is not empty; the demo wants an empty folder with --data")
        return folder
    if check:
        folder = Path(tempfile.mkdtemp(prefix="mogile-demo-"))
        folder.chmod(0o755)  # under root PostgreSQL runs as another user
        return folder
    folder = folders.default_folder("demo")
    if state.is_running(folder):
        raise CliError("the demo runs already; stop it first with: mog local down")
    if layouts.load(folder) is not None and (folder / MARKER).exists():
        shutil.rmtree(folder)
    return folder


def _layout(
    folder: Path,
    *,
    gateway_port: int | None = None,
    tracker_port: int | None = None,
    base_address: str | None = None,
    nginx: bool = True,
) -> Layout:
    """Three nodes; addresses and ports that were not named and are taken are replaced by free ones."""
    gateway = gateway_port or _free_port(GATEWAY_PORT, 2)
    tracker = tracker_port or _free_port(TRACKER_PORT, 2, avoid={gateway, gateway + 1})
    for number in range(1, ALTERNATIVES):
        base = base_address or (BASE_ADDRESS if number == 1 else f"127.0.{number}")
        layout = new_layout(
            folder,
            base_address=base,
            gateway_port=gateway,
            tracker_port=tracker,
            device_limit_mb=DEVICE_LIMIT_MB,
            min_free_mb=8,
            nginx=nginx,
        )
        grown, _ = layout.with_node(1)
        if base_address or all(
            preflight.port_is_free(address, port)
            for address, port, option in grown.ports()
            if option == "--base-address"
        ):
            return layout
    raise UsageError("no free loopback addresses for storage nodes were found; name some with --base-address")


def _free_port(preferred: int, count: int, avoid: frozenset[int] | set[int] = frozenset()) -> int:
    """`preferred` or a port above it, such that `count` ports from there on are free."""
    for step in range(ALTERNATIVES):
        first = preferred + 20 * step
        ports = range(first, first + count)
        if not avoid & set(ports) and all(preflight.port_is_free(LISTEN, port) for port in ports):
            return first
    raise UsageError(f"no free port near {preferred} was found; name one with --gateway-port and --tracker-port")
