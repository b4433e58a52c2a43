"""What the storage node costs and how fast it is, next to bare loops and stock nginx in the same run.

    make bench-storage            or: python benchmarks/storage.py --seconds 4 --large-mb 1024

Needs root (fresh XFS images on loop devices, in a mount namespace of its own), wrk, nginx, md5sum, mkfs.xfs. The load generator runs
on the same cores, so on a machine that does other things only ratios within one run and CPU per request mean much.
"""

import argparse
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from processes import Peak, cpu_seconds, pss_mb
from report import Panel, Report, plot, row
from storage_hang import hang_rows
from storage_lab import (
    AGENT,
    FID_PATH_LUA,
    SECOND,
    STOCK,
    Bench,
    ask,
    bare_loop,
    fid_path,
    fill,
    fresh_device,
    load,
    order,
    own_mounts,
    pour,
    program,
    stock_nginx,
)  # fmt: skip
from wrk import GET_LUA, Load, puts_lua

CONNECTIONS = (1, 8, 32, 64)  # of the PUT rows and the plot; the bars speak of 1 and 32
PULLED_FILES = 6_000  # in one turn
ORDER_ITEMS = 1000
ROUNDS = 3
IDLE_SECONDS = 10.0


def put_rows(bench: Bench) -> None:
    """PUT of 4 KiB with group commit and without in turns, on a device each; the middle round counts."""
    rounds: dict[str, list[Load]] = {"group": [], "each": []}
    series: dict[str, list[tuple[int, Load]]] = {"group": [], "each": []}
    fresh_device(bench.folder, bench.device)
    fresh_device(bench.folder, bench.second / "dev1")
    with (
        program(bench.folder, "agent", AGENT, bench.docroot, SYNC_MODE="group") as group_pid,
        program(bench.folder, "agent", SECOND, bench.second, SYNC_MODE="each") as each_pid,
    ):
        servers = {"group": (AGENT, group_pid), "each": (SECOND, each_pid)}
        for connections in CONNECTIONS:
            for mode, (address, pid) in servers.items():
                series[mode].append((connections, put_load(bench, address, connections, pid)))
        for _ in range(ROUNDS):
            for mode, (address, pid) in servers.items():
                rounds[mode].append(put_load(bench, address, 32, pid))
    bare = {}
    for threads in (1, 32):
        fresh_device(bench.folder, bench.device)
        bare[threads] = bare_loop(bench.device, threads, bench.seconds)
    group, each, lone = middle(rounds["group"]), middle(rounds["each"]), series["group"][0][1]
    add, name = bench.report.add, "PUT 4 KiB durable, 32 connections"
    add(row(f"{name}, against group commit off", group.rate, "PUT/s", reference=each.rate, bar=1.6))
    add(row(f"{name}, p99 likewise", group.p99_ms, "ms", better="lower", reference=each.p99_ms, bar=0.6))
    add(row(f"{name}, agent CPU", group.cpu_ms, "ms/PUT", better="lower", bar=0.12))
    add(row("the same, 1 connection, against a bare loop", lone.rate, "PUT/s", reference=bare[1].rate, bar=0.8))
    add(
        row(
            "group commit off, 32, against a bare loop, 32 threads",
            each.rate,
            "PUT/s",
            reference=bare[32].rate,
            bar=0.4,
        )
    )
    add(row("group commit off, 32 connections, agent CPU", each.cpu_ms, "ms/PUT", better="lower"))
    titles = {"group": "group commit", "each": "fsync per file"}
    lines = lambda value: {t: [(c, value(each)) for c, each in series[mode]] for mode, t in titles.items()}  # noqa: E731
    plot(
        "storage-put",
        [
            Panel(title="durable PUT of 4 KiB", x="connections", y="PUT/s", lines=lines(lambda each: each.rate)),
            Panel(title="the slowest hundredth", x="connections", y="p99 ms", lines=lines(lambda each: each.p99_ms)),
            Panel(title="what it costs", x="connections", y="agent CPU ms/PUT", lines=lines(lambda each: each.cpu_ms)),
        ],
    )


_bases = itertools.count(1)


def put_load(bench: Bench, address: str, connections: int, pid: int) -> Load:
    """PUT of 4 KiB under names nobody had before."""
    script = puts_lua(next(_bases) * 10**8, FID_PATH_LUA)
    return load(bench, script, f"http://{address}:7500", connections, pid)


def middle(rounds: list[Load]) -> Load:
    """Figure by figure, so that a moment of other work on the machine does not decide."""
    return Load(
        rate=statistics.median(each.rate for each in rounds),
        p99_ms=statistics.median(each.p99_ms for each in rounds),
        cpu_ms=statistics.median(each.cpu_ms for each in rounds),
    )


def get_rows(bench: Bench) -> None:
    """GET of two sizes on the read port and on plain nginx in turns; the least disturbed round of each counts."""
    fresh_device(bench.folder, bench.device)
    sizes = {1: 4096, 2: 65536}
    costs: dict[str, list[tuple[float, float]]] = {"plain nginx": [], "read port": [], "agent alone": []}
    with (
        program(bench.folder, "agent", AGENT, bench.docroot) as agent,
        program(bench.folder, "nginx", AGENT, bench.docroot) as ours,
        stock_nginx(bench.folder, bench.docroot) as stock,
    ):
        time.sleep(2)
        idle_rows(bench, agent, ours)
        for fid, size in sizes.items():
            if ask(AGENT, 7500, "PUT", fid_path(fid), b"g" * size)[0] != 201:
                sys.exit("bench-storage: cannot store the file to be read")
            servers = {
                "plain nginx": (f"http://{STOCK}:7580", stock),
                "read port": (f"http://{AGENT}:7580", ours),
                "agent alone": (f"http://{AGENT}:7500", agent),
            }
            best: dict[str, Load] = {}
            for _ in range(ROUNDS):
                for name, (url, pid) in servers.items():
                    seen = load(bench, GET_LUA, url + fid_path(fid), 32, pid)
                    best[name] = min(seen, best.get(name, seen), key=lambda each: each.cpu_ms)
            kib = size >> 10
            plain, port = best["plain nginx"], best["read port"]
            cpu = f"GET {kib} KiB, CPU against plain nginx"
            bench.report.add(row(cpu, port.cpu_ms, "ms/GET", better="lower", reference=plain.cpu_ms, bar=1.1))
            bench.report.add(row(f"GET {kib} KiB, read port", port.rate, "GET/s", reference=plain.rate))
            bench.report.add(row(f"GET {kib} KiB, agent alone", best["agent alone"].rate, "GET/s"))
            for name, seen in best.items():
                costs[name].append((kib, seen.cpu_ms))
    plot("storage-get", [Panel(title="GET, 32 connections", x="KiB", y="CPU ms/GET", lines=costs)])


def idle_rows(bench: Bench, agent: int, nginx: int) -> None:
    before = cpu_seconds(agent) + cpu_seconds(nginx)
    time.sleep(IDLE_SECONDS)
    share = (cpu_seconds(agent) + cpu_seconds(nginx) - before) / IDLE_SECONDS * 100
    bench.report.add(
        row("idle node (agent and nginx), memory", pss_mb(agent) + pss_mb(nginx), "MB PSS", better="lower", bar=60)
    )
    bench.report.add(row("idle node, CPU", share, "% of a core", better="lower", bar=1))


def large_rows(bench: Bench) -> None:
    """One large PUT with digest."""
    size, name = bench.large_mb << 20, f"PUT {bench.large_mb} MiB"
    fresh_device(bench.folder, bench.device)
    with program(bench.folder, "agent", AGENT, bench.docroot) as pid:
        used = cpu_seconds(pid)
        with Peak(pid) as peak:
            took = pour(AGENT, 7500, fid_path(5), size)
        used = cpu_seconds(pid) - used
    ours = bench.large_mb / took
    fresh_device(bench.folder, bench.device)
    (bench.device / "tmp").mkdir()
    with stock_nginx(bench.folder, bench.device):
        began = time.monotonic()
        pour(STOCK, 7580, "/large", size)
        subprocess.run(["md5sum", str(bench.device / "large")], check=True, stdout=subprocess.DEVNULL)
        stock = bench.large_mb / (time.monotonic() - began)
    label = f"{name} with digest, against nginx (no sync) and md5sum"
    bench.report.add(row(label, ours, "MiB/s", reference=stock, bar=0.8))
    bench.report.add(row(f"{name}, memory growth of the agent", peak.growth_mb, "MB PSS", better="lower", bar=20))
    bench.report.add(row(f"{name}, agent CPU", used / size * (1 << 20) * 1e3, "ms/MiB", better="lower"))


def pull_rows(bench: Bench) -> None:
    """The second node pulls from the first, as a tracker orders it, in turns with the PUTs it is held against."""
    fresh_device(bench.folder, bench.device)
    fresh_device(bench.folder, bench.second / "dev1")
    rates, puts, costs = [], [], {"agent": 0.0, "source": 0.0}
    with (
        program(bench.folder, "agent", AGENT, bench.docroot),
        program(bench.folder, "nginx", AGENT, bench.docroot) as source,
        program(bench.folder, "agent", SECOND, bench.second) as pid,
    ):
        fill(ROUNDS * PULLED_FILES)
        pids = {"agent": pid, "source": source}
        for turn in range(ROUNDS):
            puts.append(put_load(bench, SECOND, 32, pid))
            before, began = {part: cpu_seconds(p) for part, p in pids.items()}, time.monotonic()
            for start in range(turn * PULLED_FILES, (turn + 1) * PULLED_FILES, ORDER_ITEMS):
                order(list(range(start, start + ORDER_ITEMS)), 4096)
            rates.append(PULLED_FILES / (time.monotonic() - began))
            for part, p in pids.items():
                costs[part] += (cpu_seconds(p) - before[part]) / PULLED_FILES / ROUNDS * 1e3
        pour(AGENT, 7500, fid_path(10**8), bench.large_mb << 20)
        put_rate = bench.large_mb / pour(SECOND, 7500, fid_path(10**8 + 1), bench.large_mb << 20)
        began = time.monotonic()
        with Peak(pid) as peak:
            order([10**8], bench.large_mb << 20)
        rate = bench.large_mb / (time.monotonic() - began)
    add, put = bench.report.add, middle(puts)
    pull = statistics.median(rates)
    add(row("pull of 4 KiB files, against PUT with 32 connections", pull, "files/s", reference=put.rate, bar=1.0))
    bench.report.cost("pull of 4 KiB files", costs)
    bench.report.cost("PUT of 4 KiB beside it", {"agent": put.cpu_ms})
    add(row(f"pull of {bench.large_mb} MiB, against the PUT", rate, "MiB/s", reference=put_rate, bar=0.8))
    add(row(f"pull of {bench.large_mb} MiB, memory growth", peak.growth_mb, "MB PSS", better="lower", bar=20))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each load")
    parser.add_argument("--large-mb", type=int, default=1024)
    parser.add_argument("--only", choices=("put", "get", "large", "pull", "hang"), help="just these rows")
    arguments = parser.parse_args()
    for tool in ("wrk", "mkfs.xfs", "md5sum"):
        if shutil.which(tool, path="/usr/sbin:/sbin:" + os.environ["PATH"]) is None:
            sys.exit(f"bench-storage: {tool} is not installed")
    own_mounts()
    folder = Path(tempfile.mkdtemp(prefix="bench-storage-"))
    folder.chmod(0o755)
    report = Report(part="storage", about={"seconds": arguments.seconds, "largeMb": arguments.large_mb})
    bench = Bench(folder=folder, seconds=arguments.seconds, large_mb=arguments.large_mb, report=report)
    parts = {"put": put_rows, "get": get_rows, "large": large_rows, "pull": pull_rows, "hang": hang_rows}
    try:
        for name, measure in parts.items():
            if arguments.only in (None, name):
                measure(bench)
    finally:
        for point in (bench.device, bench.second / "dev1"):
            if os.path.ismount(point):
                subprocess.run(["umount", str(point)], check=False)
        shutil.rmtree(folder, ignore_errors=True)
    report.finish()


if __name__ == "__main__":
    main()
