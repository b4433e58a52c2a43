"""What the gateway costs, next to the storage node behind it asked directly in the same run.

    make bench-gateway            or: python benchmarks/gateway.py --seconds 3 --large-mb 256

Real parts on loopback: PostgreSQL, one tracker, one storage node (agent and read nginx), the nginx gateway with one worker. Paths spread
over many keys. On a machine that does other things, only CPU per request and ratios within one run mean much.
"""

import argparse
import asyncio
import json
import shutil
import socket
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from processes import Peak
from report import ROOT, Panel, Report, plot, row
from stack import PYTHON, Stack, cpu_spent, postgres
from tracker_nodes import start_node
from wrk import Load, gets_lua, puts_lua, wrk

from mogile_core.client import TrackerClient
from mogile_core.model import HostState

TRACKER, NODE, GATEWAY = "127.0.23.200", "127.0.23.201", "127.0.23.202"
DIRECT, FRONT = f"http://{NODE}:7580", f"http://{GATEWAY}:8080"
KEYS = 1000
CONNECTIONS = (1, 8, 32, 64)  # of the plot; the rows speak of 32
SIZES = {"4 KiB": 4096, "64 KiB": 65536}
ROUNDS = 3
PIECE = b"x" * (1 << 20)
READY_SECONDS = 60


async def bring_up(stack: Stack, dsn: str) -> None:
    """Everything that runs, and a domain."""
    stack.start(
        "tracker", [*PYTHON, "mogile_tracker.main"], db_dsn=dsn, listen=f"{TRACKER}:7001", http_listen=f"{TRACKER}:7002",
        monitor_interval_seconds=0.5, min_free_space_mb=1,
    )  # fmt: skip
    stack.wait_for(TRACKER, 7001)
    async with TrackerClient(f"{TRACKER}:7001") as client:
        start_node(stack, "node", NODE, (await client.cluster()).cluster_id, [1])
        await client.create_host("node", NODE, 7500, getport=7580, status=HostState.ALIVE)
        await client.create_device(1, "node")
        await client.create_domain("bench")
        async with asyncio.timeout(READY_SECONDS):
            while not all(device.observed == "writeable" for device in await client.get_devices()):
                await asyncio.sleep(0.1)
    config = {
        "listen": f"{GATEWAY}:8080", "metricsListen": f"{GATEWAY}:8081", "trackers": [f"{TRACKER}:7001"],
        "locations": [{"path": "/b/", "domain": "bench", "read": "open", "write": "open"}],
    }  # fmt: skip
    (stack.folder / "gateway.json").write_text(json.dumps(config))
    entry, run = ROOT / "images" / "nginx-gateway" / "mogile-gateway", stack.folder / "gateway"
    words = [str(entry), "--config", str(stack.folder / "gateway.json"), "--run-dir", str(run), "--drain-seconds", "2"]
    stack.start("gateway", words)
    stack.wait_for(GATEWAY, 8080)


async def store(stack: Stack, size: int) -> tuple[Path, Path]:
    """KEYS files of a size; where they lie on the node, and their paths at the gateway, a file of lines each."""
    direct, through = stack.folder / f"direct-{size}", stack.folder / f"through-{size}"
    async with TrackerClient(f"{TRACKER}:7001") as client:
        keys = [f"{size}/{number}" for number in range(KEYS)]
        for at in range(0, KEYS, 20):
            await asyncio.gather(*(client.upload("bench", key, b"x" * size) for key in keys[at : at + 20]))
        urls = [(await client.get_paths("bench", key))[0] for key in keys]
    direct.write_text("".join(url.removeprefix(DIRECT) + "\n" for url in urls))
    through.write_text("".join(f"/b/{key}\n" for key in keys))
    return direct, through


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The middle of some rounds, figure by figure; CPU in ms per request by part."""

    rate: float
    p99_ms: float
    cpu: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where this run works, how long a load lasts, and where its figures go."""

    stack: Stack
    seconds: float
    large_mb: int
    report: Report

    def loads(self, url: str, connections: int, scripts: list[str]) -> Seen:
        """One round per script."""
        rounds: list[tuple[Load, dict[str, float]]] = []
        for script in scripts:
            before = self.stack.cpu()
            load = wrk(self.stack.folder / "load.lua", script, url, connections, self.seconds)
            rounds.append((load, cpu_spent(before, self.stack.cpu(), load.count)))
        return Seen(
            rate=statistics.median(load.rate for load, _ in rounds),
            p99_ms=statistics.median(load.p99_ms for load, _ in rounds),
            cpu={part: statistics.median(cost[part] for _, cost in rounds) for part in rounds[0][1]},
        )


def read_rows(bench: Bench) -> dict[str, list[tuple[float, float]]]:
    """GET through the gateway and of the same files from the node, in turns; rates by connections for the plot."""
    series: dict[str, list[tuple[float, float]]] = {"GET 4 KiB, gateway": [], "GET 4 KiB, node": []}
    for name, size in SIZES.items():
        direct, through = (gets_lua(paths) for paths in asyncio.run(store(bench.stack, size)))
        front, node = bench.loads(FRONT, 32, [through] * ROUNDS), bench.loads(DIRECT, 32, [direct] * ROUNDS)
        title = f"GET {name}, 32 connections"
        bench.report.add(row(f"{title}, against the node", front.rate, "GET/s", reference=node.rate))
        bench.report.add(row(f"{title}, p99 likewise", front.p99_ms, "ms", better="lower", reference=node.p99_ms))
        bench.report.cost(f"GET {name}", front.cpu)
        bench.report.cost(f"GET {name} from the node", node.cpu)
        if name == "4 KiB":
            for connections in CONNECTIONS:
                for line, url, script in (("gateway", FRONT, through), ("node", DIRECT, direct)):
                    seen = bench.loads(url, connections, [script])
                    series[f"GET 4 KiB, {line}"].append((connections, seen.rate))
    return series


def write_rows(bench: Bench) -> dict[str, list[tuple[float, float]]]:
    """Durable PUT through the gateway (open, upload, close) next to the bare upload to the node's agent."""
    bases = iter(range(10**8, 10**10, 10**8))
    devices = '"/dev1/" .. f:sub(1,1) .. "/" .. f:sub(2,4) .. "/" .. f:sub(5,7) .. "/" .. f .. ".fid"'

    def through() -> str:
        return puts_lua(next(bases), '"/b/p/" .. f')

    front = bench.loads(FRONT, 32, [through() for _ in range(ROUNDS)])
    bare = bench.loads(f"http://{NODE}:7500", 32, [puts_lua(next(bases), devices) for _ in range(ROUNDS)])
    name = "PUT 4 KiB durable, 32 connections"
    bench.report.add(row(f"{name}, against the bare upload", front.rate, "PUT/s", reference=bare.rate))
    bench.report.add(row(f"{name}, p99 likewise", front.p99_ms, "ms", better="lower", reference=bare.p99_ms))
    bench.report.cost("PUT 4 KiB", front.cpu)
    bench.report.cost("bare upload", bare.cpu)
    rates = [(float(connections), bench.loads(FRONT, connections, [through()]).rate) for connections in CONNECTIONS]
    return {"PUT 4 KiB, gateway": rates}


def large_rows(bench: Bench) -> None:
    """One long upload and download through the gateway, next to the node; memory of the gateway meanwhile."""
    size, name = bench.large_mb << 20, f"{bench.large_mb} MiB"
    with Peak(bench.stack.pid("gateway")) as peak:
        put = bench.large_mb / _seconds(lambda: pour((GATEWAY, 8080), "/b/large", size))
        got = bench.large_mb / _seconds(lambda: drain((GATEWAY, 8080), "/b/large", size))
    path = asyncio.run(_path("large"))
    bare = bench.large_mb / _seconds(lambda: pour((NODE, 7500), "/dev1/9/999/999/9999999999.fid", size))
    direct = bench.large_mb / _seconds(lambda: drain((NODE, 7580), path, size))
    bench.report.add(row(f"PUT {name}, against the bare upload", put, "MiB/s", reference=bare))
    bench.report.add(row(f"GET {name}, against the node", got, "MiB/s", reference=direct))
    bench.report.add(row(f"{name} both ways, memory growth of the gateway", peak.growth_mb, "MB PSS", better="lower"))


async def _path(key: str) -> str:
    async with TrackerClient(f"{TRACKER}:7001") as client:
        return (await client.get_paths("bench", key))[0].removeprefix(DIRECT)


def _seconds(work: Callable[[], None]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def pour(address: tuple[str, int], path: str, size: int) -> None:
    """PUT `size` bytes."""
    with socket.create_connection(address, 300) as stream:
        stream.sendall(f"PUT {path} HTTP/1.1\r\nHost: b\r\nContent-Length: {size}\r\n\r\n".encode())
        for _ in range(size // len(PIECE)):
            stream.sendall(PIECE)
        answer = stream.recv(4096)
    if b" 201 " not in answer.splitlines()[0]:
        sys.exit(f"bench-gateway: the large upload was answered {answer!r}")


def drain(address: tuple[str, int], path: str, size: int) -> None:
    """GET and count the bytes."""
    with socket.create_connection(address, 300) as stream:
        stream.sendall(f"GET {path} HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n".encode())
        head, _, body = stream.recv(65536).partition(b"\r\n\r\n")
        count, buffer = len(body), bytearray(1 << 20)
        while read := stream.recv_into(buffer):
            count += read
    if b" 200 " not in head.splitlines()[0] or count != size:
        sys.exit(f"bench-gateway: {count} of {size} bytes were read: {head!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each load")
    parser.add_argument("--large-mb", type=int, default=256)
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("bench-gateway: wrk is not installed")
    about: dict[str, object] = {"seconds": arguments.seconds, "largeMb": arguments.large_mb, "keys": KEYS}
    report = Report(part="gateway", about=about)
    with Stack("bench-gateway") as stack, postgres(stack, 4096) as server:
        asyncio.run(bring_up(stack, server.dsn()))
        bench = Bench(stack=stack, seconds=arguments.seconds, large_mb=arguments.large_mb, report=report)
        lines = read_rows(bench) | write_rows(bench)
        large_rows(bench)
    plot(
        "gateway", [Panel(title="through the gateway and from the node", x="connections", y="per second", lines=lines)]
    )
    report.finish()


if __name__ == "__main__":
    main()
