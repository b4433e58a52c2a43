"""Orders to delete many copies of a device at once."""

import os

import pytest

OTHER = "0" * 32


def order(node, lines, devid=1, **headers):
    return node.ask("POST", f"/dev{devid}/delete", "".join(f"{line}\n" for line in lines).encode(), headers)


def put(node, fid):
    answer = node.put(1, fid, b"x")
    assert answer.status == 201
    return answer.headers["etag"].strip('"')


def words(answer):
    assert answer.status == 200, answer.body
    return dict(line.split(" ", 1) for line in answer.body.decode().splitlines())


def test_each_line_is_answered_in_its_place(node):
    ids = {fid: put(node, fid) for fid in (1, 2, 3, 12_345_678_901)}
    lines = [f"3 {OTHER}", "1 -", "77 -", f"12345678901 {ids[12_345_678_901]}", f"2 {ids[2]}", f"78 {OTHER}"]
    answer = order(node, lines)
    assert answer.status == 200
    expected = ["3 other", "1 deleted", "77 missing", "12345678901 deleted", "2 deleted", "78 missing"]
    assert answer.body.decode().splitlines() == expected
    assert [node.file(1, fid).exists() for fid in ids] == [False, False, True, False]
    twice = order(node, ["3 -", "3 -"]).body.decode().splitlines()
    assert sorted(twice) == ["3 deleted", "3 missing"], "one of them met the copy; which one is nobody's business"


def test_a_thousand_copies_in_one_order(node):
    """More than a job takes at once; the devices of this node have a sync for each file."""
    for fid in range(1, 1001):
        path = node.file(1, fid)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    answer = order(node, [f"{fid} -" for fid in range(1, 1001)])
    assert set(words(answer).values()) == {"deleted"}
    assert list(words(answer)) == [str(fid) for fid in range(1, 1001)]
    assert not list((node.docroot / "dev1" / "0").rglob("*.fid"))


@pytest.mark.root
def test_with_one_sync_for_many(make_node, loop_xfs):
    node = make_node(start=False, sync_mode="auto")
    loop_xfs(node.docroot / "dev1")
    node.start()
    node.wait_state(1, "ready")
    assert node.status(1)["syncMode"] == "group"
    ids = {fid: put(node, fid) for fid in range(1, 131)}
    answer = order(node, [*(f"{fid} {copy_id}" for fid, copy_id in ids.items()), f"1 {OTHER}"])
    assert [line.split()[1] for line in answer.body.decode().splitlines()] == ["deleted"] * 130 + ["missing"]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "1 to 1000 lines"),
        (b"1 -", "line feed"),
        (b"1 -\n2\n", "line 2"),
        (b"1 -\nx -\n", "line 2"),
        (b"9999999999999999999 -\n", "line 1"),
        (b"1 " + b"g" * 32 + b"\n", "line 1"),
        (b"1 -\r\n", "line 1"),
        (b"1 -\n" * 1001, "1 to 1000 lines"),
    ],
)
def test_a_malformed_order_deletes_nothing(node, body, sentence):
    put(node, 1)
    answer = node.ask("POST", "/dev1/delete", body)
    assert answer.status == 400
    assert sentence in answer.body.decode()
    assert node.file(1, 1).exists()


def test_who_may_and_where(make_node, the):
    node = make_node(anonymous_writes="safe")
    put(node, 1)
    assert order(node, ["1 -"]).status == 403
    assert order(node, ["1 -"], **{"X-Mogile-Cluster": the.other_cluster}).status == 421
    assert order(node, ["1 -"], devid=9, **{"X-Mogile-Cluster": the.cluster}).status == 404
    assert node.ask("POST", "/dev1/delete", b"x" * 70_000, {"X-Mogile-Cluster": the.cluster}).status == 413
    assert node.file(1, 1).exists()
    assert words(order(node, ["1 -"], **{"X-Mogile-Cluster": the.cluster})) == {"1": "deleted"}


def test_a_damaged_copy_is_forgotten(node):
    put(node, 5)
    os.truncate(node.file(1, 5), 0)
    assert node.get(1, 5).status == 500
    assert words(order(node, ["5 -"])) == {"5": "deleted"}
    assert node.ask("GET", "/dev1/damaged").body == b".\n"


def test_a_device_that_fails_says_so_for_every_copy(make_node, sick_disk):
    node = make_node(start=False)
    tell = sick_disk(node.docroot / "dev1")
    node.start()
    node.wait_state(1, "ready")
    put(node, 1)
    tell("eio .fid")
    answer = order(node, ["1 -", "2 -"])
    assert all(word.startswith("failed ") for word in words(answer).values()), answer.body
    tell("")
