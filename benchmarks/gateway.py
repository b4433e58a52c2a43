"""What the gateway costs, next to the storage node's read port asked directly in the same run.

    make bench-gateway            or: python benchmarks/gateway.py --seconds 3 --large-mb 256

Real parts on loopback: PostgreSQL, one tracker, one storage node (agent and read nginx), the nginx gateway with one worker. Rows: GET of
4 KiB and 64 KiB, PUT of 4 KiB, one large PUT; with the CPU time per request of gateway, tracker and node. On a machine that does other
things, only CPU per request and ratios within one run mean much.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from mogile_cli.local.postgres import EmbeddedPostgres
from mogile_core.client import TrackerClient
from mogile_core.model import HostState

ROOT = Path(__file__).resolve().parents[1]
TRACKER, NODE, GATEWAY = "127.0.23.200", "127.0.23.201", "127.0.23.202"
TICK = os.sysconf("SC_CLK_TCK")
PIECE = b"x" * 262144


@dataclass
class Row:
    """One measurement."""

    what: str
    connections: int
    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: Mapping[str, float]


def process_tree(root: int) -> Iterator[int]:
    yield root
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{root}/task/{root}/children").read_text().split():
            yield from process_tree(int(child))


def cpu_seconds(root: int) -> float:
    total = 0
    for pid in process_tree(root):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / TICK


def resident_mb(root: int) -> float:
    total = 0
    for pid in process_tree(root):
        with contextlib.suppress(OSError):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return total / 2**20


class Stack:
    """The processes; each in a session of its own, all gone at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: list[str], **settings: object) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("MOGILE_")}
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                command, env=kept | {f"MOGILE_{key.upper()}": str(value) for key, value in settings.items()},
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def wait_for(self, address: str, port: int) -> None:
        deadline = time.monotonic() + 30
        while True:
            with socket.socket() as probe:
                if probe.connect_ex((address, port)) == 0:
                    return
            if time.monotonic() > deadline:
                sys.exit(f"bench-gateway: nothing listens on {address}:{port}; logs in {self.folder}")
            time.sleep(0.05)

    def cpu(self) -> dict[str, float]:
        return {name: cpu_seconds(process.pid) for name, process in self.processes.items()}

    def stop(self) -> None:
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


async def bring_up(stack: Stack, dsn: str) -> None:
    python = [sys.executable, "-m"]
    stack.start(
        "tracker", [*python, "mogile_tracker.main"], db_dsn=dsn, listen=f"{TRACKER}:7001", http_listen=f"{TRACKER}:7002",
        monitor_interval_seconds=0.5, min_free_space_mb=1,
    )  # fmt: skip
    stack.wait_for(TRACKER, 7001)
    (stack.folder / "data" / "dev1").mkdir(parents=True)
    common: dict[str, object] = {"docroot": stack.folder / "data", "http_address": NODE, "http_listen": f"{NODE}:7502"}
    async with TrackerClient(f"{TRACKER}:7001") as client:
        common["cluster_id"] = (await client.cluster()).cluster_id
        stack.start(
            "agent", [*python, "mogile_storage.main", "agent"], **common, usage_interval_seconds=0.5, reserve_mb=1
        )
        stack.start("reader", [*python, "mogile_storage.main", "nginx"], **common, run_dir=stack.folder / "reader")
        stack.wait_for(NODE, 7500)
        stack.wait_for(NODE, 7580)
        await client.create_host("node", NODE, 7500, getport=7580, status=HostState.ALIVE)
        await client.create_device(1, "node")
        await client.create_domain("bench")
        while not all(device.observed == "writeable" for device in await client.get_devices()):
            await asyncio.sleep(0.1)
    config = {
        "listen": f"{GATEWAY}:8080", "metricsListen": f"{GATEWAY}:8081", "trackers": [f"{TRACKER}:7001"],
        "locations": [{"path": "/b/", "domain": "bench", "read": "open", "write": "open"}],
    }  # fmt: skip
    (stack.folder / "gateway.json").write_text(json.dumps(config))
    entry = str(ROOT / "images" / "nginx-gateway" / "mogile-gateway")
    run = str(stack.folder / "gateway")
    stack.start(
        "gateway", [entry, "--config", str(stack.folder / "gateway.json"), "--run-dir", run, "--drain-seconds", "2"]
    )
    stack.wait_for(GATEWAY, 8080)


async def exchange(streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], request: bytes) -> tuple[int, bool]:
    """One request on a kept connection; the status, and whether the connection goes on (nginx ends one after a thousand requests)."""
    reader, writer = streams
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
    await reader.readexactly(length)
    return int(head[9:12]), b"\r\nconnection: close" not in head


async def load(
    stack: Stack, what: str, address: tuple[str, int], make: Mapping[str, str], connections: int, seconds: float
) -> Row:
    """Keep `connections` busy with requests for `seconds`."""
    times: list[float] = []
    body = b"x" * int(make.get("size", "0"))
    before, begun = stack.cpu(), time.monotonic()

    async def run(number: int) -> None:
        streams = await asyncio.open_connection(*address, limit=2**20)
        count = 0
        while time.monotonic() - begun < seconds:
            path = make["path"] + (f"{number}-{count}" if body else "")
            framing = f"Content-Length: {len(body)}\r\n" if body else ""
            started = time.monotonic()
            status, goes_on = await exchange(
                streams, f"{make['method']} {path} HTTP/1.1\r\nHost: b\r\n{framing}\r\n".encode() + body
            )
            times.append(time.monotonic() - started)
            if status not in (200, 201):
                sys.exit(f"bench-gateway: {what} answered {status}; logs in {stack.folder}")
            count += 1
            if not goes_on:
                streams[1].close()
                streams = await asyncio.open_connection(*address, limit=2**20)
        streams[1].close()

    await asyncio.gather(*(run(number) for number in range(connections)))
    took, after = time.monotonic() - begun, stack.cpu()
    times.sort()
    cpu = {name: round((after[name] - before[name]) / len(times) * 1e6, 1) for name in after}
    return Row(
        what, connections, len(times) / took, times[len(times) // 2] * 1e3, times[int(len(times) * 0.99)] * 1e3, cpu
    )


async def large(stack: Stack, megabytes: int) -> Row:
    """One long upload."""
    total = megabytes * 2**20
    before, begun = stack.cpu(), time.monotonic()
    reader, writer = await asyncio.open_connection(GATEWAY, 8080, limit=2**20)
    writer.write(f"PUT /b/large HTTP/1.1\r\nHost: b\r\nContent-Length: {total}\r\n\r\n".encode())
    for _ in range(total // len(PIECE)):
        writer.write(PIECE)
        await writer.drain()
    status = int((await reader.readuntil(b"\r\n\r\n"))[9:12])
    writer.close()
    took, after = time.monotonic() - begun, stack.cpu()
    if status != 201:
        sys.exit(f"bench-gateway: the large upload answered {status}")
    cpu = {name: round((after[name] - before[name]) * 1e6, 1) for name in after}
    return Row(f"PUT {megabytes} MiB ({megabytes / took:.0f} MiB/s)", 1, 1 / took, took * 1e3, took * 1e3, cpu)


async def measure(stack: Stack, dsn: str, seconds: float, connections: int, megabytes: int) -> tuple[list[Row], float]:
    await bring_up(stack, dsn)
    front, rows = (GATEWAY, 8080), []
    async with TrackerClient(f"{TRACKER}:7001") as client:
        for size in (4096, 65536):
            await client.upload("bench", f"get-{size}", b"x" * size)
            url = (await client.get_paths("bench", f"get-{size}"))[0]
            direct = {"method": "GET", "path": url.removeprefix(f"http://{NODE}:7580")}
            through = {"method": "GET", "path": f"/b/get-{size}"}
            rows.append(await load(stack, f"GET {size} B direct", (NODE, 7580), direct, connections, seconds))
            rows.append(await load(stack, f"GET {size} B gateway", front, through, connections, seconds))
    rows.append(
        await load(
            stack, "PUT 4096 B gateway", front, {"method": "PUT", "path": "/b/p-", "size": "4096"}, connections, seconds
        )
    )
    before = resident_mb(stack.processes["gateway"].pid)
    rows.append(await large(stack, megabytes))
    return rows, resident_mb(stack.processes["gateway"].pid) - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each row")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--large-mb", type=int, default=256)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-gateway-"))
    folder.chmod(0o755)
    server, stack = EmbeddedPostgres(directory=folder / "pg"), Stack(folder)
    server.start()
    try:
        rows, growth = asyncio.run(
            measure(stack, server.dsn(), arguments.seconds, arguments.connections, arguments.large_mb)
        )
    finally:
        stack.stop()
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{'':30}{'/s':>9}{'p50 ms':>9}{'p99 ms':>9}   CPU us per request: gateway, tracker, agent, reader")
    for row in rows:
        cpu = "".join(f"{row.cpu_us.get(name, 0):11.0f}" for name in ("gateway", "tracker", "agent", "reader"))
        print(f"{row.what:30}{row.per_second:9.1f}{row.p50_ms:9.2f}{row.p99_ms:9.2f}   {cpu}")
    print(f"gateway memory grew by {growth:.1f} MiB during the large upload")
    out = ROOT / "benchmarks" / "out"
    out.mkdir(exist_ok=True)
    (out / "gateway.json").write_text(
        json.dumps({"rows": [asdict(row) for row in rows], "memory_growth_mib": growth}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
