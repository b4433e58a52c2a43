"""A file system that gives up under load, reads that fail under a scrub, and clients that stall: nothing acknowledged is lost, nothing
short is served, the node says what is wrong in one line and in its metrics."""

import concurrent.futures
import contextlib
import http.client
import itertools
import os
import socket
import subprocess
import threading
import time

import pytest

BODY = os.urandom(3000)
LARGE = os.urandom(3_000_000)
SILENCE_SECONDS = 2.0


def body_of(fid):
    return BODY[: 500 + fid % 2000]


class Writers:
    """Clients that PUT until they are told to stop, and what they were told about each fid."""

    def __init__(self, node, the, devid=1, clients=6):
        self._node, self._the, self._devid = node, the, devid
        self._stop = threading.Event()
        self._fids = itertools.count(1)
        self.kept, self.refused = set(), set()
        self._pool = concurrent.futures.ThreadPoolExecutor(clients)
        self._jobs = [self._pool.submit(self._work) for _ in range(clients)]

    def _work(self):
        while not self._stop.is_set():
            fid = next(self._fids)
            answer = self._node.put(self._devid, fid, body_of(fid))
            assert answer.status in (201, 503), answer
            (self.kept if answer.status == 201 else self.refused).add(fid)

    def stop(self):
        self._stop.set()
        for job in self._jobs:
            job.result(30)
        self._pool.shutdown()


def metric(node, name):
    lines = node.ask("GET", "/metrics", port=7502).body.decode().splitlines()
    return [float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name)]


def mount_anew(node, point, image):
    """As after a restart of the machine: the kernel forgets what it held of the file system."""
    node.kill()
    node.nginx.terminate()
    node.nginx.wait(30)
    node.nginx = None
    subprocess.run(["umount", str(point)], check=True, timeout=30)
    subprocess.run(["mount", "-o", "loop", str(image), str(point)], check=True, timeout=30)
    node.start()


def nothing_short(node, port, fids):
    """Answers to GET while the disk is sick: the whole file, or an error."""
    for fid in fids:
        try:
            answer = node.get(1, fid, port=port)
        except (http.client.HTTPException, OSError):  # cut off: nobody takes that for a file
            continue
        assert answer.status in (404, 500, 503) or (answer.status, answer.body) == (200, body_of(fid))


@pytest.mark.root
def test_an_xfs_that_shuts_down_under_load(make_node, loop_xfs, tmp_path, the):
    node = make_node(2, start=False)
    point = loop_xfs(node.docroot / "dev1")
    node.start().start_nginx()
    writers = Writers(node, the)
    the.wait_until(lambda: len(writers.kept) > 50, "files are stored", 120)
    # As when XFS finds its own metadata damaged: what is in the log and not on disk is gone.
    subprocess.run(["xfs_io", "-x", "-c", "shutdown", str(point)], check=True, timeout=30)
    node.wait_state(1, "failed")
    the.wait_until(lambda: len(writers.refused) > 10, "uploads are refused", 60)
    writers.stop()
    for port in (7500, 7580):
        nothing_short(node, port, sorted(writers.kept)[-50:] + sorted(writers.refused)[:20])
    assert node.put(2, 1, BODY).status == 201
    assert metric(node, 'mogile_storage_device_state{devid="1",state="failed"}') == [1.0]
    assert sum(metric(node, 'mogile_storage_device_errors_total{devid="1"')) >= 1
    told = [line for line in node.log().splitlines() if "device is failed devid=1" in line]
    assert 1 <= len(told) <= 2, told  # the watcher's look and the failed sync may both meet it
    assert "Input/output error" in node.status(1)["message"]
    mount_anew(node, point, tmp_path / "xfs0.img")
    for fid in writers.kept:
        assert node.get(1, fid).body == body_of(fid), fid
    nothing_short(node, 7500, writers.refused)
    assert node.put(1, 1_000_000, BODY).status == 201


@pytest.mark.root
def test_a_file_system_that_turns_read_only_under_load(make_node, loop_xfs, tmp_path, the):
    node = make_node(2, start=False, reserve_mb="1")
    point = loop_xfs(node.docroot / "dev1", kind="ext4", megabytes=128)
    major, minor = os.major(point.stat().st_dev), os.minor(point.stat().st_dev)
    name = os.path.basename(os.readlink(f"/sys/dev/block/{major}:{minor}"))
    subprocess.run(["mount", "-o", "remount,errors=remount-ro", str(point)], check=True, timeout=30)
    node.start().start_nginx()
    writers = Writers(node, the)
    the.wait_until(lambda: len(writers.kept) > 50, "files are stored", 120)
    with open(f"/sys/fs/ext4/{name}/trigger_fs_error", "w", encoding="ascii") as stream:
        stream.write("test")  # as the kernel does when it meets damaged metadata
    the.wait_until(lambda: len(writers.refused) > 10, "uploads are refused", 60)
    writers.stop()
    assert node.put(2, 1, BODY).status == 201
    assert node.ask("DELETE", the.fid_path(1, min(writers.kept))).status == 503
    told = [line for line in node.log().splitlines() if "devid=1" in line and "error" in line.lower()]
    assert 1 <= len(told) <= 4, told
    if node.status(1)["state"] == "ready":
        assert metric(node, 'mogile_storage_device_read_only{devid="1"}') == [1.0]
        for fid in writers.kept:
            assert node.get(1, fid).body == body_of(fid), fid
    else:  # the error met a sync first: then nothing on it is to be believed
        assert metric(node, 'mogile_storage_device_state{devid="1",state="failed"}') == [1.0]
        nothing_short(node, 7500, sorted(writers.kept)[:50])
    mount_anew(node, point, tmp_path / "ext40.img")
    for fid in writers.kept:
        assert node.get(1, fid).body == body_of(fid), fid
    assert node.put(1, 1_000_000, BODY).status == 201


@pytest.mark.root
def test_a_scrub_that_meets_read_errors(make_node, sick_disk, the):
    """What cannot be read is damaged; where not even names can be read the scrub says so, and goes on when they can."""
    node = make_node(1, start=False, scrub_interval_hours="0", scrub_files_per_second="1000000")
    node.tell = sick_disk(node.docroot / "dev1")
    node.start()
    for fid in range(1, 9):
        assert node.put(1, fid, body_of(fid)).status == 201
    node.tell("eio:read 0000000003.fid")
    assert node.ask("POST", "/dev1/scrub", b"").status == 202
    the.wait_until(lambda: node.status(1)["scrub"]["files"] == 8, "the scrub has seen all")
    the.wait_until(lambda: not node.status(1)["scrub"]["running"], "the scrub is over")
    listed = node.ask("GET", "/dev1/damaged").body.decode().splitlines()
    assert [line.split()[0::2] for line in listed] == [["3", "eio"], ["."]]
    assert node.status(1)["state"] == "ready"
    assert metric(node, 'mogile_storage_scrub_damaged_copies_total{devid="1"}') == [1.0]
    assert metric(node, 'mogile_storage_damaged_copies{devid="1"}') == [1.0]
    assert len([line for line in node.log().splitlines() if "damaged copy put into quarantine" in line]) == 1
    for fid in range(1, 9):
        answer = node.get(1, fid)
        assert (answer.status, answer.body == body_of(fid)) == ((404, False) if fid == 3 else (200, True))
    node.tell("")
    right = {"X-Mogile-Cluster": the.cluster, "X-Mogile-Replace": "1"}
    assert node.put(1, 3, body_of(3), right).status == 201
    assert node.ask("GET", "/dev1/damaged").body == b".\n"
    kept = list((node.docroot / "dev1" / ".mogile-quarantine").iterdir())
    assert [path.read_bytes() for path in kept] == [body_of(3)], "the bytes that could not be read are not thrown away"


def stalled_upload(node, the, fid, size, sent):
    """A client that stops in the middle of a body."""
    stream = socket.create_connection((node.address, 7500), 30)
    stream.sendall(f"PUT {the.fid_path(1, fid)} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode())
    stream.sendall(LARGE[:sent])
    return stream


@pytest.mark.parametrize(("size", "sent"), [(3000, 1000), (3_000_000, 2_000_000)], ids=["small", "large"])
def test_a_client_that_stalls_inside_a_body_is_cut_off(make_node, the, size, sent):
    node = make_node(1, client_silence_seconds=str(SILENCE_SECONDS))
    began = time.monotonic()
    with stalled_upload(node, the, 1, size, sent) as stream:
        stream.settimeout(60)
        with contextlib.suppress(ConnectionResetError):
            assert stream.recv(100) == b"", "an answer to half a body"
        assert time.monotonic() - began > SILENCE_SECONDS - 0.5
    assert node.get(1, 1).status == 404
    the.wait_until(lambda: open_fids(node) == [], "the file is closed")
    assert node.put(1, 1, LARGE[:size]).status == 201
    assert node.get(1, 1).body == LARGE[:size]


def test_a_client_that_trickles_is_not_cut_off(make_node, the):
    """It takes longer than the silence that is allowed; its own is far shorter, however busy the machine is."""
    silence = 6.0
    node = make_node(1, client_silence_seconds=str(silence))
    with stalled_upload(node, the, 1, 3000, 1000) as stream:
        for start in range(1000, 3000, 200):
            time.sleep(silence / 9)
            stream.sendall(LARGE[start : start + 200])
        assert stream.recv(100).startswith(b"HTTP/1.1 201 ")
    assert node.get(1, 1).body == LARGE[:3000]


@pytest.mark.parametrize(("size", "sent"), [(3000, 1000), (3_000_000, 2_000_000)], ids=["small", "large"])
def test_others_use_the_name_while_an_upload_stalls(make_node, the, size, sent):
    """DELETE finds nothing, a copy order stores the file, and the late end of the upload spoils nothing."""
    source, node = make_node(1), make_node(1)
    assert source.put(1, 1, BODY).status == 201
    with stalled_upload(node, the, 1, size, sent) as stream:
        assert node.ask("DELETE", the.fid_path(1, 1)).status == 404
        url = f"http://{source.address}:7500{the.fid_path(1, 1)}"
        order = f'{{"items": [{{"fid": 1, "devid": 1, "source": "{url}", "length": {len(BODY)}, "md5": null}}]}}'
        answer = node.ask("POST", "/pull", order.encode(), {"X-Mogile-Cluster": the.cluster})
        assert (answer.status, b'"ok"' in answer.body) == (200, True)
        assert node.get(1, 1).body == BODY
        stream.sendall(LARGE[sent:size])
        assert stream.recv(100).startswith(b"HTTP/1.1 409 ")
    assert node.get(1, 1).body == BODY


def open_fids(node):
    folder = f"/proc/{node.process.pid}/fd"
    found = []
    for number in os.listdir(folder):
        try:
            path = os.readlink(f"{folder}/{number}")
        except OSError:
            continue
        if "/dev1/0/" in path:
            found.append(path)
    return found
