"""The layout of a local cluster: what it refuses, how it grows, that it survives its file."""

from pathlib import Path

import pytest

from mogile_cli.errors import UsageError
from mogile_cli.local import layout as layouts
from mogile_cli.local.layout import Layout, new_layout


def test_the_default_has_three_nodes_in_three_zones(tmp_path: Path) -> None:
    layout = new_layout(tmp_path)
    assert [(n.name, n.zone, n.devids) for n in layout.nodes] == [
        ("node1", "a", (1,)),
        ("node2", "b", (2,)),
        ("node3", "c", (3,)),
    ]
    assert layout.address(3) == "127.0.1.3"
    assert layout.gateway_url == "http://127.0.0.1:8080"
    assert layout.tracker_addresses == ["127.0.0.1:7001"]


def test_growing_gives_new_numbers_and_leaves_the_old_alone(tmp_path: Path) -> None:
    old = new_layout(tmp_path, nodes=2, devices=2)
    grown, node, devid = old.with_device(1)
    assert devid == 5
    assert node.devids == (1, 2, 5)
    grown, added = grown.with_node(2)
    assert (added.number, added.zone, added.devids) == (3, "c", (6, 7))
    assert old.devids == [1, 2, 3, 4]
    assert grown.devids == [1, 2, 5, 3, 4, 6, 7]


def test_it_survives_its_file(tmp_path: Path) -> None:
    layout = new_layout(tmp_path, nodes=4, devices=2, trackers=2, base_address="127.0.9", device_limit_mb=64)
    layouts.save(layout)
    assert layouts.load(tmp_path) == layout


def test_a_folder_without_a_cluster_has_no_layout(tmp_path: Path) -> None:
    assert layouts.load(tmp_path) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 1}', '{"version": 2, "nodes": []}'])
def test_a_damaged_file_is_one_sentence_with_a_way_out(tmp_path: Path, content: str) -> None:
    (tmp_path / layouts.FILE_NAME).write_text(content)
    with pytest.raises(UsageError, match="--data"):
        layouts.load(tmp_path)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"nodes": 0}, "--nodes"),
        ({"nodes": 33}, "--nodes"),
        ({"devices": 0}, "--devices"),
        ({"trackers": 9}, "--trackers"),
        ({"base_address": "10.0.0"}, "--base-address"),
        ({"base_address": "127.0.0.1"}, "--base-address"),
        ({"base_address": "localhost"}, "--base-address"),
        ({"listen": "localhost"}, "--listen"),
        ({"gateway_port": 0}, "--gateway-port"),
        ({"gateway_port": 65535}, "--gateway-port"),
        ({"tracker_port": 65535}, "--tracker-port"),
    ],
)
def test_what_cannot_be_is_refused_by_the_name_of_the_option(
    tmp_path: Path, options: dict[str, object], named: str
) -> None:
    with pytest.raises(UsageError, match=named):
        new_layout(tmp_path, **options)  # type: ignore[arg-type]


def test_an_unknown_node_is_answered_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no storage node 7; there are 1, 2, 3"):
        new_layout(tmp_path).node(7)


def test_no_two_listeners_share_an_address_and_port(tmp_path: Path) -> None:
    layout = new_layout(tmp_path, nodes=5, trackers=8)
    ends = [(address, port) for address, port, _ in layout.ports()]
    assert len(ends) == len(set(ends)) == 8 * 2 + 2 + 5 * 4


def test_only_a_loopback_address_keeps_uploads_open(tmp_path: Path) -> None:
    def at(listen: str) -> Layout:
        return new_layout(tmp_path, listen=listen)

    assert not at("127.0.0.1").open_to_others
    assert at("0.0.0.0").open_to_others
    assert at("0.0.0.0").local_address == "127.0.0.1"
    assert at("192.0.2.7").open_to_others
