"""mogilefsd's configuration file and flags as settings of ours: every row of the list of facts, what wins, what is refused."""

from pathlib import Path

import pytest

from mogile_core.errors import SettingError
from mogile_core.runtime.settings import load
from mogile_tracker.classicstart import ClassicStart, libpq_url, read
from mogile_tracker.settings import TrackerSettings

FULL = """
# as an operator wrote it
daemonize = 1
db_dsn = DBI:Pg:dbname=mogilefs;host=10.0.0.1;port=5433
db_user mogile
db_pass = s3cr#t        # comments cut, also here
listen = 10.0.0.2, 10.0.0.3:7009
conf_port = 7005
query_jobs = 20
delete_jobs = 1
replicate_jobs = 5
fsck_jobs = 0
reaper_jobs = 1
monitor_jobs = 1
job_master = 1
min_free_space = 200
default_mindevcount = 3
node_timeout = 4
conn_timeout = 3
mogstored_stream_port = 7511
pidfile = /run/mogilefsd.pid
user = mogile
max_disk_age = 5
max_handles = 0
conn_pool_size = 20
rebalance_ignore_missing = 0
repl_use_get_port = 0
local_network = 10.0.0.0/8
no_schema_check = 0
plugins = ZoneLocal
someday = 1
"""


def start(*arguments: str, processors: int = 4) -> ClassicStart:
    names = TrackerSettings.__dataclass_fields__
    return read(arguments, names.__contains__, processors=processors)


def settings(*arguments: str, environ: dict[str, str] | None = None, processors: int = 4) -> TrackerSettings:
    found = start(*arguments, processors=processors)
    return load(TrackerSettings, found.arguments, environ or {}, foreign=found.values)


@pytest.fixture
def conf(tmp_path: Path) -> str:
    path = tmp_path / "mogilefsd.conf"
    path.write_text(FULL)
    return str(path)


def test_every_key_of_the_file(conf: str) -> None:
    s = settings(f"--config={conf}")
    assert s.dsn == "postgresql://mogile:s3cr@10.0.0.1:5433/mogilefs"
    assert s.listen_addresses == [("10.0.0.2", 7005), ("10.0.0.3", 7009)]
    assert s.processes == 4
    assert s.own_jobs == {"replicate": 5, "fsck": 0}
    assert (s.min_free_space_mb, s.default_mindevcount, s.mgmt_port) == (200, 3, 7511)
    assert (s.node_timeout_seconds, s.conn_timeout_seconds) == (4, 3)
    assert (s.pidfile, s.user, s.daemonize) == ("/run/mogilefsd.pid", "mogile", True)
    warnings = start("-c", conf).warnings
    assert len(warnings) == 3
    assert "someday" in warnings[0]
    for key in (
        "max_disk_age",
        "max_handles",
        "conn_pool_size",
        "repl_use_get_port",
        "local_network",
        "no_schema_check",
        "plugins",
    ):
        assert key in warnings[1]
    assert "query_jobs = 20: 4 server processes" in warnings[2]


def test_ours_win_over_mogilefsds_and_flags_over_the_file(conf: str) -> None:
    environ = {"MOGILE_DB_DSN": "postgresql://me@else/db", "MOGILE_MIN_FREE_SPACE_MB": "7", "MOGILE_JOBS": "delete=2"}
    s = settings("--config", conf, "--node_timeout=9", "--processes=3", "--user", "other", environ=environ)
    assert s.dsn == "postgresql://me@else/db"
    assert (s.min_free_space_mb, s.node_timeout_seconds, s.processes, s.user) == (7, 9, 3, "other")
    assert s.own_jobs == {"delete": 2}


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["--dsn=dbi:Pg:dbname=m;host=h", "--dbuser=u", "--dbpass=p"], "dsn", "postgresql://u:p@h/m"),
        (["--db_dsn", "DBI:Pg:dbname=m;host=h", "--db_user", "u"], "dsn", "postgresql://u@h/m"),
        (["-l", "1.2.3.4", "-l", "5.6.7.8:9"], "listen_addresses", [("1.2.3.4", 7001), ("5.6.7.8", 9)]),
        (["--listen=[::1]", "--confport=7100"], "listen_addresses", [("::1", 7100)]),
        (["-p", "7200"], "listen_addresses", [("0.0.0.0", 7200)]),
        (["-w", "2"], "processes", 2),
        (["--workers=0"], "processes", 1),
        (["-D"], "daemonize", True),
        (["--debug"], "log_level", "debug"),
        (["--no-job_master"], "own_jobs", {"job_master": 0}),
        (["--nojob_master"], "own_jobs", {"job_master": 0}),
        (["--job_master"], "own_jobs", {}),
        (["--mogstored_stream_port"], "mgmt_port", 7501),
        (["--default_mindevcount=4"], "default_mindevcount", 4),
        (["--min_free_space", "1"], "min_free_space_mb", 1),
        (["--conn_timeout=1"], "conn_timeout_seconds", 1),
        (["--replicate_jobs=2", "--delete_jobs=0"], "own_jobs", {"replicate": 2, "delete": 0}),
        (["--max_disk_age=1", "--plugins=X", "--no_schema_check", "--local_network=10/8"], "processes", 1),
    ],
)
def test_every_flag(arguments: list[str], name: str, value: object) -> None:
    assert getattr(settings("--skipconfig", *arguments), name) == value


def test_a_tracker_that_only_answers_commands() -> None:
    flags = [f"--{job}_jobs=0" for job in ("delete", "replicate", "fsck", "reaper")]
    off = dict.fromkeys(("census", "delete", "fsck", "rebalance", "reaper", "replicate"), 0)
    assert settings("-s", *flags).own_jobs == off


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config=/nonexistent/file"], "cannot read /nonexistent/file"),
        (["--no_such_flag=1"], "unknown argument '--no_such_flag=1'"),
        (["-x"], "unknown argument '-x'"),
        (["--dsn"], "--dsn needs a value"),
        (["--workers=many"], "query_jobs must be a whole number"),
        (["--min_free_space=much"], "min_free_space_mb"),
        (["--dsn=DBI:mysql:mogilefs"], "only PostgreSQL"),
        (["--dsn=DBI:Pg:host=h"], "names no database"),
    ],
)
def test_what_mogilefsd_would_refuse_is_refused_in_one_sentence(arguments: list[str], words: str) -> None:
    with pytest.raises(SettingError) as caught:
        _ = settings("-s", *arguments).dsn if "config" not in arguments[0] else settings(*arguments).dsn
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_line_that_is_none_names_its_number(tmp_path: Path) -> None:
    path = tmp_path / "f.conf"
    path.write_text("listen = 1.2.3.4\nnonsense\n")
    with pytest.raises(SettingError, match=r"line 2: expected `key = value`"):
        start(f"--config={path}")


@pytest.mark.parametrize(
    ("rest", "url"),
    [
        ("dbname=m", "postgresql://u:p%40@/m?host=/var/run/postgresql"),
        ("dbname=m;host=/tmp;port=5433", "postgresql://u:p%40@/m?host=/tmp&port=5433"),
        ("database=m;host=::1;port=1", "postgresql://u:p%40@[::1]:1/m"),
        ("dbname=m;host=h;sslmode=require", "postgresql://u:p%40@h/m?sslmode=require"),
    ],
)
def test_database_names_become_urls(rest: str, url: str) -> None:
    assert libpq_url(rest, "u", "p@") == url


def test_without_anything_of_mogilefsd_nothing_changes() -> None:
    found = start("-s")
    assert (found.values, found.arguments, found.warnings, found.used) == ({}, [], [], False)
    found = start("--skipconfig", "--processes", "2", "--db-dsn=postgresql://a@b/c")
    assert found.arguments == ["--processes", "2", "--db-dsn=postgresql://a@b/c"]
    assert not found.used


FILE_KEYS = [
    "daemonize",
    "db_dsn",
    "db_user",
    "db_pass",
    "listen",
    "conf_port",
    "listener_jobs",
    "query_jobs",
    "delete_jobs",
    "replicate_jobs",
    "fsck_jobs",
    "reaper_jobs",
    "monitor_jobs",
    "job_master",
    "min_free_space",
    "max_disk_age",
    "max_handles",
    "default_mindevcount",
    "node_timeout",
    "conn_timeout",
    "conn_pool_size",
    "mogstored_stream_port",
    "rebalance_ignore_missing",
    "repl_use_get_port",
    "local_network",
    "no_schema_check",
    "plugins",
    "user",
    "pidfile",
]
VALUED = [
    "dsn",
    "dbuser",
    "dbpass",
    "user",
    "confport",
    "listen",
    "workers",
    "default_mindevcount",
    "node_timeout",
    "conn_timeout",
    "conn_pool_size",
    "max_handles",
    "min_free_space",
    "max_disk_age",
    "pidfile",
    "plugins",
    "local_network",
]
SWITCHES = [
    "skipconfig",
    "debug",
    "daemonize",
    "no_schema_check",
    "repl_use_get_port",
    "mogstored_stream_port",
    "job_master",
    "no-job_master",
]
SHORT = {"c": "{file}", "s": "", "d": "", "D": "", "p": "7001", "l": "127.0.0.1", "w": "1"}


@pytest.mark.parametrize("key", FILE_KEYS)
def test_every_key_of_mogilefsds_file_is_known(key: str, tmp_path: Path) -> None:
    for form in (f"{key} = 1", f"{key} 1"):
        path = tmp_path / "f.conf"
        path.write_text(f"{form}\n" if key != "db_dsn" else "db_dsn = DBI:Pg:dbname=m\n")
        assert not [warning for warning in start(f"--config={path}").warnings if "unknown" in warning]


@pytest.mark.parametrize("flag", [*VALUED, *SWITCHES])
def test_every_flag_of_mogilefsd_is_taken(flag: str) -> None:
    value = {"dsn": "DBI:Pg:dbname=m"}.get(flag, "1")
    words = [[f"--{flag}"]] if flag in SWITCHES else [[f"--{flag}={value}"], [f"--{flag}", value]]
    for given in words:
        settings("-s", *given)  # a flag that is none is refused


@pytest.mark.parametrize("letter", SHORT)
def test_every_short_flag_of_mogilefsd_is_taken(letter: str, conf: str) -> None:
    value = SHORT[letter].format(file=conf)
    settings(*([] if letter == "c" else ["-s"]), f"-{letter}", *([value] if value else []))


DEFAULTS = {
    "daemonize": False,
    "listen": "0.0.0.0:7001",
    "min_free_space_mb": 100,
    "default_mindevcount": 2,
    "node_timeout_seconds": 2.0,
    "conn_timeout_seconds": 2.0,
    "mgmt_port": 7501,
    "user": "",
    "pidfile": "",
    "own_jobs": {},
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_default_is_mogilefsds(name: str) -> None:
    assert getattr(settings("-s"), name) == DEFAULTS[name]
