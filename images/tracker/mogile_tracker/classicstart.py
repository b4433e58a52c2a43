"""Starting as `mogilefsd` was started: its configuration file and its flags become settings of ours.

Ours win: flags, then environment, then mogilefsd's flags, then its file. What has no meaning here is accepted where mogilefsd accepts it,
and named in one warning line; an unknown key of the file is too, as there; an unknown flag is refused, as there. Two things are not taken
word for word. `query_jobs` counts processes that serve one request each; one of ours serves thousands, so no more than the machine has
processors are started. A job class with 1 process, the default, stays in the shared jobs process; more than 1 are processes of their own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode

from mogile_core.errors import SettingError
from mogile_core.runtime import keyvalues
from mogile_tracker.jobclasses import SINGLE, WANT_MAX

CONFIG_DEFAULT = "/etc/mogilefs/mogilefsd.conf"
PORT_DEFAULT = "7001"
USER_DEFAULT = "mogile"

_JOB_KEYS = {f"{job}_jobs": job for job in ("delete", "replicate", "fsck", "reaper", "monitor")} | {
    "job_master": "job_master"
}
_QUEUE_WORK = ("delete", "replicate", "fsck", "reaper")
_RENAMED = {
    "min_free_space": "min_free_space_mb",
    "node_timeout": "node_timeout_seconds",
    "conn_timeout": "conn_timeout_seconds",
    "mogstored_stream_port": "mgmt_port",
    "default_mindevcount": "default_mindevcount",
    "daemonize": "daemonize",
    "pidfile": "pidfile",
    "user": "user",
}
_MEANINGLESS = frozenset(
    {
        "max_disk_age",
        "max_handles",
        "conn_pool_size",
        "rebalance_ignore_missing",
        "repl_use_get_port",
        "local_network",
        "plugins",
        "no_schema_check",
    }
)
_ALIASES = {
    "dsn": "db_dsn",
    "dbuser": "db_user",
    "dbpass": "db_pass",
    "confport": "conf_port",
    "workers": "query_jobs",
    "queryworkers": "query_jobs",
    "listener_jobs": "query_jobs",
}
_KNOWN = frozenset(
    {*_JOB_KEYS, *_RENAMED, *_MEANINGLESS, "db_dsn", "db_user", "db_pass", "conf_port", "query_jobs", "listen", "debug"}
)
_SHORT = {
    "c": "config",
    "s": "skipconfig",
    "d": "debug",
    "D": "daemonize",
    "p": "conf_port",
    "l": "listen",
    "w": "query_jobs",
}
_SWITCHES = frozenset(
    {"skipconfig", "debug", "daemonize", "no_schema_check", "repl_use_get_port", "job_master", "mogstored_stream_port"}
)
_KEY = re.compile(r"[\w.-]+")
_DSN = re.compile(r"dbi:pg:(.*)\Z", re.IGNORECASE | re.DOTALL)


@dataclass(slots=True, kw_only=True)
class ClassicStart:
    """What was found: settings by name, the arguments that are ours, and what the operator should know."""

    values: dict[str, str] = field(default_factory=dict)
    arguments: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    used: bool = False


def read(arguments: Sequence[str], ours: Callable[[str], bool], *, processors: int) -> ClassicStart:
    """Take mogilefsd's flags and file apart from our own arguments; SettingError for what mogilefsd would refuse."""
    start = ClassicStart()
    given, config, skip = _flags(arguments, ours, start)
    path = config or CONFIG_DEFAULT
    keys: dict[str, list[str]] = {}
    if not skip and (config or os.path.exists(path)):
        start.used = True
        keys = _file(path)
    keys.update(given)
    unknown = sorted(set(keys) - _KNOWN)
    if unknown:
        start.warnings.append(f"unknown settings in {path} are ignored: {', '.join(unknown)}")
    useless = sorted(set(keys) & _MEANINGLESS)
    if useless:
        start.warnings.append(f"settings of mogilefsd that have no meaning here are ignored: {', '.join(useless)}")
    last = {key: values[-1] for key, values in keys.items() if key in _KNOWN}
    start.values = {ours_: last[key] for key, ours_ in _RENAMED.items() if key in last}
    addresses = _listen(keys.get("listen", []), last.get("conf_port", PORT_DEFAULT), given_port="conf_port" in last)
    if addresses and "listen" in given:
        start.arguments.append(f"--listen={addresses}")  # a flag of ours as well: stronger than the environment
    elif addresses:
        start.values["listen"] = addresses
    start.values |= _database(last)
    start.values |= _processes(last, processors, start.warnings)
    if last.get("debug", "0") not in ("0", ""):
        start.values["log_level"] = "debug"
    return start


def _flags(
    arguments: Sequence[str], ours: Callable[[str], bool], start: ClassicStart
) -> tuple[dict[str, list[str]], str, bool]:
    given: dict[str, list[str]] = {}
    config, skip = "", False
    words = list(arguments)
    while words:
        word = words.pop(0)
        key, value = _key_of(word)
        spelled = word[2:].partition("=")[0].replace("-", "_") if word.startswith("--") else key
        if key is None or (
            ours(spelled or "") and key != "listen" and not (key == "db_dsn" and _wants_dbi(value, words))
        ):
            start.arguments.append(word if word.startswith("--") or key is None else f"--{key}")
            continue
        negated = key.removeprefix("no").lstrip("-_") if key.startswith("no") and key not in _KNOWN else ""
        if negated in _SWITCHES:
            key, value = negated, "0"
        if key not in _KNOWN and key not in ("config", "skipconfig"):
            start.arguments.append(word)  # our own parser refuses it
            continue
        if value is None:
            if key in _SWITCHES:
                value = "1" if key != "mogstored_stream_port" else ""
            elif words:
                value = words.pop(0)
            else:
                raise SettingError(f"{word} needs a value")
        if key == "config":
            config, start.used = value, True
        elif key == "skipconfig":
            skip = value != "0"
        elif key == "mogstored_stream_port" and not value:
            start.warnings.append("--mogstored_stream_port without a value is ignored, as mogilefsd does")
        else:
            start.used = start.used or key != "listen"
            given.setdefault(key, []).append(value)
    return given, config, skip


def _key_of(word: str) -> tuple[str | None, str | None]:
    """(canonical key, value or None) of an argument; no key when it is none."""
    if re.fullmatch(r"-[a-zA-Z].*", word, re.DOTALL):
        key = _SHORT.get(word[1])
        rest = word[2:].removeprefix("=")
        return (key, rest or None)
    if not word.startswith("--") or len(word) < 4:
        return None, None
    name, equals, value = word[2:].partition("=")
    key = name.replace("-", "_")
    return _ALIASES.get(key, key), value if equals else None


def _wants_dbi(value: str | None, rest: Sequence[str]) -> bool:
    text = value if value is not None else rest[0] if rest else ""
    return text.lower().startswith("dbi:")


def _file(path: str) -> dict[str, list[str]]:
    try:
        text = keyvalues.read_file(path)
    except OSError as error:
        raise SettingError(f"--config: cannot read {path}: {error.strerror or error}") from error
    found: dict[str, list[str]] = {}
    for entry in keyvalues.entries(text, blank_separates=True):
        if entry.value is None or not _KEY.fullmatch(entry.key):
            raise SettingError(f"{path} line {entry.number}: expected `key = value`, got {entry.text[:60]!r}")
        found[_ALIASES.get(entry.key, entry.key)] = [entry.value]  # the last line of a key counts
    return found


def _database(last: Mapping[str, str]) -> dict[str, str]:
    dsn = last.get("db_dsn")
    if dsn is None:
        return {}
    found = _DSN.match(dsn)
    return {"db_dsn": libpq_url(found[1], last.get("db_user", USER_DEFAULT), last.get("db_pass", "")) if found else dsn}


def libpq_url(rest: str, user: str, password: str) -> str:
    """`dbname=mogilefs;host=10.0.0.1;port=5432` -> a URL; without a host the local socket."""
    pairs = dict(piece.split("=", 1) for piece in re.split(r"[;\s]+", rest.strip()) if "=" in piece)
    name = pairs.pop("dbname", "") or pairs.pop("database", "") or pairs.pop("db", "")
    if not name:
        raise SettingError(f"db_dsn: DBI:Pg:{rest} names no database; expected DBI:Pg:dbname=mogilefs;host=dbhost")
    host = pairs.pop("host", "") or pairs.pop("hostaddr", "") or "/var/run/postgresql"
    port = pairs.pop("port", "")
    login = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
    if host.startswith("/"):
        pairs = {"host": host, **({"port": port} if port else {}), **pairs}
        address = ""
    else:
        address = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    options = f"?{urlencode(pairs, safe='/')}" if pairs else ""
    return f"postgresql://{login}@{address}/{quote(name, safe='')}{options}"


def _listen(given: Sequence[str], port: str, *, given_port: bool) -> str:
    """Addresses with their ports; empty when nothing was said."""
    parts = [part.strip() for text in given for part in text.split(",") if part.strip()]
    if not parts and given_port:
        parts = ["0.0.0.0"]  # noqa: S104 - mogilefsd's default
    addresses = [part if re.search(r"\]:\d+\Z|\A[^:\[\]]*:\d+\Z", part) else f"{part}:{port}" for part in parts]
    return ",".join(addresses)


def _processes(last: Mapping[str, str], processors: int, warnings: list[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    if "query_jobs" in last:
        wanted = _count("query_jobs", last["query_jobs"])
        started = min(max(wanted, 1), max(processors, 1))
        values["processes"] = str(started)
        if started < wanted:
            warnings.append(
                f"query_jobs = {wanted}: {started} server processes are started, each serves many requests at once"
            )
    counts = {job: _count(key, last[key]) for key, job in _JOB_KEYS.items() if key in last}
    if all(counts.get(job) == 0 for job in _QUEUE_WORK):
        counts |= {"rebalance": 0, "census": 0}  # a tracker that only answers commands
    own = {job: count for job, count in sorted(counts.items()) if count == 0 or (count > 1 and job not in SINGLE)}
    if own:
        values["jobs"] = ",".join(f"{job}={count}" for job, count in own.items())
    return values


def _count(key: str, text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise SettingError(f"{key} must be a whole number, got {text!r}")
    return min(int(text), WANT_MAX)
