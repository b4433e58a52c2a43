"""mogadm: what each command asks of the tracker, silence on success, exit codes, help."""

import asyncio
import io
from collections.abc import Callable

import pytest

from mogile_cli.classic.admin import main as mogadm_main
from mogile_cli.classic.admin.main import COMMANDS, mogadm
from mogile_cli.classic.program import Console

CHANGES = [
    ("host add n1 --ip=10.0.0.1", "create_host", {"host": "n1", "ip": "10.0.0.1", "port": "7500", "status": "down"}),
    (
        "host add n1 --ip=::1 --port=7000 --status=alive --getport=7580 --altip=1.2.3.4 --altmask=1.0.0.0/8",
        "create_host",
        {
            "host": "n1",
            "ip": "::1",
            "port": "7000",
            "status": "alive",
            "getport": "7580",
            "altip": "1.2.3.4",
            "altmask": "1.0.0.0/8",
        },
    ),
    ("host modify n1 -stat alive", "update_host", {"host": "n1", "status": "alive"}),
    ("host modify n1 --altip=", "update_host", {"host": "n1", "altip": ""}),
    ("host mark n1 readonly", "update_host", {"host": "n1", "status": "readonly"}),
    ("host delete n1", "delete_host", {"host": "n1"}),
    ("device add n1 5", "create_device", {"hostname": "n1", "devid": "5", "state": "alive"}),
    ("device add n1 dev5 --status=down", "create_device", {"hostname": "n1", "devid": "5", "state": "down"}),
    ("device mark n1 dev005 drain", "set_state", {"host": "n1", "device": "5", "state": "drain"}),
    ("device modify n1 5 --status=down", "set_state", {"host": "n1", "device": "5", "state": "down"}),
    ("device modify n1 5 --weight=10", "set_weight", {"host": "n1", "device": "5", "weight": "10"}),
    ("domain add d", "create_domain", {"domain": "d"}),
    ("domain delete d", "delete_domain", {"domain": "d"}),
    ("class add d c", "create_class", {"domain": "d", "class": "c", "mindevcount": "2"}),
    (
        "class add d c --mindevcount=3 --replpolicy=MultipleDevices() --hashtype=MD5",
        "create_class",
        {"domain": "d", "class": "c", "mindevcount": "3", "replpolicy": "MultipleDevices()", "hashtype": "MD5"},
    ),
    (
        "class modify d c --hashtype NONE",
        "update_class",
        {"domain": "d", "class": "c", "mindevcount": "2", "hashtype": "NONE"},
    ),
    ("class delete d c", "delete_class", {"domain": "d", "class": "c"}),
    ("settings set queue_rate_for_fsck 100", "set_server_setting", {"key": "queue_rate_for_fsck", "value": "100"}),
    ("fsck start", "fsck_start", {}),
    ("fsck stop", "fsck_stop", {}),
    ("fsck clearlog", "fsck_clearlog", {}),
    ("fsck reset", "fsck_reset", {}),
    ("fsck reset --policy-only --startpos=7", "fsck_reset", {"policy_only": "1", "startpos": "7"}),
    ("rebalance start", "rebalance_start", {}),
    ("rebalance stop", "rebalance_stop", {}),
    ("rebalance reset", "rebalance_reset", {}),
]


@pytest.mark.parametrize(("line", "command", "args"), CHANGES, ids=[row[0] for row in CHANGES])
async def test_a_change_is_asked_for_and_success_is_silent_unless_verbose(
    run: Callable, tracker, line: str, command: str, args: dict[str, str]
) -> None:
    tracker.script[command] = {}
    words = line.split()
    result = await run("mogadm", f"--trackers={tracker.address}", *words)
    assert (result.status, result.out, result.err) == (0, "", "")
    assert tracker.requests == [(command, args)]
    result = await run("mogadm", "--verbose", f"--trackers={tracker.address}", *words)
    assert (result.status, result.out.count("\n"), result.err) == (0, 1, "")


@pytest.mark.parametrize(("line", "command", "args"), CHANGES, ids=[row[0] for row in CHANGES])
async def test_a_refusal_is_one_line_on_stderr_and_exit_1(
    run: Callable, tracker, line: str, command: str, args: dict[str, str]
) -> None:
    tracker.script[command] = "state_too_high"
    result = await run("mogadm", f"--trackers={tracker.address}", *line.split())
    assert (result.status, result.out, result.err.count("\n")) == (1, "", 1)
    assert result.err.endswith("Status cannot go from dead to alive; must use down\n")


async def test_words_with_blanks_and_empty_settings(run: Callable, tracker) -> None:
    tracker.script |= {"rebalance_set_policy": {}, "set_server_setting": {}}
    policy = "from_hosts=3 to_percent_free=50"
    await run("mogadm", f"--trackers={tracker.address}", "rebalance", "policy", f"--options={policy}")
    await run("mogadm", f"--trackers={tracker.address}", "settings", "set", "memcache_servers", "")
    assert tracker.asked("rebalance_set_policy") == [{"policy": policy}]
    assert tracker.asked("set_server_setting") == [{"key": "memcache_servers", "value": ""}]


async def test_host_add_resolves_the_name(run: Callable, tracker) -> None:
    tracker.script["create_host"] = {}
    await run("mogadm", f"--trackers={tracker.address}", "host", "add", "localhost")
    assert tracker.asked("create_host")[0]["ip"] == "127.0.0.1"
    result = await run("mogadm", f"--trackers={tracker.address}", "host", "add", "no.such.host.invalid")
    assert (result.status, result.out) == (1, "")
    assert "say which: mogadm host add no.such.host.invalid --ip=<address>" in result.err


async def test_several_hosts_and_devices_of_none(run: Callable, tracker) -> None:
    tracker.script |= {"get_hosts": {"hosts": 0}, "get_devices": {"devices": 0}}
    result = await run("mogadm", f"--trackers={tracker.address}", "host", "list")
    assert (result.status, result.err) == (1, "Unable to retrieve host information from tracker(s).\n")
    result = await run("mogadm", f"--trackers={tracker.address}", "device", "list")
    assert (result.status, result.err) == (1, "No devices found on tracker(s).\n")


async def test_stats_is_gone(run: Callable, tracker) -> None:
    result = await run("mogadm", f"--trackers={tracker.address}", "stats")
    assert (result.status, result.out, result.err) == (1, "", "mogadm stats is deprecated: use mogstats\n")


class Settings:
    """Server settings that remember."""

    def __init__(self, tracker) -> None:
        self.values: dict[str, str] = {}
        tracker.script |= {"server_setting": self.get, "set_server_setting": self.set}

    def get(self, args: dict[str, str]) -> dict[str, object]:
        return {"key": args["key"], "value": self.values.get(args["key"], "")}

    def set(self, args: dict[str, str]) -> dict[str, object]:
        self.values[args["key"]] = args["value"]
        return {}


async def test_slaves(run: Callable, tracker) -> None:
    settings = Settings(tracker)
    argv = [f"--trackers={tracker.address}", "slave"]
    dsn = "DBI:Pg:dbname=m;host=r1"
    assert (await run("mogadm", *argv, "add", "r1", f"--dsn={dsn}", "--username=u", "--password=p")).status == 0
    assert (await run("mogadm", *argv, "add", "r2", "--dsn=x")).status == 0
    assert settings.values == {"slave_keys": "r1,r2", "slave_r1": f"{dsn}|u|p", "slave_r2": "x||"}
    assert (await run("mogadm", *argv, "modify", "r1", "--password=q")).status == 0
    assert (await run("mogadm", *argv, "list")).out == (
        f"r1 --dsn={dsn} --username=u --password=q\nr2 --dsn=x --username= --password=\n"
    )
    assert (await run("mogadm", *argv, "delete", "r1")).status == 0
    assert settings.values == {"slave_keys": "r2", "slave_r1": "", "slave_r2": "x||"}
    for line, message in [
        ("add r2 --dsn=y", "Slave r2 exists already; use `mogadm slave modify`.\n"),
        ("modify nope --dsn=y", "Slave nope not found.\n"),
        ("delete nope", "Slave nope not found.\n"),
    ]:
        result = await run("mogadm", *argv, *line.split())
        assert (result.status, result.err) == (1, message)


BAD_USE = [
    ("", "Usage:"),
    ("--help", "Usage:"),
    ("nonsense", "Usage:"),
    ("--nonsense host list", "Usage:"),
    ("host", "Help for 'host' command:"),
    ("host nonsense", "Help for 'host' command:"),
    ("host add", "\nERROR: Missing argument 'hostname'\n\nHelp for 'host-add' command:"),
    ("host add --ip=1 n1", "\nERROR: Unexpected option.  Expected argument 'hostname'\n"),
    ("host add n1 n2", "\nERROR: Unexpected extra argument.\n"),
    ("host add n1 --ip=1 n2", "\nERROR: Unexpected extra argument: n2\n"),
    ("host add n1 --nope=1", "\nERROR: Unknown option: nope\n"),
    ("host add n1 --port=x", '\nERROR: Value "x" invalid for option port (number expected)\n'),
    ("host add n1 --alt=1", "\nERROR: Option alt is ambiguous (altip, altmask)\n"),
    ("host list extra", "\nERROR: Unexpected arguments when expecting none.\n"),
    ("host list --all", "\nERROR: Unexpected arguments when expecting none.\n"),
    ("check extra", "\nERROR: Unexpected arguments when expecting none.\n"),
    ("device add n1 five", "\nERROR: devid should be a number or dev<number>, not 'five'\n"),
    ("device mark n1 5", "\nERROR: Missing argument 'status'\n"),
    ("device modify n1 5", "\nERROR: Nothing to change: give --status or --weight\n"),
    ("rebalance policy", "\nERROR: give the policy:"),
    ("slave add keys --dsn=x", "\nERROR: 'keys' cannot be the key of a slave\n"),
    ("slave add r --dsn=a|b", "\nERROR: dsn, username and password cannot contain '|'\n"),
]


@pytest.mark.parametrize(("line", "start"), BAD_USE, ids=[row[0] or "nothing" for row in BAD_USE])
async def test_bad_use_prints_help_on_stdout_and_exits_1(run: Callable, tracker, line: str, start: str) -> None:
    Settings(tracker)
    result = await run("mogadm", f"--trackers={tracker.address}", *line.split())
    assert (result.status, result.err) == (1, "")
    assert result.out.startswith(start)
    assert tracker.asked("set_server_setting") == []


async def test_help_knows_every_command(run: Callable) -> None:
    out = (await run("mogadm", "--help")).out
    for command in COMMANDS:
        assert f" {command.topic} {command.verb}".rstrip() in out
        assert command.help in out


async def test_without_trackers(run: Callable, tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mogadm_main, "LOCAL_TRACKER", "127.0.0.1:1")
    result = await run("mogadm", "domain", "add", "d")
    assert (result.status, result.out) == (1, "")
    assert "mogadm --trackers=10.10.0.33:7001,10.10.0.34:7001" in result.err
    monkeypatch.setattr(mogadm_main, "LOCAL_TRACKER", tracker.address)
    tracker.script["create_domain"] = {}
    assert (await run("mogadm", "domain", "add", "d")).status == 0


async def test_config_file_and_its_mistakes(run: Callable, tracker, tmp_path) -> None:
    tracker.script["create_domain"] = {}
    file = tmp_path / "a.conf"
    file.write_text(f"trackers = {tracker.address}\n")
    assert (await run("mogadm", f"--config={file}", "domain", "add", "d")).status == 0
    result = await run("mogadm", f"--config={file}.no", "domain", "add", "d")
    assert (result.status, result.err) == (1, f"configuration file {file}.no does not exist\n")


async def test_taillog_shows_the_last_events_and_those_to_come(tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mogile_cli.classic.admin.fsck.TAIL_POLL_SECONDS", 0.01)
    last = 100

    def log(args: dict[str, str]) -> dict[str, object]:
        logids = list(range(int(args["after_logid"]) + 1, last + 1))
        pairs: dict[str, object] = {"row_count": len(logids)}
        for index, logid in enumerate(logids, 1):
            pairs |= {
                f"row_{index}_logid": logid,
                f"row_{index}_utime": 1,
                f"row_{index}_fid": logid,
                f"row_{index}_evcode": "MISS",
            }
        return pairs

    tracker.script |= {"fsck_status": {"max_logid": last}, "fsck_getlog": log}
    stdout = io.BytesIO()
    console = Console(stdin=io.BytesIO(), stdout=stdout, stderr=io.BytesIO())
    task = asyncio.create_task(mogadm([f"--trackers={tracker.address}", "fsck", "taillog"], {}, console))

    async def shown(count: int) -> list[int]:
        async with asyncio.timeout(10):
            while stdout.getvalue().count(b"\n") < count + 1:
                await asyncio.sleep(0.01)
        return [int(line.split()[2]) for line in stdout.getvalue().splitlines()[1:]]

    assert await shown(20) == list(range(81, 101))
    last = 103
    assert await shown(23) == list(range(81, 104))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
