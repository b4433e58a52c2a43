"""A tracker that answers nonsense: one clear line and a failure, never a traceback, never an endless loop."""

import asyncio
import random
from collections.abc import Callable

import pytest

from mogile_cli.classic import filedebug, keys, transfer
from mogile_cli.classic.program import Utility

GOOD: dict[str, dict[str, object]] = {
    "get_hosts": {"hosts": 1, "host1_hostid": 1, "host1_hostname": "a", "host1_status": "alive",
                  "host1_hostip": "127.0.0.1", "host1_http_port": 1},
    "get_devices": {"devices": 1, "dev1_devid": 1, "dev1_hostid": 1, "dev1_status": "alive", "dev1_mb_total": 9, "dev1_mb_used": 3},
    "get_domains": {"domains": 1, "domain1": "d", "domain1classes": 1, "domain1class1name": "c", "domain1class1mindevcount": 2},
    "server_settings": {"key_count": 1, "key_1": "a", "value_1": "b"},
    "server_setting": {"key": "slave_keys", "value": "a|b"},
    "fsck_status": {"running": 1, "max_fid_checked": 5, "end_fid": 9, "start_time": 1, "current_time": 5, "num_MISS": 3},
    "fsck_getlog": {"row_count": 1, "row_1_logid": 1, "row_1_utime": 1, "row_1_fid": 1, "row_1_evcode": "MISS"},
    "rebalance_status": {"state": "a=1 b=2"},
    "rebalance_test": {"sdevs": "1,2", "ddevs": "3"},
    "list_keys": {"key_count": 1, "key_1": "a", "next_after": "a"},
    "list_fids": {"fid_count": 1, "fid_1_fid": 1, "fid_1_key": "a"},
    "file_info": {"fid": 1, "key": "k", "length": 1},
    "file_debug": {"fid_fid": 1, "devids": "1", "devpath_1": "http://127.0.0.1:1/f"},
    "get_paths": {"paths": 1, "path1": "http://127.0.0.1:1/f"},
    "create_open": {"fid": 1, "dev_count": 1, "devid_1": 1, "path_1": "http://127.0.0.1:1/f"},
}  # fmt: skip
JUNK = ["", "x", "-1", "0", "9" * 30, "1e400", "nan", "\0", "ä", "a" * 300, "http://[", "1000000"]
CALLS: list[tuple[Utility | str, list[str]]] = [
    *(("mogadm", line.split()) for line in (
        "check", "host list", "device list", "device summary", "device next", "class list", "settings list", "slave list",
        "slave delete a", "fsck status", "fsck printlog", "rebalance status", "rebalance test", "rebalance settings",
    )),
    (keys.LIST_KEYS, ["--domain=d"]),
    (keys.LIST_FIDS, ["--count=3"]),
    (keys.FILE_INFO, ["--domain=d", "--key=k"]),
    (filedebug.FILE_DEBUG, ["--domain=d", "--key=k"]),
    (transfer.FETCH, ["--domain=d", "--key=k", "--file=-"]),
]  # fmt: skip


def _spoil(pairs: dict[str, object], chance: random.Random) -> dict[str, object]:
    """One or two pairs gone, changed or added."""
    spoilt = dict(pairs)
    for _ in range(chance.randint(1, 2)):
        name = chance.choice(sorted(spoilt)) if spoilt else "x"
        how = chance.randrange(3)
        if how == 0:
            spoilt.pop(name, None)
        else:
            spoilt[name if how == 1 else name + "1"] = chance.choice(JUNK)
    return spoilt


@pytest.mark.parametrize("seed", range(8))
async def test_nonsense_is_an_error_in_one_line(run: Callable, tracker, seed: int) -> None:
    chance = random.Random(seed)
    asked: list[str] = []

    def answer(command: str) -> Callable[[dict[str, str]], dict[str, object]]:
        def reply(_args: dict[str, str]) -> dict[str, object]:
            asked.append(command)
            assert asked.count(command) < 5000, f"{command} is asked for ever"
            return _spoil(GOOD[command], chance) if chance.random() < 0.7 else GOOD[command]

        return reply

    tracker.script |= {command: answer(command) for command in GOOD} | {"set_server_setting": {}}
    for tool, argv in CALLS:
        async with asyncio.timeout(30):
            result = await run(tool, f"--trackers={tracker.address}", *argv)
        assert result.status in (0, 1, 255)
        assert (result.status == 0) == (result.err == ""), (argv, result)
        assert result.err.count("\n") <= 1
        assert "Traceback" not in result.err


async def test_lists_that_do_not_go_on_are_given_up(run: Callable, tracker) -> None:
    page = {"key_count": 1000, "next_after": "k999", **{f"key_{n}": f"k{n - 1:03d}" for n in range(1, 1001)}}
    tracker.script |= {"list_keys": page, "fsck_getlog": GOOD["fsck_getlog"]}
    result = await run(keys.LIST_KEYS, f"--trackers={tracker.address}", "--domain=d")
    assert (result.status, result.out.count("\n")) == (255, 2000)
    assert result.err == "Error listing files: the tracker's list of keys does not go on: it gave the same page twice\n"
    result = await run("mogadm", f"--trackers={tracker.address}", "fsck", "printlog")
    assert (result.status, result.err) == (1, "the tracker's log does not go on: it gave the same rows twice\n")


async def test_a_tracker_that_is_none(run: Callable) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    result = await run("mogadm", f"--trackers=127.0.0.1:{port}", "host", "list")
    assert (result.status, result.out) == (1, "")
    assert "expected OK or ERR from the tracker, got 'HTTP/1.1 400 Bad Request'" in result.err
    server.close()
    await server.wait_closed()
