"""The behaviour table of the agent, over real sockets; reads also through the real nginx."""

import hashlib
import json
import os
import re

import pytest

BODY = b"some bytes\n" * 100
LARGE = os.urandom(3_000_000)


def test_put_is_created_then_repeated_then_refused_when_it_differs(node, the):
    first = node.put(1, 123, BODY)
    assert first.status == 201
    assert re.fullmatch(r'"[0-9a-f]{32}"', first["etag"])
    assert first["x-mogile-length"] == str(len(BODY))
    assert first["x-mogile-md5"] == hashlib.md5(BODY).hexdigest()
    inode = node.file(1, 123).stat().st_ino

    again = node.put(1, 123, BODY)
    assert (again.status, again["etag"]) == (200, first["etag"])
    assert node.file(1, 123).stat().st_ino == inode

    assert node.put(1, 123, BODY + b"!").status == 409
    assert node.get(1, 123).body == BODY


@pytest.mark.parametrize("size", [0, 1, 4096, 65536, 65537, 3_000_000])
def test_bytes_come_back_as_they_were(node, size):
    data = LARGE[:size]
    assert node.put(2, 7, data).status == 201
    answer = node.get(2, 7)
    assert (answer.status, answer.body) == (200, data)
    assert answer["x-mogile-md5"] == hashlib.md5(data).hexdigest()
    head = node.ask("HEAD", "/dev2/0/000/000/0000000007.fid")
    assert (head.status, head["content-length"], head.body) == (200, str(size), b"")
    assert head["etag"] == answer["etag"]


def test_fids_beyond_ten_digits(node, the):
    path = "/dev1/1/234/567/123456789012.fid"
    assert the.fid_path(1, 123456789012) == path
    assert node.ask("PUT", path, BODY).status == 201
    assert node.ask("GET", path).body == BODY


def test_chunked_put(node):
    head = b"PUT /dev1/0/000/000/0000000009.fid HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    answer = node.raw(head + b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nTrailer: 1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 201 ")
    assert node.get(1, 9).body == b"hello world"


@pytest.mark.parametrize("data", [BODY, LARGE])
def test_content_md5(node, the, data):
    refused = node.put(1, 5, data, {"Content-MD5": the.md5_header(b"other")})
    assert refused.status == 400
    assert node.get(1, 5).status == 404
    assert node.put(1, 5, data, {"Content-MD5": the.md5_header(data)}).status == 201
    assert node.put(1, 6, data, {"Content-MD5": "nonsense"}).status == 400


def test_after_header_becomes_accel_redirect_on_success_only(node):
    assert node.put(1, 5, BODY, {"X-Mogile-After": "/_close"})["x-accel-redirect"] == "/_close"
    assert "x-accel-redirect" not in node.put(1, 5, BODY + b"!", {"X-Mogile-After": "/_close"}).headers
    assert node.put(1, 6, BODY, {"X-Mogile-After": "no path"}).status == 400
    assert "x-accel-redirect" not in node.put(1, 8, BODY).headers


def test_delete(node):
    copy = node.put(1, 5, BODY)["etag"]
    path = "/dev1/0/000/000/0000000005.fid"
    assert node.ask("DELETE", path, headers={"If-Match": '"' + "0" * 32 + '"'}).status == 412
    assert node.ask("DELETE", path, headers={"If-Match": "what"}).status == 400
    assert node.get(1, 5).status == 200
    assert node.ask("DELETE", path, headers={"If-Match": copy}).status == 204
    assert node.get(1, 5).status == 404
    assert node.ask("DELETE", path).status == 404


def test_a_new_copy_of_a_deleted_fid_has_another_copy_id(node):
    first = node.put(1, 5, BODY)["etag"]
    node.ask("DELETE", "/dev1/0/000/000/0000000005.fid")
    second = node.put(1, 5, BODY)
    assert second.status == 201
    assert second["etag"] != first
    late = node.ask("DELETE", "/dev1/0/000/000/0000000005.fid", headers={"If-Match": first})
    assert late.status == 412


REFUSED = [
    ("PUT", "/x", 404),
    ("PUT", "/dev1/other", 400),
    ("PUT", "/dev9/0/000/000/0000000001.fid", 404),
    ("PUT", "/dev1/0/000/001/0000000001.fid", 400),  # the directories do not belong to the fid
    ("PUT", "/dev1/0/000/000/1.fid", 400),
    ("PUT", "/dev01/0/000/000/0000000001.fid", 404),
    ("PUT", "/dev1/0/000/000/0000000001.fid/", 400),
    ("PUT", "/dev1/../dev1/0/000/000/0000000001.fid", 403),
    ("PUT", "/dev1/%2e%2e/x", 400),
    ("PUT", "/dev1/0/000/000/000000000%31.fid", 400),
    ("PUT", "/dev1/.mogile-device", 400),
    ("GET", "/dev1/.mogile-device", 400),
    ("GET", "/dev1/0/000/000/../../../.mogile-device", 403),
    ("DELETE", "/dev1/.mogile-device", 400),
    ("DELETE", "/dev1/usage", 400),
    ("DELETE", "/dev1", 400),
    ("POST", "/dev1/0/000/000/0000000001.fid", 400),
    ("MOVE", "/dev1/0/000/000/0000000001.fid", 400),  # where to?
    ("MOVE", "/dev1/usage", 400),
    ("GET", "/dev1/" + "a" * 3000, 400),
    ("GET", "//dev1/usage", 404),
    ("GET", "/dev1//usage", 400),
    ("GET", "/pull", 400),
]


@pytest.mark.parametrize(("method", "path", "status"), REFUSED)
def test_what_is_refused(node, method, path, status):
    assert node.ask(method, path, b"x" if method in ("PUT", "POST") else None).status == status
    assert node.status(1)["state"] == "ready"


def test_put_without_length_is_411_and_content_range_is_not_guessed(node):
    answer = node.raw(b"PUT /dev1/0/000/000/0000000001.fid HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 411 ")
    assert node.put(1, 1, BODY, {"Content-Range": "bytes 0-9/100"}).status == 400
    assert node.get(1, 1).status == 404


def test_mkcol_and_root_and_listings(node):
    assert node.ask("MKCOL", "/dev1/0/000/000").status == 201
    assert node.ask("MKCOL", "/dev1/test-write").status == 201
    assert node.ask("MKCOL", "/dev9/0").status == 404
    for path in ("/", "/dev1", "/dev1/"):
        assert node.ask("GET", path).status == 200


def test_test_write_files_may_be_overwritten(node, the):
    path = "/dev1/test-write/test-write-17"
    for text in (b"one", b"another"):
        assert node.ask("PUT", path, text).status == 201
        assert node.ask("GET", path).body == text
    assert node.ask("PUT", "/dev1/test-write/test-md5", b"x", {"Content-MD5": the.md5_header(b"y")}).status == 400
    assert node.ask("DELETE", path).status == 204
    assert node.ask("GET", path).status == 404
    assert node.ask("PUT", path, b"x" * 70_000).status == 413


def test_cluster_identity(node, the):
    wrong = {"X-Mogile-Cluster": the.other_cluster}
    right = {"X-Mogile-Cluster": the.cluster}
    for method, path in (
        ("PUT", "/dev1/0/000/000/0000000001.fid"),
        ("GET", "/dev1/usage"),
        ("GET", "/"),
        ("POST", "/pull"),
    ):
        answer = node.ask(method, path, b"x" if method != "GET" else None, wrong)
        assert answer.status == 421
        assert answer["x-mogile-cluster"] == the.cluster
    assert node.put(1, 1, BODY, right).status == 201
    assert node.ask("GET", "/", headers=right)["x-mogile-cluster"] == the.cluster


def test_safe_mode_lets_strangers_create_and_repeat_but_not_delete(make_node, the):
    node = make_node(anonymous_writes="safe")
    assert node.put(1, 1, BODY).status == 201
    assert node.put(1, 1, BODY).status == 200
    assert node.put(1, 1, BODY + b"!").status == 409
    assert node.ask("DELETE", "/dev1/0/000/000/0000000001.fid").status == 403
    assert node.put(1, 2, BODY, {"X-Mogile-Replace": "1"}).status == 403
    right = {"X-Mogile-Cluster": the.cluster}
    assert node.ask("DELETE", "/dev1/0/000/000/0000000001.fid", headers=right).status == 204


def test_a_node_without_cluster_joins_the_first_that_writes(make_node, the):
    node = make_node(cluster_id="")
    assert "x-mogile-cluster" not in node.ask("GET", "/", headers={"X-Mogile-Cluster": the.other_cluster}).headers
    assert node.put(1, 1, BODY, {"X-Mogile-Cluster": the.cluster}).status == 201
    assert node.put(1, 2, BODY, {"X-Mogile-Cluster": the.other_cluster}).status == 421
    marker = node.docroot / "dev1" / ".mogile-device"
    the.wait_until(lambda: json.loads(marker.read_text())["clusterId"] == the.cluster, "the marker names the cluster")
    node.stop()
    node.start()
    assert node.put(1, 2, BODY, {"X-Mogile-Cluster": the.other_cluster}).status == 421


def test_replace_needs_the_cluster_and_keeps_the_old_bytes_in_quarantine(node, the):
    node.put(1, 1, BODY)
    path = node.file(1, 1)
    path.chmod(0o644)
    path.write_bytes(b"rotten")
    assert node.put(1, 1, b"new", {"X-Mogile-Replace": "1"}).status == 403
    answer = node.put(1, 1, b"new", {"X-Mogile-Replace": "1", "X-Mogile-Cluster": the.cluster})
    assert answer.status == 201
    assert node.get(1, 1).body == b"new"
    kept = list((node.docroot / "dev1" / ".mogile-quarantine").iterdir())
    assert [p.read_bytes() for p in kept] == [b"rotten"]


def test_the_recorded_bytes_heal_a_damaged_copy(node):
    node.put(1, 1, BODY)
    node.file(1, 1).write_bytes(BODY[:-1] + b"?")
    assert node.put(1, 1, BODY).status == 201
    assert node.get(1, 1).body == BODY


def test_a_short_file_is_never_served_as_whole(node):
    node.put(1, 1, BODY)
    os.truncate(node.file(1, 1), 10)
    assert node.ask("HEAD", "/dev1/0/000/000/0000000001.fid").status == 500
    assert node.get(1, 1).status == 404  # in quarantine by now


def test_files_of_another_server_are_served_repeated_and_deleted(make_node, the):
    node = make_node(start=False, cluster_id="")
    path = node.file(1, 1)
    path.parent.mkdir(parents=True)
    path.write_bytes(BODY)
    node.start()
    answer = node.get(1, 1)
    assert (answer.status, answer.body) == (200, BODY)
    assert "x-mogile-md5" not in answer.headers
    assert node.put(1, 1, BODY).status == 200
    again = node.get(1, 1)
    assert (again["etag"], again["x-mogile-md5"]) == (answer["etag"], hashlib.md5(BODY).hexdigest())
    assert node.ask("DELETE", the.fid_path(1, 1), headers={"If-Match": answer["etag"]}).status == 204


def test_usage_file_right_after_start(node, the):
    lines = dict(line.split(": ", 1) for line in node.ask("GET", "/dev1/usage").body.decode().splitlines())
    assert list(lines) == sorted(lines)
    assert {
        "available",
        "cluster",
        "damaged",
        "devid",
        "device",
        "disk",
        "time",
        "total",
        "use",
        "used",
        "volume",
    } == set(lines)
    assert int(lines["total"]) == int(lines["used"]) + int(lines["available"])
    assert (lines["cluster"], lines["devid"]) == (the.cluster, "1")
    on_disk = node.docroot / "dev1" / "usage"
    before = on_disk.stat()
    the.wait_until(lambda: on_disk.stat().st_ino != before.st_ino, "the usage file is written anew")
    seen = node.ask("GET", "/dev1/usage").body
    assert b"\nused: " in seen
    the.wait_until(lambda: node.ask("GET", "/dev1/usage").body != seen, "its time moves on")
    the.wait_until(lambda: on_disk.read_bytes() != seen, "also on the disk")


def test_reads_through_both_doors(nginx_node, the):
    node = nginx_node
    node.put(1, 1, LARGE)
    node.put(2, 2, BODY)
    for port in (7500, 7580):
        assert node.get(1, 1, port=port).body == LARGE
        assert node.ask("HEAD", the.fid_path(1, 1), port=port)["content-length"] == str(len(LARGE))
        assert node.get(1, 99, port=port).status == 404
        assert node.ask("GET", "/", port=port).status == 200
        assert node.ask("GET", "/dev1/usage", port=port).status == 200
        assert node.ask("GET", "/dev1/.mogile-device", port=port).status in (400, 404)
        assert node.ask("GET", "/dev1/0/000/000/../../../.mogile-device", port=port).status in (400, 403)
        assert node.ask("GET", "/dev1/%2e%2e/dev1/usage", port=port).status == 400
        assert node.ask("GET", "/", headers={"X-Mogile-Cluster": the.other_cluster}, port=port).status == 421
        assert (
            node.ask("GET", "/", headers={"X-Mogile-Cluster": the.cluster}, port=port)["x-mogile-cluster"]
            == the.cluster
        )


RANGES = [
    ("bytes=0-0", 206, slice(0, 1)),
    ("bytes=10-19", 206, slice(10, 20)),
    ("bytes=2999990-", 206, slice(2999990, None)),
    ("bytes=-5", 206, slice(-5, None)),
    ("bytes=-9999999", 206, slice(0, None)),
    ("bytes=10-99999999", 206, slice(10, None)),
    ("bytes=0-", 206, slice(0, None)),
    ("lines=1-2", 200, slice(0, None)),
]


@pytest.mark.parametrize("port", [7500, 7580])
def test_ranges(nginx_node, port):
    node = nginx_node
    node.put(1, 1, LARGE)
    for value, status, piece in RANGES:
        answer = node.get(1, 1, {"Range": value}, port)
        assert (value, answer.status) == (value, status)
        assert answer.body == LARGE[piece], value
        if status == 206:
            start = piece.indices(len(LARGE))[0]
            assert answer["content-range"] == f"bytes {start}-{start + len(answer.body) - 1}/{len(LARGE)}"
    for value in ("bytes=3000000-", "bytes=3000000-3000005"):
        answer = node.get(1, 1, {"Range": value}, port)
        assert (answer.status, answer["content-range"]) == (416, f"bytes */{len(LARGE)}")


@pytest.mark.parametrize("port", [7500, 7580])
def test_conditional_requests(nginx_node, port):
    node = nginx_node
    node.put(1, 1, BODY)
    seen = node.get(1, 1, port=port)
    tag, when = seen["etag"], seen["last-modified"]
    table = [
        ({"If-None-Match": tag}, 304),
        ({"If-None-Match": '"other"'}, 200),
        ({"If-None-Match": f'"other", {tag}'}, 304),
        ({"If-Match": tag}, 200),
        ({"If-Match": '"other"'}, 412),
        ({"If-Modified-Since": when}, 304),
        ({"If-Modified-Since": "Thu, 01 Jan 1970 00:00:00 GMT"}, 200),
        ({"If-Unmodified-Since": "Thu, 01 Jan 1970 00:00:00 GMT"}, 412),
        ({"Range": "bytes=0-3", "If-Range": tag}, 206),
        ({"Range": "bytes=0-3", "If-Range": '"other"'}, 200),
    ]
    for headers, status in table:
        answer = node.get(1, 1, headers, port)
        assert (headers, answer.status) == (headers, status)
        if status == 304:
            assert answer.body == b""


def test_move_within_a_device_and_never_over_a_file(node, the):
    copy = node.put(1, 1, BODY)["etag"]
    node.put(1, 2, b"other")
    move = lambda source, to: node.ask("MOVE", source, headers={"Destination": to}).status  # noqa: E731
    first, second, third = (the.fid_path(1, fid) for fid in (1, 2, 30_001))
    assert move(first, second) == 412
    assert move(first, the.fid_path(2, 1)) == 400
    assert move(first, "/dev1/usage") == 400
    assert move(first, "/dev1/../dev2/0/000/000/0000000001.fid") == 403
    assert move(the.fid_path(1, 9), third) == 404
    assert move(first, f"http://{node.address}:7500{third}") == 201
    assert node.get(1, 1).status == 404
    moved = node.get(1, 30_001)
    assert (moved.body, moved["etag"]) == (BODY, copy)
    assert node.get(1, 2).body == b"other"


def test_move_needs_what_delete_needs(make_node, the):
    node = make_node(anonymous_writes="safe")
    node.put(1, 1, BODY)
    headers = {"Destination": the.fid_path(1, 2)}
    assert node.ask("MOVE", the.fid_path(1, 1), headers=headers).status == 403
    assert node.ask("MOVE", the.fid_path(1, 1), headers={**headers, "X-Mogile-Cluster": the.cluster}).status == 201


def test_nothing_writes_through_the_read_port(nginx_node, the):
    path = the.fid_path(1, 1)
    for method in ("PUT", "DELETE", "MKCOL", "MOVE", "POST"):
        assert nginx_node.ask(method, path, b"x" if method in ("PUT", "POST") else None, port=7580).status == 405
    for lists in ("fids", "damaged", "scrub", "initialise"):
        assert nginx_node.ask("GET", f"/dev1/{lists}", port=7580).status == 404


REFUSED_READS = [
    ("/dev9/0/000/000/0000000001.fid", {404}),
    ("/dev1/0/000/000/0000000001.fid", {404}),
    ("/dev1/0/000/001/0000000001.fid", {400, 404}),
    ("/dev1/.mogile-partial/0000000000000000001", {400, 404}),
    ("/dev1/.mogile-damaged/0000000000000000001", {400, 404}),
    ("/dev1/.mogile-quarantine/", {400, 404}),
    ("/dev1/0/000/000/0000000001.fid%00", {400}),
    ("/dev1/0/000/000/..%2f0000000001.fid", {400}),
    ("/dev1/" + "a" * 9000, {400, 414}),
]


@pytest.mark.parametrize("port", [7500, 7580])
def test_reads_that_are_refused_at_both_doors(nginx_node, port):
    for path, statuses in REFUSED_READS:
        assert nginx_node.ask("GET", path, port=port).status in statuses, path


@pytest.mark.parametrize("port", [7500, 7580])
def test_many_reads_on_one_connection(nginx_node, the, port):
    nginx_node.put(1, 1, BODY)
    request = f"GET {the.fid_path(1, 1)} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    last = request.replace(b"Host: x", b"Host: x\r\nConnection: close")
    answer = nginx_node.raw(request * 4 + last, port)
    assert answer.count(b"HTTP/1.1 200 ") == 5
    assert answer.count(BODY) == 5
