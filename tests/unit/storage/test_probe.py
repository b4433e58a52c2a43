"""The read past the page cache that tells a disk that gives no data from one that does."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mogile_storage import probe
from mogile_storage.probe import DataProbe
from testkit.waiting import wait_until

Start = Callable[[Path], DataProbe]


class Failures(list[OSError]):
    """What a probe reported."""


@pytest.fixture
def failures() -> Failures:
    return Failures()


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, failures: Failures) -> Iterator[Start]:
    """A probe of a file; ended after the test."""
    monkeypatch.setattr(probe, "PROBE_SECONDS", 0.01)
    running: list[tuple[int, DataProbe]] = []

    def make(path: Path) -> DataProbe:
        fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        made = DataProbe(fd, path.name, thread_name="probe", on_os_error=failures.append)
        running.append((fd, made))
        return made

    yield make
    for fd, made in running:
        made.close()
        wait_until(lambda made=made: made.closed, "the probe ends")
        os.close(fd)


def test_a_read_that_does_not_come_back_is_told_by_its_age(start: Start, tmp_path: Path, failures: Failures) -> None:
    """A pipe that nobody writes to lets its reader hang in open()."""
    os.mkfifo(tmp_path / "pipe")
    made = start(tmp_path / "pipe")
    wait_until(lambda: made.longest() > 0.2, "the read is old")
    made.close()
    assert not made.closed, "it is inside the system call"
    both_ends = os.open(tmp_path / "pipe", os.O_RDWR)
    try:
        wait_until(lambda: made.closed, "it comes back")
    finally:
        os.close(both_ends)
    assert made.longest() == 0


def test_without_o_direct_the_pages_are_dropped(start: Start, failures: Failures) -> None:
    """/proc is a file system that has none."""
    made = start(Path("/proc/self/status"))
    wait_until(lambda: not made.direct, "it is tried without")
    assert made.way == "pages dropped first"
    assert failures == []


def test_what_cannot_be_read_is_reported(start: Start, tmp_path: Path, failures: Failures) -> None:
    (tmp_path / "folder").mkdir()
    start(tmp_path / "folder")
    wait_until(lambda: failures, "an error")
    assert isinstance(failures[0], IsADirectoryError)


def test_a_missing_file_is_for_others_to_judge(start: Start, tmp_path: Path, failures: Failures) -> None:
    made = start(tmp_path / "missing")
    (tmp_path / "other").mkdir()
    start(tmp_path / "other")
    wait_until(lambda: failures, "the time for some reads")
    assert all(isinstance(failure, IsADirectoryError) for failure in failures)
    assert not made.closed
