"""Bit rot is found by reading everything again, at a chosen rate, and never by anybody's reads."""

import hashlib
import http.client
import os
import random
import time

import pytest

EAGER = "from mogile_storage import scrub; scrub.IDLE_SECONDS = 0.2"  # instead of 5: a device is ready a moment after its scrub begins
FAST = {"scrub_bytes_per_second": str(1 << 30), "scrub_files_per_second": "1000000", "scrub_interval_hours": "0"}


def rot(path):
    """One bit, behind the node's back."""
    data = bytearray(path.read_bytes())
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    path.write_bytes(data)


def scrub(node, the, devid=1, seconds=90):
    """Order a pass and wait for its end; its figures."""
    before = node.status(devid)["scrub"]["started"]
    assert node.ask("POST", f"/dev{devid}/scrub", b"").status == 202

    def over():
        current = node.status(devid)["scrub"]
        return current["started"] != before and not current["running"]

    the.wait_until(over, "the scrub is over", seconds)
    return node.status(devid)["scrub"]


def put_all(node, the, bodies):
    """Over one connection: these are many."""
    connection = http.client.HTTPConnection(node.address, 7500, timeout=30)
    for fid, body in bodies.items():
        connection.request("PUT", the.fid_path(1, fid), body)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 201
    connection.close()


def damaged(node, devid=1):
    *rows, end = node.ask("GET", f"/dev{devid}/damaged?limit=100000").body.decode().splitlines()
    assert end == "."
    return {int(row.split()[0]): row.split()[2] for row in rows}


@pytest.mark.timeout(600)
def test_exactly_the_rotten_copies_are_found(make_node, the):
    """1 in 100 of 1 000 files, of 10 000 with FULL=1."""
    node = make_node(**FAST)
    last = 10_000 if os.environ.get("FULL") == "1" else 1000
    bodies = {fid: os.urandom(fid % 3000 + 1) for fid in range(1, last + 1)}
    put_all(node, the, bodies)
    large = os.urandom(5_000_000)
    for fid in (50_000, 12_345_678_901):
        assert node.put(1, fid, large).status == 201
    victims = set(random.sample(sorted(bodies), last // 100)) | {12_345_678_901}
    for fid in victims:
        rot(node.file(1, fid))
    os.truncate(node.file(1, last), 0)
    os.unlink(node.file(1, last - 1))
    victims = (victims | {last}) - {last - 1}

    assert damaged(node) == {}  # nobody looked yet
    figures = scrub(node, the, seconds=300)
    assert damaged(node) == {fid: "length" if fid == last else "digest" for fid in victims}
    assert (figures["files"], figures["damaged"], figures["recorded"]) == (last + 1, len(victims), 0)
    assert len(list((node.docroot / "dev1" / ".mogile-quarantine").iterdir())) == len(victims)
    for fid, body in bodies.items():
        if fid not in victims | {last - 1}:
            assert node.get(1, fid).body == body
    for fid in victims:
        assert node.get(1, fid).status == 404
    assert node.status(1)["quarantined"] == len(victims)
    metrics = node.ask("GET", "/metrics", port=7502).body.decode()
    assert f'mogile_storage_damaged_copies{{devid="1"}} {len(victims)}' in metrics
    assert f'mogile_storage_scrub_damaged_copies_total{{devid="1"}} {len(victims)}' in metrics
    assert f'mogile_storage_scrub_files_total{{devid="1"}} {last + 1}' in metrics

    assert scrub(node, the)["damaged"] == 0
    for fid in victims:  # a good copy comes back: all is well
        assert node.put(1, fid, bodies.get(fid, large)).status == 201
    assert damaged(node) == {}
    assert scrub(node, the)["damaged"] == 0


def test_files_of_another_server_are_recorded_once_and_watched_from_then_on(make_node, the):
    node = make_node(start=False, **FAST)
    path = node.file(1, 7)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"taken over")
    node.start()
    copy = node.get(1, 7)["etag"]
    assert scrub(node, the)["recorded"] == 1
    answer = node.get(1, 7)
    assert (answer["etag"], answer["x-mogile-md5"]) == (copy, hashlib.md5(b"taken over").hexdigest())
    assert scrub(node, the)["recorded"] == 0
    rot(path)
    assert scrub(node, the)["damaged"] == 1
    assert damaged(node) == {7: "digest"}


def test_files_without_a_record_are_left_alone_when_told_so(make_node, the):
    node = make_node(start=False, scrub_records="0", **FAST)
    path = node.file(1, 7)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"taken over")
    node.start()
    assert scrub(node, the)["recorded"] == 0
    rot(path)
    assert scrub(node, the)["damaged"] == 0
    assert "x-mogile-md5" not in node.get(1, 7).headers


def test_the_rate_holds_and_a_restart_goes_on_where_it_was(make_node, the):
    node = make_node(first=EAGER, **{**FAST, "scrub_bytes_per_second": "500000"})
    for fid in range(1, 31):
        assert node.put(1, fid, os.urandom(100_000)).status == 201
    rot(node.file(1, 2))
    node.stop()
    node.settings["MOGILE_SCRUB_INTERVAL_HOURS"] = "1000"
    began = time.monotonic()
    node.start()
    the.wait_until(lambda: 5 <= node.status(1)["scrub"]["position"] <= 28, "the pass is on its way")
    node.stop()
    rot(node.file(1, 3))  # behind it: not seen in this pass
    node.start()
    the.wait_until(lambda: node.status(1)["scrub"]["finished"] > 0, "the pass is over")
    figures = node.status(1)["scrub"]
    assert damaged(node).keys() == {2}
    assert figures["files"] <= 31  # the files before the restart were not read again
    assert figures["bytes"] >= 2_900_000
    assert time.monotonic() - began > 4.0
    time.sleep(0.5)
    assert node.status(1)["scrub"]["started"] == figures["started"]  # the next one is due in 1000 hours


def test_an_order_begins_anew_in_the_middle_of_a_pass(make_node, the):
    node = make_node(**{**FAST, "scrub_files_per_second": "10"})
    for fid in range(1, 41):
        node.put(1, fid, b"some bytes")
    assert node.ask("POST", "/dev1/scrub", b"").status == 202
    the.wait_until(lambda: node.status(1)["scrub"]["position"] >= 10, "the pass is on its way")
    rot(node.file(1, 1))
    figures = scrub(node, the)
    assert (figures["files"], damaged(node)) == (40, {1: "digest"})


def test_who_may_order(make_node, the):
    node = make_node(anonymous_writes="safe")
    assert node.ask("POST", "/dev1/scrub", b"").status == 403
    assert node.ask("POST", "/dev1/scrub", b"", {"X-Mogile-Cluster": the.other_cluster}).status == 421
    assert node.ask("POST", "/dev1/scrub", b"", {"X-Mogile-Cluster": the.cluster}).status == 202
    assert node.ask("POST", "/dev9/scrub", b"", {"X-Mogile-Cluster": the.cluster}).status == 404


def test_uploads_and_deletes_go_on_under_a_scrub(make_node, the):
    node = make_node(**FAST)
    for fid in range(1, 301):
        node.put(1, fid, os.urandom(2000))
    for turn in range(20):
        node.ask("POST", "/dev1/scrub", b"")
        for fid in range(turn * 15 + 1, turn * 15 + 16):
            assert node.ask("DELETE", the.fid_path(1, fid)).status == 204
            assert node.put(1, fid, os.urandom(2000)).status == 201
    scrub(node, the)
    assert damaged(node) == {}
    assert node.status(1)["scrub"]["files"] == 300


def test_a_file_system_without_attributes(make_node, the, tmp_path):
    """Refused in one line, or served without digests when asked to."""
    refuse = ["-e", "trace=fsetxattr", "-e", "inject=fsetxattr:error=EOPNOTSUPP"]
    node = make_node(start=False, prefix=["strace", "-D", "-f", "-qq", "-o", str(tmp_path / "strace"), *refuse], **FAST)
    node.start()
    node.wait_state(1, "failed")
    assert "MOGILE_WITHOUT_ATTRIBUTES=1" in node.status(1)["message"]
    assert node.put(1, 1, b"some bytes").status == 503
    node.stop()

    node.settings["MOGILE_WITHOUT_ATTRIBUTES"] = "1"
    node.start()
    copy = node.put(1, 1, b"some bytes")
    large = os.urandom(3_000_000)
    assert (copy.status, node.put(1, 2, large).status) == (201, 201)
    assert node.get(1, 1)["etag"] == copy["etag"]
    assert node.get(1, 2).body == large
    again = node.put(1, 1, b"some bytes")
    assert (again.status, again["etag"]) == (200, copy["etag"])
    assert node.put(1, 1, b"other bytes").status == 409
    assert node.status(1)["syncMode"] == "each"
    assert node.ask("POST", "/dev1/scrub", b"").status == 503
    path = the.fid_path(1, 1)
    assert node.ask("DELETE", path, headers={"If-Match": '"' + "0" * 32 + '"'}).status == 412
    assert node.ask("DELETE", path, headers={"If-Match": copy["etag"]}).status == 204
