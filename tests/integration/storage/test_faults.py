"""What goes wrong under a node: killed at each step of a write, full, failing, frozen, vanishing and foreign devices."""

import concurrent.futures
import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

BODY = b"z" * 5000
LARGE = os.urandom(1_500_000)


@contextlib.contextmanager
def injected(node, what):
    """strace on all threads of the running agent, changing what the named system calls do."""
    calls = what.partition(":")[0]
    command = ["strace", "-f", "-qq", "-o", str(node.folder / "strace"), "-e", f"trace={calls}", "-e", f"inject={what}"]
    tracer = attached(node, command)
    try:
        yield
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait(60)


def attached(node, command):
    """strace that traces every thread there is: begun anew when it ended or missed one that was made while it listed them."""
    deadline = time.monotonic() + 90
    while True:
        tracer, patience = subprocess.Popen([*command, "-p", str(node.process.pid)]), time.monotonic() + 15
        while tracer.poll() is None and time.monotonic() < patience:
            states = []
            for task in os.listdir(f"/proc/{node.process.pid}/task"):
                with contextlib.suppress(OSError):  # threads come and go
                    states.append(Path(f"/proc/{node.process.pid}/task/{task}/status").read_text())
            if states and all(f"TracerPid:\t{tracer.pid}\n" in state for state in states):
                return tracer
            time.sleep(0.02)
        tracer.send_signal(signal.SIGINT)
        tracer.wait(60)
        assert time.monotonic() < deadline, "strace did not attach to every thread of the agent"


STEPS = [
    ("group", "fsetxattr"),
    ("group", "linkat"),
    ("group", "syncfs"),
    ("each", "fsetxattr"),
    ("each", "linkat"),
    ("each", "fsync"),
]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("data", [BODY, LARGE], ids=["small", "large"])
@pytest.mark.parametrize(("mode", "step"), STEPS)
def test_killed_at_a_step_of_put(make_node, mode, step, data):
    node = make_node(sync_mode=mode, usage_interval_seconds="100")
    assert node.put(1, 1, data[:100]).status == 201
    with injected(node, f"{step}:signal=SIGKILL"):
        with pytest.raises((ConnectionError, OSError, EOFError)):
            node.put(1, 2, data)
        assert node.process.wait(60) == -signal.SIGKILL
    node.start()
    assert node.get(1, 1).body == data[:100]
    found = node.get(1, 2)
    assert found.status in (200, 404)
    if found.status == 200:
        assert found.body == data
    assert node.put(1, 2, data).status == (201 if found.status == 404 else 200)
    assert node.get(1, 2).body == data


@pytest.mark.parametrize("step", ["linkat", "renameat", "fsync"])
def test_killed_while_replacing(make_node, the, step):
    node = make_node(sync_mode="group", usage_interval_seconds="100")
    node.put(1, 1, b"old")
    right = {"X-Mogile-Cluster": the.cluster, "X-Mogile-Replace": "1"}
    with injected(node, f"{step}:signal=SIGKILL"):
        with pytest.raises((ConnectionError, OSError, EOFError)):
            node.put(1, 1, BODY, right)
        node.process.wait(60)
    node.start()
    assert node.get(1, 1).body in (b"old", BODY)
    assert list((node.docroot / "dev1" / ".mogile-tmp").glob("*")) == []
    assert node.put(1, 1, BODY, right).status in (200, 201)
    assert node.get(1, 1).body == BODY


@pytest.mark.parametrize(("mode", "call"), [("group", "syncfs"), ("each", "fsync")])
def test_a_failed_sync_is_never_acknowledged_and_fails_the_device(make_node, the, mode, call):
    node = make_node(2, sync_mode=mode, usage_interval_seconds="100")
    node.put(1, 1, BODY)
    node.put(2, 2, BODY)
    with injected(node, f"{call}:error=EIO:when=1..1" if mode == "each" else f"{call}:error=EIO"):
        answer = node.put(1, 3, BODY)
        assert answer.status == 503
    assert node.put(1, 4, BODY).status == 503
    state = node.status(1)
    assert state["state"] == "failed"
    assert "Input/output error" in state["message"]
    assert state["errors"] == {"EIO": 1}
    assert node.status(2)["state"] == "ready"
    assert node.put(2, 5, BODY).status == 201
    metrics = node.ask("GET", "/metrics", port=7502).body.decode()
    assert 'mogile_storage_device_state{devid="1",state="failed"} 1' in metrics
    assert 'mogile_storage_device_errors_total{devid="1",error="EIO"} 1' in metrics
    assert node.ask("GET", "/dev1/usage").status == 503
    node.kill()
    node.start()
    assert node.get(1, 1).body == BODY
    assert node.get(1, 3).status == 404
    assert node.log().count("device is failed devid=1") == 1


def fill(folder):
    with contextlib.suppress(OSError), (folder / "filling").open("wb", buffering=0) as stream:
        for size in (1 << 20, 1 << 12):
            with contextlib.suppress(OSError):
                while True:
                    stream.write(bytes(size))


@pytest.mark.root
@pytest.mark.parametrize("mode", ["group", "each"])
def test_a_sync_that_finds_the_journal_aborted_is_not_believed(make_node, small_ram, loop_xfs, the, mode):
    """ext4 cannot write its journal (the image has no room to grow), drops what was not committed, and the sync that comes after that
    has nothing left to do and says yes."""
    node = make_node(1, start=False, sync_mode=mode, usage_interval_seconds="100", reserve_mb="0")
    sparse = ("-E lazy_journal_init=1,lazy_itable_init=1", "commit=1,errors=remount-ro")
    loop_xfs(node.docroot / "dev1", 256, "ext4", folder=small_ram, options=sparse)
    node.start()
    assert node.put(1, 1, BODY).status == 201
    with concurrent.futures.ThreadPoolExecutor(1) as client, injected(node, "fsync,syncfs:delay_enter=4000000"):
        late = client.submit(node.put, 1, 2, b"")
        the.wait_until(node.file(1, 2).exists, "the file has its name, and its sync has not begun")
        fill(small_ram)
        assert late.result().status == 503
    assert node.put(1, 3, BODY).status == 503
    if mode == "group":
        the.wait_until(lambda: node.status(1)["state"] == "failed", "the device is given up")
    assert "Read-only file system" in node.log()


@pytest.mark.root
def test_a_full_device_refuses_and_loses_nothing(make_node, loop_xfs, the):
    node = make_node(2, start=False, reserve_mb="0")
    loop_xfs(node.docroot / "dev1", 24, "ext4")
    node.start()
    kept, statuses = [], []
    for fid in range(1, 2000):
        status = node.put(1, fid, LARGE[: 100_000 + fid]).status
        statuses.append(status)
        if status == 201:
            kept.append(fid)
        if statuses[-5:] == [507] * 5:
            break
    assert set(statuses) == {201, 507}
    assert len(kept) > 50
    early = b"PUT /dev1/0/000/009/0000009999.fid HTTP/1.1\r\nContent-Length: 30000000\r\n\r\n"
    assert b" 507 " in node.raw(early).splitlines()[0]
    assert node.status(1)["state"] == "ready"
    for fid in kept:
        assert node.get(1, fid).body == LARGE[: 100_000 + fid]
    for fid in kept[:20]:
        assert node.ask("DELETE", f"/dev1/0/000/{fid // 1000:03d}/{fid:010d}.fid").status == 204
    the.wait_until(lambda: node.put(1, 5000, LARGE).status == 201, "the room to be seen")
    assert node.put(2, 1, BODY).status == 201


def test_the_reserve_is_kept(make_node):
    free = shutil.disk_usage("/tmp").free
    node = make_node(reserve_mb=str((free >> 20) + (1 << 20)))
    assert node.put(1, 1, BODY).status == 507
    assert node.get(1, 1).status == 404


@pytest.mark.root
def test_a_frozen_disk_does_not_hold_up_the_others(make_node, loop_xfs, the):
    node = make_node(2, start=False)
    loop_xfs(node.docroot / "dev1")
    node.start()
    assert "reason=group" in node.log()
    node.put(1, 1, BODY)
    point = str(node.docroot / "dev1")
    subprocess.run(["fsfreeze", "-f", point], check=True, timeout=20)
    try:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            stuck = [pool.submit(node.put, 1, fid, BODY) for fid in range(10, 14)]
            for fid in range(30):
                assert node.put(2, fid, BODY).status == 201  # what is frozen stays so until the end
            the.wait_until(lambda: node.status(1)["message"] == "writes do not come back", "it is seen")
            assert node.put(1, 20, BODY).status == 503
            assert node.get(1, 1).body == BODY
            subprocess.run(["fsfreeze", "-u", point], check=True, timeout=20)
            assert [job.result(90).status for job in stuck] == [201] * 4
    finally:
        subprocess.run(["fsfreeze", "-u", point], check=False, timeout=20, capture_output=True)
    the.wait_until(lambda: node.put(1, 20, BODY).status == 201, "writes work again")
    assert node.status(1)["state"] == "ready"


@pytest.mark.root
def test_a_disk_that_vanishes_and_returns(make_node, loop_xfs, the):
    node = make_node(2, start=False)
    point = loop_xfs(node.docroot / "dev1")
    node.start()
    node.put(1, 1, BODY)
    device = subprocess.run(["findmnt", "-no", "SOURCE", str(point)], check=True, capture_output=True, text=True)
    subprocess.run(["umount", "-l", str(point)], check=True, timeout=20)
    node.wait_state(1, "lost")
    assert node.put(1, 2, BODY).status == 503
    assert node.get(1, 1).status == 503
    assert node.put(2, 2, BODY).status == 201
    assert list(point.iterdir()) == [], "nothing is written into the empty mount point"
    subprocess.run(["mount", device.stdout.strip(), str(point)], check=True, timeout=20)
    node.wait_state(1, "ready")
    assert node.get(1, 1).body == BODY


def test_a_lost_marker_is_not_replaced_while_running(node):
    node.put(1, 1, BODY)
    (node.docroot / "dev1" / ".mogile-device").unlink()
    node.wait_state(1, "lost")
    assert node.get(1, 1).status == 503
    assert node.ask("GET", "/dev1/usage").status == 503
    assert not (node.docroot / "dev1" / "usage").exists()


def test_foreign_devices_do_not_serve(make_node, the):
    node = make_node(3)
    node.put(1, 1, BODY)
    node.stop()
    for devid, change in ((1, {"clusterId": the.other_cluster}), (2, {"devid": 7}), (3, {"version": 9})):
        path = node.docroot / f"dev{devid}" / ".mogile-device"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    node.start()
    assert [node.status(devid)["state"] for devid in (1, 2, 3)] == ["foreign", "foreign", "lost"]
    assert node.get(1, 1).status == 503
    assert node.put(2, 1, BODY).status == 503


def test_a_second_agent_on_the_same_directories_waits(make_node):
    """It would call the device clean while the first one is at work, and sweep what that one writes."""
    first = make_node()
    assert first.put(1, 1, BODY).status == 201
    second = make_node(start=False)
    second.docroot = first.docroot
    second.start()
    assert second.status(1)["state"] == "failed"
    assert "still in use" in second.status(1)["message"]
    assert second.put(1, 2, BODY).status == 503
    assert first.put(1, 2, BODY).status == 201
    first.kill()
    second.wait_state(1, "ready")
    assert [second.get(1, fid).body for fid in (1, 2)] == [BODY, BODY]


def test_manual_initialisation(make_node, the):
    node = make_node(1, initialise="manual")
    assert node.status(1)["state"] == "blank"
    assert node.put(1, 1, BODY).status == 503
    volume = "aaaaaaaa-0000-4000-8000-000000000001"
    order = json.dumps({"volumeId": volume}).encode()
    right = {"X-Mogile-Cluster": the.cluster}
    assert node.ask("POST", "/dev1/initialise", order).status == 403
    assert node.ask("POST", "/dev1/initialise", b'{"volumeId": "x"}', right).status == 400
    assert node.ask("POST", "/dev1/initialise", order, right).status == 201
    assert node.ask("POST", "/dev1/initialise", order, right).status == 200
    assert node.status(1)["volumeId"] == volume
    other = json.dumps({"volumeId": volume[:-1] + "2"}).encode()
    assert node.ask("POST", "/dev1/initialise", other, right).status == 409
    assert node.put(1, 1, BODY).status == 201
    node.stop()
    (node.docroot / "dev1" / ".mogile-device").unlink()
    node.start()
    assert node.status(1)["state"] == "lost"
    assert node.ask("POST", "/dev1/initialise", order, right).status == 409


def test_a_device_that_appears_at_run_time(node, the):
    (node.docroot / "dev5").mkdir()
    the.wait_until(lambda: node.put(5, 1, BODY).status == 201, "dev5 serves")


def test_half_made_files_are_put_aside_after_an_unclean_stop(make_node):
    node = make_node(sync_mode="group", usage_interval_seconds="100")
    for fid in (1, 2, 3):
        node.put(1, fid, BODY)
    node.kill()
    os.truncate(node.file(1, 2), 0)
    with node.file(1, 3).open("r+b") as stream:
        stream.write(b"#")
    (node.docroot / "dev1" / ".mogile-tmp").mkdir(exist_ok=True)
    (node.docroot / "dev1" / ".mogile-tmp" / "left").write_bytes(b"x")
    node.start()
    assert node.get(1, 1).body == BODY
    assert node.get(1, 2).status == 404
    assert node.get(1, 3).status == 404
    assert node.status(1)["quarantined"] == 2
    assert len(list((node.docroot / "dev1" / ".mogile-quarantine").iterdir())) == 2
    assert list((node.docroot / "dev1" / ".mogile-tmp").iterdir()) == []
    assert node.put(1, 2, BODY).status == 201


def test_after_a_clean_stop_nothing_is_searched(make_node):
    node = make_node(sync_mode="group")
    node.put(1, 1, BODY)
    assert node.stop() == 0
    assert (node.docroot / "dev1" / ".mogile-mark").read_bytes().startswith(b"clean")
    node.start()
    assert "not stopped cleanly" not in node.log()
