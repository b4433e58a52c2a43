"""Files that arrive in parts: PUT with Content-Range, resumed after breaks and crashes, visible when complete and not before."""

import hashlib
import os
import socket

import pytest

from testkit.waiting import wait_until

BODY = os.urandom(3_000_000)


def put_part(node, fid, first, data, total="*", **headers):
    last = first + len(data) - 1
    return node.put(1, fid, data, {"Content-Range": f"bytes {first}-{last}/{total}", **headers})


def question(node, fid, total="*"):
    """Asked again while the end of a part, also of one that was refused, is being dealt with (503), as clients do."""

    def answer():
        found = node.put(1, fid, b"", {"Content-Range": f"bytes */{total}"})
        return None if found.status == 503 else found

    return wait_until(answer, "the file not to be busy")


def partial_files(node):
    folder = node.docroot / "dev1" / ".mogile-partial"
    return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []


def side(node, line):
    with socket.create_connection((node.address, 7501), 30) as stream:
        stream.sendall(line.encode() + b"\r\n")
        return stream.makefile().readline().strip()


def test_parts_in_any_order_are_one_file_in_the_end(node, the):
    assert put_part(node, 1, 2_000_000, BODY[2_000_000:], len(BODY)).status == 202
    answer = put_part(node, 1, 0, BODY[:1_000_000])
    assert (answer.status, answer["x-mogile-received"]) == (202, "0-999999,2000000-2999999")
    assert node.get(1, 1).status == 404
    done = put_part(node, 1, 1_000_000, BODY[1_000_000:2_000_000], len(BODY), **{"X-Mogile-After": "/_close"})
    assert (done.status, done["x-mogile-length"]) == (201, str(len(BODY)))
    assert done["x-mogile-md5"] == hashlib.md5(BODY).hexdigest()
    assert done["x-accel-redirect"] == "/_close"
    read = node.get(1, 1)
    assert (read.body, read["etag"], read["x-mogile-md5"]) == (BODY, done["etag"], done["x-mogile-md5"])
    assert partial_files(node) == []
    assert put_part(node, 1, 0, b"x" * 10).status == 409
    again = question(node, 1, len(BODY))
    assert (again.status, again["etag"]) == (200, done["etag"])
    assert question(node, 1, len(BODY) + 1).status == 409
    node.ask("POST", "/dev1/scrub", b"")
    the.wait_until(lambda: node.status(1)["scrub"]["files"] == 1, "the scrub has seen it")
    assert node.status(1)["damaged"] == 0


def test_one_part_that_is_all(node):
    assert put_part(node, 1, 0, BODY, len(BODY)).status == 201
    assert node.get(1, 1).body == BODY


def test_the_total_may_come_at_the_end(node):
    assert put_part(node, 1, 0, BODY).status == 202
    assert question(node, 1, 10).status == 400
    assert question(node, 1, len(BODY)).status == 201
    assert node.get(1, 1).body == BODY


def test_an_empty_file_by_total_only(node):
    assert question(node, 1, 0).status == 201
    assert (node.get(1, 1).status, node.get(1, 1).body) == (200, b"")
    assert question(node, 2).status == 202
    assert node.get(1, 2).status == 404
    assert partial_files(node) == []


def test_the_content_md5_is_of_the_part(node, the):
    wrong, right = {"Content-MD5": the.md5_header(b"other")}, {"Content-MD5": the.md5_header(BODY[:100])}
    assert put_part(node, 1, 0, BODY[:100], 200, **wrong).status == 400
    assert question(node, 1)["x-mogile-received"] == ""
    assert put_part(node, 1, 0, BODY[:100], 200, **right)["x-mogile-received"] == "0-99"


def test_a_broken_part_counts_as_far_as_it_came_also_after_a_crash(node, the):
    head = (
        f"PUT {the.fid_path(1, 1)} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n"
        f"Content-Range: bytes 0-{len(BODY) - 1}/{len(BODY)}\r\n\r\n"
    ).encode()
    with socket.create_connection((node.address, 7500)) as stream:
        stream.sendall(head + BODY[:1_500_000])
        the.wait_until(lambda: partial_files(node) != [], "something has arrived")
    # The part is ended by a job of its own: until then the file is busy (503), which a client repeats.
    the.wait_until(lambda: question(node, 1).status == 202, "the broken part is settled")
    received = question(node, 1)["x-mogile-received"]
    first, last = map(int, received.split("-"))
    assert first == 0
    assert 0 < last < 1_500_000
    node.kill()
    node.start()
    assert question(node, 1)["x-mogile-received"] == received
    assert put_part(node, 1, last + 1, BODY[last + 1 :], len(BODY)).status == 201
    assert node.get(1, 1).body == BODY


def test_two_at_once_is_one_too_many(node, the):
    head = f"PUT {the.fid_path(1, 1)} HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\nContent-Range: bytes 0-499/1000\r\n\r\n"
    with socket.create_connection((node.address, 7500)) as stream:
        stream.sendall(head.encode() + b"x" * 10)
        the.wait_until(lambda: partial_files(node) != [], "the first part has begun")
        answer = put_part(node, 1, 500, b"y" * 500, 1000)
        assert (answer.status, "retry-after" in answer.headers) == (503, True)


def test_what_is_refused(node):
    for value in ("bytes 0-9/5", "bytes 5-1/10", "bytes 0-8/10", "bytes 0-10/*", "elephants 0-9/10", "bytes */5"):
        assert node.put(1, 1, b"x" * 10, {"Content-Range": value}).status == 400, value
    assert partial_files(node) == []
    assert put_part(node, 1, 0, b"x" * 10, 20).status == 202
    assert put_part(node, 1, 10, b"x" * 10, 30).status == 409
    assert put_part(node, 1, 15, b"x" * 10).status == 400
    chunked = b"PUT /dev1/0/000/000/0000000002.fid HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Range: bytes 0-4/5\r\n\r\n"
    assert node.raw(chunked + b"5\r\nhello\r\n0\r\n\r\n").startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("how", ["size", "head"])
def test_the_large_file_mode_of_the_perl_client(node, the, how):
    """An empty PUT, then parts `bytes a-b/*` with steps back, then the tracker asks for the size: that ends it."""
    assert node.put(1, 1, b"").status == 201
    for first in range(0, 2_000_000, 500_000):
        assert put_part(node, 1, first, BODY[first : first + 500_000]).status == 202
    assert put_part(node, 1, 100, b"again").status == 202
    path = the.fid_path(1, 1)
    wanted = BODY[:100] + b"again" + BODY[105:2_000_000]
    if how == "size":
        assert side(node, f"size {path}") == f"{path} 2000000"
    else:
        assert node.ask("HEAD", path)["content-length"] == "2000000"
    answer = node.get(1, 1)
    assert (answer.status, answer.body) == (200, wanted)
    assert answer["x-mogile-md5"] == hashlib.md5(wanted).hexdigest()
    assert put_part(node, 1, 0, b"late").status == 409
    assert not (node.docroot / "dev1" / ".mogile-quarantine").exists()


def test_asking_for_the_size_ends_nothing_that_has_gaps_or_a_total(node, the):
    put_part(node, 1, 10, b"x" * 10)
    put_part(node, 2, 0, b"x" * 10, 30)
    for fid in (1, 2):
        path = the.fid_path(1, fid)
        assert side(node, f"size {path}") == f"{path} -1"
        assert node.ask("HEAD", path).status == 404
    assert put_part(node, 1, 0, b"y" * 10, 20).status == 201
    assert node.get(1, 1).body == b"y" * 10 + b"x" * 10


def test_an_empty_file_is_not_replaced_by_strangers_in_safe_mode(make_node, the):
    node = make_node(anonymous_writes="safe")
    node.put(1, 1, b"")
    assert put_part(node, 1, 0, b"x" * 10, 10).status == 409
    assert put_part(node, 1, 0, b"x" * 10, 10, **{"X-Mogile-Cluster": the.cluster}).status == 201
    assert put_part(node, 2, 0, b"x" * 10, 10).status == 201


def test_abandoned_uploads_are_swept(make_node, the):
    node = make_node()
    put_part(node, 1, 0, b"x" * 10, 20)
    assert partial_files(node) == ["0000000000000000001"]
    node.stop()
    node.settings["MOGILE_PARTIAL_HOURS"] = "0.001"
    the.wait_until(lambda: old(node) > 4, "it is old enough")
    node.start()
    the.wait_until(lambda: partial_files(node) == [], "it is gone")
    assert put_part(node, 1, 10, b"x" * 10, 20)["x-mogile-received"] == "10-19"


def old(node):
    import time

    return time.time() - (node.docroot / "dev1" / ".mogile-partial" / "0000000000000000001").stat().st_ctime


def test_no_memory_for_a_large_part_and_room_is_looked_at_first(node):
    with open(f"/proc/{node.process.pid}/status", encoding="ascii") as stream:
        before = next(int(line.split()[1]) for line in stream if line.startswith("VmHWM"))
    data = BODY * 30
    assert put_part(node, 1, 0, data, len(data)).status == 201
    with open(f"/proc/{node.process.pid}/status", encoding="ascii") as stream:
        after = next(int(line.split()[1]) for line in stream if line.startswith("VmHWM"))
    assert after - before < 20 << 10
    head = b"PUT /dev1/0/000/000/0000000002.fid HTTP/1.1\r\nHost: x\r\nContent-Length: 900000000000000\r\n"
    answer = node.raw(head + b"Content-Range: bytes 0-899999999999999/*\r\nExpect: 100-continue\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 507 ")
