"""Logs on stderr, one event a line, in words plus `key=value` fields; `plain` for people, `json` for collectors.

`get_log(__name__).info("device is full", devid=3, mb_free=12)`. Fields never change the words, so that a line can be searched for.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import sys
from datetime import UTC, datetime
from logging.handlers import SysLogHandler

FORMATS = ("plain", "json")
LEVELS = ("debug", "info", "warning", "error")


class Log:
    """A logger whose extra arguments are fields."""

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **fields: object) -> None:
        self._emit(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._emit(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._emit(logging.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._emit(logging.ERROR, event, fields)

    def exception(self, event: str, **fields: object) -> None:
        """An error nobody expected, with its traceback."""
        self._emit(logging.ERROR, event, fields, with_traceback=True)

    def _emit(self, level: int, event: str, fields: dict[str, object], *, with_traceback: bool = False) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", event, extra={"fields": fields}, exc_info=with_traceback)


def get_log(name: str) -> Log:
    """The log of a module."""
    return Log(name)


SYSLOG_SOCKET = "/dev/log"


def setup(log_format: str = "plain", level: str = "info", process: str = "", *, syslog: bool = False) -> None:
    """Install the one handler of this process; `process` names it in every line (tracker has several). `syslog`: there, where it exists."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if syslog and os.path.exists(SYSLOG_SOCKET) and not stat.S_ISREG(os.fstat(2).st_mode):
        handler = SysLogHandler(SYSLOG_SOCKET, facility=SysLogHandler.LOG_DAEMON)
    handler.setFormatter(_JsonFormatter(process) if log_format == "json" else _PlainFormatter(process))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def event_text(record: logging.LogRecord) -> str:
    """The words and fields of one event, without time, level and name."""
    return record.getMessage() + "".join(f" {k}={_plain_value(v)}" for k, v in getattr(record, "fields", {}).items())


class _PlainFormatter(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = f"{process} " if process else ""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]
        line = f"{when}Z {record.levelname.lower()} {self._process}{record.name}: {event_text(record)}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _JsonFormatter(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        if self._process:
            entry["process"] = self._process
        entry.update(getattr(record, "fields", {}))
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def _plain_value(value: object) -> str:
    text = str(value)
    return text if text and not set(text) & set(' "=\n\r\t') else json.dumps(text)
