"""What commands print: tables for people, JSON for programs, one sentence for errors."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from mogile_cli import output
from mogile_cli.main import exit_status, main
from mogile_core.checksum import Checksum
from mogile_core.client import FileInfo
from mogile_core.errors import CommandError, MogError, SettingError
from mogile_core.model import DevId, Fid


@dataclass(frozen=True, slots=True)
class Result:
    returncode: int
    stdout: str
    stderr: str


Call = Callable[..., Result]


@pytest.fixture
def mog(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Calls the entry point as the installed script does."""

    def call(*words: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["mog", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Result(int(ended.value.code or 0), captured.out, captured.err)

    return call


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (5 << 20, "5.0 MiB"),
        (3 << 50, "3.0 PiB"),
        (None, "-"),
    ],
)
def test_sizes(count: int | None, words: str) -> None:
    assert output.size(count) == words


def test_values_become_plain_json() -> None:
    info = FileInfo(
        fid=Fid(7),
        domain="files",
        key="a/\udcff.txt",
        class_name="default",
        length=3,
        devcount=2,
        checksum=Checksum.parse("MD5:" + "0" * 32),
        devids=(DevId(1), DevId(2)),
    )
    plain = json.loads(json.dumps(output.plain(info)))
    assert plain["devids"] == [1, 2]
    assert plain["checksum"] == "MD5:" + "0" * 32
    assert plain["key"] == "a/\ufffd.txt"
    assert "\udcff" not in plain["key"]


def test_tables_show_brackets_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    with output.results.capture() as captured:
        output.say_table(("key", "size"), [("[red]x[/]", 5), ("", None)], right=("size",))
    assert [line.split() for line in captured.get().splitlines()] == [["key", "size"], ["[red]x[/]", "5"], ["-", "-"]]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("frob",), "frob"),
        (("local", "frob"), "frob"),
        (("local", "up", "--nodes=x"), "--nodes"),
        (("local", "up", "--nodes=0", "--data=/nonexistent/x"), "--nodes"),
        (("local", "mark", "1", "sleepy"), "sleepy"),
        (("put",), "FILE"),
        (("put", "-"), "--key"),
        (("put", "/nonexistent"), "/nonexistent"),
        (("ls", "--limit=0"), "--limit"),
        (("status", "--trackers=host:port"), "host:port"),
        (("class", "add", "c", "--hash=CRC", "--domain=d"), "--hash"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_2(mog: Call, words: tuple[str, ...], named: str) -> None:
    result = mog(*words)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("mog: ")
    assert result.stderr.count("\n") == 1
    assert named in result.stderr


def test_no_tracker_is_one_line_and_exit_1(mog: Call) -> None:
    result = mog("ls", "--domain=d", "--trackers=127.0.25.9:1")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "127.0.25.9:1" in result.stderr


def test_every_command_has_help(mog: Call) -> None:
    for words in ([], ["local"], ["domain"], ["class"], ["host"], ["device"], ["local", "up"], ["put"]):
        result = mog(*words, "--help")
        assert result.returncode == 0
        assert "Usage" in result.stdout


def test_the_shell_completes_commands() -> None:
    result = subprocess.run(
        [Path(sys.executable).with_name("mog")],
        env={"_MOG_COMPLETE": "complete_bash", "COMP_WORDS": "mog local kill", "COMP_CWORD": "2", "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.stdout.split() == ["kill-node"]


@pytest.mark.parametrize(
    ("error", "status"), [(MogError("x"), 1), (CommandError("unknown_key"), 1), (SettingError("x"), 2)]
)
def test_exit_statuses(error: MogError, status: int) -> None:
    assert exit_status(error) == status
