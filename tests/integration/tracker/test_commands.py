"""Commands against a live tracker where the recorded exchanges do not go: framing limits, our own commands, spread of destinations."""

import contextlib
import random
import socket
import threading
import time
import urllib.request
from typing import Any

import pytest

from mogile_core.paths import parse_fid_path
from testkit.waiting import wait_until


def put(url: str, body: bytes) -> int:
    with urllib.request.urlopen(urllib.request.Request(url, data=body, method="PUT"), timeout=90) as response:
        return int(response.status)


def store(client: Any, key: str, body: bytes, extra: str = "") -> str:
    opened = client.ok(f"create_open domain=d1&key={key}{extra}")
    put(opened["path"], body)
    client.ok(
        f"create_close domain=d1&key={key}&fid={opened['fid']}&devid={opened['devid']}&path={opened['path']}&size={len(body)}"
    )
    return str(opened["fid"])


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=90) as response:
        return bytes(response.read())


# ---- the connection


def test_pipelined_requests_are_answered_in_order(cluster: Any) -> None:
    client = cluster.tracker().client()
    client.send(b"sleep duration=1&callid=0\r\n" + b"".join(b"noop callid=%d\r\n" % i for i in range(1, 3000)))
    assert [client.line() for _ in range(3000)] == [b"OK callid=%d\r\n" % i for i in range(3000)]


def test_a_request_in_pieces(cluster: Any) -> None:
    client = cluster.tracker().client()
    for piece in (b"no", b"op call", b"id=4", b"\r", b"\n\nnoop", b"\n"):
        client.send(piece)
        time.sleep(0.02)
    assert client.line() == b"OK callid=4\r\n"
    assert client.line() == b"OK \r\n"


def test_a_long_request_is_refused_and_hurts_nobody_else(cluster: Any) -> None:
    tracker = cluster.tracker(request_bytes_max=4096)
    other, client = tracker.client(), tracker.client()
    assert client.ask(f"noop x={'y' * 4000}").ok
    with contextlib.suppress(OSError):
        client.send(b"sleep duration=1\r\nnoop callid=2\r\nnoop x=" + b"y" * 5000)
    assert client.line() == b"OK \r\n"
    assert client.line() == b"OK callid=2\r\n"
    assert client.line().startswith(b"ERR request_too_long ")
    with pytest.raises((EOFError, OSError)):
        client.line()
    assert other.raw("noop") == "OK "


def test_a_client_that_does_not_read_is_cut_and_hurts_nobody_else(cluster: Any) -> None:
    tracker = cluster.tracker(slow_reader_seconds=1.5)
    other = tracker.client()
    with socket.create_connection((tracker.address, tracker.port)) as deaf:
        deaf.settimeout(0.3)
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        request = f"noop callid={'x' * 20000}\r\n".encode()
        cut, deadline = False, time.monotonic() + 90
        while not cut and time.monotonic() < deadline:
            try:
                deaf.sendall(request)
            except TimeoutError:
                assert other.raw("noop") == "OK "
            except OSError:
                cut = True
        assert cut, "the deaf client was served for ever"
    assert other.raw("noop") == "OK "


def test_noise_gets_answers_or_silence_but_never_a_dead_tracker(cluster: Any) -> None:
    tracker = cluster.tracker()
    dice = random.Random(5)
    words = [
        b"create_open",
        b"get_paths",
        b"!stats",
        b"!want 3",
        b"list_keys",
        b"domain=",
        b"&",
        b"=",
        b"%",
        b"\0",
        b"\xff",
        b" ",
    ]
    for _ in range(150):
        client = tracker.client()
        line = b"".join(dice.choice(words) for _ in range(dice.randrange(1, 12))).replace(b"\n", b"")
        client.send(line + b"\r\nnoop callid=last\r\n")
        for _ in range(200):
            if client.line() == b"OK callid=last\r\n":
                break
        else:
            pytest.fail(f"no answer after {line!r}")
        client.close()
        tracker.clients.remove(client)
    assert tracker.process.poll() is None
    assert "Traceback" not in tracker.log()


# ---- files


@pytest.mark.timeout(600)
def test_destinations_are_on_distinct_hosts_and_zones(cluster: Any) -> None:
    for devids in ((1, 2), (3, 4), (5, 6), (7, 8)):
        cluster.node(*devids)
    client = cluster.tracker().client()
    cluster.register(client, zones={1: "a", 2: "a", 3: "b", 4: "c"})
    client.ok("create_domain domain=d1")
    host_of = {devid: (devid + 1) // 2 for devid in range(1, 9)}
    zones = {1: "a", 2: "a", 3: "b", 4: "c"}
    for _ in range(40):
        opened = client.ok("create_open domain=d1&key=k&multi_dest=1")
        assert opened["dev_count"] == "3"
        hosts = [host_of[int(opened[f"devid_{i}"])] for i in (1, 2, 3)]
        assert len(set(hosts)) == 3
        assert {zones[h] for h in hosts} == {"a", "b", "c"}
        for i in (1, 2, 3):
            path = opened[f"path_{i}"].partition("7500")[2]
            assert parse_fid_path(path) == (int(opened[f"devid_{i}"]), int(opened["fid"]))


@pytest.mark.timeout(600)
def test_files_by_key(three_nodes: Any) -> None:
    cluster, client = three_nodes, three_nodes.trackers[0].client()
    client.ok("create_domain domain=d1")
    client.ok("create_class domain=d1&class=md&mindevcount=2&hashtype=MD5")
    fid = store(client, "a", b"one", "&class=default")
    assert client.ok("file_info domain=d1&key=a")["class"] == "default"
    cluster.trackers[0].without("replicate")  # it would find the digest
    newer = store(client, "a", b"three", "&class=md")
    info = client.ok("file_info domain=d1&key=a&devices=1")
    cluster.trackers[0].again("replicate")
    assert (info["fid"], info["length"], info["checksum"]) == (newer, "5", "MISSING")
    paths = client.ok("get_paths domain=d1&key=a&noverify=1")
    assert get(paths["path1"]) == b"three"

    def copies() -> int:
        return len(client.ok("file_info domain=d1&key=a&devices=1")["devids"].split(","))

    wait_until(lambda: copies() == 2, "the second copy")
    paths = client.ok("get_paths domain=d1&key=a&pathcount=9")
    assert paths["paths"] == "2"
    assert {get(paths["path1"]), get(paths["path2"])} == {b"three"}
    gone = "SELECT count(*) = 0 FROM file_on WHERE fid = $1"
    wait_until(lambda: cluster.value(gone, int(fid)), "the overwritten file to be deleted")


def test_close_with_a_moved_hosts_old_address(three_nodes: Any) -> None:
    """The address in the path may be one the host no longer has; what counts is that the bytes are where they belong."""
    client = three_nodes.trackers[0].client()
    client.ok("create_domain domain=d1")
    opened = client.ok("create_open domain=d1&key=a")
    put(opened["path"], b"hello")
    path = "http://10.9.8.7:7500" + opened["path"].partition("7500")[2]
    client.ok(f"create_close domain=d1&key=a&fid={opened['fid']}&devid={opened['devid']}&path={path}&size=5")
    assert client.ok("file_info domain=d1&key=a")["length"] == "5"


@pytest.mark.timeout(900)
def test_closers_of_the_same_keys_at_several_trackers_leak_nothing(three_nodes: Any) -> None:
    """Four clients per key at once, over two trackers of two processes: upstream lost or leaked most of these uploads."""
    cluster = three_nodes
    trackers = [cluster.trackers[0], cluster.tracker(processes=2)]
    cluster.trackers[0].client().ok("create_domain domain=d1")
    closed: list[str] = []
    problems: list[str] = []

    def closer(number: int) -> None:
        client = trackers[number % 2].client()
        dice = random.Random(number)
        try:
            closed.extend(store(client, f"hot{dice.randrange(2)}", bytes([number]) * 10) for _ in range(25))
        except Exception as error:
            problems.append(repr(error))

    threads = [threading.Thread(target=closer, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert not problems
    assert len(set(closed)) == 200
    client = trackers[0].client()
    current = {client.ok(f"file_info domain=d1&key=hot{n}")["fid"] for n in range(2)}
    assert current <= set(closed)
    # Also what was copied while its file was replaced: its bytes go by another queue.
    wait_until(cluster.quiet, "the replaced files to be deleted", 200)
    assert (
        cluster.value("SELECT count(*) FROM file_on o WHERE NOT EXISTS (SELECT 1 FROM file f WHERE f.fid = o.fid)") == 0
    )
    left = {int(path.stem) for node in cluster.nodes for path in node.docroot.glob("dev*/*/*/*/*.fid")}
    assert left == {int(fid) for fid in current}, "bytes of replaced files stay on the nodes"


def test_a_wrong_close_is_cleaned_up(three_nodes: Any) -> None:
    cluster, client = three_nodes, three_nodes.trackers[0].client()
    client.ok("create_domain domain=d1")
    opened = client.ok("create_open domain=d1&key=a")
    put(opened["path"], b"hello")
    rest = f"key=a&fid={opened['fid']}&devid={opened['devid']}&path={opened['path']}"
    assert client.ask(f"create_close domain=d1&{rest}&size=4").code == "size_mismatch"
    assert client.ask(f"create_close domain=d1&{rest}&size=5").code == "no_temp_file"
    node = next(n for n in cluster.nodes if int(opened["devid"]) in n.devids)
    file = node.docroot / opened["path"].partition("7500/")[2]
    wait_until(lambda: not file.exists(), "the bytes of a refused upload to go")


def test_numbers_no_database_can_hold(three_nodes: Any) -> None:
    client = three_nodes.trackers[0].client()
    client.ok("create_domain domain=d1")
    huge = "9" * 19
    path = f"http://127.0.20.1:7500/dev1/9/999/999/{huge}.fid"
    assert client.ask(f"create_close domain=d1&key=a&fid={huge}&devid=1&path={path}").code == "bogus_args"
    assert client.ask(f"create_open domain=d1&key=a&fid={huge}").code == "db"
    assert client.ask(f"create_open domain=d1&key=a&size={huge}").ok
    assert client.ok(f"list_fids from={huge}&to={huge}") == {"fid_count": "0"}
    assert client.ok(f"file_debug fid={huge}") == {"checksum": "NONE"}
    assert client.ask(f"create_device devid={huge}&hostname=node1").code == "invalid_devid"
    assert client.ask(f"create_class domain=d1&class=c&mindevcount={huge}").code == "invalid_mindevcount"
    assert client.ask(f"set_weight host=node1&device=1&weight={huge}").code == "bad_params"
    assert client.ask(f"create_host host=h&ip=1.2.3.4&port={huge}").code == "bad_params"
    assert client.ask(f"create_domain domain={'x' * 300}").code == "db"


def test_listing_pages_in_byte_order(three_nodes: Any) -> None:
    cluster, client = three_nodes, three_nodes.trackers[0].client()
    client.ok("create_domain domain=d1")
    keys = [f"p/{c}{n}" for n in range(40) for c in "aAzZ~_%é\u00ff"]
    cluster.sql(
        "INSERT INTO file SELECT row_number() OVER (), 1, k, 1, 0, 1 FROM unnest($1::text[]) AS k",
        [k.encode().decode("latin-1") for k in keys],
    )
    expected = sorted(k.encode() for k in keys)
    seen: list[bytes] = []
    after = ""
    while True:
        reply = client.ask(f"list_keys domain=d1&prefix=p/&limit=7&after={after}")
        if not reply.ok:
            assert reply.code == "none_match"
            break
        page = [reply.args[f"key_{i}"].encode("latin-1") for i in range(1, int(reply.args["key_count"]) + 1)]
        assert reply.args["next_after"].encode("latin-1") == page[-1]
        seen += page
        after = "".join(f"%{b:02x}" for b in page[-1])
    assert seen == expected
    assert client.ask("list_keys domain=d1&prefix=f[&after=f[a").code == "none_match"


# ---- our own commands


def test_own_device_commands(three_nodes: Any) -> None:
    cluster, client = three_nodes, three_nodes.trackers[0].client()
    answer = client.ok("mogile_cluster")
    assert answer["cluster_id"] == str(cluster.value("SELECT id FROM mogile_cluster"))
    assert answer["schema_version"] == "17"
    client.ok("mogile_set_zone host=node1&zone=rack%201")
    client.ok("mogile_set_out devid=1&out=1")
    client.ok("mogile_set_out devid=1&out=1")
    assert client.ask("mogile_set_out devid=99&out=1").code == "no_device"
    assert client.ask("mogile_set_out devid=1&out=x").code == "bad_params"
    assert client.ask("mogile_set_zone host=nope&zone=a").code == "unknown_host"
    devices = client.ok("mogile_devices")
    assert (devices["dev1_zone"], devices["dev1_out"], devices["dev2_out"]) == ("rack 1", "1", "0")
    assert {k.partition("_")[2] for k in client.ok("get_devices") if "_" in k} == {
        "devid", "hostid", "status", "weight", "mb_total", "mb_used", "mb_free", "mb_asof",
        "observed_state", "utilization", "reject_bad_md5",
    }  # fmt: skip
    client.ok("create_domain domain=d1")
    for _ in range(30):
        assert client.ok("create_open domain=d1&key=a")["devid"] != "1", "an out device takes no new files"
    assert client.ask("mogile_forget_device devid=1").code == "device_not_dead"
    client.ok("set_state host=node1&device=1&state=dead")
    cluster.sql("INSERT INTO file VALUES (77, 1, 'only', 1, 0, 1)")
    cluster.sql("INSERT INTO file_on VALUES (77, 1)")
    assert client.ask("mogile_forget_device devid=1").code == "device_not_empty"
    for number in ("0", "2", "x"):
        assert client.ask(f"mogile_forget_device devid=1&lost_files={number}").code in (
            "device_not_empty",
            "bad_params",
        )
    assert "1 files are lost with device 1" in client.ask("mogile_forget_device devid=1&lost_files=2").text
    assert client.ask("mogile_forget_device devid=2&lost_files=0").code == "device_not_dead"
    client.ok("mogile_forget_device devid=1&lost_files=1")
    assert [tuple(row) for row in cluster.sql("SELECT fid, trim(evcode), devid FROM fsck_log")] == [(77, "GONE", 1)]
    assert client.ask("mogile_forget_device devid=1").code == "no_device"
    assert client.ok("get_devices devid=1") == {"devices": "0"}


def test_alternate_address_by_request_and_by_client_network(three_nodes: Any) -> None:
    client = three_nodes.trackers[0].client()
    client.ok("create_domain domain=d1")
    for number in (1, 2, 3):
        client.ok(f"update_host host=node{number}&altip=10.1.1.{number}")
    assert "http://127.0.20." in client.ok("create_open domain=d1&key=a")["path"]
    assert "http://10.1.1." in client.ok("create_open domain=d1&key=a&zone=alt")["path"]
    for number in (1, 2, 3):
        client.ok(f"update_host host=node{number}&altmask=127.0.0.0/8")
    assert "http://10.1.1." in client.ok("create_open domain=d1&key=a")["path"]
