"""Real storage nodes as processes on loopback addresses of their own."""

import base64
import contextlib
import ctypes
import hashlib
import http.client
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from testkit import programs
from testkit.waiting import EVENT_SECONDS, wait_until

CLUSTER = "11111111-2222-4333-8444-555555555555"
OTHER_CLUSTER = "99999999-2222-4333-8444-555555555555"
_numbers = itertools.count(os.getpid())


def fid_path(devid: int, fid: int) -> str:
    """Spelt out here on purpose: a test must not take the path from the code it tests."""
    digits = str(fid).rjust(10, "0")
    return f"/dev{devid}/{digits[0]}/{digits[1:4]}/{digits[4:7]}/{digits}.fid"


def md5_header(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data).digest()).decode()


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def __getitem__(self, name: str) -> str:
        return self.headers[name.lower()]


@dataclass
class Node:
    """One storage node: agent, and nginx when asked for."""

    folder: Path
    address: str
    devices: int = 1
    settings: dict[str, str] = field(default_factory=dict)
    prefix: list[str] = field(default_factory=list)
    first: str = ""  # statements that the programs run before anything else
    docroot: Path = field(init=False)
    process: programs.Program | None = None
    nginx: programs.Program | None = None

    def __post_init__(self) -> None:
        self.docroot = self.folder / "docroot"
        for devid in range(1, self.devices + 1):
            (self.docroot / f"dev{devid}").mkdir(parents=True, exist_ok=True)

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "MOGILE_DOCROOT": str(self.docroot),
            "MOGILE_HTTP_ADDRESS": self.address,
            "MOGILE_HTTP_LISTEN": f"{self.address}:7502",
            "MOGILE_CLUSTER_ID": CLUSTER,
            "MOGILE_USAGE_INTERVAL_SECONDS": "0.5",
            "MOGILE_RUN_DIR": str(self.folder / "run"),
            **self.settings,
        }

    def start(self) -> "Node":
        self.process = self._start("agent")
        self._await(7502, "/healthz", self.process)
        self._await(7500, "/", self.process)
        return self

    def start_nginx(self) -> "Node":
        self.nginx = self._start("nginx")
        self._await(7580, "/", self.nginx)
        if self.process is not None:
            wait_until(lambda: self.ask("GET", "/dev1/usage", port=7580).status == 200, "nginx has heard of its agent")
        return self

    def _start(self, what: str) -> programs.Program:
        log = self.folder / f"{what}.log"
        return programs.start(
            programs.STORAGE, what, environment=self.environment(), log=log, first=self.first, prefix=self.prefix
        )

    def _await(self, port: int, path: str, process: programs.Program) -> None:
        def answers() -> bool:
            """An answer, not just a connection: `nginx -t` listens for a moment too."""
            assert process.poll() is None, self.log()
            return self.ask("GET", path, port=port).status == 200

        wait_until(answers, f"port {port} to answer; the log is {self.folder}/*.log")

    def log(self) -> str:
        return "".join(p.read_text() for p in sorted(self.folder.glob("*.log")))

    def stop(self) -> int:
        """SIGTERM; the exit status of the agent."""
        status = 0
        for process in (self.nginx, self.process):
            if process is not None:
                process.terminate()
                status = process.wait(EVENT_SECONDS)
        self.nginx = self.process = None
        return status

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(EVENT_SECONDS)
        self.process = None

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        port: int = 7500,
    ) -> Answer:
        connection = http.client.HTTPConnection(self.address, port, timeout=120)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            names = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, names, answer.read())
        finally:
            connection.close()

    def put(self, devid: int, fid: int, data: bytes, headers: dict[str, str] | None = None) -> Answer:
        return self.ask("PUT", fid_path(devid, fid), data, headers)

    def get(self, devid: int, fid: int, headers: dict[str, str] | None = None, port: int = 7500) -> Answer:
        return self.ask("GET", fid_path(devid, fid), None, headers, port)

    def raw(self, data: bytes, port: int = 7500, *, end: bytes = b"", half_close: bool = False) -> bytes:
        """Send bytes as they are and read until the node closes, or, where it does not, until the answer ends with these bytes."""
        with socket.create_connection((self.address, port), 30) as stream:
            stream.sendall(data)
            if half_close:
                stream.shutdown(socket.SHUT_WR)
            received = b""
            with contextlib.suppress(TimeoutError, ConnectionResetError):
                while piece := stream.recv(1 << 16):
                    received += piece
                    if end and received.endswith(end):
                        break
            return received

    def file(self, devid: int, fid: int) -> Path:
        return self.docroot / fid_path(devid, fid).lstrip("/")

    def status(self, devid: int) -> dict[str, object]:
        devices = json.loads(self.ask("GET", "/status", port=7502).body)["devices"]
        found: dict[str, object] = next(d for d in devices if d["devid"] == devid)
        return found

    def wait_state(self, devid: int, state: str, seconds: float = EVENT_SECONDS) -> None:
        wait_until(lambda: self.status(devid)["state"] == state, f"dev{devid} to be {state}", seconds)


def address_of(number: int) -> str:
    return f"127.0.22.{number % 190 + 10}"


def is_free(address: str) -> bool:
    """Another run of these tests on this machine may use the address."""
    for port in (7500, 7580):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True


@pytest.fixture(autouse=True, scope="session")
def _own_mounts() -> None:
    """A mount namespace for this process and all it starts: others that clone theirs meanwhile would hold our loop devices for good."""
    if os.geteuid() != 0:
        return  # nothing will be mounted
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x20000) != 0:  # CLONE_NEWNS
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True, timeout=20)


MakeNode = Callable[..., Node]


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[MakeNode]:
    """Factory of nodes with an address each; all are ended after the test."""
    nodes: list[Node] = []

    def make(
        devices: int = 1, *, start: bool = True, prefix: list[str] | None = None, first: str = "", **settings: str
    ) -> Node:
        number = next(n for n in _numbers if is_free(address_of(n)))
        folder = tmp_path / f"node{number}"
        folder.mkdir()
        variables = {f"MOGILE_{name.upper()}": value for name, value in settings.items()}
        node = Node(folder, address_of(number), devices, variables, prefix or [], first)
        nodes.append(node)
        return node.start() if start else node

    yield make
    for node in nodes:
        for process in (node.nginx, node.process):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait(EVENT_SECONDS)


@pytest.fixture
def node(make_node: MakeNode) -> Node:
    """One running node with two devices."""
    return make_node(2)


@pytest.fixture
def nginx_node(make_node: MakeNode) -> Node:
    """The same with the read nginx."""
    if shutil.which("nginx", path="/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin") is None:
        pytest.fail("nginx is needed: scripts/setup-tests installs it")
    return make_node(2).start_nginx()


class Helpers:
    """What tests of this folder share, since they cannot import from each other."""

    cluster = CLUSTER
    other_cluster = OTHER_CLUSTER
    fid_path = staticmethod(fid_path)
    md5_header = staticmethod(md5_header)
    wait_until = staticmethod(wait_until)


@pytest.fixture
def the() -> Helpers:
    return Helpers()


@pytest.fixture
def loop_xfs(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Factory of mounted file systems on loop images of their own (root): `loop_xfs(mount_point, megabytes, kind)`. `folder`: of the
    image; `options` are those of mkfs and of mount."""
    if os.geteuid() != 0:
        pytest.skip("loop devices need root")
    mounted: list[Path] = []

    def make(
        point: Path,
        megabytes: int = 320,
        kind: str = "xfs",
        *,
        folder: Path = tmp_path,
        options: tuple[str, str] = ("", ""),
    ) -> Path:
        image = folder / f"{kind}{len(mounted)}.img"
        with image.open("wb") as stream:
            stream.truncate(megabytes << 20)
        subprocess.run([f"mkfs.{kind}", "-q", *options[0].split(), str(image)], check=True, timeout=120)
        how = ",".join(filter(None, ("loop", options[1])))
        subprocess.run(["mount", "-o", how, str(image), str(point)], check=True, timeout=120)
        mounted.append(point)
        return point

    yield make
    for point in reversed(mounted):
        # Lazily: the node that uses it is ended after this. The namespace is our own, so nobody else keeps it alive.
        subprocess.run(["umount", "-l", str(point)], check=False, timeout=60)


@pytest.fixture
def small_ram(tmp_path: Path) -> Iterator[Path]:
    """A folder with 64 MB of room (root)."""
    if os.geteuid() != 0:
        pytest.skip("a mount needs root")
    point = tmp_path / "ram"
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(point)], check=True, timeout=20)
    yield point
    subprocess.run(["umount", "-l", str(point)], check=False, timeout=20)


@pytest.fixture
def sick_disk(tmp_path: Path) -> Iterator[Callable[..., Callable[[str], object]]]:
    """Factory of devices that fail or hang to order (module sick_disk): `tell = sick_disk(mount_point); tell("hang .fid")`."""
    if os.geteuid() != 0 or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("a FUSE file system needs root and /dev/fuse")
    control = tmp_path / "sick"
    control.write_text("")
    control.with_suffix(".met").write_text("")
    running: list[tuple[Path, subprocess.Popen[bytes]]] = []

    def tell(what: str) -> None:
        control.with_suffix(".new").write_text(what)
        control.with_suffix(".new").rename(control)

    def make(point: Path, *options: str) -> Callable[[str], object]:
        behind = tmp_path / f"behind{len(running)}"
        behind.mkdir()
        program = str(Path(__file__).with_name("sick_disk.py"))
        process = subprocess.Popen([sys.executable, program, str(behind), str(point), str(control), *options])
        running.append((point, process))
        wait_until(lambda: os.path.ismount(point), "the sick disk is mounted")
        return tell

    yield make
    tell("")
    for point, process in running:
        subprocess.run(["umount", "-l", str(point)], check=False, timeout=20)
        process.terminate()
        process.wait(EVENT_SECONDS)
