"""mogilefsd's start, with real processes: its file, the background, the pid file, root, a tracker that only answers commands."""

import os
import pwd
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from testkit.waiting import wait_until


@pytest.fixture
def classic(cluster: Any, tmp_path: Path) -> Any:
    """A tracker whose only configuration is mogilefsd's file (beside the health port, which mogilefsd does not have)."""
    tracker = cluster.tracker()
    tracker.stop()
    dsn = urlsplit(cluster.dsn)
    host = f"host={dsn.hostname};port={dsn.port}" if dsn.hostname else dsn.query.replace("&", ";")
    tracker.conf = tmp_path / "mogilefsd.conf"
    tracker.pidfile = tmp_path / "mogilefsd.pid"
    tracker.conf.write_text(
        f"db_dsn = DBI:Pg:dbname={dsn.path[1:]};{host}\ndb_user = {dsn.username}\ndb_pass = {dsn.password or ''}\n"
        f"listen = {tracker.address}\nconf_port = {tracker.port}\npidfile = {tracker.pidfile}\nmax_disk_age = 5\n"
        f"user = {pwd.getpwuid(os.geteuid()).pw_name}\nreplicate_jobs = 2\n"
    )
    kept = {k: v for k, v in tracker.environment.items() if not k.startswith("MOGILE_")}
    tracker.environment = kept | {"MOGILE_HTTP_LISTEN": tracker.environment["MOGILE_HTTP_LISTEN"]}
    return tracker


def command(tracker: Any, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "mogile_tracker.main", f"--config={tracker.conf}", *arguments]


def test_starts_in_the_background_from_mogilefsds_file(classic: Any) -> None:
    with classic.log_file.open("ab") as log:
        done = subprocess.run(command(classic, "-D"), env=classic.environment, stderr=log, timeout=120, check=False)
    assert done.returncode == 0, classic.log()
    pid = int(wait_until(lambda: classic.pidfile.exists() and classic.pidfile.read_text(), "the pid file"))
    try:
        assert os.getsid(pid) != os.getsid(0)
        client = wait_until(classic.client, "the tracker")
        wait_until(lambda: "replicate count 2" in client.admin("jobs"), "two replicate processes")
        assert client.raw("noop") == "OK "
        assert "ignored: max_disk_age" in classic.log()
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the end")
    assert not classic.pidfile.exists()


def test_mistakes_are_told_before_it_goes_to_the_background(classic: Any) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(classic, "-D", *arguments),
            env=classic.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    cases = [
        (("--no_such=1",), "unknown argument '--no_such=1'"),
        (("--dsn=DBI:mysql:mogilefs",), "only PostgreSQL"),
        (("--pidfile=/nonexistent/x.pid",), "cannot write /nonexistent/x.pid"),
        (("--user=nobody-has-this-name",), "there is no user"),
    ]
    if os.geteuid() == 0:
        cases.append((("--user=",), "refusing to run as root"))
    for arguments, words in cases:
        result = run(*arguments)
        last = result.stderr.splitlines()[-1]
        assert result.returncode == 2, (arguments, result)
        assert last.startswith("mogile-tracker: ")
        assert words in last, last


def test_a_tracker_that_only_answers_commands_leaves_the_queues_alone(three_nodes: Any) -> None:
    worker = three_nodes.trackers[0]
    worker.stop()
    quiet = three_nodes.tracker(jobs="delete=0,replicate=0,fsck=0,reaper=0,job_master=0")
    client = quiet.client()
    client.ok("create_domain domain=d1")
    wait_until(lambda: client.ask("create_open domain=d1&key=a").ok, "uploads to be taken")
    lines = client.admin("jobs")
    for job in ("census", "delete", "fsck", "job_master", "reaper", "rebalance", "replicate"):
        assert f"{job} count 0" in lines
    wait_until(lambda: "monitor count 1" in client.admin("jobs"), "the monitor's process")
    three_nodes.sql("INSERT INTO file_to_delete2 (fid, nexttry) VALUES (987654, 0)")
    time.sleep(2)
    assert three_nodes.value("SELECT nexttry FROM file_to_delete2 WHERE fid = 987654") == 0
    assert client.admin("want 1 job_master") == ["Now desiring 1 children doing 'job_master'."]
    assert client.admin("want 1 delete") == ["Now desiring 1 children doing 'delete'."]
    wait_until(lambda: three_nodes.value("SELECT count(*) FROM file_to_delete2") == 0, "the queue to be worked on")
