"""Every command of the protocol and every error it has: what a command can answer, and who plays and counts the answers.

COMMANDS repeats the description. Each topic is a test that plays its rows in order against a live tracker with real nodes and ends with
`nothing_is_missing`, so a row that nobody plays fails the test, and so does an answer that the description does not know.
"""

import urllib.request
from typing import Any

import pytest

from mogile_core.errors import ERROR_TEXTS
from mogile_core.wire import encode_args
from testkit.waiting import wait_until

IN_DOMAIN = "no_domain unreg_domain"
BY_KEY = f"{IN_DOMAIN} no_key unknown_key"
CHANGES_CLASS = "no_domain no_class invalid_mindevcount invalid_replpolicy invalid_hashtype domain_not_found"
COMMANDS = {
    "topology": {
        "get_domains": "",
        "create_domain": "no_domain domain_exists db",
        "delete_domain": "no_domain domain_not_found domain_has_files domain_has_classes",
        "create_class": f"{CHANGES_CLASS} class_exists",
        "update_class": f"{CHANGES_CLASS} class_not_found",
        "delete_class": "no_domain no_class nodel_default_class domain_not_found class_not_found class_has_files",
        "get_hosts": "",
        "create_host": "no_host host_exists no_ip no_port unknown_state dup bad_params",
        "update_host": "no_host host_not_found unknown_state dup bad_params",
        "delete_host": "unknown_host host_not_empty",
        "get_devices": "",
        "create_device": "invalid_state invalid_devid unknown_hostid unknown_host bad_args existing_devid",
        "set_state": "bad_params no_device host_mismatch state_too_high",
        "set_weight": "bad_params no_device host_mismatch",
    },
    "files": {
        "create_open": f"{IN_DOMAIN} unreg_class no_devices fid_in_use db",
        "create_close": f"{IN_DOMAIN} no_fid no_devid no_path invalid_checksum_format bogus_args no_temp_file invalid_destdev "
        "size_verify_error size_mismatch checksum_mismatch fid_exists",
        "get_paths": BY_KEY,
        "file_info": BY_KEY,
        "file_debug": BY_KEY,
        "delete": BY_KEY,
        "rename": f"{BY_KEY} key_exists db",
        "updateclass": f"{IN_DOMAIN} no_key no_class class_not_found invalid_key no_devices",
        "list_keys": f"{IN_DOMAIN} none_match after_mismatch failure",
        "list_fids": "",
    },
    "jobs": {
        "server_setting": "bad_params",
        "server_settings": "",
        "set_server_setting": "bad_params not_writable invalid_format",
        "rebalance_set_policy": "no_set_rebal bad_rebal_pol",
        "rebalance_test": "no_rebal_policy",
        "rebalance_start": "rebal_running fsck_running no_rebal_policy",
        "rebalance_status": "no_rebal_state",
        "rebalance_stop": "rebal_not_started",
        "rebalance_reset": "rebal_running",
        "fsck_start": "fsck_running rebal_running no_domain unreg_domain unreg_class",
        "fsck_stop": "",
        "fsck_reset": "bad_params",
        "fsck_clearlog": "",
        "fsck_getlog": "",
        "fsck_status": "",
        "replicate_now": "",
        "clear_cache": "",
        "do_monitor_round": "",
        "noop": "",
        "test": "failure",
        "sleep": "",
    },
}
# Codes of the protocol's table that no command can answer with, and why.
UNREACHABLE = {
    "domain_not_empty": "the code sent is domain_has_classes",
    "plugin_aborted": "there are no plugins",
    "draining": "ours: only while a tracker stops (test_tracker_process)",
    "request_too_long": "ours: an answer of the connection (test_commands)",
    "device_not_dead": "ours (test_commands)",
    "device_not_empty": "ours (test_commands)",
}
# Commands of the protocol that this tracker answers with unknown_command, and why.
NOT_SERVED = {
    "edit_file": "experimental, needs DAV MOVE and memcached; fails with `failure` on the original as well",
    "httpcopy": "a debugging aid that leaves bytes where no row knows of them",
    "plugin_files_list": "the name space of plugins, of which there are none",
}


class Player:
    """Sends requests and keeps count of what was answered."""

    def __init__(self, cluster: Any) -> None:
        self.cluster, self.client = cluster, cluster.trackers[0].client()
        self.seen: dict[str, set[str]] = {}

    def answer(self, request: str) -> Any:
        reply = self.client.ask(request)
        self.seen.setdefault(request.split(maxsplit=1)[0].lower(), set()).add(reply.code)
        return reply

    def ok(self, request: str, pairs: dict[str, Any] | None = None) -> dict[str, str]:
        """OK with exactly these pairs (None: any)."""
        reply = self.answer(request)
        assert reply.ok, (request, reply)
        assert pairs is None or reply.args == pairs, request
        return dict(reply.args)

    def err(self, code: str, request: str, text: str | None = None) -> None:
        """ERR with this code and the protocol's text for it, or, where it is made at the time, with this in it."""
        reply = self.answer(request)
        assert reply.code == code, (request, reply)
        if text is None:
            assert reply.text == ERROR_TEXTS.get(code, code), request
        else:
            assert text in reply.text, (request, reply)

    def opened(self, key: str, body: bytes | None = b"hello", **args: object) -> dict[str, str]:
        """An upload up to its close; without a body nothing is put."""
        pairs = self.ok(f"create_open {encode_args({'domain': 'd', 'key': key, **args})}")
        if body is not None:
            request = urllib.request.Request(pairs["path"], data=body, method="PUT")
            with urllib.request.urlopen(request, timeout=90) as response:
                assert response.status in (200, 201)
        return {name: pairs[name] for name in ("fid", "devid", "path")}

    def store(self, key: str, **args: object) -> str:
        opened = self.opened(key, **args)
        self.ok(f"create_close {encode_args({'domain': 'd', 'key': key, **opened, 'size': 5})}", {})
        return opened["fid"]

    def while_running(self, what: str, code: str, request: str, text: str) -> None:
        """An error of the time while fsck or rebalance runs (`what`); the jobs may take the run over and end it at any moment."""
        field = f"{what}_host"

        def refused() -> bool:
            self.cluster.sql("INSERT INTO server_settings VALUES ($1, 'elsewhere') ON CONFLICT DO NOTHING", field)
            reply = self.answer(request)
            self.cluster.sql("DELETE FROM server_settings WHERE field = $1", field)
            assert reply.code != code or text in reply.text, (request, reply)
            return bool(reply.code == code)

        wait_until(refused, f"{code} to {request}")

    def until(self, request: str, condition: Any, what: str) -> None:
        wait_until(lambda: condition(self.ok(request)), what)

    def refused_domain(self, command: str, rest: str = "") -> None:
        self.err("no_domain", f"{command} {rest}")
        self.err("no_domain", f"{command} domain={rest}")
        self.err("unreg_domain", f"{command} domain=nope{rest}")

    def nothing_is_missing(self, topic: str) -> None:
        """Every answer of the topic's commands has been seen, and no answer of any command that is not described."""
        described = {name: {"", *codes.split()} for table in COMMANDS.values() for name, codes in table.items()}
        for name, codes in self.seen.items():
            assert name in NOT_SERVED or codes <= described[name], name
        assert {name: self.seen.get(name) for name in COMMANDS[topic]} == {
            name: described[name] for name in COMMANDS[topic]
        }


@pytest.fixture
def play(three_nodes: Any) -> Player:
    return Player(three_nodes)


@pytest.fixture
def described() -> dict[str, str]:
    """Every command with the codes it can answer with."""
    return {name: codes for table in COMMANDS.values() for name, codes in table.items()}


@pytest.fixture
def not_served() -> dict[str, str]:
    return NOT_SERVED


@pytest.fixture
def unreachable() -> dict[str, str]:
    return UNREACHABLE
