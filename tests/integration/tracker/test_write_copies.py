"""writeCopies: an acknowledged create survives the loss of the machine that took it; who dies on the way leaves nothing behind."""

import concurrent.futures
import contextlib
import os
import shutil
import signal
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from testkit.waiting import wait_for, wait_until

BODY = b"acknowledged and therefore kept " * 200
JOBS_ASLEEP = {"jobs": "delete=0,replicate=0,fsck=0,reaper=0,job_master=0"}  # no job makes a copy meanwhile


def put(url: str, body: bytes) -> None:
    with urllib.request.urlopen(urllib.request.Request(url, data=body, method="PUT"), timeout=90) as response:
        assert response.status in (200, 201)


def get(url: str) -> bytes | None:
    try:
        with urllib.request.urlopen(url, timeout=90) as response:
            return bytes(response.read())
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None


def opened(client: Any, key: str, body: bytes = BODY, *, file_class: str = "") -> str:
    """An upload whose bytes are on their node; the close request that would commit it."""
    offer = client.ok(f"create_open domain=d&key={key}&class={file_class}")
    put(offer["path"], body)
    path = offer["path"].replace(":", "%3A").replace("/", "%2F")
    return f"create_close domain=d&key={key}&fid={offer['fid']}&devid={offer['devid']}&path={path}&size={len(body)}"


def fid_of(close: str) -> int:
    return int(close.partition("&fid=")[2].partition("&")[0])


def devid_of(close: str) -> int:
    return int(close.partition("&devid=")[2].partition("&")[0])


@pytest.fixture
def asleep(cluster: Any) -> Any:
    """Three nodes and a tracker whose background jobs do nothing; uploads want two machines."""
    for devids in ((1, 2), (3, 4), (5, 6)):
        cluster.node(*devids, wait=False)
    client = cluster.tracker(**JOBS_ASLEEP).client()
    for node in cluster.nodes:
        node.wait()
    cluster.register(client)
    client.ok("create_domain domain=d")
    client.ok("mogile_setting name=write_copies_default&value=2")
    return cluster


def node_of(cluster: Any, devid: int) -> Any:
    return next(node for node in cluster.nodes if devid in node.devids)


def test_an_acknowledged_create_survives_the_loss_of_the_node_that_took_it(asleep: Any) -> None:
    client = asleep.trackers[0].client()
    close = opened(client, "precious")
    client.ok(close)
    lost = node_of(asleep, devid_of(close))
    lost.stop(signal.SIGKILL)
    shutil.rmtree(lost.docroot)
    rows = asleep.sql("SELECT devid FROM file_on WHERE fid = $1", fid_of(close))
    assert len(rows) == 2
    assert len({node_of(asleep, row["devid"]).address for row in rows}) == 2
    assert asleep.value("SELECT devcount FROM file WHERE fid = $1", fid_of(close)) == 2
    assert asleep.value("SELECT count(*) FROM mogile_copy_intent") == 0
    paths = client.ok("get_paths domain=d&key=precious&noverify=1&pathcount=3")
    assert BODY in [get(url) for name, url in paths.items() if name.startswith("path") and name != "paths"]


def test_without_write_copies_the_same_loss_takes_the_file(asleep: Any) -> None:
    """The control: it is the write copies that save the file above, nothing else."""
    client = asleep.trackers[0].client()
    client.ok("mogile_set_class domain=d&class=default&write_copies=1")
    close = opened(client, "careless")
    client.ok(close)
    node_of(asleep, devid_of(close)).stop(signal.SIGKILL)
    assert len(asleep.sql("SELECT devid FROM file_on WHERE fid = $1", fid_of(close))) == 1
    paths = client.ok("get_paths domain=d&key=careless&noverify=1&pathcount=3")
    assert [url for name, url in paths.items() if name.startswith("path") and name != "paths" and get(url)] == []


def test_too_few_machines_are_an_error_and_the_upload_can_be_closed_later(asleep: Any) -> None:
    client = asleep.trackers[0].client()
    close = opened(client, "waiting")
    others = [node for node in asleep.nodes if devid_of(close) not in node.devids]
    for node in others:
        node.stop(signal.SIGKILL)
    reply = client.ask(close)
    assert (reply.ok, reply.code) == (False, "no_devices")
    assert "1 of 2 copies could be made" in reply.text
    assert client.ask("get_paths domain=d&key=waiting&noverify=1").code == "unknown_key"
    for node in others:
        node.start()

    def closes() -> bool:
        return bool(client.ask(close).ok)

    wait_until(closes, "the close to succeed once another machine is back")
    assert len(asleep.sql("SELECT devid FROM file_on WHERE fid = $1", fid_of(close))) == 2


def test_the_patience_with_a_silent_node_is_a_setting(asleep: Any) -> None:
    hasty = asleep.tracker(write_copies_patience_seconds=0.25, **JOBS_ASLEEP)
    client = hasty.client()
    wait_until(lambda: client.ask("create_open domain=d&key=first").ok, "the second tracker to see the nodes")
    close = opened(client, "hasty")
    frozen = [node for node in asleep.nodes if devid_of(close) not in node.devids]
    for node in frozen:
        node.process.send_signal(signal.SIGSTOP)
    try:
        reply = client.ask(close)
    finally:
        for node in frozen:
            node.process.send_signal(signal.SIGCONT)
    assert (reply.ok, reply.code) == (False, "no_devices")
    assert "did not answer in 0.252 s" in reply.text, "a quarter of a second and the time of its bytes"


def test_degraded_writes_take_what_there_is(asleep: Any) -> None:
    client = asleep.trackers[0].client()
    answer = client.ok("mogile_set_class domain=d&class=default&write_copies=2&degraded_writes=1")
    assert answer == {"write_copies": "2", "degraded_writes": "1"}
    close = opened(client, "degraded")
    for node in asleep.nodes:
        if devid_of(close) not in node.devids:
            node.stop(signal.SIGKILL)
    client.ok(close)
    assert [row["devid"] for row in asleep.sql("SELECT devid FROM file_on WHERE fid = $1", fid_of(close))] == [
        devid_of(close)
    ]
    assert asleep.value("SELECT count(*) FROM file_to_replicate WHERE fid = $1", fid_of(close)) == 1


def test_many_closes_at_once_all_get_their_two_machines(asleep: Any) -> None:
    asleep.trackers[0].client().ok("create_class domain=d&class=sums&mindevcount=2&hashtype=MD5")

    def one(number: int) -> None:
        client = asleep.trackers[0].client()
        for part in range(4):
            key, body = f"k{number}-{part}", f"{number}-{part} ".encode() * 100
            offer = client.ok(f"create_open domain=d&key={key}&class=sums")
            put(offer["path"], body)
            path = offer["path"].replace(":", "%3A").replace("/", "%2F")
            client.ok(f"create_close domain=d&key={key}&fid={offer['fid']}&devid={offer['devid']}&path={path}")

    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        list(pool.map(one, range(24)))
    assert asleep.value("SELECT count(*) FROM file WHERE devcount = 2") == 96
    assert asleep.value("SELECT count(DISTINCT fid) FROM file_on") == 96
    assert asleep.value("SELECT count(*) FROM file_on") == 192
    assert asleep.value("SELECT count(*) FROM checksum") == 96, "the digest found while copying is stored at once"
    assert asleep.value("SELECT count(*) FROM mogile_copy_intent") == 0
    assert asleep.value("SELECT count(*) FROM mogile_copy_delete") == 0


def kill_whole(tracker: Any) -> None:
    """All processes at once: the children of a tracker that only lost its parent finish what they have accepted."""
    pid = tracker.process.pid
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(child), signal.SIGKILL)
    tracker.stop(signal.SIGKILL)


async def _lock(dsn: str, name: str) -> asyncpg.Connection:
    connection = await asyncpg.connect(dsn)
    await connection.execute("SELECT pg_advisory_lock(hashtextextended($1, 17))", name)
    return connection


@pytest.mark.parametrize("goes_on", [False, True])
async def test_a_tracker_killed_between_copy_and_commit_leaves_no_bytes_without_a_row(
    asleep: Any, goes_on: bool
) -> None:
    """The key's lock is held from outside, so the closing statement waits after the copy was made; then the tracker dies. Its statement
    may die with it, or come to its end all the same: nobody was answered, and one is as good as the other."""
    client = asleep.trackers[0].client()
    close = opened(client, "cut")
    fid = fid_of(close)
    holder = await _lock(asleep.dsn, f"{await holder_dmid(asleep)}:cut")
    client.send(close.encode() + b"\r\n")

    def copies() -> list[Any]:
        return [path for node in asleep.nodes for path in node.docroot.glob(f"dev*/*/*/*/*{fid}.fid")]

    wait_until(lambda: len(copies()) == 2, "the second copy")
    intents = await holder.fetch("SELECT devid FROM mogile_copy_intent WHERE fid = $1", fid)
    assert len(intents) == 1, "the copy is announced before it is made"
    waits = "FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"

    async def waiting() -> bool:
        return bool(await holder.fetchval(f"SELECT count(*) {waits}"))

    await wait_for(waiting, "the closing statement to wait for the key")
    kill_whole(asleep.trackers[0])
    connection = await asyncpg.connect(asleep.dsn)
    if not goes_on:
        assert await connection.fetchval(f"SELECT pg_terminate_backend(pid) {waits}")
    await holder.close()

    async def rows(*tables: str) -> int:
        return int(sum([await connection.fetchval(f"SELECT count(*) FROM {table}") for table in tables]))

    if goes_on:

        async def closed() -> bool:
            return await rows("file") == 1

        await wait_for(closed, "the statement to end")
        assert await rows("file_on") == 2
        assert await rows("mogile_copy_intent", "mogile_copy_delete", "tempfile", "file_to_delete2") == 0
    else:
        # What an hour and a minute would do:
        await connection.execute("UPDATE mogile_copy_intent SET until = 1")
        await connection.execute("UPDATE tempfile SET createtime = 1")
        asleep.tracker(retry_base_seconds=0.05, job_idle_seconds=0.1)
        wait_until(lambda: copies() == [], "all bytes to be deleted")

        async def forgotten() -> bool:
            return not await rows(
                "mogile_copy_intent", "mogile_copy_delete", "file", "file_on", "tempfile", "file_to_delete2"
            )

        await wait_for(forgotten, "all rows to go")
    await connection.close()


async def holder_dmid(cluster: Any) -> int:
    connection = await asyncpg.connect(cluster.dsn)
    try:
        return int(await connection.fetchval("SELECT dmid FROM domain WHERE namespace = 'd'"))
    finally:
        await connection.close()


def test_rules_of_classes_and_their_mistakes(asleep: Any) -> None:
    client = asleep.trackers[0].client()
    client.ok("create_class domain=d&class=c&mindevcount=3")
    assert client.ok("mogile_set_class domain=d&class=c") == {"write_copies": "2", "degraded_writes": "0"}
    client.ok("create_class domain=d&class=single&mindevcount=1")
    assert client.ok("mogile_set_class domain=d&class=single")["write_copies"] == "1"
    assert client.ok("mogile_set_class domain=d&class=c&write_copies=3")["write_copies"] == "3"
    assert client.ok("mogile_set_class domain=d&class=c&degraded_writes=1") == {
        "write_copies": "3",
        "degraded_writes": "1",
    }
    for bad in ("write_copies=0", "write_copies=17", "write_copies=x", "degraded_writes=yes"):
        assert client.ask(f"mogile_set_class domain=d&class=c&{bad}").code == "bad_params"
    assert client.ask("mogile_set_class domain=d&class=nope").code == "class_not_found"
    client.ok("delete_class domain=d&class=c")
    client.ok("create_class domain=d&class=c&mindevcount=3")
    assert client.ok("mogile_set_class domain=d&class=c")["write_copies"] == "2", "the rule went with its class"


def test_only_a_file_whose_policy_is_not_happy_yet_is_queued_for_replication(asleep: Any) -> None:
    client = asleep.trackers[0].client()
    client.ok("create_class domain=d&class=one&mindevcount=1")

    def queued(key: str, file_class: str = "") -> bool:
        close = opened(client, key, file_class=file_class)
        client.ok(close)
        return bool(asleep.value("SELECT count(*) FROM file_to_replicate WHERE fid = $1", fid_of(close)))

    assert not queued("on-two-machines-at-once")
    assert not queued("one-copy-is-all-it-wants", "one")
    client.ok("update_class domain=d&class=one&mindevcount=3")
    assert queued("wants-three-now", "one")
    client.ok("mogile_setting name=write_copies_default&value=1")
    assert queued("one-copy-of-two")
    assert asleep.value("SELECT count(*) FROM file_on o JOIN file f USING (fid) WHERE f.dkey = 'one-copy-of-two'") == 1
