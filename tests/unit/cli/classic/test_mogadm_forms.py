"""mogadm: the exact forms of what it prints."""

from collections.abc import Callable

import pytest

from mogile_cli.classic.admin.fsck import status_lines

HOSTS = {
    "hosts": 2,
    "host1_hostid": 10, "host1_hostname": "node2", "host1_status": "down", "host1_hostip": "10.0.0.32", "host1_http_port": 7500,
    "host1_http_get_port": 7580, "host1_altip": "192.168.0.2", "host1_altmask": "192.168.0.0/24",
    "host2_hostid": 2, "host2_hostname": "node1", "host2_status": "alive", "host2_hostip": "10.0.0.31", "host2_http_port": 7500,
    "host2_http_get_port": "", "host2_altip": "", "host2_altmask": "",
}  # fmt: skip


def _device(
    index: int, devid: int, hostid: int, status: str, total: object, used: object, weight: object = 100
) -> dict[str, object]:
    fields = {"devid": devid, "hostid": hostid, "status": status, "weight": weight, "mb_total": total, "mb_used": used}
    return {f"dev{index}_{name}": value for name, value in fields.items()}


DEVICES = {
    "devices": 4,
    **_device(1, 10, 2, "readonly", 9439, 4855),
    **_device(2, 3, 2, "alive", 9439, 2978),
    **_device(3, 4, 2, "dead", 9439, 1024),
    **_device(4, 1, 10, "alive", "", "", 50),
}

HOST_LIST = """\
node1 [2]: alive
  IP:       10.0.0.31:7500

node2 [10]: down
  IP:       10.0.0.32:7500
  Alt IP:   192.168.0.2
  Alt Mask: 192.168.0.0/24
  GET Port: 7580

"""
DEVICE_LIST = """\
node1 [2]: alive
                   used(G)    free(G)   total(G)  weight(%)
  dev3:   alive      2.908      6.310      9.218        100
 dev10: readonly      4.741      4.477      9.218        100

node2 [10]: down
                   used(G)    free(G)   total(G)  weight(%)
  dev1:   alive      0.000      0.000      0.000         50

"""
DEVICE_SUMMARY = """\
Hostname        HostID  Status   used(G)  free(G) total(G)    %Used
node1           [   2]:  alive     7.649   10.786   18.436    41.49
node2           [  10]:   down     0.000    0.000    0.000 \n"""


async def test_host_list(run: Callable, tracker) -> None:
    tracker.script["get_hosts"] = HOSTS
    result = await run("mogadm", f"--trackers={tracker.address}", "host", "list")
    assert (result.status, result.out, result.err) == (0, HOST_LIST, "")


async def test_device_list(run: Callable, tracker) -> None:
    tracker.script |= {"get_hosts": HOSTS, "get_devices": DEVICES}
    argv = [f"--trackers={tracker.address}", "device", "list"]
    assert (await run("mogadm", *argv)).out == DEVICE_LIST
    dead = "  dev4:    dead      1.000      8.218      9.218        100\n"
    assert (await run("mogadm", *argv, "--all")).out == DEVICE_LIST.replace(" dev10:", dead + " dev10:")
    assert (await run("mogadm", *argv, "--hostname=node2")).out == DEVICE_LIST.partition("\n\n")[2]
    result = await run("mogadm", *argv, "--hostname=node1,nope")
    assert (result.status, result.out, result.err) == (1, "", "host 'nope' does not exist\n")


async def test_device_summary(run: Callable, tracker) -> None:
    tracker.script |= {"get_hosts": HOSTS, "get_devices": DEVICES}
    argv = [f"--trackers={tracker.address}", "device", "summary"]
    assert (await run("mogadm", *argv)).out == DEVICE_SUMMARY
    dead = (await run("mogadm", *argv, "--status=dead", "--hostname=node1")).out.splitlines()[1:]
    assert dead == ["node1           [   2]:  alive     1.000    8.218    9.218    10.85"]


async def test_device_next(run: Callable, tracker) -> None:
    tracker.script["get_devices"] = [DEVICES, {"devices": 0}]
    argv = [f"--trackers={tracker.address}", "device", "next"]
    assert ((await run("mogadm", *argv)).out, (await run("mogadm", *argv)).out) == ("11\n", "1\n")


CLASSES = [("images", "default", 2, "NONE"), ("images", "MZ", 3, "MD5"), ("files", "default", 2, "NONE")]


def _domains() -> dict[str, object]:
    pairs: dict[str, object] = {"domains": 2}
    for number, domain in enumerate(("images", "files"), 1):
        rows = [row for row in CLASSES if row[0] == domain]
        pairs |= {f"domain{number}": domain, f"domain{number}classes": len(rows)}
        for index, (_, name, mindevcount, hashtype) in enumerate(rows, 1):
            fields = {"name": name, "mindevcount": mindevcount, "replpolicy": "MultipleHosts()", "hashtype": hashtype}
            pairs |= {f"domain{number}class{index}{field}": value for field, value in fields.items()}
    return pairs


DOMAIN_LIST = """\
 domain               class                mindevcount   replpolicy   hashtype
-------------------- -------------------- ------------- ------------ -------
 files                default                   2        MultipleHosts() NONE   \n
 images               MZ                        3        MultipleHosts() MD5    \
\n images               default                   2        MultipleHosts() NONE   \n
"""


@pytest.mark.parametrize("topic", ["domain", "class"])
async def test_domain_and_class_list(run: Callable, tracker, topic: str) -> None:
    tracker.script["get_domains"] = _domains()
    result = await run("mogadm", f"--trackers={tracker.address}", topic, "list")
    assert (result.status, result.out, result.err) == (0, DOMAIN_LIST, "")


SETTINGS = {
    "schema_version": 17,
    "memcache_servers": "",
    "rebal_host": "t1",
    "rebal_policy": "from_devices=1",
    "rebal_state": "x=1",
}


def _settings(settings: dict[str, object]) -> dict[str, object]:
    pairs: dict[str, object] = {"key_count": len(settings)}
    for index, (name, value) in enumerate(settings.items(), 1):
        pairs |= {f"key_{index}": name, f"value_{index}": value}
    return pairs


async def test_settings_list(run: Callable, tracker) -> None:
    tracker.script["server_settings"] = _settings(SETTINGS)
    result = await run("mogadm", f"--trackers={tracker.address}", "settings", "list")
    assert (result.status, result.out) == (0, "         memcache_servers = \n           schema_version = 17\n")


async def test_rebalance_forms(run: Callable, tracker) -> None:
    state = "source_devs=3,1 fids_queued=5 completed_devs=,2"
    tracker.script |= {
        "server_settings": _settings(SETTINGS),
        "rebalance_status": {"state": state},
        "rebalance_test": {"sdevs": "10,9", "ddevs": "3"},
    }
    argv = [f"--trackers={tracker.address}", "rebalance"]
    assert (await run("mogadm", *argv, "settings")).out == (
        "               rebal_host = t1\n             rebal_policy = from_devices=1\n"
    )
    assert (await run("mogadm", *argv, "test")).out == (
        "Tested rebalance policy...\nPolicy: from_devices=1\n\nSource devices:\n - 9\n - 10\nDestination devices:\n - 3\n"
    )
    form = (
        "Rebalance is {}\nRebalance status:\n"
        "           completed_devs = ,2\n              fids_queued = 5\n              source_devs = 3,1\n"
    )
    assert (await run("mogadm", *argv, "status")).out == form.format("running")
    tracker.script["server_settings"] = _settings({"schema_version": 17})
    assert (await run("mogadm", *argv, "status")).out == form.format("stopped")


FSCK = {
    "running": 1, "host": "t1", "max_fid_checked": 250, "end_fid": 1000, "start_time": 100, "stop_time": 0, "current_time": 150,
    "policy_only": 0, "max_logid": 9, "num_MISS": 3, "num_BLEN": 1,
}  # fmt: skip
FSCK_FORM = """
    Running: Yes (on t1)
     Status: 250 / 1000 (25.00%)
       Time: 50s (5 fids/s; 2m remain)
 Check Type: Normal (check policy + files)

 [num_BLEN]: 1
 [num_MISS]: 3

"""
FSCK_NEVER_RUN = """
    Running: No
     Status: 0 / 0 (0.00%)
       Time: 0s (0 fids/s; 0s remain)
 Check Type: Repl policy only (skip file checks)

"""


async def test_fsck_status(run: Callable, tracker) -> None:
    tracker.script["fsck_status"] = FSCK
    result = await run("mogadm", f"--trackers={tracker.address}", "fsck", "status")
    assert (result.status, result.out, result.err) == (0, FSCK_FORM, "")


def test_fsck_status_of_one_that_never_ran() -> None:
    status = {name: "0" for name in FSCK if not name.startswith(("num_", "host"))} | {"policy_only": "1", "host": ""}
    assert "\n".join(status_lines(status)) + "\n" == FSCK_NEVER_RUN


def _log(args: dict[str, str]) -> dict[str, object]:
    """Events 1 to 250, a hundred at a time; the tracker leaves out what is undefined."""
    logids = [logid for logid in range(1, 251) if logid > int(args.get("after_logid", "0"))][:100]
    pairs: dict[str, object] = {"row_count": len(logids)}
    for index, logid in enumerate(logids, 1):
        pairs |= {
            f"row_{index}_logid": logid,
            f"row_{index}_utime": 1000 + logid,
            f"row_{index}_fid": logid,
            f"row_{index}_evcode": "MISS",
        }
        if logid % 2:
            pairs[f"row_{index}_devid"] = 7
    return pairs


async def test_fsck_printlog(run: Callable, tracker) -> None:
    tracker.script["fsck_getlog"] = _log
    result = await run("mogadm", f"--trackers={tracker.address}", "fsck", "printlog")
    lines = result.out.splitlines()
    assert (result.status, len(lines)) == (0, 251)
    assert lines[:3] == [
        "unixtime             event           fid      devid",
        "1001                  MISS             1          7",
        "1002                  MISS             2          -",
    ]
    assert [int(line.split()[2]) for line in lines[1:]] == list(range(1, 251))


CHECK = """\
Checking trackers...
  {tracker} ... OK

Checking hosts...
  [ 1] node1 ... OK
  [ 2] node2 ... skipping; status = down
  [12] node3 ... REQUEST FAILURE FETCHING: {gone}/

Checking devices...
  host device         size(G)    used(G)    free(G)   use%   ob state   I/O%
  ---- ------------ ---------- ---------- ---------- ------ ---------- -----
  [ 1] dev3             9.218      2.908      6.310  31.55%  writeable   0.4
  [ 1] dev4    REQUEST FAILURE FETCHING: {node}/dev4/usage
  [ 1] dev5    MISSING FIELD (disk) FROM USAGE FILE: {node}/dev5/usage
  [ 1] dev6    USAGE FILE BROKEN OR EMPTY: {node}/dev6/usage
  ---- ------------ ---------- ---------- ---------- ------
             total:     9.218      2.908      6.310  31.55%
"""
USAGE = "available: 6616514\ndevice: /dev/sda1\ndisk: /\ntime: 1700000000\ntotal: 9665773\nuse: 32%\nused: 3049259\n"


async def test_check(run: Callable, tracker, node, make_node) -> None:
    gone = await make_node()
    gone.refuse = 503
    node.files |= {
        "/": b"hello", "/dev3/usage": USAGE.encode(), "/dev5/usage": USAGE.replace("disk: /\n", "").encode(), "/dev6/usage": b"",
    }  # fmt: skip
    hosts: dict[str, object] = {"hosts": 3}
    for index, (hostid, status, port) in enumerate(
        [(12, "alive", gone.port), (1, "alive", node.port), (2, "down", 1)], 1
    ):
        fields = {
            "hostid": hostid,
            "hostname": f"node{min(hostid, 3)}",
            "status": status,
            "hostip": "127.0.0.1",
            "http_port": port,
        }
        hosts |= {f"host{index}_{name}": value for name, value in fields.items()}
    devices: dict[str, object] = {"devices": 5}
    for index, devid in enumerate((3, 4, 5, 6, 7), 1):
        devices |= _device(index, devid, 1, "dead" if devid == 7 else "alive", 1, 1)
    devices |= {"dev1_observed_state": "writeable", "dev1_utilization": "0.40"}
    tracker.script |= {"get_hosts": hosts, "get_devices": devices}
    result = await run("mogadm", f"--trackers={tracker.address}", "check")
    assert (result.status, result.err) == (0, "")
    assert result.out == CHECK.format(tracker=tracker.address, gone=gone.url, node=node.url)


async def test_check_when_one_tracker_is_gone(run: Callable, tracker, node) -> None:
    node.files["/"] = b""
    fields = {"hostid": 1, "hostname": "a", "status": "alive", "hostip": "127.0.0.1", "http_port": node.port}
    tracker.script |= {
        "get_hosts": {"hosts": 1, **{f"host1_{n}": v for n, v in fields.items()}},
        "get_devices": {"devices": 0},
    }
    result = await run("mogadm", f"--trackers=127.0.0.1:1,{tracker.address}", "check")
    assert (result.status, result.err) == (0, "")
    assert "  127.0.0.1:1 ... REQUEST FAILURE (is the tracker up?)\n" in result.out
    assert f"  {tracker.address} ... OK\n" in result.out
    assert result.out.endswith("             total:     0.000      0.000      0.000   0.00%\n")


async def test_check_when_nobody_answers(run: Callable, tracker) -> None:
    result = await run("mogadm", "--trackers=127.0.0.1:1", "check")
    assert (result.status, result.err) == (1, "Unable to retrieve host information from tracker(s).\n")
    tracker.script |= {"get_hosts": HOSTS, "get_devices": DEVICES}
    tracker.script["get_hosts"] = {**HOSTS, "host2_hostip": "127.0.0.1", "host2_http_port": 1}
    result = await run("mogadm", f"--trackers={tracker.address}", "check")
    assert (result.status, result.err) == (1, "No devices found on tracker(s).\n")
