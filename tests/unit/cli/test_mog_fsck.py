"""`mog fsck status` in words, and what it reads from a tracker's answer."""

from typing import Any

import pytest

from mogile_cli.fsck import MEANINGS, must_reset, sentences
from mogile_core.client import FsckStatus, checks
from mogile_core.errors import ProtocolError

ANSWER = {
    "running": "1", "host": "t1", "max_fid_checked": "50", "end_fid": "100", "start_time": "1000", "stop_time": "0",
    "current_time": "1010", "policy_only": "0", "max_logid": "7", "domain": "", "class": "", "prefix": "", "checksum": "class",
    "checked": "40", "queued": "10", "waiting": "0", "rate": "4.0", "eta": "10", "num_MISS": "2", "num_REPL": "3",
}  # fmt: skip


def status(**changes: str) -> FsckStatus:
    return checks.fsck_status({**ANSWER, **changes})


def test_an_answer_is_read() -> None:
    found = status()
    assert (found.running, found.host, found.rate, found.eta_seconds) == (True, "t1", 4.0, 10)
    assert found.counts == {"MISS": 2, "REPL": 3}
    with pytest.raises(ProtocolError):
        checks.fsck_status({**ANSWER, "end_fid": "many"})


@pytest.mark.parametrize(
    ("changes", "finished"),
    [
        ({}, False),
        ({"running": "0"}, False),
        ({"running": "0", "queued": "0"}, True),
        ({"running": "0", "queued": "3", "waiting": "3"}, True),
        ({"running": "1", "queued": "0"}, False),
    ],
)
def test_finished_means_that_nothing_but_silent_devices_is_waited_for(changes: Any, finished: bool) -> None:
    assert status(**changes).finished is finished


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({"start_time": "0"}, ["no check has been started yet"]),
        (
            {},
            ["running on t1, at fid 50 of 100", "40 files checked, 4 a second, about 10 s left; 10 queued"],
        ),
        (
            {"running": "0", "eta": "", "queued": "1", "waiting": "1", "checked": "1"},
            [
                "not running, at fid 50 of 100",
                "1 file checked, 4 a second; 1 queued",
                "1 file cannot be checked until a device answers again",
            ],
        ),
        (
            {"domain": "d", "class": "c", "prefix": "a/", "policy_only": "1", "eta": "", "rate": ""},
            [
                "running on t1, at fid 50 of 100",
                "only domain d, class c, keys beginning with a/",
                "the number of copies only, storage nodes are not asked for them",
                "40 files checked; 10 queued",
            ],
        ),
    ],
)
def test_a_run_in_words(changes: Any, lines: list[str]) -> None:
    assert sentences(status(**changes)) == lines


def test_every_code_has_a_meaning() -> None:
    codes = "NOPA POVI BCNT MISS BLEN SRCH FOND GONE BSUM BALG NSUM MSUM REPL ORPH"
    assert set(MEANINGS) == set(codes.split())


@pytest.mark.parametrize(
    ("changes", "policy_only", "expected"),
    [
        ({"running": "0"}, False, False),
        ({"running": "0"}, True, True),
        ({"running": "0", "policy_only": "1"}, True, False),
        ({"running": "0", "policy_only": "1"}, False, False),  # unfinished: goes on as it was begun
        ({"running": "0", "policy_only": "1", "max_fid_checked": "100"}, False, True),
        ({"running": "1"}, True, False),  # a running one is not disturbed; the start is refused
    ],
)
def test_the_choice_of_a_finished_run_is_not_that_of_the_next(changes: Any, policy_only: bool, expected: bool) -> None:
    assert must_reset(status(**changes), policy_only=policy_only) is expected
