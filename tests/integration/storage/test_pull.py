"""Copies between two real nodes."""

import hashlib
import json
import os
import socket
import time

import pytest

LARGE = os.urandom(5_000_000)


@pytest.fixture
def pair(make_node):
    return make_node(2), make_node(2)


def item(source, the, devid, fid, data, *, to=1, port=7500, **more):
    url = f"http://{source.address}:{port}{the.fid_path(devid, fid)}"
    return {"fid": fid, "devid": to, "source": url, "length": len(data), "md5": None, **more}


def pull(node, items, cluster):
    headers = {"X-Mogile-Cluster": cluster} if cluster else {}
    answer = node.ask("POST", "/pull", json.dumps({"items": items}).encode(), headers)
    if answer.status != 200:
        return answer.status
    return {line["fid"]: line for line in map(json.loads, answer.body.splitlines())}


def test_small_and_large_files_are_copied_and_durable_attributes_are_new(pair, the):
    source, target = pair
    files = {fid: LARGE[: fid * 1000] for fid in range(1, 60)} | {100: LARGE, 101: b""}
    for fid, data in files.items():
        assert source.put(1, fid, data).status == 201
    result = pull(target, [item(source, the, 1, fid, data) for fid, data in files.items()], the.cluster)
    assert set(result) == set(files)
    for fid, data in files.items():
        line = result[fid]
        assert (line["status"], line["length"], line["md5"]) == ("ok", len(data), hashlib.md5(data).hexdigest())
        copy = target.get(1, fid)
        assert copy.body == data
        assert copy["etag"] == f'"{line["copyId"]}"'
        assert copy["etag"] != source.get(1, fid)["etag"]


def test_pull_through_nginx_of_the_source(make_node, the):
    source, target = make_node(1).start_nginx(), make_node(1)
    source.put(1, 1, LARGE)
    source.put(1, 2, b"small")
    the.wait_until(lambda: source.get(1, 1, port=7580).status == 200, "nginx has heard of its agent")
    items = [item(source, the, 1, 1, LARGE, port=7580), item(source, the, 1, 2, b"small", port=7580)]
    result = pull(target, items, the.cluster)
    assert [result[fid]["status"] for fid in (1, 2)] == ["ok", "ok"]
    assert target.get(1, 1).body == LARGE
    assert target.get(1, 2).body == b"small"


def test_repeat_and_differing(pair, the):
    source, target = pair
    source.put(1, 1, b"same")
    source.put(1, 2, b"source")
    first = target.put(1, 1, b"same")["etag"]
    target.put(1, 2, b"target")
    result = pull(target, [item(source, the, 1, 1, b"same"), item(source, the, 1, 2, b"source")], the.cluster)
    assert (result[1]["status"], f'"{result[1]["copyId"]}"') == ("ok", first)
    assert (result[2]["status"], result[2]["reason"]) == ("error", "exists_differs")
    assert target.get(1, 2).body == b"target"
    result = pull(target, [item(source, the, 1, 2, b"source", replace=True)], the.cluster)
    assert result[2]["status"] == "ok"
    assert target.get(1, 2).body == b"source"


@pytest.mark.parametrize("data", [b"small", LARGE])
def test_what_does_not_match_is_not_stored(pair, the, data):
    source, target = pair
    source.put(1, 1, data)
    wrong = hashlib.md5(b"else").hexdigest()
    items = [
        item(source, the, 1, 1, data, to=1, md5=wrong),
        {**item(source, the, 1, 1, data + b"!"), "fid": 2},
        {**item(source, the, 1, 77, data), "fid": 3},
        {**item(source, the, 1, 1, data, to=9), "fid": 4},
    ]
    result = pull(target, items, the.cluster)
    reasons = {fid: line["reason"] for fid, line in result.items()}
    assert reasons == {1: "digest_mismatch", 2: "length_mismatch", 3: "source_missing", 4: "device"}
    for fid in (1, 2, 3):
        assert target.get(1, fid).status == 404


def test_a_host_of_another_cluster_or_none_is_not_read(make_node, the):
    target = make_node()
    foreign = make_node(cluster_id=the.other_cluster)
    unclaimed = make_node(cluster_id="")
    for source in (foreign, unclaimed):
        source.put(1, 1, b"secret")
        result = pull(target, [item(source, the, 1, 1, b"secret")], the.cluster)
        assert result[1]["reason"] == "source_foreign"
    assert target.get(1, 1).status == 404


def test_an_unreachable_source(make_node, the):
    target = make_node()
    gone = make_node(start=False)
    result = pull(target, [item(gone, the, 1, 1, b"x")], the.cluster)
    assert result[1]["reason"] == "source_unreachable"


def test_a_source_that_dies_and_returns_on_kept_connections(pair, the):
    source, target = pair
    source.put(1, 1, b"one")
    source.put(1, 2, b"two")
    assert pull(target, [item(source, the, 1, 1, b"one")], the.cluster)[1]["status"] == "ok"
    source.stop()
    source.start()
    assert pull(target, [item(source, the, 1, 2, b"two")], the.cluster)[2]["status"] == "ok"


def test_orders_need_the_cluster_and_a_known_form(pair, the):
    source, target = pair
    good = item(source, the, 1, 1, b"x")
    assert pull(target, [good], None) == 403
    assert pull(target, [good], the.other_cluster) == 421
    bad = [
        {**good, "source": "file:///etc/passwd"},
        {**good, "source": "http://127.0.0.1:1/admin"},
        {**good, "source": good["source"] + "?x=1"},
        {**good, "fid": -1},
        {**good, "length": "5"},
        {**good, "md5": "xyz"},
        "no object",
    ]
    for entry in bad:
        assert pull(target, [entry], the.cluster) == 400, entry
    assert pull(target, [good] * 1001, the.cluster) == 400
    assert target.ask("POST", "/pull", b"{", {"X-Mogile-Cluster": the.cluster}).status == 400


def test_closing_the_connection_cancels_what_has_not_begun(pair, the):
    source, target = pair
    source.put(1, 1, LARGE)
    base = item(source, the, 1, 1, LARGE)
    orders = json.dumps({"items": [{**base, "fid": fid} for fid in range(1000, 1400)]}).encode()
    request = b"POST /pull HTTP/1.1\r\nX-Mogile-Cluster: %b\r\nContent-Length: %d\r\n\r\n"
    with socket.create_connection((target.address, 7500), 30) as stream:
        stream.sendall(request % (the.cluster.encode(), len(orders)) + orders)
        answer = b""
        while b'"ok"' not in answer:
            answer += stream.recv(2000)

    def names():
        return {name for _, _, files in os.walk(target.docroot / "dev1") for name in files if name.endswith(".fid")}

    def at_rest():
        """What had begun is finished, and nothing else comes."""
        before = names()
        time.sleep(1)
        return names() == before and before

    stored = the.wait_until(at_rest, "the copies under way to end")
    assert 0 < len(stored) < 400
    for name in sorted(stored)[:3]:
        assert target.get(1, int(name[:-4])).body == LARGE
    assert target.ask("GET", "/").status == 200
