"""What the classic starts share: a pid file from check to removal, another user."""

import os
from pathlib import Path

import pytest

from mogile_core.errors import SettingError
from mogile_core.runtime.daemon import PidFile, become


def test_a_pid_file_lives_from_write_to_remove_wherever_we_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.pid"
    path.write_text("7\n")
    file = PidFile("x.pid", "--pidfile")
    file.check()
    assert path.read_text() == "7\n"
    monkeypatch.chdir("/")
    file.write()
    assert path.read_text() == f"{os.getpid()}\n"
    file.remove()
    assert not path.exists()


def test_a_pid_file_that_cannot_be_written_is_named_as_it_was_given(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"^MOGILE_PIDFILE: cannot write /nonexistent/x\.pid: No such file"):
        PidFile("/nonexistent/x.pid", "MOGILE_PIDFILE").check()


def test_without_a_pid_file_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = PidFile("", "--pidfile")
    file.check()
    file.write()
    file.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_user_that_is_not_there_is_named() -> None:
    with pytest.raises(SettingError, match="no user 'nobody-has-this-name'"):
        become("nobody-has-this-name")
