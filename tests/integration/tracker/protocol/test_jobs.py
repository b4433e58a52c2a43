"""Commands about settings, rebalance, fsck and the tracker itself, and that the descriptions are whole."""

from collections.abc import Iterator
from typing import Any
from unittest.mock import ANY

import pytest

from mogile_core.errors import ERROR_TEXTS
from mogile_core.wire import encode_args
from mogile_tracker.commands import all_commands
from testkit.waiting import wait_until


@pytest.mark.also_through_pgbouncer
@pytest.mark.timeout(900)
def test_jobs(play: Any, not_served: dict[str, str]) -> None:
    play.ok("create_domain domain=d")
    play.ok("create_class domain=d&class=md&mindevcount=1&hashtype=MD5")
    for part in (settings, rebalance, fsck, misc):
        part(play)
    for command in not_served:
        play.err("unknown_command", f"{command} domain=d&key=a")
    play.nothing_is_missing("jobs")


def test_every_command_and_every_code_has_a_place(described: dict[str, str], unreachable: dict[str, str]) -> None:
    """That each is really answered is seen by the tests of the topics."""
    assert {name for name in all_commands().names() if not name.startswith("mogile_")} == set(described)
    codes = set(" ".join(described.values()).split())
    assert set(ERROR_TEXTS) - codes - {"unknown_command"} == set(unreachable)


def settings(play: Any) -> None:
    play.err("bad_params", "server_setting")
    play.ok("server_setting key=schema_version", {"key": "schema_version", "value": "17"})
    play.ok("server_setting key=nope", {"key": "nope", "value": ""})
    for request in ("", "key=queue_rate_for_fsck", "value=1"):
        play.err("bad_params", f"set_server_setting {request}")
    for key in ("nope", "schema_version", "fsck_host", "rebal_host", "enable_rebalance"):
        play.err("not_writable", f"set_server_setting key={key}&value=1")
    for key, value in writable():
        play.ok(f"set_server_setting {encode_args({'key': key, 'value': value})}", {})
        play.ok(f"server_setting key={key}", {"key": key, "value": value})
    for key in (
        "skip_devcount",
        "skip_mkcol",
        "case_sensitive_list_keys",
        "memcache_ttl",
        "internal_queue_limit",
        "queue_rate_for_fsck",
    ):
        play.err("invalid_format", f"set_server_setting key={key}&value=word", "must be")
    play.err("invalid_format", "set_server_setting key=zone_far&value=moon", "netmask")
    play.ok("set_server_setting key=fsck_checksum&value=off", {})
    pairs = play.ok("server_settings")
    shown = {pairs[f"key_{i}"]: pairs[f"value_{i}"] for i in range(1, int(pairs["key_count"]) + 1)}
    assert len(pairs) == 1 + 2 * len(shown)
    assert shown == {**dict(writable()), "schema_version": "17", "fsck_checksum": "off"}
    for key, _ in writable():
        play.ok(f"set_server_setting key={key}&value=", {})


def writable() -> Iterator[tuple[str, str]]:
    yield from {
        "slave_version": "5", "skip_devcount": "1", "skip_mkcol": "0", "case_sensitive_list_keys": "1",
        "memcache_servers": "127.0.0.1:11211", "memcache_ttl": "60", "internal_queue_limit": "500",
        "network_zones": "near,far", "zone_near": "10.0.0.0/8,192.168.1.0/24", "queue_rate_for_reaper": "1000",
        "queue_size_for_fsck": "20000",
    }.items()  # fmt: skip


def rebalance(play: Any) -> None:
    play.err("no_rebal_policy", "rebalance_test")
    play.err("no_rebal_policy", "rebalance_start")
    play.err("no_rebal_state", "rebalance_status")
    play.err("rebal_not_started", "rebalance_stop")
    play.err("bad_rebal_pol", "rebalance_set_policy policy=bogus%3D1", "Invalid setting bogus")
    play.ok("rebalance_set_policy policy=from_devices%3D1%20to_devices%3D3", {})
    play.ok("rebalance_test", {"sdevs": "1", "ddevs": "3"})
    play.while_running("fsck", "fsck_running", "rebalance_start", "fsck running; cannot run rebalance at same time")
    play.while_running("rebal", "rebal_running", "rebalance_start", "already running")
    play.while_running("rebal", "rebal_running", "rebalance_reset", "running")
    play.while_running("rebal", "no_set_rebal", "rebalance_set_policy policy=from_devices%3D1", "running")
    play.ok("rebalance_set_policy policy=from_devices%3D1%20to_devices%3D3", {})
    play.ok("rebalance_reset", {})
    assert "source_devs=1" in play.ok("rebalance_start", {"state": ANY})["state"]
    play.ok("rebalance_status", {"state": ANY})
    stopped = play.answer("rebalance_stop").code
    assert stopped in ("", "rebal_not_started"), "an empty device may have been done with at once"
    wait_until(lambda: not play.answer("rebalance_reset").code, "the rebalance to stop")
    play.seen["rebalance_stop"].add("")
    play.err("no_rebal_state", "rebalance_status")


def fsck(play: Any) -> None:
    for _ in range(2):
        play.ok("fsck_stop", {})
    play.ok("fsck_clearlog", {})
    play.err("bad_params", "fsck_reset startpos=word")
    play.ok("fsck_reset startpos=5&policy_only=1", {})
    zero = {"running": "0", "host": "", "start_time": "0", "stop_time": "0", "end_fid": ANY, "current_time": ANY}
    play.ok("fsck_status", {**zero, "max_fid_checked": "5", "policy_only": "1", "max_logid": ANY})
    play.ok("fsck_reset", {})
    play.ok("fsck_status", {**zero, "max_fid_checked": "0", "policy_only": "0", "max_logid": ANY})
    play.while_running("fsck", "fsck_running", "fsck_start", "fsck is already running")
    play.while_running("rebal", "rebal_running", "fsck_start", "rebalance running; cannot run fsck at same time")
    play.ok("fsck_stop", {})
    play.err("no_domain", "fsck_start prefix=a")
    play.err("unreg_domain", "fsck_start domain=nope")
    play.err("unreg_class", "fsck_start domain=d&class=nope")
    play.ok("fsck_reset", {})
    fid = play.store("lost", **{"class": "md"})
    play.cluster.sql("DELETE FROM file_on WHERE fid = $1", int(fid))
    for node in play.cluster.nodes:
        for path in node.docroot.glob(f"dev*/*/*/*/{int(fid):010}.fid"):
            path.unlink()
    play.ok("fsck_reset", {})
    play.ok("fsck_start domain=d", {})
    play.until(
        "fsck_status", lambda pairs: pairs["running"] == "0" and "num_GONE" in pairs, "the lost file to be found"
    )
    pairs = play.ok("fsck_getlog")
    rows = [i for i in range(1, int(pairs["row_count"]) + 1) if pairs.get(f"row_{i}_fid") == fid]
    assert [pairs[f"row_{i}_evcode"] for i in rows] == ["NOPA", "SRCH", "GONE"]
    assert all(pairs[f"row_{i}_{column}"].isdigit() for i in rows for column in ("logid", "utime"))
    assert not any(f"row_{i}_devid" in pairs for i in rows), "columns without a value are left out"
    last = pairs[f"row_{pairs['row_count']}_logid"]
    play.ok(f"fsck_getlog after_logid={last}", {"row_count": "0"})
    play.ok("fsck_clearlog", {})
    play.ok("fsck_getlog", {"row_count": "0"})


def misc(play: Any) -> None:
    play.ok("noop", {})
    play.ok("NoOp x=1&callid=7", {"callid": "7"})
    play.ok("test", {})
    play.err("failure", "test crash=1")
    for command in ("clear_cache devices=1", "do_monitor_round", "sleep duration=1"):
        play.ok(command, {})
    play.cluster.sql(
        "INSERT INTO file_to_replicate (fid, nexttry) SELECT n, 2000000000 FROM generate_series(700000, 700999) AS n"
    )
    assert int(play.ok("replicate_now", {"count": ANY})["count"]) >= 1000
