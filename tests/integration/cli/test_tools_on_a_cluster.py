"""The classic tools against a real tracker and real nodes. One cluster serves the whole module: each test has names of its own."""

import asyncio
import hashlib
import json
import os
import re
from pathlib import Path

import asyncpg

from mogile_core.client import TrackerClient
from mogile_core.paths import fid_path

BODY = os.urandom(3 << 20)
KEY = "photos/ä b+c&d=e%.jpg"


def test_hosts_and_devices(store) -> None:
    """A third host that does not really exist, through all its states."""
    add = ["--ip=127.0.0.1", "--port=1", "--altip=192.168.0.2", "--altmask=192.168.0.0/24", "--getport=7580"]
    assert store.well("mogadm", "--verbose", "host", "add", "extra", *add) == "Host created.\n"
    assert store.well("mogadm", "host", "list").endswith(
        "extra [3]: down\n  IP:       127.0.0.1:1\n  Alt IP:   192.168.0.2\n  Alt Mask: 192.168.0.0/24\n  GET Port: 7580\n\n"
    )
    devid = store.well("mogadm", "device", "next").strip()
    assert devid == "3"
    store.well("mogadm", "device", "add", "extra", f"dev{devid}", "--status=down")
    assert store.well(
        "mogadm", "--verbose", "device", "modify", "extra", devid, "--weight=50", "--status=readonly"
    ) == ("Device updated.\n")
    listed = store.well("mogadm", "device", "list")
    assert listed.endswith("  dev3: readonly      0.000      0.000      0.000         50\n\n")
    assert re.search(r"^  dev1:   alive +\d+\.\d{3} +\d+\.\d{3} +\d+\.\d{3}        100$", listed, re.M)
    store.well("mogadm", "device", "mark", "extra", "dev3", "dead")
    only = store.well("mogadm", "device", "list", "--hostname=extra")
    assert only == "extra [3]: down\n                   used(G)    free(G)   total(G)  weight(%)\n\n"
    assert "  dev3:    dead " in store.well("mogadm", "device", "list", "--all")
    result = store.run("mogadm", "device", "mark", "extra", "3", "alive")
    assert (result.status, result.err) == (
        1,
        "Error updating device: Status cannot go from dead to alive; must use down\n",
    )
    store.well("mogadm", "host", "modify", "extra", "--status=alive", "--altip=", "--altmask=")
    checked = store.well("mogadm", "check")
    assert "] extra ... REQUEST FAILURE FETCHING: http://127.0.0.1:1/\n" in checked
    assert re.search(
        r"^  \[ 2\] dev2 +\d+\.\d{3} +\d+\.\d{3} +\d+\.\d{3} +\d+\.\d\d%  writeable  +\d+\.\d$", checked, re.M
    )
    store.well("mogadm", "host", "mark", "extra", "dead")
    assert "] extra ... skipping; status = dead\n" in store.well("mogadm", "check")
    assert [line.split()[0] for line in store.well("mogadm", "device", "summary").splitlines()][:3] == [
        "Hostname",
        "node1",
        "node2",
    ]


def test_domains_and_classes(store) -> None:
    store.well("mogadm", "domain", "add", "other")
    store.well(
        "mogadm",
        "class",
        "add",
        "other",
        "thumb",
        "--mindevcount=3",
        "--replpolicy=MultipleDevices()",
        "--hashtype=MD5",
    )
    form = " other                {:<20}      {}        {:<13} {:<7}\n"
    assert form.format("thumb", 3, "MultipleDevices()", "MD5") in store.well("mogadm", "class", "list")
    store.well("mogadm", "class", "modify", "other", "thumb", "--hashtype=NONE")
    listed = store.well("mogadm", "domain", "list")
    assert form.format("default", 2, "MultipleHosts()", "NONE") in listed
    assert form.format("thumb", 2, "MultipleDevices()", "NONE") in listed  # mindevcount became 2: as it always did
    result = store.run("mogadm", "domain", "delete", "other")
    assert (result.status, result.err) == (1, "Error deleting domain: domain_has_classes\n")
    store.well("mogadm", "class", "delete", "other", "thumb")
    store.well("mogadm", "domain", "delete", "other")
    assert " other " not in store.well("mogadm", "domain", "list")


def test_refusals_are_the_trackers_words(store) -> None:
    mismatch = "The device specified doesn't belong to the host specified"
    for line, message in [
        ("host add node1 --ip=10.0.0.9", "Error creating host: That host already exists\n"),
        ("host delete node1", "Error deleting host: Unable to delete host; it contains devices still\n"),
        ("host mark node1 sleepy", "Error updating host status: Invalid/unknown state\n"),
        ("device add node1 1", "Error adding device: existing_devid\n"),
        ("device mark node2 1 down", f"Error updating device: {mismatch}\n"),
        ("domain add d", "Error creating domain: That domain already exists\n"),
        ("domain delete nope", "Error deleting domain: Domain not found\n"),
        ("class add d two", "Error creating class: That class already exists in that domain\n"),
        ("class add d x --mindevcount=0", "Error creating class: The mindevcount must be at least 1\n"),
        ("class delete d default", "Error deleting class: Cannot delete the default class\n"),
    ]:
        result = store.run("mogadm", *line.split())
        assert (line, result.status, result.out, result.err) == (line, 1, "", message)


def test_a_file_through_all_tools(store, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(BODY)
    assert store.well("mogupload", f"--key={KEY}", f"--file={source}", "--class=two") == ""
    store.until(lambda: "devcount:                    2" in store.well("mogfileinfo", f"--key={KEY}"), "two copies")
    info, md5 = store.well("mogfileinfo", f"--key={KEY}"), hashlib.md5(BODY).hexdigest()
    assert info.startswith(f"- file: {KEY}\n")
    assert f"    length: {len(BODY):>20}\n" in info
    assert f"  checksum: MD5:{md5}\n" in info
    assert len(re.findall(r"^ - http://127\.77\.\d+\.[12]:7500/dev[12]/0/000/000/\d{10}\.fid$", info, re.M)) == 2
    assert store.well("mogfetch", f"--key={KEY}", f"--file={target}") == ""
    assert target.read_bytes() == BODY
    assert store.run("mogfetch", f"--key={KEY}", "--file=-").raw == BODY

    fid = int(re.search(r"fid: +(\d+)", info)[1])
    debug = store.well("mogfiledebug", f"--key={KEY}")
    assert debug.count(f" - MD5 Hash: {md5}\n - Length: {len(BODY)}\n") == 2
    assert "ERROR" not in debug
    assert f"- Stored checksum: MD5:{md5}\n" in debug
    assert store.well("mogfiledebug", f"--fid={fid}", "--paths=stat").count(f" - Length: {len(BODY)}\n") == 2

    assert store.well("mogrename", f"--old_key={KEY}", "--new_key=-dash") == ""
    assert store.well("moglistkeys", "--key_prefix=-") == "-dash\n"
    block = f"fid {fid}\nclass two\ndevcount 2\ndomain d\nkey -dash\nlength {len(BODY)}\n\n"
    assert store.well("moglistfids", f"--fromfid={fid - 1}", "--count=1") == block
    stats = store.well("mogstats", "--stats=files,replication,devices")
    assert "  d                    two                 1           3             6\n" in stats
    assert "  d                    two                 2          1\n" in stats

    assert store.well("mogdelete", "--key", "-dash") == ""
    for tool, argv, message in [
        ("mogdelete", ["--key=-dash"], "Error deleting file: unknown_key\n"),
        ("mogfileinfo", ["--key=-dash"], "Error fetching file info: unknown_key\n"),
        ("mogfetch", ["--key=-dash", f"--file={target}"], "Error fetching file: unknown_key\n"),
        ("mogrename", ["--old_key=-dash", "--new_key=x"], "Error renaming file: unknown_key\n"),
        (
            "moglistkeys",
            ["--key_prefix=-"],
            "Error listing files: No keys match that pattern and after-value (if any).\n",
        ),
        ("mogupload", ["--key=x", "--file=-", "--class=nope"], "Error writing file: unreg_class\n"),
        ("mogupload", ["--key=x", "--file=-", "--domain=nope"], "Error writing file: Domain name invalid/not found\n"),
    ]:
        result = store.run(tool, *argv)
        assert (tool, result.status, result.out, result.err) == (tool, 255, "", message)
    assert target.read_bytes() == BODY


def test_standard_input_empty_files_and_overwriting(store) -> None:
    for body in (b"", BODY):
        store.well("mogupload", "--key=k", "--file=-", "--class=default", stdin=body)
        assert store.run("mogfetch", "--key=k", "--file=-").raw == body
    assert "length:              3145728\n" in store.well("mogfileinfo", "--key=k")


def test_many_keys_come_in_byte_order(store) -> None:
    names = [f"p/{number:04d}" for number in range(1100)]

    async def fill() -> None:
        async with TrackerClient(store.trackers) as client:
            for start in range(0, len(names), 50):
                await asyncio.gather(*(client.upload("d", name, b"x") for name in reversed(names[start : start + 50])))

    asyncio.run(fill())
    assert store.well("moglistkeys", "--key_prefix=p/").split() == names
    assert store.well("moglistkeys", "--key_prefix=p/109").split() == names[1090:]


def test_the_installed_commands_in_a_shell(store) -> None:
    line = "head -c 100000 /dev/urandom > $HOME/in && mogupload --key=s --file=$HOME/in && mogfetch --key=s --file=- | cmp - $HOME/in"
    assert store.shell(line).status == 0
    assert (
        store.shell("mogfetch --key=s --file=- | mogupload --key=t --file=- && moglistkeys --key_prefix=t").out == "t\n"
    )
    result = store.shell("mogadm device mark node1 nonsense alive; echo $?; mogdelete --key=nope; echo $?")
    assert result.out.startswith("\nERROR: devid should be a number or dev<number>, not 'nonsense'\n")
    assert result.out.endswith("\n1\n255\n")
    assert result.err == "Error deleting file: unknown_key\n"


def test_a_copy_that_is_gone_is_named_and_the_other_one_read(store) -> None:
    store.well("mogupload", "--key=gone", "--file=-", "--class=two", stdin=BODY)
    store.until(lambda: "devcount:                    2" in store.well("mogfileinfo", "--key=gone"), "two copies")
    fid = int(re.search(r"fid: +(\d+)", store.well("mogfileinfo", "--key=gone"))[1])
    (copy,) = (store.folder / "node1").glob(f"dev1/*/*/*/{fid:010d}.fid")
    copy.unlink()
    debug = store.well("mogfiledebug", "--key=gone")
    assert debug.count(" - ERROR: File copy is missing: 404 Not Found\n") == 1
    assert store.run("mogfetch", "--key=gone", "--file=-").raw == BODY
    store.well("mogdelete", "--key=gone")  # a check of all files would find it


def test_settings(store) -> None:
    assert "           schema_version = 17\n" in store.well("mogadm", "settings", "list")
    result = store.run("mogadm", "settings", "set", "schema_version", "1")
    assert (result.status, result.err) == (1, "Error setting schema_version: not_writable\n")
    store.well("mogadm", "settings", "set", "queue_rate_for_fsck", "100")
    assert "      queue_rate_for_fsck = 100\n" in store.well("mogadm", "settings", "list")


def test_rebalance(store) -> None:
    for topic in ("status", "test", "start", "stop"):
        result = store.run("mogadm", "rebalance", topic)
        assert (result.status, result.err.count("\n")) == (1, 1), result
    result = store.run("mogadm", "rebalance", "policy", "--options=bogus=1")
    assert result.status == 1
    assert result.err.startswith("Invalid setting bogus")
    store.well("mogadm", "rebalance", "policy", "--options=from_devices=1 to_devices=2 limit_by=count limit=1")
    assert "rebal_policy = from_devices=1 to_devices=2 limit_by=count limit=1\n" in store.well(
        "mogadm", "rebalance", "settings"
    )
    assert store.well("mogadm", "rebalance", "test") == (
        "Tested rebalance policy...\nPolicy: from_devices=1 to_devices=2 limit_by=count limit=1\n\n"
        "Source devices:\n - 1\nDestination devices:\n - 2\n"
    )
    store.well("mogadm", "rebalance", "start")
    status = store.well("mogadm", "rebalance", "status")
    assert status.startswith("Rebalance is ")
    assert "\nRebalance status:\n" in status
    store.until(
        lambda: "Rebalance is stopped\n" in store.well("mogadm", "rebalance", "status"), "the end of the rebalance"
    )
    assert "time_finished = " in store.well("mogadm", "rebalance", "status")
    store.well("mogadm", "rebalance", "reset")


def _sql(store, statement: str, *args: object) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(store.dsn)
        try:
            await connection.execute(statement, *args)
        finally:
            await connection.close()

    asyncio.run(run())


def _fid(store, key: str) -> int:
    found = re.search(r"^ +fid: +(\d+)$", store.well("mogfileinfo", "--key", key), re.M)
    assert found, key
    return int(found.group(1))


def _path(store, devid: int, fid: int) -> Path:
    return store.folder / f"node{devid}" / fid_path(devid, fid).lstrip("/")


def test_fsck_by_mogadm_and_by_mog(store) -> None:
    """A missing copy: mogadm starts the check and shows what it found; mog says the same, limited to the key."""
    source = store.folder / "checked"
    source.write_bytes(b"to be checked")
    for key in ("checked/1", "checked/2"):
        store.well("mogupload", "--class=two", f"--key={key}", f"--file={source}")
        store.until(
            lambda k=key: "devcount: 2" in re.sub(" +", " ", store.well("mogfileinfo", "--key", k)), "two copies"
        )
    # Fsck looks at all files, also at those of the tests before, which may still be copied.
    store.until(lambda: store.count("file_to_replicate") == 0, "all files to have their copies")
    first, second = _fid(store, "checked/1"), _fid(store, "checked/2")
    _path(store, 2, first).unlink()
    assert store.well("mogadm", "--verbose", "fsck", "reset") == "fsck reset\n"
    assert store.well("mogadm", "--verbose", "fsck", "start") == "fsck started\n"
    store.until(lambda: "Running: No" in store.well("mogadm", "fsck", "status"), "fsck to end")
    store.until(lambda: "[num_REPL]: 1" in store.well("mogadm", "fsck", "status"), "the missing copy to be found")
    shown = store.well("mogadm", "fsck", "status")
    assert "Check Type: Normal (check policy + files)" in shown
    assert "[num_MISS]: 1" in shown
    logged = store.well("mogadm", "fsck", "printlog").splitlines()
    assert logged[0].split() == ["unixtime", "event", "fid", "devid"]
    assert [line.split()[1:] for line in logged[1:]] == [["MISS", str(first), "2"], ["REPL", str(first), "-"]]

    _path(store, 1, second).unlink()
    mog = f"mog fsck start --domain d --prefix checked/ --wait --json --trackers {store.trackers}"
    result = store.shell(mog)
    assert result.status == 0, result
    found = json.loads(result.out)
    assert (found["domain"], found["prefix"], found["checked"], found["running"]) == ("d", "checked/", 2, False)
    assert found["counts"]["MISS"] == 1
    words = store.shell(f"mog fsck status --trackers {store.trackers}").out
    assert "only domain d, keys beginning with checked/" in words
    assert re.search(r"^MISS +1 +a copy was missing *$", words, re.M)
    assert f"MISS fid {second} dev1: a copy was missing" in store.shell(f"mog fsck log --trackers {store.trackers}").out
    store.shell(f"mog fsck clear --trackers {store.trackers}")
    assert store.well("mogadm", "fsck", "printlog").count("\n") == 1
    refused = store.shell(f"mog fsck start --class two --trackers {store.trackers}")
    assert (refused.status, refused.err.count("\n")) == (2, 1)
    store.until(lambda: _path(store, 1, second).exists() and _path(store, 2, first).exists(), "the copies to be back")


def test_orphans_are_searched_listed_and_removed_by_mog(store) -> None:
    source = store.folder / "lost"
    source.write_bytes(b"soon without a row")
    store.well("mogupload", "--class=two", "--key=lost", f"--file={source}")
    fid = _fid(store, "lost")
    store.until(lambda: _path(store, 1, fid).exists() and _path(store, 2, fid).exists(), "two copies")
    store.until(lambda: store.count(f"file_on WHERE fid = {fid}") == 2, "the second copy to be recorded")
    store.until(lambda: store.count("file_to_replicate") == 0, "the end of the replication")
    for table in ("file", "file_on", "checksum", "file_to_replicate"):
        _sql(store, f"DELETE FROM {table} WHERE fid = $1", fid)
    trackers = f"--trackers {store.trackers}"
    result = store.shell(f"mog fsck orphans start --age 0 --wait --json {trackers}")
    assert [(w["devid"], w["state"], w["orphans"]) for w in json.loads(result.out)] == [
        (1, "finished", 1),
        (2, "finished", 1),
    ], result
    listed = json.loads(store.shell(f"mog fsck orphans list --json {trackers}").out)
    assert [(o["devid"], o["fid"], o["length"], o["is_file"]) for o in listed] == [
        (1, fid, 18, False),
        (2, fid, 18, False),
    ]
    assert "ORPH" in store.well("mogadm", "fsck", "printlog")
    assert store.shell(f"mog fsck orphans remove {trackers}").status == 0
    store.until(lambda: not _path(store, 1, fid).exists() and not _path(store, 2, fid).exists(), "the bytes to go")
    assert re.search(r"^ +1 +finished", store.shell(f"mog fsck orphans status {trackers}").out, re.M)


def test_slaves(store) -> None:
    """Read replicas mean nothing on PostgreSQL; their settings are kept for whoever reads them."""
    store.well("mogadm", "slave", "add", "one", "--dsn=DBI:Pg:dbname=x", "--username=u", "--password=p")
    assert "one " in store.well("mogadm", "slave", "list")
    store.well("mogadm", "slave", "modify", "one", "--username=other")
    assert "other" in store.well("mogadm", "slave", "list")
    store.well("mogadm", "slave", "delete", "one")
    assert "one " not in store.well("mogadm", "slave", "list")


def test_stats_says_where_they_went(store) -> None:
    result = store.run("mogadm", "stats")
    assert "mogstats" in result.out + result.err
