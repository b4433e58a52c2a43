"""A disk that hangs or fails under the agent and the read nginx: the others must not notice."""

import concurrent.futures
import contextlib
import http.client
import os
import socket
import time

import pytest

BODY = b"s" * 5000
LARGE = bytes(range(256)) * 8192
PORTS = (7500, 7580)
HEALTHY_SECONDS = 20.0  # no bar: while a device hangs, the others answer at all; what was stuck is let go after this
pytestmark = pytest.mark.root


@pytest.fixture
def sick_node(make_node, sick_disk):
    """dev1 is sick to order, dev2 is well; both hold files."""
    return fill(make_node(2, start=False), sick_disk)


@pytest.fixture
def caching_node(make_node, sick_disk):
    """The same, and the kernel keeps pages of dev1 as it does those of a disk, which it reads again only when they were dropped."""
    return fill(make_node(2, start=False), sick_disk, "kernel_cache")


def fill(node, sick_disk, *options):
    node.tell = sick_disk(node.docroot / "dev1", *options)
    node.start().start_nginx()
    for fid in range(1, 9):
        assert node.put(1, fid, BODY).status == 201
    assert node.put(2, 2, LARGE).status == 201
    return node


def ask_shortly(node, port, devid, fid, seconds):
    """The answer, or None when there was none in that time."""
    digits = f"{fid:010d}"
    connection = http.client.HTTPConnection(node.address, port, timeout=seconds)
    try:
        connection.request("GET", f"/dev{devid}/{digits[0]}/{digits[1:4]}/{digits[4:7]}/{digits}.fid")
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def workers(node):
    master = children(node.nginx.pid)
    assert len(master) == 1
    return set(children(master[0]))


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as stream:
        return [int(word) for word in stream.read().split()]


def test_a_hung_disk_holds_up_no_other(sick_node, the):
    node = sick_node
    before = workers(node)
    node.tell("hang")
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        stuck = [pool.submit(ask_shortly, node, port, 1, fid, 60) for port in PORTS for fid in (1, 2, 3)]
        time.sleep(0.2)
        for port in PORTS:
            deadline = began + HEALTHY_SECONDS
            while (answer := ask_shortly(node, port, 2, 2, 0.5)) is None:
                assert time.monotonic() < deadline, f"port {port}: a healthy device does not answer"
            assert answer == (200, LARGE)
        for number in range(20):
            assert node.put(2, 100 + number, BODY).status == 201, "uploads to others go on"
            for port in PORTS:
                assert ask_shortly(node, port, 2, 2, HEALTHY_SECONDS) == (200, LARGE)
                assert ask_shortly(node, port, 1, 1, HEALTHY_SECONDS)[0] == 503
        assert node.put(1, 200, BODY).status == 503
        state = node.status(1)
        assert (state["state"], state["message"]) == ("failed", "the device does not answer")
        metrics = node.ask("GET", "/metrics", port=7502).body.decode()
        assert 'mogile_storage_device_state{devid="1",state="failed"} 1' in metrics
        the.wait_until(lambda: workers(node) - before, "nginx to have new workers")
        node.tell("")
        for job in stuck:
            answer = job.result(90)
            assert answer is None or answer[0] == 503 or answer == (200, BODY)
    for port in PORTS:
        the.wait_until(lambda port=port: node.get(1, 1, port=port).body == BODY, f"port {port} serves it again")
    the.wait_until(lambda: not workers(node) & before, "the workers that hung are gone")
    the.wait_until(lambda: node.put(1, 200, BODY).status == 201, "uploads work again")
    assert node.stop() == 0


def test_a_read_error_is_counted_told_once_and_spoils_no_other_file(sick_node):
    node = sick_node
    node.tell("eio 0000000001.fid")
    for _ in range(5):
        answer = node.get(1, 1)
        assert (answer.status, answer.body) == (503, b"the device failed: Input/output error\n")
    for port in PORTS:
        assert node.get(1, 2, port=port).body == BODY
        with contextlib.suppress(OSError, http.client.HTTPException):
            assert node.get(1, 1, port=port).status in (500, 503)
    state = node.status(1)
    assert state["state"] == "ready"
    assert state["errors"]["EIO"] >= 5
    metrics = node.ask("GET", "/metrics", port=7502).body.decode()
    assert f'mogile_storage_device_errors_total{{devid="1",error="EIO"}} {state["errors"]["EIO"]}' in metrics
    told = [line for line in node.log().splitlines() if "I/O error" in line and "devid=1" in line]
    assert len(told) == 1, told
    node.tell("")
    assert node.get(1, 1).body == BODY


def test_a_disk_that_only_fails_is_out_and_comes_back(sick_node, the):
    node = sick_node
    node.tell("eio")
    node.wait_state(1, "failed")
    for port in PORTS:
        the.wait_until(lambda port=port: node.get(1, 1, port=port).status == 503, f"port {port} refuses")
        assert node.get(2, 2, port=port).body == LARGE
    assert node.put(2, 3, BODY).status == 201
    assert "Input/output error" in node.status(1)["message"]
    node.tell("")
    for port in PORTS:
        the.wait_until(lambda port=port: node.get(1, 1, port=port).body == BODY, f"port {port} serves it again")


def test_a_read_that_does_not_come_back_takes_the_device_out(sick_node, the):
    """Its names answer as before: only the bytes do not come."""
    node = sick_node
    node.tell("hang:read .fid")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        stuck = pool.submit(ask_shortly, node, 7500, 1, 1, 250)
        node.wait_state(1, "failed")
        assert node.status(1)["message"] == "the device does not answer"
        for port in PORTS:
            refused = lambda port=port: (ask_shortly(node, port, 1, 2, HEALTHY_SECONDS) or (None,))[0] == 503  # noqa: E731
            the.wait_until(refused, f"port {port} refuses")
            assert node.get(2, 2, port=port).body == LARGE
        assert node.put(1, 300, BODY).status == 503
        the.wait_until(lambda: "device does not answer devid=1" in node.log(), "a line tells it")
        node.tell("")
        assert stuck.result(90) == (200, BODY)
    node.wait_state(1, "ready")
    the.wait_until(lambda: "device answers again devid=1" in node.log(), "a line tells it")
    assert node.log().count("device does not answer devid=1") == 1
    for port in PORTS:
        the.wait_until(lambda port=port: node.get(1, 1, port=port).body == BODY, f"port {port} serves it again")


def test_data_that_only_nginx_waits_for_takes_the_device_out(caching_node, the):
    """Names and the pages in memory answer as before, and no client asks the agent for anything."""
    node = caching_node
    with node.file(1, 1).open("rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before = workers(node)
    node.tell("hang:read")
    assert (node.docroot / "dev1" / ".mogile-device").read_bytes(), "the marker is in memory"
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        stuck = pool.submit(ask_shortly, node, 7580, 1, 1, 250)
        refused = lambda: (ask_shortly(node, 7580, 1, 2, HEALTHY_SECONDS) or (None,))[0] == 503  # noqa: E731
        the.wait_until(refused, "nginx refuses the device")
        assert ask_shortly(node, 7580, 2, 2, HEALTHY_SECONDS) == (200, LARGE)
        assert node.get(2, 2).body == LARGE
        assert node.put(2, 300, BODY).status == 201
        assert node.status(1)["message"] == "the device does not answer"
        the.wait_until(lambda: not workers(node) & before, "the worker that hangs is gone")
        node.tell("")
        # Its connection ended with the worker, unless one of the looks above hung in its place and it came to the next worker.
        assert stuck.result(90) in (None, (503, b"dev1 is not ready\n"))
    node.wait_state(1, "ready")
    the.wait_until(lambda: node.get(1, 1, port=7580).body == BODY, "nginx serves it again")


def test_a_write_that_does_not_come_back_stops_uploads_and_not_reads(sick_node, the):
    node = sick_node
    node.tell("hang:write .mogile-tmp")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        stuck = pool.submit(node.put, 1, 300, BODY)
        the.wait_until(lambda: node.status(1)["message"] == "writes do not come back", "it is seen")
        assert node.put(1, 301, BODY).status == 503
        assert node.get(1, 1).body == BODY
        assert node.put(2, 301, BODY).status == 201
        node.tell("")
        assert stuck.result(90).status == 201
    the.wait_until(lambda: node.put(1, 301, BODY).status == 201, "uploads work again")
    assert node.get(1, 300).body == BODY


@pytest.mark.parametrize(
    "request_head", ["GET {} HTTP/1.1\r\n\r\n", "PUT {} HTTP/1.1\r\nContent-Length: 2000000\r\n\r\n"]
)
def test_a_close_that_hangs_holds_up_no_other_device(sick_node, the, tmp_path, request_head):
    """A client goes away in the middle of a large file; its descriptor is closed then, and that close does not come back."""
    node = sick_node
    assert node.put(1, 50, LARGE * 4).status == 201
    method = request_head[:3]
    with socket.create_connection((node.address, 7500), 90) as client:
        client.sendall(request_head.format(the.fid_path(1, 50 if method == "GET" else 51)).encode())
        if method == "GET":
            assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
        else:
            client.sendall(LARGE[:1_000_000])
        the.wait_until(lambda: open_files(node, ".fid") or open_files(node, ".mogile-tmp"), "the file is open")
        node.tell("hang:close")
    the.wait_until(lambda: "close" in (tmp_path / "sick.met").read_text(), "the close hangs")
    for number in range(10):
        began = time.monotonic()
        assert node.put(2, 400 + number, BODY).status == 201
        assert time.monotonic() - began < HEALTHY_SECONDS, "the close hangs until the end"
        time.sleep(0.1)
    node.tell("")
    # The look at the device's data closes a file too: where that hung, the device is out for as long, and a moment longer.
    the.wait_until(lambda: node.get(1, 1).body == BODY, "it serves again")
    assert node.get(1, 51).status == 404


def open_files(node, part):
    """Descriptors of the agent on dev1 whose path contains this."""
    found = []
    folder = f"/proc/{node.process.pid}/fd"
    for number in os.listdir(folder):
        with contextlib.suppress(OSError):
            path = os.readlink(f"{folder}/{number}")
            if "/dev1/" in path and part in path:
                found.append(path)
    return found
