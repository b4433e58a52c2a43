"""Storage nodes for the tracker's benchmark: stand-ins that answer at once, and real ones.

python benchmarks/tracker_nodes.py 127.0.20.200 127.0.20.201      runs stand-ins on those addresses
"""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import uvloop
from stack import PYTHON, Stack

DISK_MB = 6144


class _StandIn(asyncio.Protocol):
    """A node that has every file, 4096 bytes long: usage and write test for the monitor, deletes, sizes on the side channel."""

    kept: dict[bytes, bytes] = {}  # noqa: RUF012 - of the whole stand-in, on purpose

    def __init__(self) -> None:
        self.data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        while self._one():
            pass

    def _one(self) -> bool:
        head, end, rest = self.data.partition(b"\r\n\r\n")
        if not end:
            return False
        found = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
        length = int(found[1]) if found else 0
        if len(rest) < length:
            return False
        self.data = rest[length:]
        method, path, _ = head.split(b"\r\n", 1)[0].split(b" ")
        answer = b""
        if method in (b"PUT", b"MKCOL"):
            self.kept[path] = rest[:length]
        elif method == b"POST" and path.endswith(b"/delete"):
            answer = b"".join(line.split(b" ")[0] + b" deleted\n" for line in rest[:length].splitlines())
        elif method == b"GET":
            answer = b"total: 100000000\nused: 1000\n" if path.endswith(b"/usage") else self.kept.get(path, b"")
        cluster = re.search(rb"\r\n(x-mogile-cluster: [^\r]*)", head, re.IGNORECASE)
        ours = cluster[1] + b"\r\n" if cluster else b""
        self.transport.write(b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (ours, len(answer), answer))  # type: ignore[attr-defined]
        return True


class _Sizes(_StandIn):
    def _one(self) -> bool:
        lines = self.data.split(b"\n")
        self.data = lines.pop()
        words = [line.split() for line in lines]
        answers = [b"%b 4096\n" % w[1] if w[:1] == [b"size"] else b"ERROR: unknown command\n" for w in words]
        if answers:
            self.transport.write(b"".join(answers))  # type: ignore[attr-defined]
        return False


async def stand_in(addresses: list[str]) -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    for address in addresses:
        await loop.create_server(_Sizes, address, 7501)
        await loop.create_server(_StandIn, address, 7500)
    await asyncio.Event().wait()


def start_stand_ins(stack: Stack, *addresses: str) -> None:
    """One process that stands in for all those nodes."""
    stack.start("stand-in", [sys.executable, __file__, *addresses])
    for address in addresses:
        stack.wait_for(address, 7500)


def start_node(stack: Stack, name: str, address: str, cluster_id: str, devids: list[int]) -> Path:
    """A real node (agent and read nginx) with a disk per device; its document root."""
    for devid in devids:
        stack.disk(f"{name}/dev{devid}", DISK_MB)
    root = stack.folder / name
    common = {"docroot": root, "http_address": address, "http_listen": f"{address}:7502", "cluster_id": cluster_id}
    stack.start(f"{name} agent", [*PYTHON, "mogile_storage.main", "agent"], **common, usage_interval_seconds=1)
    run_dir = stack.folder / f"run-{name}"
    stack.start(f"{name} reader", [*PYTHON, "mogile_storage.main", "nginx"], **common, run_dir=run_dir)
    stack.wait_for(address, 7500)
    stack.wait_for(address, 7580)
    return root


def stop_node(stack: Stack, name: str) -> None:
    """End a node and drop its disks."""
    stack.stop(f"{name} agent", f"{name} reader")
    for point in sorted((stack.folder / name).glob("dev*")):
        stack.drop_disk(point)


def stored_files(root: Path) -> int:
    """How many files lie on a node's devices."""
    return sum(1 for _ in root.glob("dev*/[0-9]/**/*.fid"))


if __name__ == "__main__":
    uvloop.run(stand_in(sys.argv[1:]))
