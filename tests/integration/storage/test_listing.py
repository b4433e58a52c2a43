"""What trackers read to find orphans and to heal: the lists of fids and of damaged copies."""

import json
import os
import socket
import threading

import pytest


def lines(answer):
    assert answer.status == 200, answer.body
    *rows, end = answer.body.decode().splitlines()
    assert end == "."
    return [row.split(" ") for row in rows]


def ask(node, what, query="", **headers):
    return node.ask("GET", f"/dev1/{what}{query}", headers=headers)


def damage(node, fid):
    """Bit rot: other bytes of the same length, behind the node's back."""
    path = node.file(1, fid)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(node, fid):
    os.truncate(node.file(1, fid), 3)


def fill(node):
    """The fids 1000000 to 1199999, the files of a directory being links to one."""
    for third in range(200):
        directory = node.docroot / "dev1" / "0" / "001" / f"{third:03}"
        directory.mkdir(parents=True)
        first = directory / f"0001{third:03}000.fid"
        first.touch()
        for number in range(1, 1000):
            os.link(first, directory / f"0001{third:03}{number:03}.fid")


def test_fids_in_order_with_length_and_time(node):
    fids = [3, 1, 999, 1000, 2_000_000_001, 12_345_678_901, 99_999_999_999_999]
    for fid in fids:
        assert node.put(1, fid, b"x" * (fid % 7)).status == 201
    rows = lines(ask(node, "fids"))
    assert [int(fid) for fid, _, _ in rows] == sorted(fids)
    for fid, length, mtime in rows:
        status = node.file(1, int(fid)).stat()
        assert (int(length), int(mtime)) == (int(fid) % 7, int(status.st_mtime))
    assert [int(r[0]) for r in lines(ask(node, "fids", "?after=3&limit=2"))] == [999, 1000]
    assert [int(r[0]) for r in lines(ask(node, "fids", "?after=12345678901"))] == [99_999_999_999_999]
    assert lines(ask(node, "fids", "?after=99999999999999")) == []
    assert node.ask("GET", "/dev2/fids").body == b".\n"
    assert node.ask("GET", "/dev3/fids").status == 404


@pytest.mark.parametrize(
    "query", ["?after=-1", "?limit=0", "?limit=1000001", "?after=x", "?x=1", "?after=9223372036854775808"]
)
def test_bad_parameters(node, query):
    assert ask(node, "fids", query).status == 400
    assert ask(node, "damaged", query).status == 400


def test_who_may_list(make_node, the):
    node = make_node(anonymous_writes="safe")
    for what in ("fids", "damaged"):
        assert ask(node, what).status == 403
        assert ask(node, what, **{"X-Mogile-Cluster": the.other_cluster}).status == 421
        assert ask(node, what, **{"X-Mogile-Cluster": the.cluster}).body == b".\n"


@pytest.mark.timeout(300)
def test_many_files_pages_and_constant_memory(node):
    """200 000 names, most of them links to one file: the list is complete and the node does not grow with it."""
    fill(node)

    def peak():
        with open(f"/proc/{node.process.pid}/status", encoding="ascii") as stream:
            return next(int(line.split()[1]) for line in stream if line.startswith("VmHWM"))

    before = peak()
    rows = lines(ask(node, "fids", "?limit=1000000"))
    assert [int(row[0]) for row in rows] == [*range(1_000_000, 1_200_000)]
    assert peak() - before < 8 << 10
    second = lines(ask(node, "fids", "?after=1199000"))
    assert [int(row[0]) for row in second] == list(range(1_199_001, 1_200_000))


@pytest.mark.timeout(300)
def test_a_slow_reader_holds_up_nobody_and_a_third_listing_waits(node, the):
    node.put(1, 1, b"x")
    fill(node)
    slow = []
    for _ in range(2):
        stream = socket.socket()
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stream.connect((node.address, 7500))
        stream.sendall(b"GET /dev1/fids HTTP/1.1\r\nHost: x\r\n\r\n")
        assert stream.recv(100)
        slow.append(stream)
    assert ask(node, "fids").status == 503
    assert node.get(1, 1).body == b"x"
    for stream in slow:
        stream.close()
    the.wait_until(lambda: ask(node, "fids").status == 200, "the place of a broken-off listing is free again")


def test_http_1_0_is_refused_since_it_cannot_show_the_end(node):
    assert node.raw(b"GET /dev1/fids HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_a_short_copy_is_reported_kept_and_listed_until_it_is_healed(node, the):
    copy = node.put(1, 5, b"some bytes")["etag"].strip('"')
    node.put(1, 6, b"others")
    cut(node, 5)
    assert node.get(1, 5).status == 500
    assert node.get(1, 5).status == 404
    ((fid, copy_id, reason, seconds),) = lines(ask(node, "damaged"))
    assert (fid, copy_id, reason) == ("5", copy, "length")
    assert abs(int(seconds) - node.docroot.stat().st_mtime) < 600
    kept = list((node.docroot / "dev1" / ".mogile-quarantine").iterdir())
    assert [path.read_bytes() for path in kept] == [b"som"]
    the.wait_until(lambda: b"\ndamaged: 1\n" in node.ask("GET", "/dev1/usage").body, "the usage file counts it")
    assert (node.status(1)["damaged"], node.status(1)["quarantineFiles"], node.status(1)["quarantineBytes"]) == (
        1,
        1,
        3,
    )

    node.stop()
    node.start()
    assert len(lines(ask(node, "damaged"))) == 1
    assert node.status(1)["quarantineBytes"] == 3

    assert node.put(1, 5, b"some bytes").status == 201
    assert lines(ask(node, "damaged")) == []
    the.wait_until(lambda: b"\ndamaged: 0\n" in node.ask("GET", "/dev1/usage").body, "it is well again")
    assert len(list((node.docroot / "dev1" / ".mogile-quarantine").iterdir())) == 1
    assert node.get(1, 5).body == b"some bytes"


def test_a_pull_onto_the_same_device_heals(make_node, node, the):
    good = make_node()
    for each in (node, good):
        each.put(1, 5, b"some bytes")
    cut(node, 5)
    assert node.get(1, 5).status == 500
    source = f"http://{good.address}:7500{the.fid_path(1, 5)}"
    item = {"fid": 5, "devid": 1, "source": source, "length": 10, "md5": None, "replace": True}
    order = json.dumps({"items": [item]}).encode()
    answer = node.ask("POST", "/pull", order, {"X-Mogile-Cluster": the.cluster})
    assert b'"status": "ok"' in answer.body
    assert lines(ask(node, "damaged")) == []
    assert node.get(1, 5).body == b"some bytes"


def test_deleting_a_damaged_copy_forgets_it(node, the):
    for fid in (5, 6):
        copy = node.put(1, fid, b"some bytes")["etag"]
        cut(node, fid)
        assert node.get(1, fid).status == 500
    path = the.fid_path(1, 6)
    assert node.ask("DELETE", path, headers={"If-Match": '"' + "0" * 32 + '"'}).status == 412
    assert node.ask("DELETE", path, headers={"If-Match": copy}).status == 204
    assert node.ask("DELETE", path).status == 404
    assert [row[0] for row in lines(ask(node, "damaged"))] == ["5"]
    assert node.ask("DELETE", the.fid_path(1, 5)).status == 204
    assert lines(ask(node, "damaged")) == []


def test_two_readers_of_one_damaged_copy_report_it_once(node):
    node.put(1, 5, b"some bytes")
    cut(node, 5)
    answers = []
    readers = [threading.Thread(target=lambda: answers.append(node.get(1, 5).status)) for _ in range(8)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert set(answers) <= {500, 404}
    assert 500 in answers
    assert len(lines(ask(node, "damaged"))) == 1
    assert len(list((node.docroot / "dev1" / ".mogile-quarantine").iterdir())) == 1


def test_damaged_copies_come_in_pages(node):
    for fid in (7, 12_345_678_901, 3, 20):
        node.put(1, fid, b"some bytes")
        cut(node, fid)
        assert node.get(1, fid).status == 500
    assert [row[0] for row in lines(ask(node, "damaged"))] == ["3", "7", "20", "12345678901"]
    assert [row[0] for row in lines(ask(node, "damaged", "?after=3&limit=2"))] == ["7", "20"]
