"""Commands about files: open and close, read, change, list."""

from typing import Any
from unittest.mock import ANY

import pytest

from mogile_core.wire import encode_args


@pytest.mark.also_through_pgbouncer
@pytest.mark.timeout(900)
def test_files(play: Any) -> None:
    play.ok("create_domain domain=d")
    for name, mindevcount, hashtype in (("c", 2, "NONE"), ("md", 1, "MD5")):
        play.ok(f"create_class domain=d&class={name}&mindevcount={mindevcount}&hashtype={hashtype}")
    play.ok("update_class domain=d&class=default&mindevcount=1")
    for part in (opening, closing, reading, changing, listing):
        part(play)
    play.nothing_is_missing("files")


def opening(play: Any) -> None:
    play.refused_domain("create_open", "&key=a")
    play.err("unreg_class", "create_open domain=d&key=a&class=nope")
    one = play.ok("create_open domain=d&key=a", {"fid": ANY, "devid": ANY, "path": ANY})
    assert one["path"].endswith(f"/dev{one['devid']}/0/000/000/{int(one['fid']):010}.fid")
    for name in ("default", "c", ""):
        play.ok(f"create_open domain=d&class={name}", {"fid": ANY, "devid": ANY, "path": ANY})
    three = {"fid": ANY, "dev_count": "3", **{f"{name}_{i}": ANY for name in ("devid", "path") for i in (1, 2, 3)}}
    play.ok("create_open domain=d&key=a&multi_dest=1", three)
    play.ok("create_open domain=d&key=a&multi_dest=0&size=5", {"fid": ANY, "devid": ANY, "path": ANY})
    play.ok("create_open domain=d&key=a&debug_profile=1", {"fid": ANY, "devid": ANY, "path": ANY, "profpoints": "0"})
    assert play.ok("create_open domain=d&key=a&fid=7000")["fid"] == "7000"
    play.err("fid_in_use", "create_open domain=d&key=a&fid=7000")
    play.cluster.sql("INSERT INTO file_to_delete2 (fid, nexttry) VALUES (7001, 2000000000)")
    play.err("fid_in_use", "create_open domain=d&key=a&fid=7001")
    play.cluster.sql("DELETE FROM file_to_delete2 WHERE fid = 7001")
    play.err("db", f"create_open domain=d&key={'k' * 256}")
    play.ok(f"create_open domain=d&key={'k' * 255}")
    nodes = [(f"node{n}", d) for n, node in enumerate(play.cluster.nodes, 1) for d in node.devids]
    for host, devid in nodes:
        play.ok(f"set_state host={host}&device={devid}&state=readonly")
    play.err("no_devices", "create_open domain=d&key=a")
    for host, devid in nodes:
        play.ok(f"set_state host={host}&device={devid}&state=alive")
    play.until(
        "get_devices",
        lambda pairs: list(pairs.values()).count("writeable") == len(nodes),
        "a write test of each device",
    )


def closing(play: Any) -> None:
    opened = play.opened("a", **{"class": "md"})
    good = {"domain": "d", "key": "a", **opened}

    def close(leave: str = "", **change: object) -> str:
        return f"create_close {encode_args({k: v for k, v in {**good, **change}.items() if k != leave})}"

    play.err("no_domain", close(leave="domain"))
    play.err("unreg_domain", close(domain="nope"))
    for name in ("fid", "devid", "path"):
        play.err(f"no_{name}", close(leave=name))
    for checksum in ("MD5:xyz", "CRC32:00000000", "MD5", f"SHA-1:{'0' * 32}", f"MD5:{'0' * 40}"):
        play.err("invalid_checksum_format", close(checksum=checksum))
    for path in (
        opened["path"].replace(".fid", ".fiX"),
        opened["path"].replace("/dev", "/dev1"),
        "x",
        opened["path"] + "?a",
    ):
        play.err("bogus_args", close(path=path))
    play.err("no_temp_file", close(fid=999, path=opened["path"].replace(f"{int(opened['fid']):010}", "0000000999")))
    play.ok(close(size=5, checksum="MD5:5d41402abc4b2a76b9719d911017c592", checksumverify=1), {})
    assert play.ok("file_info domain=d&key=a")["checksum"] == "MD5:5d41402abc4b2a76b9719d911017c592"
    play.err("no_temp_file", close(size=5))

    opened = play.opened("b")
    other = next(str(d) for d in range(1, 7) if str(d) != opened["devid"])
    where = opened["path"].replace(f"/dev{opened['devid']}/", f"/dev{other}/")
    wrong = {"domain": "d", "key": "b", "fid": opened["fid"], "devid": other, "path": where}
    play.err("invalid_destdev", f"create_close {encode_args(wrong)}", f"Valid devices were: {opened['devid']}")
    play.err("no_temp_file", f"create_close {encode_args({**wrong, **opened})}")
    for size, code, text in (
        (4, "size_mismatch", "Expected: 4; actual: 5"),
        (6, "size_mismatch", "Expected: 6; actual: 5"),
    ):
        play.err(
            code, f"create_close {encode_args({'domain': 'd', 'key': 'b', **play.opened('b'), 'size': size})}", text
        )
    missing = {"domain": "d", "key": "b", **play.opened("b", None)}
    play.err("size_verify_error", f"create_close {encode_args(missing)}", "missing")
    false = {"domain": "d", "key": "b", **play.opened("b"), "checksum": f"MD5:{'0' * 32}", "checksumverify": 1}
    play.err("checksum_mismatch", f"create_close {encode_args(false)}", "actual: MD5:5d41402abc4b2a76b9719d911017c592;")
    taken = {"domain": "d", "key": "b", **play.opened("b")}
    play.cluster.sql("INSERT INTO file VALUES ($1, 1, 'taken', 1, 0, 1)", int(taken["fid"]))
    play.err("fid_exists", f"create_close {encode_args(taken)}")
    play.cluster.sql("DELETE FROM file WHERE dkey = 'taken'")
    play.err("unknown_key", "get_paths domain=d&key=b")
    thrown_away = {"domain": "d", **play.opened("")}
    play.ok(f"create_close {encode_args(thrown_away)}", {})
    sizes: tuple[dict[str, object], ...] = ({}, {"size": 0}, {"size": ""}, {"size": -1})
    for size_ in sizes:
        play.ok(f"create_close {encode_args({'domain': 'd', 'key': '0', **play.opened('0'), **size_})}", {})
    assert play.ok("file_info domain=d&key=0")["length"] == "5", (
        "0 is a key like any other, an unknown size is not compared"
    )


def reading(play: Any) -> None:
    for command in ("get_paths", "file_info", "file_debug"):
        play.refused_domain(command, "&key=a")
        play.err("no_key", f"{command} domain=d")
        play.err("no_key", f"{command} domain=d&key=")
        play.err("unknown_key", f"{command} domain=d&key=nope")
        play.err("unknown_key", f"{command} domain=d&key={'k' * 6000}")
    fid = play.store("r", **{"class": "c"})
    play.until("get_paths domain=d&key=r", lambda pairs: pairs["paths"] == "2", "the second copy")
    for request in ("noverify=1", "noverify=0&pathcount=1", "pathcount=99", "zone=alt", "pathcount=x"):
        play.ok(f"get_paths domain=d&key=r&{request}", {"paths": "2", "path1": ANY, "path2": ANY})
    info = {"fid": fid, "domain": "d", "class": "c", "key": "r", "length": "5", "devcount": "2"}
    play.ok("file_info domain=d&key=r", info)
    devids = play.ok("file_info domain=d&key=r&devices=1", {**info, "devids": ANY})["devids"].split(",")
    assert len(devids) == 2
    debug = {
        "fid_fid": fid,
        "fid_dmid": "1",
        "fid_dkey": "r",
        "fid_length": "5",
        "fid_classid": "1",
        "fid_devcount": "2",
    }
    debug |= {
        "fid_domain": "d",
        "fid_class": "c",
        "devids": ANY,
        "checksum": "NONE",
        **{f"devpath_{d}": ANY for d in devids},
    }
    # The row of the replication queue, shown here too, goes a moment after the second copy is seen.
    play.until(f"file_debug fid={fid}", lambda pairs: "replqueue_fid" not in pairs, "the end of the replication")
    play.ok("file_debug domain=d&key=r", debug)
    play.ok(f"file_debug fid={fid}", debug)
    play.ok("file_debug fid=999999", {"checksum": "NONE"})
    play.cluster.sql("DELETE FROM file_on WHERE fid = $1", int(fid))
    play.ok("get_paths domain=d&key=r", {"paths": "0"})
    play.err("no_devices", "updateclass domain=d&key=r&class=md")
    play.ok("delete domain=d&key=r", {})


def changing(play: Any) -> None:
    fid = play.store("one", **{"class": "c"})
    play.refused_domain("updateclass", "&key=one&class=md")
    play.err("no_key", "updateclass domain=d&class=md")
    play.err("no_class", "updateclass domain=d&key=one")
    play.err("class_not_found", "updateclass domain=d&key=one&class=nope")
    play.err("invalid_key", "updateclass domain=d&key=nope&class=md")
    for name in ("md", "default", "c", "c"):
        play.ok(f"updateclass domain=d&key=one&class={name}", {})
        assert play.ok("file_info domain=d&key=one")["class"] == name
    play.refused_domain("rename", "&from_key=one&to_key=two")
    play.err("no_key", "rename domain=d&to_key=two")
    play.err("no_key", "rename domain=d&from_key=one")
    play.err("unknown_key", "rename domain=d&from_key=nope&to_key=two")
    play.err("key_exists", "rename domain=d&from_key=one&to_key=a")
    play.err("key_exists", "rename domain=d&from_key=one&to_key=one")
    play.err("db", f"rename domain=d&from_key=one&to_key={'k' * 256}")
    play.ok("rename domain=d&from_key=one&to_key=two%00%ff", {})
    play.err("unknown_key", "file_info domain=d&key=one")
    assert play.ok("file_info domain=d&key=two%00%ff")["fid"] == fid
    play.refused_domain("delete", "&key=two")
    play.err("no_key", "delete domain=d")
    play.err("unknown_key", "delete domain=d&key=nope")
    play.ok("delete domain=d&key=two%00%ff", {})
    play.err("unknown_key", "delete domain=d&key=two%00%ff")


def listing(play: Any) -> None:
    play.refused_domain("list_keys")
    play.err("none_match", "list_keys domain=d&prefix=zz")
    play.cluster.sql("INSERT INTO file SELECT 800000 + n, 1, 'l/' || n, n, 0, 1 FROM generate_series(1, 1100) AS n")
    full = play.ok("list_keys domain=d&prefix=l/")
    keys = sorted(f"l/{n}" for n in range(1, 1101))
    assert [full[f"key_{i}"] for i in range(1, 1001)] == keys[:1000]
    assert (full["key_count"], full["next_after"], len(full)) == ("1000", keys[999], 1002)
    rest = play.ok(f"list_keys domain=d&prefix=l/&after={keys[999]}&limit=2000")
    assert (rest["key_count"], rest["next_after"], rest["key_1"]) == ("100", keys[-1], keys[1000])
    play.ok("list_keys domain=d&prefix=l/&limit=1", {"key_count": "1", "next_after": "l/1", "key_1": "l/1"})
    play.err("none_match", f"list_keys domain=d&prefix=l/&after={keys[-1]}")
    play.err("after_mismatch", "list_keys domain=d&prefix=l/&after=x")
    play.err("failure", "list_keys domain=d&limit=-1")
    for literal in ("l/_", "l/%25", "l/%5C", "l["):
        play.err("none_match", f"list_keys domain=d&prefix={literal}")
    play.err("none_match", "list_keys domain=d&prefix=l[&after=l[a")
    row = {"fid": "800005", "domain": "d", "class": "default", "key": "l/5", "length": "5", "devcount": "1"}
    play.ok("list_fids from=800004&to=1", {"fid_count": "1", **{f"fid_1_{name}": value for name, value in row.items()}})
    for request, count in (("", 100), ("&to=600", 500), ("&to=-1", 500), ("&to=500", 500), ("&to=0", 100)):
        assert play.ok(f"list_fids from=800000{request}")["fid_count"] == str(count), request
    play.ok("list_fids from=900000&to=5", {"fid_count": "0"})
    play.cluster.sql("DELETE FROM file WHERE fid > 800000")
