"""How long the other devices of a node wait when one disk hangs: from that moment to their first answer through nginx.

The disk is the FUSE file system of the tests, which hangs to order; its pages are kept as those of a disk are. A client waits for a file
of it, so that nginx's only worker is stuck when the others come.
"""

import contextlib
import http.client
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from report import row
from storage_lab import AGENT, Bench, ask, fid_path, program

SICK_DISK = Path(__file__).resolve().parents[1] / "tests" / "integration" / "storage" / "sick_disk.py"
ROUNDS = 10
KINDS = {"everything": "hang", "data only": "hang:read"}
BAR_SECONDS = {"everything": 3.0, "data only": 8.0}
TRY_SECONDS = 0.2
EVENT_SECONDS = 60.0


def hang_rows(bench: Bench) -> None:
    """The worst of ten hangs of each kind."""
    docroot = bench.folder / "hanging"
    (docroot / "dev2").mkdir(parents=True)
    with (
        sick_disk(bench.folder, docroot / "dev1") as tell,
        program(bench.folder, "agent", AGENT, docroot),
        program(bench.folder, "nginx", AGENT, docroot),
    ):
        paths = {devid: fid_path(1).replace("/dev1/", f"/dev{devid}/") for devid in (1, 2)}
        for path in paths.values():
            if ask(AGENT, 7500, "PUT", path, b"h" * 5000)[0] != 201:
                sys.exit("bench-storage: cannot store the files to be read")
        for kind, words in KINDS.items():
            waits = sorted(one_hang(docroot, tell, words, paths) for _ in range(ROUNDS))
            name = f"a disk hangs ({kind}): others answer after"
            bench.report.add(row(f"{name}, median of {ROUNDS}", waits[ROUNDS // 2], "s", better="lower"))
            bench.report.add(row(f"{name}, worst", waits[-1], "s", better="lower", bar=BAR_SECONDS[kind]))


def one_hang(docroot: Path, tell: Callable[[str], None], words: str, paths: dict[int, str]) -> float:
    """Seconds from a hang, at any phase of the looks at the disk, to an answer of the other device."""
    until_served(paths[1])
    with (docroot / paths[1].lstrip("/")).open("rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    time.sleep(random.random())
    with socket.create_connection((AGENT, 7580)) as stuck:
        tell(words)
        began = time.monotonic()
        stuck.sendall(f"GET {paths[1]} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        time.sleep(0.05)  # nginx's worker has taken it
        while not served(paths[2]):
            if time.monotonic() - began > EVENT_SECONDS:
                sys.exit("bench-storage: a healthy device does not answer while another one hangs")
        took = time.monotonic() - began
        tell("")
    return took


def until_served(path: str) -> None:
    deadline = time.monotonic() + EVENT_SECONDS
    while not served(path):
        if time.monotonic() > deadline:
            sys.exit(f"bench-storage: {path} is not served")
        time.sleep(0.05)


def served(path: str) -> bool:
    """An answer 200 through nginx in a short time."""
    connection = http.client.HTTPConnection(AGENT, 7580, timeout=TRY_SECONDS)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", path)
        return connection.getresponse().status == 200
    return False


@contextlib.contextmanager
def sick_disk(folder: Path, point: Path) -> Iterator[Callable[[str], None]]:
    """A disk at `point` that does what it is told."""
    control, behind = folder / "sick", folder / "behind"
    point.mkdir()
    behind.mkdir()

    def tell(words: str) -> None:
        control.with_suffix(".new").write_text(words)
        control.with_suffix(".new").rename(control)

    tell("")
    process = subprocess.Popen([sys.executable, str(SICK_DISK), str(behind), str(point), str(control), "kernel_cache"])
    try:
        deadline = time.monotonic() + EVENT_SECONDS
        while not os.path.ismount(point):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit("bench-storage: the FUSE file system does not come up (/dev/fuse, fuse3)")
            time.sleep(0.05)
        yield tell
    finally:
        tell("")
        subprocess.run(["umount", "-l", str(point)], check=False)
        process.terminate()
        process.wait(30)
