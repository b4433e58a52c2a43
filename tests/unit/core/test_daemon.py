"""What the classic starts share: the lines of a file, and a pid file from check to removal."""

import os
from pathlib import Path

import pytest

from mogile_core.errors import SettingError
from mogile_core.runtime.daemon import FILE_BYTES_MAX, PidFile, become, configuration_lines


def test_lines_without_comments_and_blanks(tmp_path: Path) -> None:
    path = tmp_path / "a.conf"
    path.write_bytes(b"# first\r\na = 1 # one\r\n\n   \nb = caf\xe9\x0b\xc2\x85x\n")
    assert list(configuration_lines(str(path))) == [(2, "a = 1"), (5, "b = caf\udce9\x0b\x85x")]


def test_a_file_that_cannot_be_read_whole_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.conf"
    with pytest.raises(SettingError, match=f"cannot read {path}: No such file"):
        list(configuration_lines(str(path)))
    path.write_bytes(b"a = 1\n" + b"#" * FILE_BYTES_MAX)
    with pytest.raises(SettingError, match=f"{path} is larger than"):
        list(configuration_lines(str(path)))


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
