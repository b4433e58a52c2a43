"""The side channel, a line each."""

import hashlib
import os
import socket

import pytest

LARGE = os.urandom(3_000_000)


def talk(node, *lines):
    with socket.create_connection((node.address, 7501), 30) as stream:
        stream.sendall(b"".join(line.encode() + b"\r\n" for line in (*lines, "quit")))
        stream.settimeout(60)
        data = b""
        while piece := stream.recv(65536):
            data += piece
    return data.decode().replace("\r\n", "\n").splitlines()


def test_size_and_digests(node, the):
    node.put(1, 1, LARGE)
    path, missing = the.fid_path(1, 1), the.fid_path(1, 2)
    md5, sha1 = hashlib.md5(LARGE).hexdigest(), hashlib.sha1(LARGE).hexdigest()
    assert talk(node, f"size {path}", f"MD5 {path}", f"md5 {path} fsck", f"SHA-1 {path}") == [
        f"{path} {len(LARGE)}",
        f"{path} MD5={md5}",
        f"{path} MD5={md5}",
        f"{path} SHA-1={sha1}",
    ]
    assert talk(node, f"size {missing}", f"MD5 {missing}", f"SHA-1 {missing}") == [
        f"{missing} -1",
        f"{missing} MD5=-1",
        f"{missing} SHA-1=-1",
    ]
    assert talk(node, "size /dev99/0/000/000/0000000001.fid") == ["/dev99/0/000/000/0000000001.fid -1"]


def test_the_digest_is_of_what_is_on_the_disk(node, the):
    node.put(1, 1, b"good")
    node.file(1, 1).write_bytes(b"evil")
    path = the.fid_path(1, 1)
    assert talk(node, f"MD5 {path}") == [f"{path} MD5={hashlib.md5(b'evil').hexdigest()}"]


def test_nonsense(node):
    assert talk(node, "frobnicate", "", "size", "MD5 /dev1/../x", "size /dev1/%00") == [
        "ERROR: unknown command: frobnicate",
        "ERROR: uri missing",
        "ERROR: uri invalid (contains ..)",
        "ERROR: uri invalid (the path is malformed or escaped)",
    ]
    assert talk(node, "x" * 10_000)[0].startswith("ERROR: line too long")


def test_watch_sends_groups_of_whole_numbers(node):
    with socket.create_connection((node.address, 7501), 30) as stream:
        stream.sendall(b"watch\r\n")
        stream.settimeout(60)
        data = b""
        while data.count(b".\n") < 3:
            data += stream.recv(1000)
    for line in data.decode().splitlines():
        if line != ".":
            devid, percent = line.split("\t")
            assert devid in ("1", "2")
            assert percent == "-" or 0 <= int(percent) <= 100


def test_a_list_of_uris_is_answered_a_line_each(node, the):
    for fid in (1, 2):
        node.put(1, fid, b"x" * fid)
    paths = [the.fid_path(1, fid) for fid in (2, 1, 3)]
    assert talk(node, f"size {' '.join(paths)}") == [f"{paths[0]} 2", f"{paths[1]} 1", f"{paths[2]} -1"]
    sums = [hashlib.sha1(b"x" * fid).hexdigest() for fid in (2, 1)]
    assert talk(node, f"SHA-1 {' '.join(paths)} fsck") == [
        f"{paths[0]} SHA-1={sums[0]}",
        f"{paths[1]} SHA-1={sums[1]}",
        f"{paths[2]} SHA-1=-1",
    ]
    assert talk(node, "MD5 fsck") == ["ERROR: uri missing"]


def test_a_bad_network_for_orders_is_one_line(make_node):
    node = make_node(start=False, admin_from="10.0.0.0/99")
    with pytest.raises(AssertionError, match="MOGILE_ADMIN_FROM must be networks"):
        node.start()


def test_shutdown_from_loopback_stops_the_node(node):
    with socket.create_connection((node.address, 7501), 30) as stream:
        stream.sendall(b"shutdown\r\n")
    assert node.process.wait(60) == 0


def test_what_is_asked_together_is_answered_in_order_and_one_bad_name_fails_alone(node, the):
    for fid in range(1, 41):
        node.put(1 + fid % 2, fid, b"x" * fid)
    loop = node.file(1, 9_000_000_000).parent
    loop.parent.mkdir(parents=True)
    loop.symlink_to(loop.name)
    paths = [the.fid_path(1 + fid % 2, fid) for fid in range(1, 41)]
    bad, missing = the.fid_path(1, 9_000_000_000), the.fid_path(1, 99)
    answers = talk(
        node,
        *(f"size {path}" for path in paths),
        f"size {bad}",
        f"SIZE {missing}",
        "size /dev1/../x",
        f"MD5 {paths[0]}",
        f"size {paths[1]}",
        "what",
        f"size {paths[2]}",
    )
    assert answers[:40] == [f"{path} {fid}" for fid, path in enumerate(paths, 1)]
    assert answers[40].startswith(f"ERR read {bad} failed: ")
    assert answers[41:] == [
        f"{missing} -1",
        "ERROR: uri invalid (contains ..)",
        f"{paths[0]} MD5={hashlib.md5(b'x').hexdigest()}",
        f"{paths[1]} 2",
        "ERROR: unknown command: what",
        f"{paths[2]} 3",
    ]
    assert talk(node, f"size {paths[0]}", "x" * 10_000, f"size {paths[1]}") == [
        f"{paths[0]} 1",
        "ERROR: line too long",
    ], "what came before it is answered"
