"""Runs of rebalance and fsck, `mogile_balance` and `mogile_census` as a person asks for them, of a whole tracker."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qsl

import pytest

from testkit import programs
from testkit.ports import free_port
from testkit.waiting import EVENT_SECONDS

ADDRESS = "127.0.21.253"


class Asked:
    """A tracker process and one connection to it."""

    def __init__(self, cluster: Any) -> None:
        self.port, http_port = free_port(ADDRESS), free_port(ADDRESS)
        settings = {f"MOGILE_{name.upper()}": str(value) for name, value in cluster.settings.items()}
        settings |= {
            "MOGILE_DB_DSN": cluster.dsn,
            "MOGILE_LISTEN": f"{ADDRESS}:{self.port}",
            "MOGILE_HTTP_LISTEN": f"{ADDRESS}:{http_port}",
        }
        kept = {k: v for k, v in os.environ.items() if not k.startswith("MOGILE_")}
        self.process = programs.start(
            programs.TRACKER, environment={**kept, **settings}, log=cluster.folder / "asked.log", own_group=True
        )

    async def answers(self) -> bool:
        return (await self.ask("noop")).startswith("OK")

    async def ask(self, line: str) -> str:
        reader, writer = await asyncio.open_connection(ADDRESS, self.port)
        try:
            writer.write(line.encode() + b"\r\n")
            return (await reader.readline()).decode().rstrip("\r\n")
        finally:
            writer.close()
            await writer.wait_closed()

    async def ok(self, line: str) -> dict[str, str]:
        answer = await self.ask(line)
        assert answer.startswith("OK "), answer
        return dict(parse_qsl(answer[3:], keep_blank_values=True))


@pytest.fixture
async def asked(two_zones: Any) -> AsyncIterator[tuple[Any, Asked]]:
    tracker = Asked(two_zones)
    try:
        await two_zones.wait_for(tracker.answers, "the tracker to answer")
        yield two_zones, tracker
    finally:
        if tracker.process.poll() is None:
            os.killpg(tracker.process.pid, signal.SIGTERM)
        tracker.process.wait(EVENT_SECONDS)


async def test_the_census_is_true(asked: tuple[Any, Asked]) -> None:
    cluster, tracker = asked
    for _ in range(6):
        await cluster.put([1, 3], data=b"x" * 1000, queue=False)

    async def settled(**wanted: str) -> dict[str, str]:
        """The answer in which all these are so, as it was given: a later one may be of another moment."""
        census = await tracker.ok("mogile_census detail=1")
        return census if all(census[name] == value for name, value in wanted.items()) else {}

    census = await cluster.wait_for(
        lambda: settled(files="6", fewer_copies="0", to_replicate="0", dev_1_observed="writeable"), "six sound files"
    )
    assert census["bytes"] == "6000"
    assert census["devices"] == "4"
    assert "class_1_files" not in await tracker.ok("mogile_census"), "classes are told when asked for"
    devices = {census[f"dev_{n}_devid"]: n for n in range(1, 5)}
    held = {devid: (census[f"dev_{n}_files"], census[f"dev_{n}_bytes"]) for devid, n in devices.items()}
    assert held == {"1": ("6", "6000"), "2": ("0", "0"), "3": ("6", "6000"), "4": ("0", "0")}
    assert census[f"dev_{devices['1']}_observed"] == "writeable"

    cluster.agents[3].kill()
    census = await cluster.wait_for(
        lambda: settled(fewer_copies="6", one_copy="6", no_copy="0", complete="1"), "the loss to be seen"
    )
    assert (census["complete"], census["classes"], census["shorts"]) == ("1", "1", "1")
    assert (census["class_1_files"], census["class_1_bytes"]) == ("6", "6000")
    assert (census["short_1_copies"], census["short_1_files"], census["short_1_bytes"]) == ("1", "6", "6000")
    assert census["short_1_domain"] == census["class_1_domain"] != ""
    await tracker.ok("mogile_set_out devid=3&out=1")
    census = await cluster.wait_for(
        lambda: settled(fewer_copies="0", one_copy="0", zone_violations="0", to_replicate="0"), "the loss to be healed"
    )
    assert census[f"dev_{devices['3']}_out"] == "1"
    assert census[f"dev_{devices['3']}_files"] == "6", "out drops no row"
    assert census[f"dev_{devices['4']}_files"] == "6", "the copies went to the other node of the lost one's zone"


async def test_the_balancer_is_switched_and_tells_its_state(asked: tuple[Any, Asked]) -> None:
    cluster, tracker = asked
    await cluster.database.execute("DELETE FROM mogile_setting WHERE name = 'balance_mode'")

    async def at_rest() -> dict[str, str]:
        """As it is on a new cluster."""
        answer = await tracker.ok("mogile_balance")
        return answer if (answer["state"], answer["mode"]) == ("idle", "auto") else {}

    answer = await cluster.wait_for(at_rest, "the balancer to be idle")
    assert (answer["mode"], answer["spread"], answer["state"], answer["queued"]) == ("auto", "5", "idle", "0")
    answer = await tracker.ok("mogile_balance mode=off&spread=2.5")
    assert (answer["mode"], answer["spread"]) == ("off", "2.5")
    assert (await tracker.ok("mogile_balance"))["mode"] == "off"
    assert (await tracker.ask("mogile_balance mode=perhaps")).startswith("ERR bad_params ")
    assert (await tracker.ask("mogile_balance spread=-1")).startswith("ERR bad_params ")
    assert (await tracker.ok("mogile_balance mode=auto"))["spread"] == "2.5"


async def test_a_rebalance_is_started_watched_and_finished_by_commands(asked: tuple[Any, Asked]) -> None:
    cluster, tracker = asked
    fids = [await cluster.put([1, 3], queue=False) for _ in range(8)]
    assert (await tracker.ask("rebalance_start")).startswith("ERR no_rebal_policy ")
    assert (await tracker.ask("rebalance_set_policy policy=bogus%3D1")).startswith(
        "ERR bad_rebal_pol Invalid+setting+bogus"
    )
    await tracker.ok("rebalance_set_policy policy=from_devices%3D3+to_devices%3D4")

    async def tested() -> bool:
        return await tracker.ok("rebalance_test") == {"sdevs": "3", "ddevs": "4"}

    await cluster.wait_for(tested, "both devices to be fit")
    assert "source_devs=3" in (await tracker.ok("rebalance_start"))["state"]

    async def moved() -> bool:
        return all([await cluster.holders(fid) == [1, 4] for fid in fids])

    await cluster.wait_for(moved, "all files to be moved")

    async def finished() -> bool:
        state = (await tracker.ok("rebalance_status"))["state"]
        return "time_finished=0" not in state and "fids_queued=8" in state

    await cluster.wait_for(finished, "the rebalance to end")
    assert (await tracker.ask("rebalance_stop")).startswith("ERR rebal_not_started ")
    await tracker.ok("rebalance_reset")
    assert (await tracker.ask("rebalance_status")).startswith("ERR no_rebal_state ")


async def start_fsck(cluster: Any, tracker: Asked, line: str = "fsck_start") -> None:
    """Start a run; the tracker may still need a moment to see a domain that was made by hand."""

    async def started() -> bool:
        return (await tracker.ask(line)).startswith("OK")

    await cluster.wait_for(started, f"{line} to be accepted")


async def ended(cluster: Any, tracker: Asked) -> dict[str, str]:
    """The status after the run has queued everything and all of it was checked."""

    async def quiet() -> bool:
        status = await tracker.ok("mogile_fsck")
        return (status["running"], status["queued"]) == ("0", "0")

    await cluster.wait_for(quiet, "fsck to end")
    return await tracker.ok("mogile_fsck")


async def test_an_fsck_is_started_watched_and_finished_by_commands(asked: tuple[Any, Asked]) -> None:
    cluster, tracker = asked
    fids = [await cluster.put([1, 3], queue=False) for _ in range(8)]
    cluster.disk(3, fids[2]).unlink()
    await start_fsck(cluster, tracker)
    status = await ended(cluster, tracker)
    assert (status["max_fid_checked"], status["end_fid"], status["checked"]) == (str(fids[-1]), str(fids[-1]), "8")
    assert (status["num_MISS"], status["num_REPL"]) == ("1", "1")
    assert int(status["stop_time"]) >= int(status["start_time"]) > 0
    log = await tracker.ok("fsck_getlog")
    assert (log["row_count"], log["row_1_evcode"], log["row_1_devid"]) == ("2", "MISS", "3")
    assert "row_2_devid" not in log, "columns without a value are left out"
    assert (await tracker.ok(f"fsck_getlog after_logid={log['row_1_logid']}"))["row_1_evcode"] == "REPL"
    assert (await tracker.ok("fsck_status"))["max_logid"] == log["row_2_logid"]
    await tracker.ok("fsck_clearlog")
    assert await tracker.ok("fsck_getlog") == {"row_count": "0"}
    assert (await tracker.ok("fsck_status"))["num_MISS"] == "1", "the counts are of the run, not of the log"

    await start_fsck(cluster, tracker)  # a run that is complete is begun anew
    status = await ended(cluster, tracker)
    assert (status["checked"], status.get("num_MISS")) == ("8", None)


async def test_fsck_and_rebalance_exclude_each_other(asked: tuple[Any, Asked]) -> None:
    cluster, tracker = asked
    fid = await cluster.put([1, 3], queue=False)
    await cluster.database.execute("INSERT INTO file_to_queue (fid, type, nexttry) VALUES (999, 1, 2000000000)")
    await tracker.ok("set_server_setting key=queue_size_for_fsck&value=1")  # the row above fills the queue
    await tracker.ok("rebalance_set_policy policy=from_devices%3D1")
    await tracker.ok("fsck_start")
    assert await tracker.ask("fsck_start") == "ERR fsck_running fsck+is+already+running"
    assert (await tracker.ask("rebalance_start")).startswith("ERR fsck_running fsck+running%3B+cannot+run+rebalance")
    status = await tracker.ok("fsck_status")
    assert (status["running"], status["max_fid_checked"], status["end_fid"]) == ("1", "0", str(fid))
    assert status["host"]
    await tracker.ok("fsck_stop")
    status = await tracker.ok("fsck_status")
    assert (status["running"], status["host"]) == ("0", "")
    assert int(status["stop_time"]) > 0
    await cluster.database.execute("INSERT INTO server_settings (field, value) VALUES ('rebal_host', 'x')")
    answer = await tracker.ask("fsck_start")
    assert answer == "ERR rebal_running rebalance+running%3B+cannot+run+fsck+at+same+time"


async def test_a_stopped_fsck_goes_on_and_reset_begins_where_it_is_told(asked: tuple[Any, Asked]) -> None:
    cluster, tracker = asked
    fids = [await cluster.put([1, 3], queue=False) for _ in range(6)]
    await tracker.ok(f"fsck_reset startpos={fids[3]}&policy_only=1")
    status = await tracker.ok("fsck_status")
    assert (status["max_fid_checked"], status["policy_only"], status["start_time"]) == (str(fids[3]), "1", "0")
    await start_fsck(cluster, tracker)
    assert (await ended(cluster, tracker))["checked"] == "2"
    await tracker.ok("fsck_reset")
    assert (await tracker.ok("fsck_status"))["policy_only"] == "0"
    assert (await tracker.ask("fsck_reset startpos=x")).startswith("ERR bad_params ")


async def test_an_fsck_is_limited_to_domain_class_and_prefix(asked: tuple[Any, Asked]) -> None:
    cluster, tracker = asked
    fids = [await cluster.put([1, 3], queue=False) for _ in range(6)]
    await cluster.database.execute("INSERT INTO domain (dmid, namespace) VALUES (2, 'other')")
    await cluster.database.execute("UPDATE file SET dmid = 2 WHERE fid = $1", fids[0])
    await cluster.database.execute("UPDATE file SET classid = 0 WHERE fid = $1", fids[1])
    await cluster.database.execute("UPDATE file SET dkey = 'a_%' || fid WHERE fid = ANY($1::bigint[])", fids[4:])
    for line, wanted in (
        ("fsck_start domain=other", 1),
        ("fsck_start domain=d", 5),
        ("fsck_start domain=d&class=c", 4),
        ("fsck_start domain=d&class=default", 1),
        ("fsck_start domain=d&prefix=a_%25", 2),
        ("fsck_start domain=d&prefix=nothing", 0),
        ("fsck_start", 6),
    ):
        await start_fsck(cluster, tracker, line)
        status = await ended(cluster, tracker)
        assert (line, status["checked"]) == (line, str(wanted))
        if "prefix=a_" in line:
            assert (status["domain"], status["class"], status["prefix"]) == ("d", "", "a_%")
    assert (await tracker.ask("fsck_start prefix=a")).startswith("ERR no_domain ")
    assert (await tracker.ask("fsck_start domain=nope")).startswith("ERR unreg_domain ")
    assert (await tracker.ask("fsck_start domain=d&class=nope")).startswith("ERR unreg_class ")


async def test_another_tracker_goes_on_where_a_killed_one_was(asked: tuple[Any, Asked]) -> None:
    cluster, tracker = asked
    fids = [await cluster.put([1, 3], queue=False) for _ in range(150)]
    for fid in fids:
        cluster.disk(3, fid).unlink()
    await tracker.ok("set_server_setting key=queue_rate_for_fsck&value=1")
    await start_fsck(cluster, tracker)

    async def under_way() -> bool:
        return int((await tracker.ok("fsck_status")).get("num_MISS", "0")) >= 5

    await cluster.wait_for(under_way, "some files to be mended")
    os.killpg(tracker.process.pid, signal.SIGKILL)
    tracker.process.wait(EVENT_SECONDS)
    await cluster.database.execute("UPDATE server_settings SET value = '100' WHERE field = 'queue_rate_for_fsck'")
    reached = int(
        await cluster.database.fetchval("SELECT value FROM server_settings WHERE field = 'fsck_highest_fid_checked'")
    )
    assert reached < fids[-1], "the run was not over"
    successor = Asked(cluster)
    try:
        await cluster.wait_for(successor.answers, "the other tracker to answer")
        await ended(cluster, successor)

        async def mended() -> bool:
            return all([len(await cluster.holders(fid)) == 2 for fid in fids])

        await cluster.wait_for(mended, "every copy to be made again", 150)
        await cluster.check_files()
    finally:
        os.killpg(successor.process.pid, signal.SIGTERM)
        successor.process.wait(EVENT_SECONDS)


async def test_the_setting_fsck_checksum_takes_its_four_words(asked: tuple[Any, Asked]) -> None:
    _, tracker = asked
    for word, kept in (("MD5", "MD5"), ("sha-1", "SHA-1"), ("off", "off"), ("class", ""), ("MD5", "MD5"), ("", "")):
        await tracker.ok(f"set_server_setting key=fsck_checksum&value={word}")
        assert (await tracker.ok("server_setting key=fsck_checksum"))["value"] == kept
        assert (await tracker.ok("mogile_fsck"))["checksum"] == (kept or "class")
    assert (await tracker.ask("set_server_setting key=fsck_checksum&value=crc")).startswith("ERR invalid_format ")


async def test_files_that_wait_for_a_device_do_not_hold_up_the_rest(asked: tuple[Any, Asked]) -> None:
    """A queue that is full of checks of a dead node's files takes others all the same."""
    cluster, tracker = asked
    first = [await cluster.put([1, 3], queue=False) for _ in range(12)]
    then = [await cluster.put([1, 4], queue=False) for _ in range(12)]
    cluster.disk(4, then[-1]).unlink()
    cluster.agents[3].kill()
    await tracker.ok("set_server_setting key=queue_size_for_fsck&value=2")
    await tracker.ok("set_server_setting key=queue_rate_for_fsck&value=2")
    reader, writer = await asyncio.open_connection(ADDRESS, tracker.port)
    writer.write(b"!watch\r\n")
    await start_fsck(cluster, tracker)
    async with asyncio.timeout(EVENT_SECONDS):
        line = b""
        while b"Connectivity problem" not in line:
            line = await reader.readline()
    assert re.match(rb":: \[fsck\(\d+\)\] Connectivity problem reaching device ", line), line
    writer.close()

    async def found() -> dict[str, str]:
        """Those that wait are tried again from time to time, so all of them wait at some moments only."""
        status = await tracker.ok("mogile_fsck")
        ended = status.get("num_MISS") == "1" and status["running"] == "0"
        return status if ended and int(status["waiting"]) == len(first) else {}

    status = await cluster.wait_for(found, "the last file to be checked and the others to wait")
    assert int(status["checked"]) >= len(then)


async def test_orphans_are_asked_for_by_command(asked: tuple[Any, Asked]) -> None:
    cluster, tracker = asked
    fid = await cluster.put([1, 3], queue=False)
    for table in ("file", "file_on"):
        await cluster.database.execute(f"DELETE FROM {table} WHERE fid = $1", fid)
    assert await tracker.ok("mogile_orphans") == {"devices": "0"}
    assert (await tracker.ask("mogile_orphans action=burn")).startswith("ERR bad_params ")
    assert (await tracker.ask("mogile_orphans action=start&devid=99")).startswith("ERR no_device ")
    assert (await tracker.ask("mogile_orphans action=start&age=soon")).startswith("ERR bad_params ")
    assert (await tracker.ok("mogile_orphans action=start&devid=2&age=0"))["devices"] == "1"
    assert (await tracker.ok("mogile_orphans action=start&age=0"))["devices"] == "4"

    async def over() -> bool:
        walks = await tracker.ok("mogile_orphans")
        return all(walks[f"dev_{n}_state"] == "finished" for n in range(1, 5))

    await cluster.wait_for(over, "the walks to end")
    listed = await tracker.ok("mogile_orphans action=list&limit=1")
    assert (listed["row_count"], listed["row_1_devid"], listed["row_1_fid"], listed["row_1_file"]) == (
        "1",
        "1",
        str(fid),
        "0",
    )
    after = await tracker.ok(f"mogile_orphans action=list&after_devid=1&after_fid={fid}")
    assert (after["row_count"], after["row_1_devid"]) == ("1", "3")
    assert (await tracker.ok("fsck_status"))["num_ORPH"] == "2"
    await tracker.ok("mogile_orphans action=remove")

    async def gone() -> bool:
        return not cluster.stray_files()

    await cluster.wait_for(gone, "the bytes to go")
    assert await tracker.ok("mogile_orphans action=list") == {"row_count": "0"}
