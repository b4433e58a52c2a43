"""What the tracker costs, next to pgbench on the same server in the same run.

    make bench-tracker            or: python benchmarks/tracker.py --files 1000000 --seconds 3
    FILES=20000000 make bench-tracker         the growth row at that size too (needs about 15 GB of disk)

Every row of the bars in benchmarks/README.md, with its reference, and the CPU time per operation of every part. As root PostgreSQL and
every storage device have an XFS image of their own. The load generator runs on the same cores as all the rest; on a machine that does other
things only ratios within one run and CPU per operation mean much.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import tracker_data as data
import uvloop
from line_load import Operation, Put, load
from processes import cpu_seconds, pss_mb
from report import Panel, Report, plot, row
from stack import Pgbench, Stack, cpu_spent, postgres
from tracker_bench import Bench, Creating, Measured, deleting, looking_up, noop
from tracker_nodes import start_node, start_stand_ins, stop_node, stored_files

from mogile_tracker.store.queries import load as load_queries

STAND_INS = ("127.0.20.202", "127.0.20.203")
NODES = ("127.0.20.211", "127.0.20.212", "127.0.20.213")
UPSTREAM_LOOKUP_MS, UPSTREAM_COPY_MS = 0.91, 13.9
CONNECTIONS = (1, 8, 64, 256)
BACKLOG = 1_000_000
LEAD_IN_SECONDS = 3.0
QUEUED = "SELECT 1 FROM file_to_replicate WHERE nexttry < 2147483647"
WAITING = "SELECT (SELECT count(*) FROM file_to_replicate) + (SELECT count(*) FROM file_to_delete2)"
DELETING = "SELECT 1 FROM file_to_delete2 UNION ALL SELECT 1 FROM mogile_copy_delete UNION ALL SELECT 1 FROM mogile_copy_intent"


def with_stand_ins(bench: Bench, name: str, files: int) -> str:
    """A database of files on two nodes that answer at once."""
    dsn = data.new_database(bench.server, name)
    for number, address in enumerate(STAND_INS):
        data.add_host(dsn, number + 1, address, [2 * number + 1, 2 * number + 2])
    took = data.fill(dsn, files)
    print(f"filled {name} with {files} files in {took:.0f} s", flush=True)
    return dsn


def commands(bench: Bench, files: int) -> None:
    """Look-ups, creates and deletes; no bytes move."""
    dsn, report = with_stand_ins(bench, "commands", files), bench.report
    with bench.tracker(dsn):
        bench.add("noop, 64 connections", bench.measure(noop, 64), None)
        found = bench.measure(looking_up(files), 64, ("-S", 64))
        bench.add("get_paths, 64 connections / pgbench -S -c 64", found, 0.5)
        report.add(row("get_paths: p99 / p50", found.p99_ms, "ms", better="lower", reference=found.p50_ms, bar=10))
        cpu = found.cpu_ms("stand-in")
        report.add(
            row("get_paths: CPU / upstream's", cpu, "ms/op", better="lower", reference=UPSTREAM_LOOKUP_MS, bar=0.1)
        )
        bench.add("get_paths, 1 connection / pgbench -S -c 1", bench.measure(looking_up(files), 1, ("-S", 1)), 0.2)
        memory(bench)
        creating = Creating(files)
        bench.add(
            "create_open + create_close, 64 / pgbench -N -c 64", bench.measure(creating.create, 64, ("-N", 64)), 0.7
        )
        bench.add("create_open + create_close, 1 connection", bench.measure(creating.create, 1), None)
        connections_plot(bench, files, creating)
        bench.add("delete, 64 connections / pgbench -N -c 64", bench.measure(deleting(files), 64, ("-N", 64)), 0.6)
    leaks(bench, dsn, "commands")
    data.drop_database(bench.server, "commands")


def memory(bench: Bench) -> None:
    """All processes of the tracker with 1000 clients that have asked something."""
    look = looking_up(1000)
    sizes: list[float] = []
    asked = iter(range(1000))

    def once() -> Generator[bytes | Put, bytes, None]:
        yield from look()
        if next(asked, 0) == 999:
            sizes.append(pss_mb(bench.stack.pid("tracker")))

    bench.run(once, 1000, 2.0)
    size = max(sizes, default=0.0)
    bench.report.add(row("tracker, 1000 connections: memory (PSS)", size, "MB", better="lower", bar=100))


def connections_plot(bench: Bench, files: int, creating: Creating) -> None:
    """ops/s and p99 against connections."""
    rates: dict[str, list[tuple[float, float]]] = {}
    tails: dict[str, list[tuple[float, float]]] = {}
    for name, operation in (("get_paths", looking_up(files)), ("create", creating.create)):
        for connections in CONNECTIONS:
            result = bench.run(operation, connections, bench.seconds)
            rates.setdefault(name, []).append((connections, result.per_second))
            tails.setdefault(name, []).append((connections, result.p99_ms))
    plot(
        "tracker-connections",
        [
            Panel(title="one tracker process", x="connections", y="operations/s", lines=rates),
            Panel(title="one tracker process", x="connections", y="p99, ms", lines=tails),
        ],
    )


def leaks(bench: Bench, dsn: str, name: str) -> None:
    """Copies that no file and no queue knows of."""
    leaked = data.number(dsn, data.LEAKED)
    bench.report.add(row(f"{name}: leaked fids", leaked, "fids", better="lower", bar=0))


def full_create(bench: Bench) -> None:
    """Uploads through real nodes; at the end every file on their disks is known. With one copy (the bars), then with two at once."""
    for copies in (1, 2):
        dsn = data.new_database(bench.server, "uploads")
        cluster = str(data.ask(dsn, lambda c: c.fetchval("SELECT id::text FROM mogile_cluster")))
        data.execute(
            dsn,
            f"UPDATE class SET mindevcount = {copies} WHERE classid = 1",
            f"INSERT INTO mogile_class (dmid, classid, write_copies, degraded_writes) VALUES (1, 1, {copies}, false)",
        )
        roots = []
        for number in range(1, copies + 1):
            data.add_host(dsn, number, NODES[number - 1], [number], 7580)
            roots.append(start_node(bench.stack, f"node{number}", NODES[number - 1], cluster, [number]))
        name = "full create" if copies == 1 else "full create, writeCopies 2"
        with bench.tracker(dsn):
            creating = Creating(cluster_id=cluster)
            measured = bench.measure(creating.create, 32, ("-N", 64))
            bench.add(f"{name} of 4 KiB, 32 connections / pgbench -N -c 64", measured, 0.5 if copies == 1 else None)
            cpu_bar = 0.5 if copies == 1 else None
            bench.report.add(row(f"{name}: CPU", measured.cpu_ms(), "ms/op", better="lower", bar=cpu_bar))
            data.wait_empty(dsn, f"{QUEUED} UNION ALL {DELETING}", 120)
            leaks(bench, dsn, name)
            known = data.number(dsn, "SELECT count(*) FROM file_on")
            lost = sum(map(stored_files, roots)) - known
            bench.report.add(row(f"{name}: files on disk that no row knows", lost, "files", better="lower", bar=0))
            few = data.number(
                dsn,
                f"SELECT count(*) FROM file f WHERE (SELECT count(*) FROM file_on o WHERE o.fid = f.fid) < {copies}",
            )
            bench.report.add(row(f"{name}: files with fewer copies", few, "files", better="lower", bar=0))
        if copies == 1:
            bench.report.add(row("commit mark: PostgreSQL", commit_mark_ms(bench, dsn), "ms/batch", better="lower"))
        for number in range(1, copies + 1):
            stop_node(bench.stack, f"node{number}")
        data.drop_database(bench.server, "uploads")


def commit_mark_ms(bench: Bench, dsn: str) -> float:
    """CPU that proving a commit costs the database in each batch: transactions with and without the mark, in turns."""
    statements = (load_queries("engine")["mark"], "SELECT $1::uuid, $2::bigint")

    async def work(connection: Any) -> list[float]:
        spent, lane = [0.0, 0.0], uuid.uuid4()
        await connection.execute("SET synchronous_commit = off")
        pid = connection.get_server_pid()
        for number in range(6000):
            which = number // 1000 % 2
            if number % 1000 == 0:
                before = cpu_seconds(pid)
            async with connection.transaction():
                await connection.fetchval("SELECT pg_advisory_xact_lock($1)", number)
                await connection.execute(statements[which], lane, number)
            if number % 1000 == 999:
                spent[which] += cpu_seconds(pid) - before
        return spent

    with_mark, without = data.ask(dsn, work)
    return max(0.0, with_mark - without) * 1e3 / 3000


def replication(bench: Bench, files: int) -> None:
    """Second copies of files that have one, three nodes with a device each."""
    dsn = data.new_database(bench.server, "copies")
    cluster = str(data.ask(dsn, lambda c: c.fetchval("SELECT id::text FROM mogile_cluster")))
    for number, address in enumerate(NODES, 1):
        data.add_host(dsn, number, address, [number], 7580)
        start_node(bench.stack, f"node{number}", address, cluster, [number])
    left = iter(range(1, files + 1))

    def store() -> Generator[bytes | Put, bytes, None]:
        for fid in left:
            digits = f"{fid:010d}"
            path = f"/dev{1 + fid % 3}/{digits[0]}/{digits[1:4]}/{digits[4:7]}/{digits}.fid"
            head = f"PUT {path} HTTP/1.1\r\nHost: n\r\nContent-Length: 4096\r\n\r\n".encode()
            answer = yield Put((NODES[fid % 3], 7500), head + b"%04096d" % fid)
            if not answer.startswith(b"HTTP/1.1 201"):
                raise ValueError(f"wrong answer: {answer!r}")
            return

    uvloop.run(load(None, store, 32, 600))
    data.execute(dsn, f"SELECT setval('tempfile_fid_seq', {files} + 10)")
    with bench.tracker(dsn):
        servers = bench.pids()
        reference = [bench.pgbench.run("-N", 64, bench.seconds)]
        # in one transaction, and only now: the census would queue files that lack a copy before the clock runs
        data.execute(
            dsn,
            f"INSERT INTO file SELECT n, 1, 'f/' || n, 4096, 0, 1 FROM generate_series(1, {files}) n;"
            f"INSERT INTO file_on SELECT n, 1 + n % 3 FROM generate_series(1, {files}) n;"
            f"INSERT INTO file_to_replicate (fid, nexttry) SELECT n, 0 FROM generate_series(1, {files}) n",
        )
        before = bench.cpu(servers)
        took = data.wait_empty(dsn, QUEUED, 300)
        parts = {
            part: ms for part, ms in cpu_spent(before, bench.cpu(servers), files).items() if part != "load generator"
        }
        reference.append(bench.pgbench.run("-N", 64, bench.seconds))
    bench.report.add(
        row("replication of 4 KiB / pgbench -N -c 64", files / took, "files/s",
            reference=sum(reference) / len(reference), bar=0.4)
    )  # fmt: skip
    by_part: dict[str, float] = {}
    for part, ms in parts.items():
        name = part.split()[-1] + "s" if part.startswith("node") else part
        by_part[name] = by_part.get(name, 0.0) + ms
    bench.report.cost("replication of 4 KiB", by_part)
    bench.report.add(
        row("replication: CPU / upstream's", sum(parts.values()), "ms/file", better="lower",
            reference=UPSTREAM_COPY_MS, bar=0.05)
    )  # fmt: skip
    single = data.number(
        dsn, "SELECT count(*) FROM file f WHERE (SELECT count(*) FROM file_on o WHERE o.fid = f.fid) <> 2"
    )
    bench.report.add(row("replication: files without two copies", single, "files", better="lower", bar=0))
    for number in (1, 2, 3):
        stop_node(bench.stack, f"node{number}")
    data.drop_database(bench.server, "copies")


def backlog(bench: Bench, files: int) -> None:
    """Look-ups and creates while a million rows wait in both queues: the jobs frozen, giving way, and never giving way, in turns."""
    dsn = with_stand_ins(bench, "backlog", files)
    creating = Creating(files)
    with bench.tracker(dsn):
        data.execute(
            dsn,
            f"INSERT INTO file_to_replicate (fid, nexttry) SELECT n, 0 FROM generate_series(1, {min(files, BACKLOG)}) n"
            " ON CONFLICT DO NOTHING",
            f"INSERT INTO file_on SELECT 100000000 + n, 1 FROM generate_series(1, {BACKLOG}) n",
            f"INSERT INTO file_to_delete2 (fid, nexttry) SELECT 100000000 + n, 0 FROM generate_series(1, {BACKLOG}) n",
            "ANALYZE",
        )
        for name, operation in (("get_paths", looking_up(files)), ("create", creating.create)):
            with_backlog(bench, dsn, name, operation)
        bench.report.add(row("backlog left at the end of that", data.number(dsn, WAITING), "rows", better="lower"))
    data.drop_database(bench.server, "backlog")


def with_backlog(bench: Bench, dsn: str, name: str, operation: Operation) -> None:
    """One operation three ways, in turns; slices longer than the pauses of the jobs (5 s), measured when they have begun to pause."""
    report, servers = bench.report, bench.pids()
    kinds = {"giving way": Working(), "never giving way": Working()}
    frozen = Measured()
    for _ in range(bench.slices):
        with bench.jobs_frozen():
            frozen.results.append(bench.run(operation, 64, 3 * bench.seconds))
        for kind, working in kinds.items():
            bench.change("background_share", "" if kind == "giving way" else 100)
            bench.run(operation, 64, LEAD_IN_SECONDS)
            left, before = data.number(dsn, WAITING), bench.cpu(servers)
            working.measured.results.append(bench.run(operation, 64, 3 * bench.seconds))
            working.spent.update(cpu_spent(before, bench.cpu(servers), 1))
            working.rows += left - data.number(dsn, WAITING)
    bench.change("background_share", "")
    for kind, working in kinds.items():
        results, alone = working.measured.results, frozen.per_second
        bar = 0.8 if kind == "giving way" else None
        title = f"{name} with a backlog, jobs {kind}"
        report.add(row(f"{title} / frozen", working.measured.per_second, "ops/s", reference=alone, bar=bar))
        count = sum(result.count for result in results)
        report.cost(title, {part: ms / count for part, ms in working.spent.items()})
        rate = working.rows / sum(result.seconds for result in results)
        report.add(row(f"{title}: backlog shrinks by", rate, "rows/s"))


@dataclass(slots=True)
class Working:
    """Slices of load with the jobs at work."""

    measured: Measured = field(default_factory=Measured)
    spent: Counter[str] = field(default_factory=Counter)
    rows: int = 0  # of the backlog, done meanwhile


def growth(bench: Bench, sizes: list[int]) -> None:
    """Look-ups against the number of files."""
    rates, tails, cpus = [], [], []
    for files in sizes:
        dsn = with_stand_ins(bench, "growth", files)
        data.warm(dsn)
        with bench.tracker(dsn):
            measured = bench.measure(looking_up(files, random.randrange(1 << 30)), 64)
        data.drop_database(bench.server, "growth")
        rates.append((files, measured.per_second))
        tails.append((files, measured.p99_ms))
        cpus.append((files, measured.cpu_ms("stand-in", "jobs")))
        bench.report.cost(f"get_paths, {files} files", measured.parts)
    smaller = [cpu for files, cpu in cpus if files <= 1_000_000][-1]
    bench.report.add(
        row(f"get_paths: CPU at {sizes[-1]} files / at {min(1_000_000, sizes[-1])}", cpus[-1][1], "ms/op", better="lower",
            reference=smaller, bar=1.3 if sizes[-1] > 1_000_000 else None)
    )  # fmt: skip
    plot(
        "tracker-files",
        [
            Panel(title="get_paths, 64 connections", x="files", y="operations/s", lines={"get_paths": rates}),
            Panel(title="get_paths, 64 connections", x="files", y="p99, ms", lines={"get_paths": tails}),
            Panel(title="tracker and PostgreSQL", x="files", y="CPU ms per operation", lines={"get_paths": cpus}),
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument(
        "--grow-to", type=int, default=int(os.environ.get("FILES", "0")), help="growth row up to so many files"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a slice")
    parser.add_argument("--slices", type=int, default=2, help="slices of each measurement and of its reference")
    parser.add_argument("--copies", type=int, default=20_000, help="files to replicate")
    parser.add_argument("--only", default="", help="comma list of commands, full, copies, backlog, growth")
    arguments = parser.parse_args()
    report = Report(
        part="tracker", about={"files": arguments.files, "seconds": arguments.seconds, "slices": arguments.slices}
    )
    sizes = [size for size in (10_000, 100_000, arguments.files) if size <= arguments.files]
    sizes += [arguments.grow_to] if arguments.grow_to > arguments.files else []
    parts: dict[str, Callable[[Bench], None]] = {
        "commands": lambda bench: commands(bench, arguments.files),
        "full": full_create,
        "copies": lambda bench: replication(bench, arguments.copies),
        "backlog": lambda bench: backlog(bench, arguments.files),
        "growth": lambda bench: growth(bench, sizes),
    }
    wanted = arguments.only.split(",") if arguments.only else list(parts)
    with Stack("bench-tracker") as stack, postgres(stack, 8192 + max(sizes) // 1000) as server:
        pgbench = Pgbench(server, scale=10)
        start_stand_ins(stack, *STAND_INS)
        report.about["disks"] = (
            "XFS images on loop devices" if stack.loop_disks else "folders of the temporary directory"
        )
        bench = Bench(
            stack=stack, server=server, pgbench=pgbench, report=report, seconds=arguments.seconds, slices=arguments.slices
        )  # fmt: skip
        pgbench.run("-S", 8, 1)
        for name in wanted:
            parts[name](bench)
    sys.exit(0 if report.finish() else 1)


if __name__ == "__main__":
    main()
