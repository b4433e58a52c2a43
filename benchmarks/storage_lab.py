"""Where the storage rows are measured: fresh devices, the programs of a node and stock nginx on them, and the loads."""

import contextlib
import ctypes
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from report import Report
from wrk import Load, wrk

AGENT, SECOND, STOCK = "127.0.22.200", "127.0.22.201", "127.0.22.202"
CLUSTER = "11111111-2222-4333-8444-555555555555"
IMAGE_MB = 6144
FID_PATH_LUA = '"/dev1/" .. f:sub(1,1) .. "/" .. f:sub(2,4) .. "/" .. f:sub(5,7) .. "/" .. f .. ".fid"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where this run works, how long a row lasts, and where its figures go."""

    folder: Path
    seconds: float
    large_mb: int
    report: Report

    @property
    def docroot(self) -> Path:
        return self.folder / "first"

    @property
    def second(self) -> Path:
        return self.folder / "second"

    @property
    def device(self) -> Path:
        return self.docroot / "dev1"


def own_mounts() -> None:
    if ctypes.CDLL(None).unshare(0x20000) != 0:  # CLONE_NEWNS
        sys.exit("bench-storage: needs root (loop devices and a mount namespace)")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


def fresh_device(folder: Path, point: Path) -> None:
    """An empty XFS at `point`."""
    if os.path.ismount(point):
        subprocess.run(["umount", str(point)], check=True)
    point.mkdir(parents=True, exist_ok=True)
    image = folder / f"{point.parent.name}.img"
    with image.open("wb") as stream:
        stream.truncate(IMAGE_MB << 20)
    subprocess.run(["mkfs.xfs", "-q", "-f", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(point)], check=True)


@contextlib.contextmanager
def program(folder: Path, command: str, address: str, docroot: Path, **more: str) -> Iterator[int]:
    settings = {
        "DOCROOT": str(docroot),
        "HTTP_ADDRESS": address,
        "HTTP_LISTEN": f"{address}:7502",
        "CLUSTER_ID": CLUSTER,
        "RUN_DIR": str(folder / f"run-{address}"),
        "SCRUB_INTERVAL_HOURS": "0",  # else one begins in the middle of a row
    } | more
    environment = os.environ | {f"MOGILE_{name}": value for name, value in settings.items()}
    with (folder / f"{command}-{address}.log").open("ab") as log:
        words = [sys.executable, "-m", "mogile_storage.main", command]
        process = subprocess.Popen(words, env=environment, stderr=log)
    try:
        wait_answer(address, 7580 if command == "nginx" else 7500)
        time.sleep(0.5)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(40)


STOCK_CONF = """
daemon off; user root; pid {run}/pid; error_log stderr crit; worker_processes 1;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; keepalive_requests 1000000; client_max_body_size 0;
  client_body_temp_path {root}/tmp; proxy_temp_path {run}/p; fastcgi_temp_path {run}/f; uwsgi_temp_path {run}/u; scgi_temp_path {run}/s;
  server {{ listen {address}:7580; root {root}; dav_methods PUT; create_full_put_path on; }}
}}
"""


@contextlib.contextmanager
def stock_nginx(folder: Path, root: Path) -> Iterator[int]:
    run = folder / "stock"
    run.mkdir(exist_ok=True)
    (run / "nginx.conf").write_text(STOCK_CONF.format(run=run, root=root, address=STOCK))
    path = "/usr/sbin:/sbin:" + os.environ["PATH"]
    nginx = shutil.which("nginx", path=path) or sys.exit("bench-storage: nginx is not installed")
    process = subprocess.Popen([nginx, "-e", "stderr", "-c", str(run / "nginx.conf")])
    try:
        wait_answer(STOCK, 7580)
        yield process.pid
    finally:
        process.terminate()
        process.wait(20)


def wait_answer(address: str, port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if ask(address, port, "GET", "/")[0] in (200, 403, 404):
                return
        time.sleep(0.05)
    sys.exit(f"bench-storage: nothing answers on {address}:{port}")


def ask(address: str, port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address, port, timeout=300)
    try:
        connection.request(method, path, body, {"X-Mogile-Cluster": CLUSTER})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def fid_path(fid: int) -> str:
    digits = f"{fid:010d}"
    return f"/dev1/{digits[0]}/{digits[1:4]}/{digits[4:7]}/{digits}.fid"


def load(bench: Bench, lua: str, url: str, connections: int, pid: int) -> Load:
    """Load for as long as a row lasts; CPU is that of `pid` and its children per request."""
    return wrk(bench.folder / "load.lua", lua, url, connections, bench.seconds, pid)


def bare_loop(point: Path, threads: int, seconds: float) -> Load:
    """Write, fsync, rename, fsync the directory: what a simple program would do."""
    stop, counts = time.monotonic() + seconds, [0] * threads

    def work(number: int) -> None:
        folder = point / "bare" / str(number)
        folder.mkdir(parents=True)
        body = b"x" * 4096
        while time.monotonic() < stop:
            name = str(folder / str(counts[number]))
            fd = os.open(name + ".t", os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o644)
            os.write(fd, body)
            os.fsync(fd)
            os.close(fd)
            os.rename(name + ".t", name)
            fd = os.open(folder, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)
            counts[number] += 1

    before, began = time.process_time(), time.monotonic()
    workers = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    total, used = sum(counts), time.process_time() - before
    return Load(rate=total / (time.monotonic() - began), cpu_ms=used / total * 1e3)


def pour(address: str, port: int, path: str, size: int) -> float:
    """PUT `size` bytes; seconds until the answer."""
    piece = os.urandom(1 << 20)
    with socket.create_connection((address, port), 300) as stream:
        began = time.monotonic()
        stream.sendall(f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode())
        for _ in range(size >> 20):
            stream.sendall(piece)
        answer = stream.recv(4096)
        took = time.monotonic() - began
    if b" 201 " not in answer.splitlines()[0]:
        sys.exit(f"bench-storage: the large upload was answered {answer!r}")
    return took


def fill(count: int) -> None:
    """Store small files, several at a time so that it is quick."""

    def work(first: int) -> None:
        connection = http.client.HTTPConnection(AGENT, 7500)
        for fid in range(first, count, 16):
            connection.request("PUT", fid_path(fid), b"p" * 4096)
            connection.getresponse().read()
        connection.close()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def order(fids: list[int], length: int) -> None:
    source = f"http://{AGENT}:7580"
    items = [{"fid": fid, "devid": 1, "source": source + fid_path(fid), "length": length, "md5": None} for fid in fids]
    status, answer = ask(SECOND, 7500, "POST", "/pull", json.dumps({"items": items}).encode())
    if status != 200 or answer.count(b'"ok"') != len(fids):
        sys.exit(f"bench-storage: pull answered {status} {answer[:500]!r}")
