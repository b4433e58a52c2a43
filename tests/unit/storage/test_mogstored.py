"""Classic flags and file of mogstored."""

import pytest

from mogile_core.errors import SettingError
from mogile_storage import mogstored
from mogile_storage.mogstored import from_file, from_flags, gather


def test_classic_flags():
    given = from_flags(
        [
            "--httplisten=10.0.0.1:7600",
            "--mgmtlisten",
            "7601",
            "--docroot=/d",
            "--maxconns=5",
            "-d",
            "--pidfile=/p",
            "--server=none",
        ]
    )
    assert given.settings == {
        "http_address": "10.0.0.1",
        "http_port": "7600",
        "mgmt_port": "7601",
        "docroot": "/d",
        "connections_max": "5",
    }
    assert given.parent == {"mgmt_address": "0.0.0.0", "daemonize": "1", "pidfile": "/p", "server": "none"}
    assert given.warnings == []


def test_meaningless_flags_are_taken_with_a_warning():
    given = from_flags(["--iostat=/usr/bin/iostat", "--serverbin", "/usr/sbin/lighttpd"])
    assert (given.settings, given.parent) == ({}, {})
    assert [w.split(" ")[0] for w in given.warnings] == ["--iostat", "--serverbin"]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--frobnicate=1"], "--frobnicate"),
        (["--docroot"], "--docroot"),
        (["docroot"], "docroot"),
        (["--httplisten=nowhere"], "--httplisten"),
        (["--httplisten=1.2.3.4:1,1.2.3.5:1"], "--httplisten"),
        (["--server=iis"], "--server"),
        (["--"], "--"),
    ],
)
def test_mistakes_are_named(flags, named):
    with pytest.raises(SettingError, match=named):
        from_flags(flags)


def test_flags_over_environment_over_file(tmp_path, monkeypatch):
    path = tmp_path / "mogstored.conf"
    path.write_text(
        "# a comment\nmaxconns = 10\nhttplisten=10.0.0.1:7600   # here\ndocroot = /from/file\n"
        "anonymous_writes = safe\ndaemonize\niostat = x\n"
    )
    monkeypatch.setenv("MOGILE_DOCROOT", "/from/environment")
    given = gather([f"--config={path}", "--maxconns=20"])
    assert given.settings == {
        "connections_max": "20",
        "http_address": "10.0.0.1",
        "http_port": "7600",
        "anonymous_writes": "safe",
    }
    assert given.parent["daemonize"] == "1"
    assert given.warnings == [f"{path} line 7: iostat has no effect: utilization is read from the kernel"]
    assert gather([f"--config={path}", "--skipconfig"]).settings == {}


@pytest.mark.parametrize("line", ["docroot", "server = iis", "config = /x", "httplisten = x:y:z"])
def test_mistakes_in_the_file_are_named_with_their_line(tmp_path, line):
    path = tmp_path / "mogstored.conf"
    path.write_text(f"maxconns = 10\n{line}\n")
    with pytest.raises(SettingError, match=f"line 2: {line.split(' ')[0]}"):
        from_file(str(path))


def test_unknown_names_in_the_file_are_warned_about(tmp_path):
    path = tmp_path / "mogstored.conf"
    path.write_text("perlbal_plugins = 1\n")
    given = from_file(str(path))
    assert (given.settings, given.warnings) == ({}, [f"{path} line 1: perlbal_plugins is unknown and has no effect"])


def test_a_file_that_was_named_must_be_there(monkeypatch, tmp_path):
    with pytest.raises(SettingError, match="no-such-file"):
        gather([f"--config={tmp_path}/no-such-file"])
    monkeypatch.setattr(mogstored, "CONFIG_FILE", str(tmp_path / "neither"))
    assert gather([]).settings == {}
