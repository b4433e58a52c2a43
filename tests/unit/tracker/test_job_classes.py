"""Which job class runs in which process, and what is said about them."""

import pytest

from mogile_core.errors import SettingError
from mogile_tracker.adminline import parse_networks, refusal
from mogile_tracker.jobclasses import (
    CLASSES,
    HTTP,
    JOB_CLASSES,
    QUERYWORKER,
    SHARED,
    WATCHDOG_SECONDS,
    Roster,
    parse_pairs,
)
from mogile_tracker.jobstate import Rate, TrackerState, WorkerState, jobs_lines, status_lines


def test_by_default_one_shared_process_runs_every_class() -> None:
    roster = Roster(servers=2)
    assert roster.shared() == list(JOB_CLASSES)
    assert roster.processes() == {QUERYWORKER: 2, SHARED: 1, HTTP: 1}


def test_a_class_with_processes_of_its_own_leaves_the_shared_one() -> None:
    roster = Roster(servers=1, own={"replicate": 2})
    assert "replicate" not in roster.shared()
    assert roster.processes()["replicate"] == 2
    roster.want("delete", 1)
    assert roster.processes() == {QUERYWORKER: 1, "replicate": 2, "delete": 1, SHARED: 1, HTTP: 1}


def test_a_class_set_to_0_runs_nowhere_and_comes_back_with_a_process_of_its_own() -> None:
    roster = Roster(servers=1)
    roster.want("fsck", 0)
    assert "fsck" not in roster.shared()
    assert roster.processes()["fsck"] == 0
    roster.want("fsck", 1)
    assert roster.processes()["fsck"] == 1


def test_without_job_master_a_tracker_does_no_queue_work() -> None:
    roster = Roster(servers=1, own={"replicate": 2})
    roster.want("job_master", 0)
    assert roster.shared() == ["monitor", "reaper"]
    assert roster.processes()["replicate"] == 0
    assert roster.desired["replicate"] == 2
    roster.want("job_master", 1)
    assert roster.processes()["replicate"] == 2


def test_no_shared_process_when_nothing_is_left_for_it() -> None:
    roster = Roster(servers=1, own=dict.fromkeys(JOB_CLASSES, 0))
    assert roster.processes()[SHARED] == 0
    assert sum(roster.processes().values()) == 2


def test_a_second_monitor_or_job_master_is_ignored_and_counts_are_cut() -> None:
    roster = Roster(servers=1)
    for job in ("monitor", "job_master"):
        roster.want(job, 2)
        assert job in roster.shared()
        assert roster.desired[job] == 1
    roster.want("delete", 1000)
    assert roster.desired["delete"] == 500


def test_one_server_process_stays_for_the_connections() -> None:
    roster = Roster(servers=3)
    roster.want(QUERYWORKER, 0)
    assert roster.processes()[QUERYWORKER] == 1
    assert roster.desired[QUERYWORKER] == 0


def test_every_process_has_a_watchdog_time_and_they_are_mogilefs() -> None:
    assert set(CLASSES) | {HTTP} == set(WATCHDOG_SECONDS)
    known = {
        "queryworker": 30,
        "monitor": 30,
        "replicate": 90,
        "delete": 120,
        "fsck": 120,
        "job_master": 120,
        "reaper": 240,
    }
    assert {job: WATCHDOG_SECONDS[job] for job in known} == known


@pytest.mark.parametrize(
    "text", ["replicate", "replicate=", "replicate=-1", "replicate=x", "queryworker=1", "replicate=501", "x=1"]
)
def test_bad_job_lists_are_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match=r"has no class|must look like"):
        parse_pairs(text, JOB_CLASSES, maximum=500)


def test_job_lists() -> None:
    assert parse_pairs(" replicate = 2 ,delete=0,", JOB_CLASSES, maximum=500) == {"replicate": 2, "delete": 0}
    assert parse_pairs("", JOB_CLASSES, maximum=500) == {}


def test_rate_follows_what_happens_and_survives_a_restart_of_the_counter() -> None:
    rate = Rate(0.0)
    assert rate.observe(0, 0.0) == 0
    assert rate.observe(50, 1.0) > 0, "what was done before the first look counts"
    for second in range(2, 200):
        steady = rate.observe(50 * second, float(second))
    assert steady == pytest.approx(50, rel=0.01)
    assert rate.observe(30, 200.0) == pytest.approx(50, rel=0.05)  # the process began anew and did 30 since
    for second in range(201, 400):
        idle = rate.observe(30, float(second))
    assert idle < 0.1


def test_eta_is_backlog_over_rate() -> None:
    assert WorkerState(job="delete", name="delete", backlog=100, per_second=4.0).eta_seconds == 25
    assert WorkerState(job="delete", name="delete", backlog=0, per_second=0.0).eta_seconds == 0
    assert WorkerState(job="delete", name="delete", backlog=5, per_second=0.0).eta_seconds is None
    assert WorkerState(job="delete", name="delete").eta_seconds is None


def test_state_of_a_tracker() -> None:
    worker = WorkerState(
        job="delete", name="delete", state="busy", done=7, per_second=2.0, backlog=10, last_error="x", errors=1
    )
    state = TrackerState()
    state.update(
        {
            "processes": {
                "server1": {
                    "role": QUERYWORKER,
                    "pid": 11,
                    "jobs": [QUERYWORKER],
                    "figures": {"counters": {"queries": 3}},
                },
                "server2": {"role": QUERYWORKER, "pid": 12, "jobs": [], "figures": {}},  # retiring
                "jobs": {
                    "role": SHARED,
                    "pid": 13,
                    "jobs": ["delete", "monitor"],
                    "figures": {"workers": [worker.to_json()]},
                },
                "delete1": {
                    "role": "delete",
                    "pid": 14,
                    "jobs": ["delete"],
                    "figures": {"counters": {"work_sent_to_delete": 7}},
                },
            },
            "desired": {QUERYWORKER: 1, "delete": 1, "monitor": 0},
            "ended": {"queries": 40},
            "started": 5.0,
        }
    )
    lines = jobs_lines(state)
    assert lines == sorted(lines, key=lambda line: line.split()[0])
    assert {"queryworker count 1", "queryworker desired 1", "queryworker pids 11"} <= set(lines)
    assert {"delete count 2", "delete pids 13 14"} <= set(lines)
    assert {"monitor count 0", "monitor desired 0", "monitor pids"} <= set(lines)
    assert state.counters() == {"queries": 43, "work_sent_to_delete": 7}
    assert state.backlog("delete") == 10
    (line,) = status_lines(state.workers())
    assert line == "delete delete[13] busy 0s, done 7, rate 2.0/s, backlog 10, eta 5s, errors 1, last error 0s ago: x"


@pytest.mark.parametrize(
    ("peer", "allowed"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("fd00::5", True),
        ("11.1.2.3", False),
        ("fe80::1%eth0", False),
        ("", False),
        ("/run/socket", False),
    ],
)
def test_who_may_change_a_tracker(peer: str, allowed: bool) -> None:
    networks = parse_networks("10.0.0.0/8, fd00::/8")
    assert (refusal("!want", peer, networks) == "") is allowed


def test_networks_that_are_none_name_the_setting() -> None:
    with pytest.raises(SettingError, match="MOGILE_ADMIN_FROM"):
        parse_networks("10.0.0.0/8,nonsense")
