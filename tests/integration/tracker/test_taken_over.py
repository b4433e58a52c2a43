"""A database of MogileFS with 100 000 files is taken over by `mog db upgrade`, served by a tracker started from mogilefsd.conf, given back.

Everything is done as its operator would: commands in a shell, the classic configuration file, the line protocol. The storage nodes are
real; of the files only a sample has bytes, laid down as mogstored does before our agents take the directories over.
"""

import os
import pwd
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from mogile_core.paths import fid_path
from mogile_core.wire import encode_args

FILES = 100_000
SAMPLE = (1, 2, 77, 4096, 50_001, 99_998, 99_999)
DELETED = (77, 99_998)
pytestmark = [pytest.mark.every_postgres(newest_only=True), pytest.mark.timeout(300)]


@pytest.fixture
async def database_dsn(origins: Any, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """As MogileFS left it."""
    async for dsn in origins.cloned(request.param, FILES):
        yield dsn


def content(fid: int) -> bytes:
    """`length` of the file row is its fid."""
    return (b"%d " % fid * fid)[:fid]


def line(command: str, **arguments: object) -> str:
    return f"{command} {encode_args({name.rstrip('_'): str(value) for name, value in arguments.items()})}"


def mog_db(dsn: str, *words: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MOGILE_")}
    done = subprocess.run(
        [sys.executable, "-m", "mogile_cli.main", "db", *words],
        env=kept | {"MOGILE_DB_DSN": dsn}, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def lay_down_nodes(cluster: Any) -> None:
    """Host h1 with device 1, h2 with devices 2 and 3, and the bytes of the sample where the rows say."""
    for hostid, devids in ((1, (1,)), (2, (2, 3))):
        node = cluster.node(*devids, wait=False)
        node.stop(9)
        for fid in SAMPLE:
            for devid in {1 + fid % 2, 3} & set(devids):
                path = node.docroot / fid_path(devid, fid).lstrip("/")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content(fid))
        for marker in node.docroot.glob("dev*/.mogile-device"):
            marker.unlink()
        node.start()
        cluster.sql("UPDATE host SET hostip = $2 WHERE hostid = $1", hostid, node.address)


def start_from_mogilefsd_conf(cluster: Any, folder: Path) -> Any:
    dsn = urlsplit(cluster.dsn)
    host = f"host={dsn.hostname};port={dsn.port}" if dsn.hostname else dsn.query.replace("&", ";")
    tracker = cluster.unstarted_tracker()
    conf = folder / "mogilefsd.conf"
    conf.write_text(
        f"daemonize = 0\ndb_dsn = DBI:Pg:dbname={dsn.path[1:]};{host}\ndb_user = {dsn.username}\ndb_pass = {dsn.password or ''}\n"
        f"listen = {tracker.address}\nconf_port = {tracker.port}\nlistener_jobs = 10\ndelete_jobs = 1\nreplicate_jobs = 1\n"
        f"user = {pwd.getpwuid(os.geteuid()).pw_name}\n"
    )
    tracker.arguments = [f"--config={conf}"]
    kept = {name: value for name, value in tracker.environment.items() if not name.startswith("MOGILE_")}
    tracker.environment = kept | {"MOGILE_HTTP_LISTEN": tracker.environment["MOGILE_HTTP_LISTEN"]}
    tracker.start()
    return tracker


def all_keys(client: Any) -> list[bytes]:
    listed: list[str] = []
    while True:
        reply = client.ask(line("list_keys", domain="d1", after=listed[-1] if listed else ""))
        if not reply.ok:
            assert reply.code == "none_match"
            return [key.encode("latin-1") for key in listed]
        listed += [reply.args[f"key_{n}"] for n in range(1, int(reply.args["key_count"]) + 1)]


@pytest.mark.parametrize("database_dsn", ["C", "en_US libc"], indirect=True)
def test_taken_over_served_and_given_back(cluster: Any, tmp_path: Path) -> None:
    keys = {row["fid"]: row["dkey"] for row in cluster.sql("SELECT fid, dkey FROM file")}
    assert len(keys) == FILES
    lay_down_nodes(cluster)
    assert "a database of MogileFS, not taken over yet" in mog_db(cluster.dsn, "upgrade")
    mog_db(cluster.dsn, "upgrade", "--yes")

    cluster.sql(
        "INSERT INTO mogile_setting (name, value) VALUES ('balance_mode', 'off')"
    )  # files stay where they are looked for
    client = start_from_mogilefsd_conf(cluster, tmp_path).client()
    wait_until = cluster.wait_until

    def writeable() -> bool:
        devices = client.ok("get_devices")
        return sum(value == "writeable" for name, value in devices.items() if name.endswith("observed_state")) == 3

    wait_until(writeable, "the nodes to be seen")
    stored = [key.encode("latin-1") for key in keys.values()]
    assert all_keys(client) == sorted(stored), "all of them, in the order of their bytes"
    for fid in SAMPLE:
        info = client.ok(line("file_info", domain="d1", key=keys[fid], devices=1))
        expected = {"fid": str(fid), "length": str(fid), "class": "few" if fid % 2 else "default", "devcount": "2"}
        assert expected.items() <= info.items()
        paths = client.ok(line("get_paths", domain="d1", key=keys[fid], pathcount=9))
        assert paths["paths"] == "2"
        for number in (1, 2):
            with urllib.request.urlopen(paths[f"path{number}"], timeout=90) as answer:
                assert answer.read() == content(fid)
    missing = client.ok(line("get_paths", domain="d1", key=keys[5]))
    assert missing == {"paths": "0"}, "a file whose bytes are nowhere is no error"

    opened = client.ok(line("create_open", domain="d1", key="made by the successor", class_="default"))
    assert int(opened["fid"]) > FILES + 50, "no fid is given twice, though the sequence lagged behind"
    request = urllib.request.Request(opened["path"], data=b"new bytes", method="PUT")
    with urllib.request.urlopen(request, timeout=90) as answer:
        assert answer.status == 201
    given = {name: opened[name] for name in ("fid", "devid", "path")}
    client.ok(line("create_close", domain="d1", key="made by the successor", size=9, **given))
    for fid in DELETED:
        client.ok(line("delete", domain="d1", key=keys[fid]))
        assert client.ask(line("get_paths", domain="d1", key=keys[fid])).code == "unknown_key"

    def copied() -> bool:
        return client.ok(line("get_paths", domain="d1", key="made by the successor", noverify=1))["paths"] == "2"

    wait_until(copied, "the second copy")
    disks = [
        node.docroot / fid_path(devid, fid).lstrip("/")
        for node in cluster.nodes for devid in node.devids for fid in DELETED
    ]  # fmt: skip
    wait_until(lambda: not any(path.exists() for path in disks), "the bytes of the deleted files to go")
    wait_until(lambda: cluster.value("SELECT count(*) FROM file_to_delete2") == 0, "the delete queue to be empty")
    for tracker in cluster.trackers:
        tracker.stop()
    wait_until(
        lambda: cluster.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'mogile-tracker'") == 0,
        "its sessions to end",
    )

    mog_db(cluster.dsn, "handback", "--yes", "--drop-tables")
    assert cluster.sql("SELECT relname FROM pg_class WHERE relname LIKE 'mogile%'") == []
    assert cluster.value("SELECT count(*) FROM file") == FILES + 1 - len(DELETED)
    assert cluster.value("SELECT count(*) FROM file_on") == 2 * (FILES + 1 - len(DELETED))
    row = cluster.sql("SELECT fid, length, devcount FROM file WHERE dmid = 1 AND dkey = 'made by the successor'")[0]
    assert tuple(row) == (int(opened["fid"]), 9, 2)
    assert cluster.value("SELECT count(*) FROM file_to_replicate WHERE nexttry = 2147483647") == 200, (
        "left as they were"
    )
