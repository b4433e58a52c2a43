"""`!want`, `!to`, `!watch`, `!shutdown` and the watchdog against real processes, whichever server process has the connection."""

import contextlib
import itertools
import os
import re
import signal
import socket
import threading
import time
from typing import Any

import pytest

from testkit.waiting import EVENT_SECONDS, wait_until


def jobs(client: Any) -> dict[str, list[int]]:
    lines = [line.split() for line in client.admin("jobs")]
    pids = {words[0]: [int(pid) for pid in words[2:]] for words in lines if words[1] == "pids"}
    for words in lines:
        if words[1] == "count":
            assert int(words[2]) == len(pids[words[0]])
    return pids


def observed(client: Any) -> None:
    """The tracker takes `!want` only after the first monitor round."""
    harmless = "want 2 job_master"  # more than one is ignored
    wait_until(lambda: client.admin(harmless)[0].startswith("Now desiring"), "the first monitor round")


def counts(client: Any, job: str, number: int) -> list[int]:
    return wait_until(lambda: [p] if len(p := jobs(client)[job]) == number else None, f"{number} {job}")[0]


def test_job_classes_get_processes_that_can_be_stopped_one_by_one(cluster: Any) -> None:
    tracker = cluster.tracker(jobs="delete=1")
    client = tracker.client()
    observed(client)
    before = wait_until(lambda: p if len((p := jobs(client))["delete"]) == 1 else None, "a delete process")
    shared = before["replicate"]
    assert shared == before["fsck"] == before["monitor"] == before["reaper"]
    assert before["delete"] != shared

    assert client.admin("want 3 replicate") == ["Now desiring 3 children doing 'replicate'."]
    three = counts(client, "replicate", 3)
    assert shared[0] not in three
    assert jobs(client)["fsck"] == shared  # the others stay where they are, and so does the process
    assert "replicate desired 3" in client.admin("jobs")

    os.kill(three[0], signal.SIGKILL)
    wait_until(lambda: len(p := jobs(client)["replicate"]) == 3 and three[0] not in p, "another replicate")

    assert client.admin("want 0 replicate") == ["Now desiring 0 children doing 'replicate'."]
    counts(client, "replicate", 0)
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in three[1:]), "the processes to end")
    assert client.admin("want 1 replicate") == ["Now desiring 1 children doing 'replicate'."]
    counts(client, "replicate", 1)


def test_forms_and_limits_of_want_and_to(cluster: Any) -> None:
    client = cluster.tracker().client()
    observed(client)
    classes = "census, delete, fsck, job_master, monitor, queryworker, reaper, rebalance, replicate"
    assert client.admin("want 1 x") == [f"ERROR: Invalid class 'x'.  Valid classes: {classes}"]
    for bad in ("want", "want replicate", "want x replicate", "want -1 replicate", "want 1"):
        assert client.admin(bad) == ["ERROR: usage: !want <count> <jobclass>"]
    for bad in ("to", "to fsck"):
        assert client.admin(bad) == ["ERROR: usage: !to <jobclass> <message>"]
    assert client.admin("to nothing :wake_up") == ["Message sent to 0 children."]
    assert client.admin("to fsck :wake_up") == ["Message sent to 1 children."]
    assert client.admin("want 3 monitor") == ["Now desiring 3 children doing 'monitor'."]
    assert client.admin("want 2 job_master") == ["Now desiring 2 children doing 'job_master'."]
    time.sleep(0.5)
    lines = client.admin("jobs")
    assert {"monitor count 1", "monitor desired 1", "job_master count 1", "job_master desired 1"} <= set(lines)


def test_any_server_process_speaks_for_the_whole_tracker(cluster: Any) -> None:
    tracker = cluster.tracker(processes=3)
    client = tracker.client()
    observed(client)
    counts(client, "queryworker", 3)
    clients = [tracker.client() for _ in range(12)]  # the kernel spreads them over the processes
    for number, each in enumerate(clients):
        each.ok(f"noop callid=c{number}")
    for each in clients[:6]:
        noops = {f"noop callid=c{number}" for number in range(12)}
        # A process that does not answer the question within seconds is left out of the answer.
        wait_until(
            lambda e=each, n=noops: all(one in "\n".join(e.admin("recent")) for one in n), "what all processes answered"
        )
    clients[0].send(b"sleep duration=8\r\nfile_info domain=a\r\n")
    clients[1].send(b"sleep duration=8\r\nfile_info domain=b\r\n")
    waiting = wait_until(lambda: w if len(w := sorted(client.admin("queue"))) == 2 else None, "two requests to wait")
    assert waiting == ["127.0.0.1 file_info domain=a", "127.0.0.1 file_info domain=b"]
    assert sorted(clients[2].admin("pending")) == waiting
    # Every process tells its figures about once a second, and may have been answering something else when it did.
    wait_until(
        lambda: (
            {"pending_queries": "2", "processing_queries": "2"}.items()
            <= dict(line.split() for line in clients[3].admin("stats")).items()
        ),
        "the figures",
    )
    # What is asked of one is done by the parent; the process that was asked stays, so its clients do.
    assert clients[4].admin("want 1 queryworker") == ["Now desiring 1 children doing 'queryworker'."]
    (left,) = counts(clients[4], "queryworker", 1)
    assert clients[4].raw("noop") == "OK "
    for each in clients[:2]:
        answers = [each.line() for _ in range(2)]  # what was accepted is finished
        assert answers[0] == b"OK \r\n", answers
        assert answers[1].startswith(b"ERR unreg_domain"), answers
    assert left in jobs(tracker.client())["queryworker"]
    wait_until(
        lambda: int(dict(line.split() for line in clients[4].admin("stats"))["queries"]) >= 17,
        "what ended processes answered to stay counted",
    )


def test_what_the_workers_are_doing(three_nodes: Any) -> None:
    tracker = three_nodes.trackers[0]
    tracker.stop()
    tracker = three_nodes.tracker(processes=2, jobs="delete=1", backlog_interval_seconds=0.2)
    client = tracker.client()
    observed(client)
    three_nodes.sql("INSERT INTO file_to_delete2 (fid, nexttry) SELECT 1000000 + n, 0 FROM generate_series(1, 3000) n")

    rates: list[float] = []  # of now: it falls again when the work is done

    def delete_worker() -> dict[str, str]:
        answer = client.ok("mogile_jobs")
        for i in range(1, int(answer["workers"]) + 1):
            if answer[f"worker_{i}_name"] == "delete":
                rates.append(float(answer[f"worker_{i}_per_second"]))
            if answer[f"worker_{i}_name"] == "delete" and int(answer[f"worker_{i}_done"]) >= 3000:
                return {k.partition(f"worker_{i}_")[2]: v for k, v in answer.items() if k.startswith(f"worker_{i}_")}
        return {}

    worker = wait_until(delete_worker, "the queue to be worked on and told about")
    assert max(rates) > 10
    assert (worker["class"], worker["errors"], worker["failing"]) == ("delete", "0", "0")
    assert [int(worker["pid"])] == jobs(client)["delete"]
    wait_until(lambda: ((w := delete_worker())["backlog"], w["eta_seconds"]) == ("0", "0"), "an empty backlog")
    stats = wait_until(
        lambda: s if "work_queue_for_delete" in (s := dict(x.split() for x in client.admin("stats"))) else None, "stats"
    )
    assert int(stats["work_sent_to_delete"]) >= 3000
    expected = {"monitor", "replicate-1", "reaper", "census", "balance", "moves", "sweep", "fsck"}

    def all_reported() -> list[str]:
        lines: list[str] = client.admin("status")
        return lines if expected <= {line.split()[1].partition("[")[0] for line in lines} else []

    lines = wait_until(all_reported, "the jobs process to report all its workers")
    assert any(line.startswith(f"delete delete[{worker['pid']}] ") and "done 3000" in line for line in lines), lines
    others = [tracker.client() for _ in range(6)]

    def all_alike() -> bool:
        """A worker that reports for the first time is known to all servers a moment later."""
        counts = {each.ok("mogile_jobs")["workers"] for each in others}
        return counts == {str(len(client.admin("status")))}

    wait_until(all_alike, "every server process to tell of the same workers")
    # A worker that fails says so until it succeeds again.
    three_nodes.sql("ALTER TABLE file_to_delete2 RENAME TO hidden")
    failing = wait_until(
        lambda: [x for x in client.admin("status") if x.startswith("delete delete[") and "last error" in x],
        "the failure",
    )
    assert "file_to_delete2" in failing[0]
    three_nodes.sql("ALTER TABLE hidden RENAME TO file_to_delete2")
    wait_until(
        lambda: any(x.startswith("delete delete[") and " idle " in x for x in client.admin("status")), "the recovery"
    )


def test_without_queryworkers_commands_wait_and_admin_lines_do_not(cluster: Any) -> None:
    tracker = cluster.tracker()
    client, other = tracker.client(), tracker.client()
    assert other.raw("noop") == "OK ", "it is accepted: what only waits to be is lost when a server process ends"
    observed(client)
    assert client.admin("want 0 queryworker") == ["Now desiring 0 children doing 'queryworker'."]
    counts(client, "queryworker", 0)
    other.send(b"noop callid=7\r\n")
    wait_until(lambda: client.admin("pending") == ["127.0.0.1 noop callid=7"], "the request to wait")
    other.socket.settimeout(0.5)
    with pytest.raises(TimeoutError):
        other.socket.recv(100)
    assert client.admin("want 1 queryworker") == ["Now desiring 1 children doing 'queryworker'."]
    other.socket.settimeout(EVENT_SECONDS)
    assert other.socket.recv(100) == b"OK callid=7\r\n"
    stats = wait_until(
        lambda: s if "times_out_of_qworkers" in (s := dict(line.split() for line in client.admin("stats"))) else None,
        "the counter",
    )
    assert stats["times_out_of_qworkers"] == "1"


def test_watchers_see_the_log_of_every_process(cluster: Any) -> None:
    tracker = cluster.tracker(processes=2)
    client = tracker.client()
    observed(client)
    counts(client, "queryworker", 2)
    watchers = [Watcher(tracker) for _ in range(6)]

    def heard(words: bytes) -> bool:
        return all(watcher.heard(words) for watcher in watchers)

    wait_until(lambda: heard(rb"^Added you to watcher list\.\r\n\.\r\n"), "all to be watchers")
    client.ok("create_host host=nobody&ip=127.0.20.9&port=9&status=alive")
    devids = itertools.count(90)

    def told_of_a_device() -> bool:
        """The log of the jobs process is listened to a moment after somebody asked for it: one device more until all have heard of one."""
        if heard(rb"^:: \[monitor\(.*device observed.*\r\n"):
            return True
        client.ok(f"create_device devid={next(devids)}&hostname=nobody&state=alive")
        time.sleep(1)
        return False

    wait_until(told_of_a_device, "the monitor's lines")
    assert client.admin("to reaper :shutdown") == ["Message sent to 1 children."]
    assert client.admin("want 2 delete") == ["Now desiring 2 children doing 'delete'."]
    for words in (rb"Job reaper has only 0, wants 1, making 1\.", rb"Job delete has only 0, wants 2, making 2\."):
        wait_until(lambda words=words: heard(rb"^:: " + words + rb"\r\n"), words.decode())
    quiet = watchers[0]
    quiet.socket.sendall(b"!watch\r\n")
    wait_until(lambda: quiet.heard(rb"^Removed you from watcher list\.\r\n\.\r\n"), "no watcher any more")
    for watcher in watchers:
        first, _, rest = watcher.text.partition(b".\r\n.\r\n")
        assert first.startswith(b"Added you")
        lines, _, _ = rest.partition(b"Removed you")
        assert all(line.startswith(b":: ") for line in lines.split(b"\r\n")[:-1]), lines
    quiet.socket.sendall(b"noop\r\n")
    wait_until(lambda: quiet.heard(rb"^\.\r\nOK \r\n\Z"), "an answer and nothing between")


class Watcher:
    """A connection that asked for the log; keeps all it got."""

    def __init__(self, tracker: Any) -> None:
        self.socket = tracker.client().socket
        self.socket.settimeout(0.2)
        self.socket.sendall(b"!watch\r\n")
        self.text = b""

    def heard(self, words: bytes) -> bool:
        with contextlib.suppress(TimeoutError):
            while not re.search(words, self.text, re.M):
                data = self.socket.recv(65536)
                assert data, "the connection was lost"
                self.text += data
        return re.search(words, self.text, re.M) is not None


def test_shutdown_of_a_class_begins_it_anew(cluster: Any) -> None:
    tracker = cluster.tracker(processes=2, jobs="replicate=2")
    client = tracker.client()
    observed(client)
    workers = counts(client, "replicate", 2)
    servers = counts(client, "queryworker", 2)
    assert client.admin("to replicate :shutdown") == ["Message sent to 2 children."]
    wait_until(
        lambda: len(p := jobs(client)["replicate"]) == 2 and not set(p) & set(workers), "other replicate processes"
    )
    assert client.admin("to queryworker :shutdown") == ["Message sent to 2 children."]

    def others() -> bool:
        pids = jobs(tracker.client())["queryworker"]
        return len(pids) == 2 and not set(pids) & set(servers)

    wait_until(others, "other server processes")


def test_no_connection_is_turned_away_while_server_processes_come_and_go(cluster: Any) -> None:
    tracker = cluster.tracker(processes=3)
    client = tracker.client()
    observed(client)
    over = threading.Event()
    answered: list[int] = []
    problems: list[str] = []

    def ask_for_ever() -> None:
        count = 0
        while not over.is_set():
            try:
                with socket.create_connection((tracker.address, tracker.port), timeout=90) as sock:
                    sock.sendall(b"noop\r\n")
                    answer = sock.recv(100)
                if answer != b"OK \r\n":
                    problems.append(f"answered {answer!r}")
            except OSError as error:
                problems.append(repr(error))
            count += 1
        answered.append(count)

    askers = [threading.Thread(target=ask_for_ever) for _ in range(4)]
    for asker in askers:
        asker.start()
    try:
        for wanted in (1, 3, 2, 4, 1):
            tracker.client().admin(f"want {wanted} queryworker")
            wait_until(lambda n=wanted: len(jobs(tracker.client())["queryworker"]) == n, f"{wanted} server processes")
        (last,) = jobs(tracker.client())["queryworker"]
        tracker.client().admin("to queryworker :shutdown")
        wait_until(lambda: jobs(tracker.client())["queryworker"] not in ([], [last]), "another server process")
        wait_until(lambda: not os.path.exists(f"/proc/{last}"), "the old one to end")
    finally:
        over.set()
        for asker in askers:
            asker.join()
    assert not problems, (len(problems), problems[:5])
    assert min(answered) > 50


def test_connections_that_wait_outlive_the_process_that_was_to_take_them(cluster: Any) -> None:
    tracker = cluster.tracker()
    client = tracker.client()
    observed(client)
    (server,) = counts(client, "queryworker", 1)
    os.kill(server, signal.SIGSTOP)
    waiting = [tracker.client() for _ in range(20)]
    for each in waiting:
        each.send(b"noop\r\n")
    os.kill(server, signal.SIGKILL)
    assert [each.line() for each in waiting] == [b"OK \r\n"] * 20


def test_a_silent_process_is_killed_and_replaced(cluster: Any) -> None:
    tracker = cluster.tracker(jobs="replicate=1", watchdog_seconds="replicate=8,queryworker=8")
    client = tracker.client()
    observed(client)
    (stopped,) = counts(client, "replicate", 1)
    (server,) = counts(client, "queryworker", 1)
    for pid in (stopped, server):
        os.kill(pid, signal.SIGSTOP)

    def replaced() -> bool:
        """A connection to the stopped one is reset when that is killed."""
        now = jobs(tracker.client())
        return now["queryworker"] not in ([], [server]) and now["replicate"] not in ([], [stopped])

    wait_until(replaced, "other processes")
    assert f"no sign of life name=replicate1 pid={stopped}" in tracker.log()
    assert f"pid={server}" in tracker.log()


def test_shutdown_finishes_what_was_accepted(cluster: Any) -> None:
    tracker = cluster.tracker()
    client, busy = tracker.client(), tracker.client()
    busy.send(b"sleep duration=5&callid=1\r\n")
    wait_until(lambda: dict(x.split() for x in client.admin("stats"))["processing_queries"] == "1", "the request")
    client.send(b"!shutdown\r\n")
    assert busy.line() == b"OK callid=1\r\n"
    assert tracker.process.wait(90) == 0


def own_address() -> str:
    """An address of this machine that is not loopback; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has loopback addresses only")
        return str(sock.getsockname()[0])


def test_only_this_machine_and_admin_from_may_change_the_tracker(cluster: Any) -> None:
    address = own_address()
    client = cluster.tracker(address, admin_from="198.51.100.0/24").client()
    for line in ("want 1 delete", "to fsck :wake_up", "shutdown", "want nonsense"):
        command = line.split()[0]
        words = f"ERROR: !{command} refused: {address} is neither this machine nor in a network of --admin-from"
        assert client.admin(line) == [words]
    assert client.admin("version") == ["2.73"]
    assert client.raw("noop") == "OK "
    allowed = cluster.tracker(address, admin_from=f"198.51.100.0/24, {address}/31")
    client = allowed.client()
    observed(client)
    client.send(b"!shutdown\r\n")
    assert allowed.process.wait(90) == 0
