"""The `key = value` files of the classic tools and who wins when several say something.

Order, the first that defines a key wins: command line, the file named explicitly (`--conf`, `--config`), the file named by MOGUTILSCONF
(utilities only), `~/.mogilefs.conf`, `/etc/mogilefs/mogilefs.conf`. The original reads its files the other way round, so that a file
named explicitly cannot override /etc: a defect, not copied. A file named explicitly must exist; the other two may be missing.

`#` begins a comment at the start of a line or after a blank (a `#` inside a password is part of it). Keys in use: trackers, domain, class,
lib, db_dsn, db_user, db_pass, timeout; others are kept and ignored. Files are bounded in size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mogile_cli.classic.text import file_name
from mogile_cli.errors import UsageError
from mogile_core.client import parse_trackers
from mogile_core.errors import SettingError
from mogile_core.runtime import keyvalues

SYSTEM_FILE = Path("/etc/mogilefs/mogilefs.conf")
HOME_FILE = ".mogilefs.conf"
TRACKERS_MAX = 256
TIMEOUT_SECONDS_MAX = 3600


class ConfigurationError(UsageError):
    """A configuration file cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where configuration may come from, by falling rank; `explicit` files must exist."""

    explicit: tuple[Path, ...] = ()
    implicit: tuple[Path, ...] = ()


def sources(environ: Mapping[str, str], named: str | None, *, variable: str | None = None) -> Sources:
    """The files to read: `named` on the command line, in the environment's `variable`, in the home folder, and the system's."""
    explicit = [file_name(named) if named else None, environ.get(variable) if variable else None]
    home = environ.get("HOME")
    return Sources(
        explicit=tuple(Path(name) for name in explicit if name),
        implicit=((Path(home) / HOME_FILE,) if home else ()) + (SYSTEM_FILE,),
    )


def read(files: Sources, command_line: Mapping[str, str]) -> dict[str, str]:
    """All values in force: the command line's, completed from the files by rank."""
    values = dict(command_line)
    for path in files.explicit + files.implicit:
        text = _load(path, required=path in files.explicit)
        if text is not None:
            for key, value in parse(text).items():
                values.setdefault(key, value)
    return values


def parse(text: str) -> dict[str, str]:
    """`key = value` lines; the last of equal keys wins, lines of another form are skipped (as they always were)."""
    return {
        entry.key: entry.value
        for entry in keyvalues.entries(text, hash_in_values=True)
        if entry.value and entry.key.isascii() and entry.key.replace("_", "").isalnum()
    }


def _load(path: Path, *, required: bool) -> str | None:
    try:
        return keyvalues.read_file(path)
    except FileNotFoundError as error:
        if required:
            raise ConfigurationError(f"configuration file {path} does not exist") from error
        return None
    except OSError as error:
        raise ConfigurationError(f"unable to open {path}: {error.strerror}") from error
    except SettingError as error:
        raise ConfigurationError(f"configuration file {error}") from error


def trackers(text: str | None) -> tuple[str, ...]:
    """`a:7001, b` -> ('a:7001', 'b:7001'). A port that is left out is 7001 (mogadm of old insisted on one)."""
    if not (text or "").replace(",", "").strip():
        return ()
    try:
        addresses = parse_trackers(text or "")
    except SettingError as error:
        raise ConfigurationError(f"trackers: {error}") from error
    if len(addresses) > TRACKERS_MAX:
        raise ConfigurationError(f"trackers: {len(addresses)} addresses, at most {TRACKERS_MAX} can be used")
    return tuple(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in addresses)


def timeout_seconds(values: Mapping[str, str], default: float) -> float:
    """The key `timeout` (whole seconds); like the original, anything else means the default."""
    text = values.get("timeout", "")
    if text.isascii() and text.isdigit() and int(text) > 0:
        return float(min(int(text), TIMEOUT_SECONDS_MAX))
    return default
