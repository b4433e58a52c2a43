"""The whole command line of MogileFS-Utils, row by row: every tool with every flag, every mogadm command with every option.

What each of them does, prints and returns is in the other files of this folder; this one notices a row that is missing or made up.
"""

from collections.abc import Callable

import pytest

from mogile_cli.classic import configuration, dbsetup, filedebug, keys, stats, transfer
from mogile_cli.classic.admin.main import COMMANDS, GLOBAL_OPTIONS
from mogile_cli.classic.program import COMMON_OPTIONS, Utility

COMMON = {"trackers", "domain", "conf", "lib", "help"}
UTILITIES = [
    (transfer.UPLOAD, "mogupload", {"class", "key", "file"}),
    (transfer.FETCH, "mogfetch", {"key", "file"}),
    (keys.DELETE, "mogdelete", {"key"}),
    (keys.FILE_INFO, "mogfileinfo", {"key"}),
    (keys.LIST_KEYS, "moglistkeys", {"key_prefix"}),
    (keys.LIST_FIDS, "moglistfids", {"fromfid", "count"}),
    (keys.RENAME, "mogrename", {"old_key", "new_key"}),
    (filedebug.FILE_DEBUG, "mogfiledebug", {"key", "fid", "paths"}),
]
HOST = {"status", "ip", "port", "getport", "altip", "altmask"}
CLASS = {"mindevcount", "replpolicy", "hashtype"}
SLAVE = {"dsn", "username", "password"}
MOGADM: dict[str, set[str]] = {
    "check": set(),
    "stats": set(),
    "host list": set(),
    "host add <hostname>": HOST,
    "host modify <hostname>": HOST,
    "host mark <hostname> <status>": set(),
    "host delete <hostname>": set(),
    "device list": {"all", "hostname"},
    "device summary": {"status", "hostname"},
    "device add <hostname> <devid>": {"status"},
    "device mark <hostname> <devid> <status>": set(),
    "device modify <hostname> <devid>": {"status", "weight"},
    "device next": set(),
    "domain list": set(),
    "domain add <domain>": set(),
    "domain delete <domain>": set(),
    "class list": set(),
    "class add <domain> <class>": CLASS,
    "class modify <domain> <class>": CLASS,
    "class delete <domain> <class>": set(),
    "slave list": set(),
    "slave add <slave_key>": SLAVE,
    "slave modify <slave_key>": SLAVE,
    "slave delete <slave_key>": set(),
    "settings list": set(),
    "settings set <key> <value>": set(),
    "fsck start": set(),
    "fsck stop": set(),
    "fsck status": set(),
    "fsck reset": {"policy-only", "startpos"},
    "fsck clearlog": set(),
    "fsck printlog": set(),
    "fsck taillog": set(),
    "rebalance start": set(),
    "rebalance stop": set(),
    "rebalance status": set(),
    "rebalance settings": set(),
    "rebalance test": set(),
    "rebalance reset": set(),
    "rebalance policy": {"options"},
}
STATISTICS = {
    "devices", "fids", "files", "domains", "replication", "replication-queue", "delete-queue", "general-queues",
}  # fmt: skip
FILE_KEYS = ("trackers", "domain", "class", "lib", "db_dsn", "db_user", "db_pass", "timeout")


def names(specs: tuple[str, ...]) -> set[str]:
    return {spec.partition("=")[0] for spec in specs}


@pytest.mark.parametrize(("tool", "name", "flags"), UTILITIES, ids=[row[1] for row in UTILITIES])
def test_a_utility_has_these_flags_and_the_common_ones(tool: Utility, name: str, flags: set[str]) -> None:
    assert tool.name == name
    assert names(tool.options) == flags
    assert names(COMMON_OPTIONS) == COMMON


@pytest.mark.parametrize("form", MOGADM)
async def test_a_command_of_mogadm_has_these_words_and_options(form: str, run: Callable) -> None:
    command = next(c for c in COMMANDS if c.form.removeprefix("mogadm ").removesuffix(" [opts]").strip() == form)
    assert names(tuple(command.options or ())) == MOGADM[form]
    helped = await run("mogadm", *form.partition(" <")[0].split(), "--no-such-option")
    assert helped.status == 1
    assert command.help in helped.out


def test_mogadm_has_no_other_command_and_these_flags() -> None:
    assert len(COMMANDS) == len(MOGADM)
    assert names(GLOBAL_OPTIONS) == {"trackers", "config", "lib", "help", "verbose"}


def test_mogstats_has_these_flags_and_statistics() -> None:
    assert names(stats.OPTIONS) == {"config", "lib", "help", "verbose", "stats", "db_dsn", "db_user", "db_pass"}
    assert set(stats.STATISTICS) == STATISTICS


def test_mogdbsetup_has_these_flags() -> None:
    assert names(dbsetup.OPTIONS) == {
        "type", "dbhost", "dbport", "dbname", "dbuser", "dbpassword", "dbrootuser", "dbrootpassword", "yes", "verbose",
        "noschemabump", "help",
    }  # fmt: skip


@pytest.mark.parametrize("key", FILE_KEYS)
def test_a_key_of_the_configuration_files_is_read_and_the_command_line_wins(key: str, tmp_path) -> None:
    file = tmp_path / "mogilefs.conf"
    file.write_text(f"# comment\n{key} = from the file  # why\n")
    files = configuration.sources({}, str(file))
    assert configuration.read(files, {})[key] == "from the file"
    assert configuration.read(files, {key: "typed"})[key] == "typed"
