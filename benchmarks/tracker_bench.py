"""The bench of the tracker's benchmark: PostgreSQL, pgbench and a tracker, and how one thing is measured against another.

Load and reference take turns in short slices, so that whatever else the machine does hits both.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvloop
from line_load import Operation, Put, Result, fields, load
from processes import cpu_seconds
from report import Report, row
from stack import PYTHON, Pgbench, Stack, cpu_spent

from mogile_cli.local.postgres import EmbeddedPostgres

ADDRESS, PORT = "127.0.20.201", 7001
LOAD = "load generator"


@dataclass(kw_only=True)
class Measured:
    """Slices of one operation, with the reference's rate where there is one."""

    results: list[Result] = field(default_factory=list)
    reference: float | None = None
    reference_cpu_ms: float | None = (
        None  # PostgreSQL's per transaction of pgbench: how dear a millisecond is on this machine now
    )
    parts: dict[str, float] = field(default_factory=dict)  # CPU ms per operation

    @property
    def per_second(self) -> float:
        return sum(r.count for r in self.results) / sum(r.seconds for r in self.results)

    @property
    def p50_ms(self) -> float:
        return sum(r.p50_ms for r in self.results) / len(self.results)

    @property
    def p99_ms(self) -> float:
        return sum(r.p99_ms for r in self.results) / len(self.results)

    def cpu_ms(self, *but: str) -> float:
        """CPU per operation over all parts but the load generator and those named."""
        return sum(ms for part, ms in self.parts.items() if part != LOAD and part not in but)


@dataclass(kw_only=True)
class Bench:
    """What all measurements share."""

    stack: Stack
    server: EmbeddedPostgres
    pgbench: Pgbench
    report: Report
    seconds: float
    slices: int

    @contextmanager
    def tracker(self, dsn: str, **settings: object) -> Iterator[None]:
        """A tracker with one server process that takes uploads."""
        defaults: dict[str, object] = {"log_level": "warning", "monitor_interval_seconds": 1}
        self.stack.start(
            "tracker", [*PYTHON, "mogile_tracker.main"],
            db_dsn=dsn, listen=f"{ADDRESS}:{PORT}", http_listen=f"{ADDRESS}:7002", **(defaults | settings),
        )  # fmt: skip
        try:
            self.stack.wait_for(ADDRESS, PORT)
            self._wait_until_observed()
            yield
        finally:
            self.stack.stop("tracker")

    def _wait_until_observed(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                self.run(opening, 1, 0.01)
            except ValueError as error:
                if time.monotonic() > deadline:
                    raise SystemExit(f"no upload possible: {error}\n{self.stack.last_words()}") from error
                time.sleep(0.2)
            else:
                return

    def run(self, operation: Operation, connections: int, seconds: float) -> Result:
        """A stretch of load on the tracker."""
        return uvloop.run(load((ADDRESS, PORT), operation, connections, seconds))

    def change(self, name: str, value: object) -> None:
        """One of the settings that are changed at run time; in force in all processes when this returns."""
        orders = [f"mogile_setting name={name}&value={value}\r\n".encode()]

        def change() -> Generator[bytes | Put, bytes, None]:
            if orders:
                fields((yield orders.pop()))

        self.run(change, 1, 10)

    def pids(self, job: str = "queryworker") -> list[int]:
        """The tracker's processes that do a job, as it tells itself."""
        pids: list[int] = []

        def jobs() -> Generator[bytes, bytes, None]:
            answer = b""
            while not answer.endswith(b".\r\n"):
                answer += yield (b"" if answer else b"!jobs\r\n")
            for line in answer.decode().split("\r\n"):
                if line.startswith(f"{job} pids "):
                    pids.extend(int(word) for word in line.split()[2:])

        deadline = time.monotonic() + 30
        while not pids and time.monotonic() < deadline:
            self.run(jobs, 1, 0.001)
            time.sleep(0.2)
        return sorted(set(pids))

    @contextmanager
    def jobs_frozen(self) -> Iterator[None]:
        """Replication and deletion stand still for a few seconds, less than a lease lasts."""
        frozen = {*self.pids("replicate"), *self.pids("delete")} - set(self.pids())
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)

    def cpu(self, servers: list[int]) -> dict[str, float]:
        """CPU seconds by part."""
        parts = self.stack.cpu()
        if "tracker" in parts:
            serving = sum(cpu_seconds(pid) for pid in servers)
            parts = {"server": serving, "jobs": parts.pop("tracker") - serving} | parts
        assert self.server.pid is not None
        return {**parts, "postgres": cpu_seconds(self.server.pid), LOAD: time.process_time()}

    def measure(self, operation: Operation, connections: int, reference: tuple[str, int] | None = None) -> Measured:
        """Slices of load in turn with slices of pgbench."""
        measured, servers = Measured(), self.pids()
        rates: list[float] = []
        reference_cpu = 0.0
        spent: dict[str, float] = {}
        self.run(operation, connections, 0.5)  # warm
        for _ in range(self.slices):
            if reference is not None:
                used = cpu_seconds(self.server.pid or 0)
                rates.append(self.pgbench.run(*reference, self.seconds))
                reference_cpu += cpu_seconds(self.server.pid or 0) - used
            before = self.cpu(servers)
            measured.results.append(self.run(operation, connections, self.seconds))
            for part, ms in cpu_spent(before, self.cpu(servers), 1).items():
                spent[part] = spent.get(part, 0.0) + ms
        count = sum(r.count for r in measured.results)
        measured.parts = {part: ms / count for part, ms in spent.items()}
        if rates:
            measured.reference = sum(rates) / len(rates)
            measured.reference_cpu_ms = reference_cpu * 1e3 / (sum(rates) * self.seconds)
        return measured

    def add(self, name: str, measured: Measured, bar: float | None) -> None:
        """The row of a measurement, its latency and CPU."""
        self.report.add(row(name, measured.per_second, "ops/s", reference=measured.reference, bar=bar))
        self.report.add(row(f"{name}: p50", measured.p50_ms, "ms", better="lower"))
        if measured.reference_cpu_ms is not None:
            self.report.add(
                row(f"{name}: CPU of a transaction there", measured.reference_cpu_ms, "ms/tx", better="lower")
            )
        self.report.cost(name, measured.parts)


# ---- operations


def opening() -> Generator[bytes | Put, bytes, None]:
    """An upload that is never closed."""
    fields((yield b"create_open domain=d&key=first&class=one\r\n"), b"OK fid=")


def noop() -> Generator[bytes | Put, bytes, None]:
    """What the line protocol alone costs."""
    fields((yield b"noop\r\n"))


def looking_up(files: int, seed: int = 1) -> Operation:
    """get_paths of random keys."""
    dice = random.Random(seed)

    def get_paths() -> Generator[bytes | Put, bytes, None]:
        answer = yield b"get_paths domain=d&key=file/%d&noverify=1\r\n" % dice.randrange(files)
        if not answer.startswith(b"OK paths="):
            raise ValueError(f"wrong answer: {answer!r}")

    return get_paths


def deleting(files: int) -> Operation:
    """delete of each key once, in no order."""
    left = random.Random(2).sample(range(files), min(files, 2_000_000))

    def delete() -> Generator[bytes | Put, bytes, None]:
        fields((yield b"delete domain=d&key=file/%d\r\n" % left.pop()))

    return delete


class Creating:
    """Uploads of 4 KiB; one in five gives a key that exists a new file. With `cluster_id` the bytes go to the node the tracker names."""

    def __init__(self, files: int = 0, *, cluster_id: str = "", file_class: str = "one") -> None:
        self._dice, self._made, self._files = random.Random(3), 0, files
        self._class, self._id = file_class, cluster_id
        self._body = b"x" * 4096

    def _key(self) -> str:
        if self._dice.random() < 0.2:
            if self._files:
                return f"file/{self._dice.randrange(self._files)}"
            if self._made > 1000:
                return f"new/{self._dice.randrange(self._made - 500)}"  # the last ones may still be under way
        self._made += 1
        return f"new/{self._made}"

    def create(self) -> Generator[bytes | Put, bytes, None]:
        """Open, put, close."""
        key = self._key()
        opened = yield f"create_open domain=d&key={key}&class={self._class}&size=4096\r\n".encode()
        o = fields(opened, b"OK fid=")
        if self._id:
            address, _, path = o["path"].removeprefix("http://").partition("/")
            host, _, port = address.partition(":")
            head = f"PUT /{path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 4096\r\n\r\n".encode()
            answer = yield Put((host, int(port)), head + self._body)
            if not answer.startswith(b"HTTP/1.1 20"):
                raise ValueError(f"wrong answer: {answer!r}")
        close = f"create_close domain=d&key={key}&fid={o['fid']}&devid={o['devid']}&path={o['path']}&size=4096\r\n"
        fields((yield close.encode()))
