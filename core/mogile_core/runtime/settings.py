"""Environment and command line -> one frozen settings object per process, read once in `main`.

A settings class is a frozen dataclass whose fields are made with `setting(default, help)`. Field `listen` is the environment variable
`MOGILE_LISTEN` and the flag `--listen`; the flag wins. Units are part of the name. Field types: str, int, float, bool (and `X | None`).
A bad value raises SettingError with one sentence naming the variable; `load_or_exit` prints it and exits with 2.

This is the only module that reads `os.environ`.
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from mogile_core.errors import SettingError

PREFIX = "MOGILE_"
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off", ""})

T = TypeVar("T")


def setting(
    default: Any,
    help: str,  # noqa: A002 - reads well where it is used
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Sequence[str] = (),
    secret: bool = False,
) -> Any:
    """A dataclass field with its meaning and limits. `default=...` (Ellipsis) makes it required."""
    metadata = {"help": help, "minimum": minimum, "maximum": maximum, "choices": tuple(choices), "secret": secret}
    if default is ...:
        return dataclasses.field(metadata={**metadata, "required": True})
    return dataclasses.field(default=default, metadata=metadata)


def variable_name(field_name: str) -> str:
    """`db_dsn` -> `MOGILE_DB_DSN`."""
    return PREFIX + field_name.upper()


def flag_name(field_name: str) -> str:
    """`db_dsn` -> `--db-dsn`."""
    return "--" + field_name.replace("_", "-")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SettingInfo:
    """What reference documentation prints about one setting."""

    name: str
    variable: str
    flag: str
    type_name: str
    default: object
    help: str


def describe(cls: type[Any]) -> list[SettingInfo]:
    """Every setting of a class, in order."""
    hints = typing.get_type_hints(cls)
    return [
        SettingInfo(
            name=f.name,
            variable=variable_name(f.name),
            flag=flag_name(f.name),
            type_name=_base_type(hints[f.name]).__name__,
            default=None if f.default is dataclasses.MISSING else f.default,
            help=f.metadata["help"],
        )
        for f in dataclasses.fields(cls)
    ]


def load(
    cls: type[T],
    argv: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    *,
    foreign: Mapping[str, str] | None = None,
) -> T:
    """Flags over environment over `foreign` (by field name, from another program's configuration) over defaults; SettingError in words."""
    environ = os.environ if environ is None else environ
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    given = _flags(argv, fields, hints)
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in given:
            values[name] = _convert(flag_name(name), given[name], hints[name], field)
        elif (raw := environ.get(variable_name(name))) is not None:
            values[name] = _convert(variable_name(name), raw, hints[name], field)
        elif foreign is not None and name in foreign:
            values[name] = _convert(f"{name} (from the configuration file)", foreign[name], hints[name], field)
        elif field.metadata.get("required"):
            raise SettingError(f"{variable_name(name)} (or {flag_name(name)}) is missing: {field.metadata['help']}")
    return cls(**values)


def environment_with(values: Mapping[str, str]) -> dict[str, str]:
    """The environment of a child process: this one's, with other values on top."""
    return {**os.environ, **values}


def load_or_exit(cls: type[T], argv: Sequence[str], prog: str, *, foreign: Mapping[str, str] | None = None) -> T:
    """`load` for a `main`: `--help` prints all settings and exits 0; a bad setting prints one line and exits 2."""
    if "--help" in argv or "-h" in argv:
        sys.stdout.write(help_text(cls, prog))
        raise SystemExit(0)
    try:
        return load(cls, argv, foreign=foreign)
    except SettingError as error:
        exit_with_line(prog, str(error))


def exit_with_line(prog: str, message: str, status: int = 2) -> typing.NoReturn:
    """One line on stderr, then exit: for mistakes of whoever started the process."""
    sys.stderr.write(f"{prog}: {message}\n")
    sys.stderr.flush()
    raise SystemExit(status)


def help_text(cls: type[Any], prog: str) -> str:
    """The text of `--help`."""
    lines = [
        f"usage: {prog} [--name=value ...]",
        "",
        "Each setting is a flag and an environment variable; the flag wins.",
        "",
    ]
    for info in describe(cls):
        default = "" if info.default in (None, "") else f" [{info.default}]"
        lines.append(f"  {info.flag}, {info.variable}{default}")
        lines.append(f"      {info.help}")
    return "\n".join(lines) + "\n"


def secret_from(value: str | None, file: str | None, name: str) -> str | None:
    """A secret given directly or in a file (`NAME` / `NAME_FILE`); a final newline in the file is dropped."""
    if not file:
        return value
    try:
        with open(file, encoding="utf-8") as stream:
            return stream.read().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"{variable_name(name)}_FILE: cannot read {file}: {error}") from error


def parse_listen(text: str, name: str) -> list[tuple[str, int]]:
    """`0.0.0.0:7001,[::1]:7001` -> [(host, port), ...]; SettingError naming the setting."""
    result = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        host, colon, port = part.rpartition(":")
        if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise SettingError(f"{variable_name(name)} must look like 0.0.0.0:7001, got {part!r}")
        result.append((host.strip("[]"), int(port)))
    if not result:
        raise SettingError(f"{variable_name(name)} must name at least one address, such as 0.0.0.0:7001")
    return result


def _base_type(hint: Any) -> type:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        hint = next(a for a in typing.get_args(hint) if a is not type(None))
    return typing.cast("type", hint)


def _flags(argv: Sequence[str], fields: Mapping[str, Any], hints: Mapping[str, Any]) -> dict[str, str]:
    given: dict[str, str] = {}
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        field_name = name[2:].replace("-", "_")
        if not name.startswith("--") or field_name not in fields:
            raise SettingError(f"unknown argument {word!r}; --help lists the settings")
        if not equals:
            if _base_type(hints[field_name]) is bool:
                value = "1"
            else:
                value = next(words, "")
                if not value:
                    raise SettingError(f"{name} needs a value: {fields[field_name].metadata['help']}")
        given[field_name] = value
    return given


def _convert(source: str, raw: str, hint: Any, field: Any) -> Any:
    base, raw = _base_type(hint), raw.strip()
    if base is str:
        choices = field.metadata["choices"]
        if choices and raw not in choices:
            raise SettingError(f"{source} must be one of {', '.join(choices)}, got {raw!r}")
        return raw
    if base is bool:
        if raw.lower() not in _TRUE | _FALSE:
            raise SettingError(f"{source} must be 1 or 0, got {raw!r}")
        return raw.lower() in _TRUE
    try:
        number = base(raw)
    except ValueError as error:
        kind = "a whole number" if base is int else "a number"
        raise SettingError(f"{source} must be {kind}, got {raw!r}") from error
    low, high = field.metadata["minimum"], field.metadata["maximum"]
    if not math.isfinite(number) or (low is not None and number < low) or (high is not None and number > high):
        limits = (
            f"at least {low}" if high is None else f"at most {high}" if low is None else f"between {low} and {high}"
        )
        raise SettingError(f"{source} must be {limits}, got {raw}")
    return number
