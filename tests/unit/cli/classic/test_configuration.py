"""Configuration files: their form, and who wins."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mogile_cli.classic import configuration, keys
from mogile_cli.classic.configuration import ConfigurationError, Sources, parse, read, sources, trackers
from mogile_core.runtime.keyvalues import FILE_BYTES_MAX

FILE = """\
# all
trackers = a:7001, b  # two
  domain=d
class =
db_pass = se#cret
no line
key with blank = x
domain = e
#lib = /x
"""


def test_form_of_a_file() -> None:
    assert parse(FILE) == {"trackers": "a:7001, b", "domain": "e", "db_pass": "se#cret"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a:7001,b", ("a:7001", "b:7001")),
        (" a , 10.0.0.1:6001 ,", ("a:7001", "10.0.0.1:6001")),
        ("::1", ("[::1]:7001",)),
        ("[fd00::1]:7002", ("[fd00::1]:7002",)),
        ("", ()),
        (None, ()),
        (" , ", ()),
    ],
)
def test_trackers(text: str | None, expected: tuple[str, ...]) -> None:
    assert trackers(text) == expected


@pytest.mark.parametrize("text", ["a:b", "a:0", "a:70000", ",".join(["a"] * 300)])
def test_trackers_that_cannot_be_used(text: str) -> None:
    with pytest.raises(ConfigurationError, match="trackers:"):
        trackers(text)


@pytest.mark.parametrize(
    ("written", "winner"),
    [
        (("line", "named", "env", "home", "system"), "line"),
        (("named", "env", "home", "system"), "named"),  # the original let /etc win here
        (("env", "home", "system"), "env"),
        (("home", "system"), "home"),
        (("system",), "system"),
    ],
)
def test_the_more_particular_source_wins(
    tmp_path: Path, no_system_file: Path, written: tuple[str, ...], winner: str
) -> None:
    (tmp_path / "home").mkdir()
    places = {
        "named": tmp_path / "named.conf",
        "env": tmp_path / "env.conf",
        "home": tmp_path / "home" / ".mogilefs.conf",
        "system": no_system_file,
    }
    for place in written:
        if place in places:
            places[place].write_text(f"domain = {place}\nonly_{place} = 1\n")
    environ = {"HOME": str(tmp_path / "home")} | ({"MOGUTILSCONF": str(places["env"])} if "env" in written else {})
    named = str(places["named"]) if "named" in written else None
    command_line = {"domain": "line"} if "line" in written else {}
    values = read(sources(environ, named, variable="MOGUTILSCONF"), command_line)
    assert values["domain"] == winner
    assert {name for name in values if name.startswith("only_")} == {
        f"only_{place}" for place in written if place != "line"
    }


def test_a_file_named_explicitly_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nothing\.conf does not exist"):
        read(Sources(explicit=(tmp_path / "nothing.conf",)), {})
    assert read(Sources(implicit=(tmp_path / "nothing.conf",)), {"a": "b"}) == {"a": "b"}


def test_a_file_that_cannot_be_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"unable to open .*: Is a directory"):
        read(Sources(implicit=(tmp_path,)), {})
    large = tmp_path / "large"
    large.write_bytes(b"a = b\n" * (FILE_BYTES_MAX // 6 + 1))
    with pytest.raises(ConfigurationError, match="larger than"):
        read(Sources(explicit=(large,)), {})


@pytest.mark.parametrize(("text", "seconds"), [("30", 30.0), ("", 15.0), ("x", 15.0), ("0", 15.0), ("999999", 3600.0)])
def test_timeout(text: str, seconds: float) -> None:
    assert configuration.timeout_seconds({"timeout": text}, 15.0) == seconds


async def test_a_utility_takes_trackers_and_domain_from_files(run: Callable, tracker, tmp_path: Path) -> None:
    file = tmp_path / "my.conf"
    file.write_text(f"trackers = {tracker.address}\ndomain = d\n")
    tracker.script["delete"] = {}
    for way in ({"MOGUTILSCONF": str(file)}, {}):
        argv = ["--key=k"] if way else [f"--conf={file}", "--key=k"]
        assert (await run(keys.DELETE, *argv, environ=way)).status == 0
    assert tracker.asked("delete") == [{"domain": "d", "key": "k"}] * 2
