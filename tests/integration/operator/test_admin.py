"""The operator's view of real trackers and real storage nodes: what it reads, what it orders, what repeating an order does."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from mogile_core.errors import CommandError, MogError, NodeError
from mogile_operator.nodeadmin import NodeAdmin
from mogile_operator.trackeradmin import TrackerAdmin
from testkit import programs
from testkit.waiting import wait_until

TRACKER = "127.0.24.5"
NODE = "127.0.24.6"
ID = "0f3c7f8e-6a53-4f0e-9a43-a0b9f9c1d001"
VOLUME = "0f3c7f8e-6a53-4f0e-9a43-a0b9f9c1d002"


def wait_for(address: str, port: int, process: programs.Program, log: Path) -> None:
    def connects() -> bool:
        assert process.poll() is None, log.read_text()[-2000:]
        with socket.create_connection((address, port), 10):
            return True

    wait_until(connects, f"{address}:{port} to listen; log: {log}")


def run(module: str, arguments: list[str], settings: dict[str, str], log: Path) -> programs.Program:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MOGILE_")}
    return programs.start(module, *arguments, environment={**environment, **settings}, log=log)


@pytest.fixture
def tracker(database_dsn: str, tmp_path: Path) -> Iterator[str]:
    settings = {
        "MOGILE_DB_DSN": database_dsn,
        "MOGILE_LISTEN": f"{TRACKER}:17001",
        "MOGILE_HTTP_LISTEN": f"{TRACKER}:17002",
        "MOGILE_JOB_IDLE_SECONDS": "0.2",
    }
    log = tmp_path / "tracker.log"
    process = run(programs.TRACKER, [], settings, log)
    try:
        wait_for(TRACKER, 17001, process, log)
        yield f"{TRACKER}:17001"
    finally:
        process.terminate()
        process.wait(90)


@pytest.fixture
async def admin(tracker: str) -> AsyncIterator[TrackerAdmin]:
    async with TrackerAdmin(tracker) as client:
        yield client


NONE: frozenset[str] = frozenset()


async def test_everything_a_plan_needs_is_read_from_an_empty_tracker(admin: TrackerAdmin) -> None:
    view = await admin.view()
    assert len(view.cluster_id) == 36
    assert view.hosts == {}
    assert view.devices == ()
    assert view.census is not None
    assert view.census.files == 0
    assert view.balance is not None
    assert view.balance.mode in {"auto", "off"}


async def test_orders_of_a_plan_are_carried_out_and_seen(admin: TrackerAdmin) -> None:
    host = {"host": "demo-main-0", "ip": "10.96.0.7", "port": "7500", "getport": "7580"}
    await admin.tell("create_host", {**host, "status": "alive"}, NONE)
    await admin.tell("create_host", {**host, "status": "alive"}, frozenset({"host_exists"}))
    await admin.tell("mogile_set_zone", {"host": "demo-main-0", "zone": "a"}, NONE)
    await admin.tell("create_device", {"devid": "3", "hostname": "demo-main-0", "state": "alive"}, NONE)
    await admin.tell("mogile_set_out", {"devid": "3", "out": "1"}, NONE)
    await admin.tell("mogile_balance", {"mode": "auto", "spread": "7"}, NONE)
    await admin.tell("create_domain", {"domain": "files"}, NONE)
    await admin.tell(
        "update_class", {"domain": "files", "class": "default", "mindevcount": "2", "hashtype": "NONE"}, NONE
    )
    args = {
        "domain": "files",
        "class": "precious",
        "mindevcount": "3",
        "replpolicy": "MultipleHosts()",
        "hashtype": "MD5",
    }
    await admin.tell("create_class", args, NONE)
    view = await admin.view()
    row = view.hosts["demo-main-0"]
    assert (row.address, row.port, row.get_port, row.status) == ("10.96.0.7", 7500, 7580, "alive")
    assert view.zones == {"demo-main-0": "a"}
    (device,) = view.devices
    assert (device.devid, device.state, device.out, device.files) == (3, "alive", True, 0)
    assert view.balance is not None
    assert (view.balance.mode, view.balance.spread) == ("auto", 7)
    assert view.domains["files"]["default"].mindevcount == 2
    precious = view.domains["files"]["precious"]
    assert (precious.mindevcount, precious.replpolicy, precious.hashtype) == (3, "MultipleHosts()", "MD5")


async def test_a_drained_device_and_its_host_can_be_removed(admin: TrackerAdmin) -> None:
    host = {"host": "demo-main-1", "ip": "10.96.0.8", "port": "7500", "getport": "7580", "status": "alive"}
    await admin.tell("create_host", host, NONE)
    await admin.tell("create_device", {"devid": "4", "hostname": "demo-main-1", "state": "alive"}, NONE)
    with pytest.raises(CommandError, match="device_not_dead"):
        await admin.tell("mogile_forget_device", {"devid": "4"}, NONE)
    for state in ("drain", "dead"):
        await admin.tell("set_state", {"host": "demo-main-1", "device": "4", "state": state}, NONE)
    await admin.tell("mogile_forget_device", {"devid": "4"}, NONE)
    await admin.tell("mogile_forget_device", {"devid": "4"}, frozenset({"no_device"}))
    await admin.tell("delete_host", {"host": "demo-main-1"}, NONE)
    await admin.tell("delete_host", {"host": "demo-main-1"}, frozenset({"unknown_host"}))
    assert (await admin.view()).hosts == {}


async def test_an_address_can_be_parked_and_given_to_another_host(admin: TrackerAdmin) -> None:
    for index, address in enumerate(("10.96.0.1", "10.96.0.2")):
        args = {"host": f"demo-main-{index}", "ip": address, "port": "7500", "getport": "7580", "status": "alive"}
        await admin.tell("create_host", args, NONE)
    with pytest.raises(CommandError, match="dup"):
        await admin.tell("update_host", {"host": "demo-main-0", "ip": "10.96.0.2"}, NONE)
    await admin.tell("update_host", {"host": "demo-main-1", "ip": "198.18.0.2"}, NONE)
    await admin.tell("update_host", {"host": "demo-main-0", "ip": "10.96.0.2"}, NONE)
    assert (await admin.view()).hosts["demo-main-0"].address == "10.96.0.2"


async def test_a_tracker_that_is_not_there_is_one_clear_error() -> None:
    async with TrackerAdmin(f"{TRACKER}:17999") as nobody:
        with pytest.raises(MogError):
            await nobody.view()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[str]:
    """A real agent with one blank device, started as the operator starts it."""
    root = tmp_path / "mogdata"
    (root / "dev7").mkdir(parents=True)
    settings = {
        "MOGILE_DOCROOT": str(root),
        "MOGILE_HTTP_ADDRESS": NODE,
        "MOGILE_HTTP_LISTEN": f"{NODE}:7502",
        "MOGILE_CLUSTER_ID": ID,
        "MOGILE_INITIALISE": "manual",
        "MOGILE_ANONYMOUS_WRITES": "safe",
    }
    log = tmp_path / "agent.log"
    process = run(programs.STORAGE, ["agent"], settings, log)
    try:
        wait_for(NODE, 7502, process, log)
        wait_for(NODE, 7500, process, log)
        yield NODE
    finally:
        process.terminate()
        process.wait(90)


async def test_a_blank_volume_becomes_a_device_once_and_only_for_its_cluster(node: str) -> None:
    nodes = NodeAdmin()
    try:
        (report,) = (await nodes.statuses({"n": node}))["n"]
        assert (report.devid, report.state, report.volume_id) == (7, "blank", "")
        with pytest.raises(NodeError):
            await nodes.initialise(node, 7, "0f3c7f8e-6a53-4f0e-9a43-ffffffffffff", VOLUME)
        await nodes.initialise(node, 7, ID, VOLUME)
        await nodes.initialise(node, 7, ID, VOLUME)
        with pytest.raises(NodeError):
            await nodes.initialise(node, 7, ID, "0f3c7f8e-6a53-4f0e-9a43-a0b9f9c1d003")
        deadline = asyncio.get_running_loop().time() + 90
        while True:
            (report,) = (await nodes.statuses({"n": node}))["n"]
            if report.state == "ready" or asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(0.2)
        assert (report.state, report.cluster_id, report.volume_id) == ("ready", ID, VOLUME)
    finally:
        await nodes.close()


async def test_a_node_that_does_not_answer_has_no_report() -> None:
    nodes = NodeAdmin()
    try:
        assert await nodes.statuses({"n": "127.0.24.77"}) == {}
    finally:
        await nodes.close()
