"""`mog` as a user calls it, on addresses and ports of these tests' own."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mogile_cli.local import cluster, state
from testkit.places import server_folder

NETWORKS = 40
RESERVATION_PORT = 7999


@dataclass(frozen=True, slots=True)
class Place:
    """Addresses and ports nobody else uses: held by a listening socket, since the same tests may run in another checkout."""

    network: int
    reservation: socket.socket

    @property
    def base_address(self) -> str:
        return f"127.25.{self.network}"

    @property
    def tracker_port(self) -> int:
        return 27001 + 40 * self.network

    @property
    def gateway_port(self) -> int:
        return 29001 + 4 * self.network

    @property
    def options(self) -> tuple[str, ...]:
        return (
            f"--base-address={self.base_address}",
            f"--tracker-port={self.tracker_port}",
            f"--gateway-port={self.gateway_port}",
        )


def reserve() -> Place:
    for network in range(NETWORKS):
        try:
            return Place(network, socket.create_server((f"127.25.{network}.250", RESERVATION_PORT)))
        except OSError:
            continue
    raise AssertionError(f"all of 127.25.0.x to 127.25.{NETWORKS - 1}.x are in use")


@dataclass(slots=True)
class Mog:
    """Calls `mog` with a home of its own."""

    home: Path
    at: Place = field(default_factory=reserve)
    prefix: tuple[str, ...] = ()
    _started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def place(self) -> tuple[str, ...]:
        return self.at.options

    @property
    def base_address(self) -> str:
        return self.at.base_address

    @property
    def trackers(self) -> str:
        return f"--trackers=127.0.0.1:{self.at.tracker_port}"

    @property
    def gateway(self) -> str:
        return f"http://127.0.0.1:{self.at.gateway_port}/files"

    @property
    def data(self) -> Path:
        return self.home / "cluster"

    @property
    def scratch(self) -> Path:
        """What a demo without --data takes, so that one beside it on this machine is not mistaken for it; for any user."""
        made = self.home / "tmp"
        if not made.is_dir():
            made.mkdir()
            made.chmod(0o1777)
        return made

    def command(self, *words: str) -> list[str]:
        return [*self.prefix, sys.executable, "-m", "mogile_cli.main", *words]

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MOGILE_")}
        return {**kept, "HOME": str(self.home), "TMPDIR": str(self.scratch), "COLUMNS": "120"}

    def __call__(self, *words: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            env=self.environment(),
            cwd=self.home,
        )

    def ok(self, *words: str, timeout: float = 300) -> str:
        """Must succeed; its output."""
        result = self(*words, timeout=timeout)
        assert result.returncode == 0, f"mog {' '.join(words)}: {result.stdout}{result.stderr}"
        return result.stdout

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """Start it and go on; ended by the fixture if the test does not."""
        process = subprocess.Popen(
            self.command(*words),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment(),
            cwd=self.home,
        )
        self._started.append(process)
        return process

    def clean(self) -> None:
        """End whatever a failed test left."""
        for process in self._started:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            if process.stdout is not None:
                process.stdout.close()
        if state.is_running(self.data):
            self("local", "down", f"--data={self.data}")
        if self.data.is_dir():
            cluster.stop_leftovers(self.data)
        self.at.reservation.close()


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """Readable for everybody: under root PostgreSQL runs as another user."""
    path = server_folder("local-test-", attributes=True)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def mog(home: Path) -> Iterator[Mog]:
    made = Mog(home)
    yield made
    made.clean()


@pytest.fixture
def other() -> Iterator[Mog]:
    """A second cluster beside the first: a home, addresses and ports of its own."""
    made = Mog(server_folder("local-test-", attributes=True))
    yield made
    made.clean()
    shutil.rmtree(made.home)
