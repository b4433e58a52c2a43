"""What the node says about its devices: /status and metrics agree with the usage file, slow and read-only disks are seen."""

import json
import os
import socket
import subprocess
from urllib.parse import quote

import pytest


def metric(node, name):
    lines = node.ask("GET", "/metrics", port=7502).body.decode().splitlines()
    return [float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name)]


def test_the_health_port_knows_four_paths(node):
    for path in ("/healthz", "/readyz", "/metrics", "/status"):
        got, head = node.ask("GET", path, port=7502), node.ask("HEAD", path, port=7502)
        assert (got.status, head.status, head.body) == (200, 200, b"")
        assert abs(int(head["content-length"]) - len(got.body)) < 100, "figures change between the two"
        assert node.ask("PUT", path, b"x", port=7502).status == 405
    assert node.ask("GET", "/dev1/usage", port=7502).status == 404
    assert node.ask("GET", "/metrics", port=7502)["content-type"].startswith("text/plain; version=0.0.4")


def test_status_waits_for_news(node):
    """As the read nginx asks: who knows the present view is answered when there is another."""
    view = json.loads(node.ask("GET", "/status", port=7502).body)["view"]
    (node.docroot / "dev2" / ".mogile-device").unlink()
    answer = json.loads(node.ask("GET", f"/status?known={quote(view, safe='')}&wait=5", port=7502).body)
    assert answer["view"] != view
    assert {device["devid"]: device["state"] for device in answer["devices"]} == {1: "ready", 2: "lost"}
    for nonsense in ("wait=x", "known", "wait=-1&known=&=", "%"):
        assert node.ask("GET", f"/status?{nonsense}", port=7502).status == 200


def test_status_shows_the_usage_file_and_latencies(node, the):
    for fid in range(1, 21):
        assert node.put(1, fid, os.urandom(1000)).status == 201
        assert node.get(1, fid).status == 200

    def measured():
        """A time is counted when its answer is on its way."""
        (reads,) = metric(node, 'mogile_storage_device_seconds_count{devid="1",kind="read"}')
        return reads >= 20 and node.status(1)["latency"]["sync"]["count"] >= 1

    the.wait_until(measured, "20 reads and a sync to be measured")
    status = node.status(1)
    lines = dict(line.split(": ") for line in node.ask("GET", "/dev1/usage").body.decode().splitlines())
    assert status["usage"].keys() == lines.keys()
    assert status["usage"]["volume"] == lines["volume"] == status["volumeId"]
    assert status["totalBytes"] == status["usedBytes"] + status["availableBytes"]
    assert (status["readOnly"], status["errors"]) == (False, {})
    for kind in ("read", "sync"):
        seen = status["latency"][kind]
        assert seen["count"] >= 1
        assert 0 < seen["p50Milliseconds"] <= seen["p99Milliseconds"] <= seen["worstMilliseconds"] < 60_000
    assert metric(node, 'mogile_storage_device_read_only{devid="1"}') == [0.0]
    assert metric(node, 'mogile_storage_device_available_bytes{devid="1"}')[0] > 0


@pytest.mark.root
def test_a_read_only_remount_is_seen_and_reads_go_on(make_node, the, loop_xfs):
    node = make_node(start=False)
    point = loop_xfs(node.docroot / "dev1", kind="ext4", megabytes=64)
    node.settings["MOGILE_RESERVE_MB"] = "1"
    node.start()
    assert node.put(1, 1, b"some bytes").status == 201
    the.wait_until(lambda: node.status(1)["latency"]["sync"]["count"] >= 1, "the sync was measured")
    major, minor = os.major(point.stat().st_dev), os.minor(point.stat().st_dev)
    name = os.path.basename(os.readlink(f"/sys/dev/block/{major}:{minor}"))
    subprocess.run(["mount", "-o", "remount,errors=remount-ro", str(point)], check=True, timeout=30)
    with open(f"/sys/fs/ext4/{name}/trigger_fs_error", "w", encoding="ascii") as stream:
        stream.write("test")  # as the kernel does when it meets damaged metadata
    the.wait_until(lambda: node.status(1)["readOnly"], "the remount is seen")
    assert metric(node, 'mogile_storage_device_read_only{devid="1"}') == [1.0]
    assert node.put(1, 2, b"some bytes").status == 503
    assert node.get(1, 1).body == b"some bytes"


def test_small_uploads_share_a_budget_and_are_streamed_beyond_it(make_node, the):
    """120 clients that stop in the middle of a body of 64 KiB: more than the budget, yet everybody else is served."""
    node = make_node(small_uploads_mb="1")
    stalled = []
    for fid in range(100, 220):
        stream = socket.create_connection((node.address, 7500))
        head = f"PUT {the.fid_path(1, fid)} HTTP/1.1\r\nHost: x\r\nContent-Length: 65536\r\n\r\n"
        stream.sendall(head.encode() + b"x" * 60_000)
        stalled.append(stream)
    body = os.urandom(65_536)
    answer = node.put(1, 1, body)
    assert (answer.status, node.get(1, 1).body) == (201, body)
    for stream in stalled[::2]:
        stream.sendall(b"x" * 5_536)
        assert stream.recv(100).startswith(b"HTTP/1.1 201 ")
    for stream in stalled:
        stream.close()
    for fid in range(100, 220):
        assert node.get(1, fid).status == (200 if fid % 2 == 0 else 404)
    assert node.put(1, 2, body).status == 201
