"""Power cuts of a whole machine: PostgreSQL, a tracker and two storage nodes, under a load through the tracker.

What is promised: a create, overwrite or delete that was acknowledged is there after the cut, byte-identical, and no path the tracker
gives serves anything that was not stored under that key. The controls take the sync calls away from the nodes, or from PostgreSQL.
"""

import asyncio
import contextlib
import http.client
import os
import random
import signal
import socket
import subprocess
import threading
import time
from urllib.parse import urlsplit

import asyncpg
import pytest

from mogile_cli.local.postgres import EmbeddedPostgres
from mogile_core.wire import parse_reply, quote
from testkit import programs
from testkit.trackers import ALWAYS_AHEAD
from testkit.waiting import wait_until

WRITERS = 3
LIVE_KEYS_MAX = 150  # of one writer
SMALL_BYTES_MAX = 150_000
LARGE_BYTES = 16 << 20
NODES = {1: "127.0.22.240", 2: "127.0.22.241"}
RECOVERED_NODES = {1: "127.0.22.242", 2: "127.0.22.243"}
pytestmark = [pytest.mark.root, pytest.mark.timeout(3600)]


class Tracker:
    """One connection to a tracker."""

    def __init__(self, address):
        self.socket = socket.create_connection((address, 7001), timeout=60)
        self.stream = self.socket.makefile("rb")

    def ask(self, command, **arguments):
        pairs = "&".join(f"{quote(name)}={quote(str(value))}" for name, value in arguments.items())
        self.socket.sendall(f"{command} {pairs}\r\n".encode())
        line = self.stream.readline()
        if not line.endswith(b"\n"):
            raise EOFError("the tracker closed the connection")
        return parse_reply(line.decode("latin-1").rstrip("\r\n"))

    def ok(self, command, **arguments):
        reply = self.ask(command, **arguments)
        assert reply.ok, (command, arguments, reply.code, reply.text)
        return reply.args

    def close(self):
        self.stream.close()
        self.socket.close()


class Process:
    """A program of ours, after some statements that change it where that is asked for; ended with its whole group."""

    def __init__(self, folder, name, module, *arguments, prefix=(), first="", **settings):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MOGILE_")}
        environment |= {f"MOGILE_{k.upper()}": str(v) for k, v in settings.items()}
        self.log = folder / f"{name}.log"
        own = {"environment": environment, "log": self.log, "first": first, "own_group": True}
        self.process = programs.start(module, *arguments, prefix=prefix, **own)

    def wait_port(self, address, port):
        def connects():
            assert self.process.poll() is None, self.log.read_text()
            with socket.create_connection((address, port), 10):
                return True

        wait_until(connects, f"{self.log.name}: {address}:{port} to listen")

    def stop(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)


@contextlib.contextmanager
def machine(base, logs, name, tracker_address, nodes, *, node_prefix=(), before_tracker=None):
    """PostgreSQL, the nodes and a tracker over the disks mounted below `base`."""
    with contextlib.ExitStack() as stack:
        postgres = EmbeddedPostgres(directory=base / "database" / "postgres")
        (base / "database" / "postgres" / "data" / "postmaster.pid").unlink(missing_ok=True)  # of the other life
        postgres.start()
        stack.callback(postgres.stop)
        for devid, address in nodes.items():
            settings = {
                "docroot": base / f"node{devid}",
                "http_address": address,
                "http_listen": f"{address}:7502",
                "usage_interval_seconds": 1,
            }
            agent = Process(logs, f"{name}-node{devid}", programs.STORAGE, "agent", prefix=node_prefix, **settings)
            stack.callback(agent.stop)
            agent.wait_port(address, 7500)
        if before_tracker is not None:
            before_tracker(postgres, stack)
        tracker = Process(
            logs,
            f"{name}-tracker",
            programs.TRACKER,
            first=ALWAYS_AHEAD,
            db_dsn=postgres.dsn(),
            listen=f"{tracker_address}:7001",
            http_listen=f"{tracker_address}:7002",
            monitor_interval_seconds=0.3,
            node_timeout_seconds=20,
            job_idle_seconds=0.2,
        )
        stack.callback(tracker.stop)
        tracker.wait_port(tracker_address, 7001)
        yield postgres


def wait_devices(tracker, state):
    def observed():
        found = tracker.ok("get_devices")
        states = {found[f"dev{i}_observed_state"] for i in range(1, int(found["devices"]) + 1)}
        return states and states <= state

    wait_until(observed, f"all devices to be {state}")


def set_up(tracker):
    for devid, address in NODES.items():
        tracker.ok("create_host", host=f"node{devid}", ip=address, port=7500, status="alive")
        tracker.ok("create_device", hostname=f"node{devid}", devid=devid, state="alive")
    tracker.ok("create_domain", domain="d")
    tracker.ok("create_class", domain="d", **{"class": "two"}, mindevcount=2)
    wait_devices(tracker, {"writeable"})


class Writer(threading.Thread):
    """Creates, overwrites, repeats and deletes keys of its own."""

    largest = SMALL_BYTES_MAX

    def __init__(self, number, model, draw, stop):
        super().__init__(daemon=True)
        self.name_of = f"w{number}-".__add__
        self.chooser = random.Random(number)
        self.model, self.draw, self.stop_event = model, draw, stop
        self.live = []
        self.count = 0
        self.failure = None

    def run(self):
        try:
            with contextlib.closing(Tracker("127.0.22.244")) as tracker:
                while not self.stop_event.is_set():
                    self.step(tracker)
        except Exception as failure:
            self.failure = failure

    def step(self, tracker):
        dice = self.chooser.random()
        if len(self.live) < 5 or (dice < 0.5 and len(self.live) < LIVE_KEYS_MAX):
            self.count += 1
            key = self.name_of(str(self.count))
            self.live.append(key)
            self.store(tracker, key, self.draw(self.chooser, self.largest))
            return
        key = self.chooser.choice(self.live)
        if dice < 0.85:
            self.store(tracker, key, self.draw(self.chooser, self.largest))
        else:
            self.live.remove(key)
            operation = self.model.begin(key, None)
            tracker.ok("delete", domain="d", key=key)
            self.model.end(operation)

    def store(self, tracker, key, content):
        operation = self.model.begin(key, content)
        opened = tracker.ok("create_open", domain="d", key=key, **{"class": "two"})
        url = urlsplit(opened["path"])
        with contextlib.closing(http.client.HTTPConnection(url.hostname, url.port, timeout=60)) as node:
            for _ in range(self.chooser.choice((1, 1, 2))):  # now and then a repeated PUT
                node.request("PUT", url.path, bytes(content))
                answer = node.getresponse()
                text = answer.read()
                assert answer.status in (200, 201), (answer.status, text)
        arguments = {"fid": opened["fid"], "devid": opened["devid"], "path": opened["path"], "size": content.size}
        tracker.ok("create_close", domain="d", key=key, **arguments)
        self.model.end(operation)


class LargeWriter(Writer):
    """A few keys of many megabytes, over and over."""

    def step(self, tracker):
        content = type(self.draw(self.chooser, 2))(self.chooser.randrange(1 << 20), LARGE_BYTES)
        self.store(tracker, self.name_of(str(self.chooser.randrange(3))), content)
        self.stop_event.wait(0.5)


def disks(rig):
    rig.add(rig.folder / "live" / "database", 1024)
    for devid in NODES:
        rig.add(rig.folder / "live" / f"node{devid}" / f"dev{devid}", 1024)


@contextlib.contextmanager
def load(rig, model, draw, logs, **options):
    disks(rig)
    stop = threading.Event()
    with machine(rig.folder / "live", logs, "live", "127.0.22.244", NODES, **options):
        with contextlib.closing(Tracker("127.0.22.244")) as tracker:
            set_up(tracker)
        # The password file of the embedded server is not the subject here.
        subprocess.run(["sync", "-f", str(rig.folder / "live" / "database")], check=True, timeout=60)
        writers = [Writer(n, model, draw, stop) for n in range(WRITERS)] + [LargeWriter(WRITERS, model, draw, stop)]
        for writer in writers:
            writer.start()
        try:
            yield
        finally:
            stop.set()
            for writer in writers:
                writer.join(300)
    failures = [w.failure for w in writers if w.failure is not None]
    assert not failures, failures


def cut_and_check(rig, model, logs, number):
    live, recovered = rig.folder / "live", rig.folder / "recovered"
    with rig.power_cut(lambda point: recovered / point.relative_to(live)) as (t0, t1), model.at_rest():
        move_hosts = lambda postgres, _: asyncio.run(renumber(postgres.dsn()))  # noqa: E731
        name, address = f"cut{number}", "127.0.22.245"
        with (
            machine(recovered, logs, name, address, RECOVERED_NODES, before_tracker=move_hosts),
            contextlib.closing(Tracker(address)) as tracker,
        ):
            wait_devices(tracker, {"writeable", "readable"})
            return compare(tracker, model.allowed(t0, t1))


async def renumber(dsn):
    """The recovered nodes have other addresses: those of the cut machine are in use."""
    connection = await asyncpg.connect(dsn)
    try:
        for devid, address in RECOVERED_NODES.items():
            await connection.execute("UPDATE host SET hostip = $1 WHERE hostname = $2", address, f"node{devid}")
    finally:
        await connection.close()


def compare(tracker, expected):
    """Complaints, and how many keys were checked that had been acknowledged."""
    complaints, checked = [], 0
    with contextlib.ExitStack() as stack:
        nodes = {
            a: stack.enter_context(contextlib.closing(http.client.HTTPConnection(a, 7500, timeout=60)))
            for a in RECOVERED_NODES.values()
        }
        for key, (allowed, acknowledged) in expected.items():
            checked += acknowledged
            reply = tracker.ask("get_paths", domain="d", key=key, noverify=1, pathcount=10)
            if not reply.ok:
                if reply.code != "unknown_key" or None not in allowed:
                    complaints.append(f"{key} was acknowledged, now {reply.code}")
                continue
            good = 0
            for index in range(1, int(reply.args["paths"]) + 1):
                url = urlsplit(reply.args[f"path{index}"])
                nodes[url.hostname].request("GET", url.path)
                answer = nodes[url.hostname].getresponse()
                body = answer.read()
                if answer.status == 200:
                    good += 1
                    if not any(content is not None and bytes(content) == body for content in allowed):
                        complaints.append(f"{key}: {url.path} has {len(body)} bytes that were not stored: {allowed}")
            if not good:
                complaints.append(f"{key}: no path serves it ({reply.args})")
    return complaints, checked


def test_everything_acknowledged_survives(rig, model, draw, rounds, tmp_path):
    chooser, total = random.Random(3), 0
    with load(rig, model, draw, tmp_path):
        for number in range(rounds(5, 50)):
            time.sleep(chooser.uniform(1.0, 3.0))
            model.go_on(40)
            complaints, checked = cut_and_check(rig, model, tmp_path, number)
            assert complaints == [], f"round {number}"
            total += checked
    assert total > 200


def some_complaints(rig, model, tmp_path):
    for number in range(4):
        time.sleep(2)
        model.go_on(40)
        try:
            complaints, _ = cut_and_check(rig, model, tmp_path, number)
        except Exception as failure:  # a database that does not even start
            complaints = [repr(failure)]
        if complaints:
            return complaints
    return []


def test_the_test_notices_nodes_that_do_not_sync(rig, model, draw, no_sync, tmp_path):
    with load(rig, model, draw, tmp_path, node_prefix=no_sync):
        assert some_complaints(rig, model, tmp_path), "nothing was lost without any sync: the test proves nothing"


def test_the_test_notices_a_postgresql_that_does_not_sync(rig, model, draw, no_sync, tmp_path):
    """strace is attached to the postmaster and all its children; what they fork later is followed."""

    def attach(postgres, stack):
        asyncio.run(flushed_by_calls(postgres.dsn()))
        tracer = attach_to_all(no_sync, postgres.pid)
        stack.callback(detach, tracer)

    with load(rig, model, draw, tmp_path, before_tracker=attach):
        assert some_complaints(rig, model, tmp_path), "nothing was lost without any sync: the test proves nothing"


def attach_to_all(no_sync, postmaster):
    """Backends come and go while strace attaches: it is right when every process there is at one moment is traced, else begun anew."""
    words = [word for word in no_sync if word != "--seccomp-bpf"]
    for _ in range(8):
        pids = family_of(postmaster)
        tracer = subprocess.Popen([*words, *(part for pid in pids for part in ("-p", str(pid)))])
        deadline = time.monotonic() + 15
        while tracer.poll() is None and time.monotonic() < deadline:
            if all(tracer_of(pid) in (tracer.pid, None) for pid in family_of(postmaster)):
                return tracer
            time.sleep(0.1)
        detach(tracer)
    raise AssertionError("strace did not attach to every process of PostgreSQL")


def detach(tracer):
    """End strace; the traced go on. Killed if it must be: left behind it would be another test's surprise."""
    tracer.send_signal(signal.SIGINT)
    try:
        tracer.wait(60)
    except subprocess.TimeoutExpired:
        tracer.kill()
        tracer.wait(10)
        raise


def family_of(postmaster):
    with open(f"/proc/{postmaster}/task/{postmaster}/children", encoding="ascii") as stream:
        return [postmaster, *map(int, stream.read().split())]


def tracer_of(pid):
    """Pid of the tracer, 0 without one, None for a process that has ended (or waits to be reaped)."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as stream:
            fields = dict(line.split(":", 1) for line in stream)
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields["State"].split()[0] in "ZX" else int(fields["TracerPid"])


async def flushed_by_calls(dsn):
    """The write-ahead log must be flushed by calls that strace can take away, not by O_DSYNC."""
    connection = await asyncpg.connect(dsn)
    try:
        assert await connection.fetchval("SHOW wal_sync_method") in ("fdatasync", "fsync")
        assert await connection.fetchval("SHOW fsync") == "on"
    finally:
        await connection.close()
