"""Power cuts under a load of creates, repeats, replacements, deletes, pulls and a large upload straight on one storage node."""

import contextlib
import http.client
import json
import os
import random
import socket
import threading
import time
from pathlib import Path

import pytest

from testkit import programs
from testkit.waiting import wait_until

CLUSTER = "11111111-2222-4333-8444-555555555555"
WRITERS = 4
LIVE_NAMES_MAX = 300  # of one writer
SMALL_BYTES_MAX = 200_000
LARGE_BYTES = 24 << 20
SOURCE_FILES = 150
pytestmark = [pytest.mark.root, pytest.mark.timeout(1800)]


def path_of(fid):
    digits = f"{fid:010d}"
    return f"/dev1/{digits[0]}/{digits[1:4]}/{digits[4:7]}/{digits}.fid"


class Agent:
    """The agent over a document root whose dev1 is a mounted disk."""

    def __init__(self, docroot, address, log, *, mode="auto", prefix=()):
        environment = {
            **os.environ,
            "MOGILE_DOCROOT": str(docroot),
            "MOGILE_HTTP_ADDRESS": address,
            "MOGILE_HTTP_LISTEN": f"{address}:7502",
            "MOGILE_CLUSTER_ID": CLUSTER,
            "MOGILE_SYNC_MODE": mode,
        }
        self.address = address
        self.log = Path(log)
        self.process = programs.start(
            programs.STORAGE, "agent", environment=environment, log=self.log, prefix=prefix, own_group=True
        )

        def connects():
            assert self.process.poll() is None, self.log.read_text()
            with socket.create_connection((address, 7500), 10):
                return True

        wait_until(connects, "the agent to start")

    def stop(self):
        os.killpg(self.process.pid, 15)
        self.process.wait(90)

    def connect(self):
        return http.client.HTTPConnection(self.address, 7500, timeout=60)


class Writer(threading.Thread):
    """Works on names of its own, one operation at a time."""

    def __init__(self, number, agent, model, draw, stop):
        super().__init__(daemon=True)
        self.base = (number + 1) * 1_000_000
        self.chooser = random.Random(number)
        self.agent, self.model, self.draw, self.stop_event = agent, model, draw, stop
        self.live = {}
        self.next = self.base
        self.failure = None

    def run(self):
        try:
            with contextlib.closing(self.agent.connect()) as connection:
                while not self.stop_event.is_set():
                    self.step(connection)
        except Exception as failure:
            self.failure = failure

    def request(self, connection, method, fid, body, headers, after, good):
        operation = self.model.begin(path_of(fid), after)
        connection.request(method, path_of(fid), body, headers)
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status in good, (method, fid, answer.status, text)
        self.model.end(operation)

    def step(self, connection):
        cluster = {"X-Mogile-Cluster": CLUSTER}
        dice = self.chooser.random()
        if len(self.live) < 10 or (dice < 0.5 and len(self.live) < LIVE_NAMES_MAX):
            self.next += self.chooser.choice((1, 1, 1, 700))  # now and then a directory of its own
            content = self.draw(self.chooser, SMALL_BYTES_MAX)
            self.request(connection, "PUT", self.next, bytes(content), cluster, content, (201,))
            self.live[self.next] = content
            return
        fid = self.chooser.choice(list(self.live))
        if dice < 0.7:  # a repeat
            content = self.live[fid]
            self.request(connection, "PUT", fid, bytes(content), cluster, content, (200,))
        elif dice < 0.85:  # replaced by order of the tracker
            content = self.draw(self.chooser, SMALL_BYTES_MAX)
            headers = {**cluster, "X-Mogile-Replace": "1"}
            self.request(connection, "PUT", fid, bytes(content), headers, content, (200, 201))
            self.live[fid] = content
        else:
            self.request(connection, "DELETE", fid, None, cluster, None, (204,))
            del self.live[fid]


class LargeWriter(Writer):
    """One large upload after the other; the one before the last is deleted."""

    def step(self, connection):
        self.next += 1
        content = type(self.draw(self.chooser, 2))(self.chooser.randrange(1 << 20), LARGE_BYTES)
        data = bytes(content)
        operation = self.model.begin(path_of(self.next), content)
        connection.putrequest("PUT", path_of(self.next))
        connection.putheader("Content-Length", str(len(data)))
        connection.endheaders()
        for start in range(0, len(data), 1 << 20):
            connection.send(data[start : start + (1 << 20)])
            time.sleep(0.02)
        answer = connection.getresponse()
        assert answer.status == 201, answer.read()
        answer.read()
        self.model.end(operation)
        self.request(connection, "DELETE", self.next - 1, None, {}, None, (204, 404))


class Puller(Writer):
    """Orders copies from a second node, of files that are not there, that are there already, and of both at once."""

    def __init__(self, number, agent, source, model, draw, stop):
        super().__init__(number, agent, model, draw, stop)
        self.source = source
        self.files = {}

    def run(self):
        try:
            with contextlib.closing(self.source.connect()) as connection:
                for fid in range(self.base, self.base + SOURCE_FILES):
                    content = self.files[fid] = self.draw(self.chooser, SMALL_BYTES_MAX)
                    connection.request("PUT", path_of(fid), bytes(content))
                    answer = connection.getresponse()
                    assert (answer.status, answer.read()) == (201, b"")
        except Exception as failure:
            self.failure = failure
            return
        super().run()

    def step(self, connection):
        fids = self.chooser.sample(list(self.files), self.chooser.randrange(1, 12))
        operations = {fid: self.model.begin(path_of(fid), self.files[fid]) for fid in fids}
        address = f"http://{self.source.address}:7500"
        items = [
            {"fid": fid, "devid": 1, "source": address + path_of(fid), "length": self.files[fid].size, "md5": None}
            for fid in fids
        ]
        connection.request("POST", "/pull", json.dumps({"items": items}), {"X-Mogile-Cluster": CLUSTER})
        lines = [json.loads(line) for line in connection.getresponse().read().splitlines()]
        assert sorted(line["fid"] for line in lines) == sorted(fids), lines
        assert all(line["status"] == "ok" for line in lines), lines
        for operation in operations.values():
            self.model.end(operation)
        cluster = {"X-Mogile-Cluster": CLUSTER}
        self.request(connection, "DELETE", self.chooser.choice(fids), None, cluster, None, (204,))


def verify(agent, model, t0, t1):
    """Complaints about what the recovered node serves."""
    with contextlib.closing(agent.connect()) as connection:
        return compare(connection, model.allowed(t0, t1))


def compare(connection, expected):
    complaints, checked = [], 0
    for name, (allowed, acknowledged) in expected.items():
        connection.request("GET", name)
        answer = connection.getresponse()
        body = answer.read()
        checked += acknowledged
        if answer.status == 404:
            if None not in allowed:
                complaints.append(f"{name} was acknowledged and is gone")
        elif answer.status != 200:
            complaints.append(f"{name}: status {answer.status} {body!r}")
        elif not any(content is not None and bytes(content) == body for content in allowed):
            complaints.append(f"{name}: {len(body)} bytes that nobody was promised, allowed {allowed}")
    return complaints, checked


def cut_and_check(rig, model, folder, number, pause):
    time.sleep(pause)
    model.go_on(20)
    with rig.power_cut(lambda _: rig.folder / "recovered" / "dev1") as (t0, t1), model.at_rest():
        agent = Agent(rig.folder / "recovered", "127.0.22.251", folder / f"recovered{number}.log")
        try:
            return verify(agent, model, t0, t1)
        finally:
            agent.stop()


@contextlib.contextmanager
def load(rig, model, draw, folder, *, kind="xfs", mode="auto", prefix=()):
    docroot = rig.folder / "docroot"
    rig.add(docroot / "dev1", 768, kind)
    agent = Agent(docroot, "127.0.22.250", folder / "agent.log", mode=mode, prefix=prefix)
    stop = threading.Event()
    writers = [Writer(n, agent, model, draw, stop) for n in range(WRITERS)]
    writers.append(LargeWriter(WRITERS, agent, model, draw, stop))
    (folder / "source" / "dev1").mkdir(parents=True)
    source = Agent(folder / "source", "127.0.22.252", folder / "source.log")
    writers.append(Puller(WRITERS + 1, agent, source, model, draw, stop))
    for writer in writers:
        writer.start()
    try:
        yield
    finally:
        stop.set()
        for writer in writers:
            writer.join(300)
        source.stop()
        agent.stop()
    failures = [w.failure for w in writers if w.failure is not None]
    assert not failures, failures


@pytest.mark.parametrize(("kind", "mode", "share"), [("xfs", "auto", 4), ("ext4", "auto", 3), ("xfs", "each", 3)])
def test_everything_acknowledged_survives(rig, model, draw, rounds, tmp_path, kind, mode, share):
    chooser = random.Random(kind + mode)
    total = 0
    with load(rig, model, draw, tmp_path, kind=kind, mode=mode):
        for number in range(rounds(share, 10 * share)):
            complaints, checked = cut_and_check(rig, model, tmp_path, number, chooser.uniform(0.7, 2.5))
            assert complaints == [], f"round {number}"
            total += checked
    assert total > 50
    log = (tmp_path / "agent.log").read_text()
    expected = "each" if mode == "each" else "group"
    assert f"reason={expected}" in log


@pytest.mark.parametrize("mode", ["group", "each"])
def test_the_test_notices_when_the_node_does_not_sync(rig, model, draw, no_sync, tmp_path, mode):
    """The control: the same load, with the node's sync calls made no-ops by strace."""
    complaints = []
    with load(rig, model, draw, tmp_path, mode=mode, prefix=no_sync):
        for number in range(3):
            found, _ = cut_and_check(rig, model, tmp_path, number, 1.5)
            complaints += found
            if complaints:
                break
    assert complaints, "acknowledged files survived without any sync: the test proves nothing"
