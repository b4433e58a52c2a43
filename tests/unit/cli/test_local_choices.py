"""Which cluster `up` starts and where the demo goes when the usual places are taken."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from mogile_cli.errors import UsageError
from mogile_cli.local import demo
from mogile_cli.local import layout as layouts
from mogile_cli.local.commands import wanted_layout
from mogile_cli.local.layout import new_layout
from mogile_cli.local.programs import Programs, gateway_config


def test_a_new_folder_gets_what_was_asked_for(tmp_path: Path) -> None:
    layout = wanted_layout(tmp_path, 2, 3, {"gateway_port": 9000})
    assert [node.devids for node in layout.nodes] == [(1, 2, 3), (4, 5, 6)]
    assert layout.gateway_port == 9000


def test_an_old_folder_keeps_its_cluster(tmp_path: Path) -> None:
    layouts.save(new_layout(tmp_path, nodes=4, gateway_port=9000))
    assert wanted_layout(tmp_path, None, None, {}) == new_layout(tmp_path, nodes=4, gateway_port=9000)
    moved = wanted_layout(tmp_path, None, None, {"gateway_port": 9100, "trackers": 2})
    assert (moved.gateway_port, moved.trackers, len(moved.nodes)) == (9100, 2, 4)


def test_an_old_cluster_grows_but_does_not_shrink(tmp_path: Path) -> None:
    layouts.save(new_layout(tmp_path, nodes=2))
    grown = wanted_layout(tmp_path, 3, 2, {})
    assert [node.devids for node in grown.nodes] == [(1,), (2,), (3, 4)]
    with pytest.raises(UsageError, match=r"--nodes 1: the cluster in .* has 2"):
        wanted_layout(tmp_path, 1, None, {})
    with pytest.raises(UsageError, match="--devices"):
        wanted_layout(tmp_path, None, 2, {})


@pytest.mark.parametrize("given", [{"gateway_port": 0}, {"base_address": "10.0.0"}, {"trackers": 99}])
def test_bad_options_are_refused_for_an_old_folder_too(tmp_path: Path, given: dict[str, Any]) -> None:
    layouts.save(new_layout(tmp_path))
    with pytest.raises(UsageError):
        wanted_layout(tmp_path, None, None, given)


def test_the_demo_avoids_taken_ports_and_addresses(tmp_path: Path) -> None:
    free = demo._layout(tmp_path, base_address="127.0.25")
    with socket.create_server(("127.0.0.1", free.gateway_port)), socket.create_server(("127.0.0.1", free.tracker_port)):
        other = demo._layout(tmp_path, base_address="127.0.25")
    taken = {free.gateway_port, free.tracker_port}
    assert not taken & {other.gateway_port, other.gateway_port + 1, other.tracker_port, other.tracker_port + 1}
    address = demo._layout(tmp_path)
    with socket.create_server((address.address(4), 7501)):
        assert demo._layout(tmp_path).base_address != address.base_address


def test_what_was_named_is_not_replaced(tmp_path: Path) -> None:
    with socket.create_server(("127.0.25.1", 7500)), socket.create_server(("127.0.0.1", 18990)):
        layout = demo._layout(tmp_path, base_address="127.0.25", gateway_port=18990)
    assert (layout.base_address, layout.gateway_port) == ("127.0.25", 18990)


def test_children_get_our_settings_and_none_of_the_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOGILE_DB_DSN", "postgresql://elsewhere")
    monkeypatch.setenv("MOGILE_MIN_FREE_SPACE_MB", "7")
    layout = new_layout(tmp_path, trackers=2, base_address="127.0.25")
    programs = Programs(layout=layout, run_folder=tmp_path / "run")
    second = programs.tracker(1, "postgresql://ours", tmp_path / "password")
    assert second.environment["MOGILE_DB_DSN"] == "postgresql://ours"
    assert second.environment["MOGILE_MIN_FREE_SPACE_MB"] == "100"
    assert second.environment["MOGILE_LISTEN"] == "127.0.0.1:7011"
    assert second.probe == "http://127.0.0.1:7012/readyz"
    agent = programs.agent(layout.nodes[2], "id")
    assert "MOGILE_DB_DSN" not in agent.environment
    assert agent.environment["MOGILE_HTTP_ADDRESS"] == "127.0.25.3"
    assert agent.environment["MOGILE_CLUSTER_ID"] == "id"
    assert not agent.restart
    assert second.restart


def test_the_gateway_is_open_on_loopback_only(tmp_path: Path) -> None:
    (location,) = json.loads(gateway_config(new_layout(tmp_path), "id", None))["locations"]
    assert (location["read"], location["write"]) == ("open", "open")
    shared = new_layout(tmp_path, listen="0.0.0.0")
    (location,) = json.loads(gateway_config(shared, "id", tmp_path / "token"))["locations"]
    assert (location["read"], location["write"], location["tokenFile"]) == ("open", "token", str(tmp_path / "token"))
