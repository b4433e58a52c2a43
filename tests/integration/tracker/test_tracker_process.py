"""The tracker as a process: start, mistakes of whoever starts it, death of its parts, loss of the database, a graceful end."""

import asyncio
import os
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from mogile_tracker.policy.giving_way import CALM
from testkit import programs
from testkit.waiting import wait_until


def http(tracker: Any, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{tracker.address}:{tracker.http_port}/{path}", timeout=60) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except (urllib.error.URLError, ConnectionError) as error:
        return 0, str(error)


def run(folder: Path, environment: dict[str, str], *args: str) -> tuple[int, str]:
    """The exit status and all that it says."""
    log = folder / "run.log"
    log.unlink(missing_ok=True)
    status = programs.start(programs.TRACKER, *args, environment=environment, log=log).wait(120)
    return status, log.read_text()


def put(url: str, body: bytes) -> int:
    with urllib.request.urlopen(urllib.request.Request(url, data=body, method="PUT"), timeout=90) as response:
        return int(response.status)


def pids(tracker: Any, job: str) -> list[int]:
    lines = [line.split() for line in tracker.client().admin("jobs")]
    return [int(pid) for words in lines if words[:2] == [job, "pids"] for pid in words[2:]]


def test_mistakes_at_start_give_one_line_and_exit_2(cluster: Any, tmp_path: Path) -> None:
    tracker = cluster.tracker()
    good = tracker.environment
    cases = [
        ({}, ["--no-such-flag=1"], "--no-such-flag"),
        ({"MOGILE_DB_DSN": ""}, [], "MOGILE_DB_DSN"),
        ({"MOGILE_DB_DSN": "mysql://x"}, [], "MOGILE_DB_DSN"),
        ({"MOGILE_PROCESSES": "many"}, [], "MOGILE_PROCESSES"),
        ({"MOGILE_LISTEN": "nonsense"}, [], "MOGILE_LISTEN"),
        (
            {"MOGILE_RESTART_PAUSE_SECONDS": "20"},
            [],
            "MOGILE_RESTART_PAUSE_SECONDS (20) must not be larger than MOGILE_RESTART_PAUSE_SECONDS_MAX (10)",
        ),
        (
            {"MOGILE_SIDE_CHANNEL_SILENCE_SECONDS": "0"},
            [],
            "MOGILE_SIDE_CHANNEL_SILENCE_SECONDS must be between 2 and 3600, got 0",
        ),
        (
            {"MOGILE_WRITE_COPIES_PATIENCE_SECONDS": "soon"},
            [],
            "MOGILE_WRITE_COPIES_PATIENCE_SECONDS must be a number, got 'soon'",
        ),
        (
            {"MOGILE_DB_START_PAUSE_SECONDS": "nan"},
            [],
            "MOGILE_DB_START_PAUSE_SECONDS must be between 0.05 and 600, got nan",
        ),
        ({"MOGILE_DB_PASSWORD_FILE": str(tmp_path / "none")}, [], "MOGILE_DB_PASSWORD_FILE"),
        ({}, [], f"cannot listen on {tracker.address}:{tracker.port}"),
        ({"MOGILE_LISTEN": f"{tracker.address}:0"}, [], f"cannot listen on {tracker.address}:{tracker.http_port}"),
    ]
    for changed, args, word in cases:
        status, text = run(tmp_path, {**good, **changed}, *args)
        assert status == 2, (changed, text)
        assert word in text
        assert text.startswith("mogile-tracker: ")
        assert text.count("\n") == 1, text
    assert tracker.client().raw("noop") == "OK "


def test_missing_database_is_waited_for_then_one_line_and_exit_2(cluster: Any, tmp_path: Path) -> None:
    environment = dict(cluster.tracker().environment)
    address = "127.0.20.2"
    environment.update(
        MOGILE_DB_DSN="postgresql://nobody@127.0.20.3:5499/none",
        MOGILE_DB_START_TIMEOUT_SECONDS="3",
        MOGILE_LISTEN=f"{address}:7001",
        MOGILE_HTTP_LISTEN=f"{address}:7002",
    )
    status, text = run(tmp_path, environment)
    assert status == 2
    lines = text.splitlines()
    assert [("waiting for the database" in line) for line in lines] == [True] * (len(lines) - 1) + [False]
    assert lines[-1].startswith("mogile-tracker: cannot connect to PostgreSQL")
    assert 2 <= len(lines) <= 4
    _, text = run(tmp_path, {**environment, "MOGILE_DB_START_PAUSE_SECONDS": "4"})
    assert len(text.splitlines()) == 1, "the next attempt would come too late"


def test_migrate_only(empty_database_dsn: str, cluster: Any, tmp_path: Path) -> None:
    environment = {**cluster.tracker().environment, "MOGILE_DB_DSN": empty_database_dsn}
    for _ in range(2):
        assert run(tmp_path, environment, "--migrate-only")[0] == 0

    async def cluster_ids() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(empty_database_dsn)
        try:
            return await connection.fetch("SELECT id FROM mogile_cluster")
        finally:
            await connection.close()

    assert len(asyncio.run(cluster_ids())) == 1


def test_probes_and_metrics(three_nodes: Any) -> None:
    tracker = three_nodes.trackers[0]
    wait_until(lambda: http(tracker, "readyz")[0] == 200, "readiness")
    assert http(tracker, "healthz") == (200, "ok\n")
    client = tracker.client()
    for _ in range(5):
        client.ok("noop")

    def noops() -> float:
        lines = [
            x for x in http(tracker, "metrics")[1].splitlines() if 'commands_total{command="noop",result="ok"}' in x
        ]
        return float(lines[0].split()[-1]) if lines else 0

    wait_until(lambda: noops() >= 5, "the counter")


def test_the_jobs_are_told_how_busy_the_servers_are_and_when_they_no_longer_are(cluster: Any) -> None:
    tracker = cluster.tracker()
    client = tracker.client()

    def busy() -> float:
        lines = [x for x in http(tracker, "metrics")[1].splitlines() if x.startswith("mogile_foreground_busy ")]
        return float(lines[0].split()[-1]) if lines else 0

    def busy_under_load() -> bool:
        client.send(b"noop\r\n" * 3000)
        assert {client.line() for _ in range(3000)} == {b"OK \r\n"}
        return busy() > CALM

    wait_until(busy_under_load, "the jobs process to see load")
    # Not 0: a server without commands still tells its figures, which is a hundredth of a processor.
    wait_until(lambda: busy() < CALM, "the load to be over there, too")


@pytest.mark.timeout(600)
def test_several_processes_share_the_port_and_see_changes_at_once(cluster: Any) -> None:
    tracker = cluster.tracker(processes=3, topology_interval_seconds=60)
    wait_until(lambda: len(pids(tracker, "queryworker")) == 3, "three server processes")
    clients = [tracker.client() for _ in range(12)]
    clients[0].ok("create_domain domain=d1")
    for client in clients:
        assert client.ok("get_domains")["domain1"] == "d1"
    clients[1].ok("create_class domain=d1&class=c&mindevcount=3")
    for client in clients:
        assert client.ok("get_domains")["domain1class2mindevcount"] == "3"
    clients[2].ok("delete_class domain=d1&class=c")
    clients[2].ok("delete_domain domain=d1")
    for client in clients:
        assert client.ask("get_paths domain=d1&key=a").code == "unreg_domain"


def test_another_trackers_domain_is_known_at_once(cluster: Any) -> None:
    first, second = cluster.tracker(), cluster.tracker(topology_interval_seconds=60)
    other = second.client()
    assert other.ask("get_paths domain=d1&key=a").code == "unreg_domain"
    time.sleep(0.3)
    first.client().ok("create_domain domain=d1")
    assert other.ask("get_paths domain=d1&key=a").code == "unknown_key"


@pytest.mark.timeout(600)
def test_killed_processes_are_started_again(three_nodes: Any) -> None:
    tracker = three_nodes.trackers[0]
    tracker.stop()
    tracker.environment["MOGILE_RESTART_PAUSE_SECONDS"] = "0.375"
    tracker.start()
    for job in ("queryworker", "replicate"):
        wait_until(lambda job=job: len(pids(tracker, job)) == 1, f"a {job}")
        (before,) = pids(tracker, job)
        os.kill(before, signal.SIGKILL)

        def again(job: str = job, before: int = before) -> bool:
            return pids(tracker, job) not in ([], [before])

        wait_until(again, f"another {job}")
    assert "pause_seconds=0.375" in tracker.log()
    client = tracker.client()
    client.ok("create_domain domain=d1")
    wait_until(lambda: client.ask("create_open domain=d1&key=a").ok, "uploads to be taken again")


def test_graceful_end_answers_what_was_accepted(three_nodes: Any) -> None:
    tracker = three_nodes.trackers[0]
    busy, idle = tracker.client(), tracker.client()
    idle.ok("noop")
    busy.send(b"sleep duration=4&callid=7\r\nnoop callid=8\r\n")
    wait_until(lambda: "127.0.0.1 noop callid=8" in idle.admin("queue"), "both requests to be accepted")
    assert tracker.process is not None
    tracker.process.send_signal(signal.SIGTERM)
    assert busy.line() == b"OK callid=7\r\n"
    assert busy.line() == b"OK callid=8\r\n"
    with pytest.raises(EOFError):
        busy.line()
    with pytest.raises((EOFError, OSError)):
        idle.line()
    assert tracker.process.wait(60) == 0


SLOW_TO_RUN = """
import os, time
fork = os.fork
def slowly():
    pid = fork()
    if pid == 0:
        time.sleep(2)
    return pid
os.fork = slowly
"""


def test_an_end_that_comes_before_a_child_runs_is_not_lost(cluster: Any) -> None:
    """On a busy machine a new process may get the processor long after it was made."""
    tracker = cluster.unstarted_tracker(drain_seconds=80)
    tracker.first = SLOW_TO_RUN
    tracker.start(wait=False)
    made = Path(f"/proc/{tracker.process.pid}/task/{tracker.process.pid}/children")
    wait_until(made.read_text, "the first child to be made")
    tracker.process.send_signal(signal.SIGTERM)
    assert tracker.process.wait(60) == 0, "less than what children get to finish their work"


def test_children_leave_with_a_killed_parent(cluster: Any) -> None:
    tracker = cluster.tracker()
    wait_until(lambda: pids(tracker, "monitor"), "the jobs process")
    children = pids(tracker, "queryworker") + pids(tracker, "monitor")
    tracker.stop(signal.SIGKILL)

    def gone() -> bool:
        return not any(Path(f"/proc/{pid}").exists() for pid in children)

    wait_until(gone, "the children to leave")


@pytest.mark.timeout(600)
def test_lost_database_is_an_error_answer_and_recovers(three_nodes: Any) -> None:
    """All connections are killed and new ones refused for a while; nothing restarts, nothing hangs."""
    cluster, tracker = three_nodes, three_nodes.trackers[0]
    client = tracker.client()
    client.ok("create_domain domain=d1")
    opened = client.ok("create_open domain=d1&key=a")
    put(opened["path"], b"hello")
    before = pids(tracker, "queryworker")
    name = cluster.dsn.rpartition("/")[2]
    admin_dsn = cluster.dsn.rpartition("/")[0] + "/postgres"

    def gate(*, allowed: bool) -> None:
        async def change() -> None:
            connection = await asyncpg.connect(admin_dsn)
            try:
                await connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS {str(allowed).lower()}')
                if not allowed:
                    await connection.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name
                    )
            finally:
                await connection.close()

        asyncio.run(change())

    gate(allowed=False)
    try:
        started = time.monotonic()
        assert client.ask("get_paths domain=d1&key=a").code == "db"
        assert client.ask("create_domain domain=d2").code == "db"
        assert time.monotonic() - started < 40
        assert client.ok("noop") == {}
    finally:
        gate(allowed=True)
    close = f"create_close domain=d1&key=a&fid={opened['fid']}&devid={opened['devid']}&path={opened['path']}&size=5"
    wait_until(lambda: client.ask("file_info domain=d1&key=a").code == "unknown_key", "the database again")
    client.ok(close)
    assert client.ok("file_info domain=d1&key=a")["length"] == "5"
    assert pids(tracker, "queryworker") == before
    assert client.ok("create_domain domain=d2") == {"domain": "d2"}
