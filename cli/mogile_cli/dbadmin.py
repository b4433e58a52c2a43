"""Starts the tracker's program for work on the database (`python -m mogile_tracker.dbadmin`) and reads its answers.

The command line imports no service and speaks no SQL (but mogstats'), so this goes through a process: settings in its environment, where
no list of processes shows a password, one JSON object a line as the answer.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from mogile_cli.errors import CliError, UsageError

PROGRAM = "mogile_tracker.dbadmin"
PREFIX = "MOGILE_DB_"


class DatabaseError(CliError):
    """The database cannot be worked on."""


def dsn_url(*, user: str, password: str, host: str, port: str, database: str) -> str:
    """A libpq URL from its parts."""
    where = f"[{host}]" if ":" in host else host
    secret = f":{quote(password, safe='')}" if password else ""
    return f"postgresql://{quote(user, safe='')}{secret}@{where}:{port}/{quote(database, safe='')}"


def run(action: str, settings: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """The events of one run; DatabaseError or UsageError when it ends badly. `settings`: names without MOGILE_DB_."""
    if importlib.util.find_spec("mogile_tracker") is None:
        raise UsageError("this needs the tracker's package on this machine; install mogile[tracker]")
    given = {f"{PREFIX}{name.upper()}": value for name, value in settings.items() if value}
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith("MOGILE_") or name.startswith(PREFIX)
    }
    with _process(action, {**kept, **given}) as process:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "error":
                kind = UsageError if event["status"] == 2 else DatabaseError
                raise kind(event["text"])
            yield event
        status = process.wait()
    if status:
        raise DatabaseError(f"the program ended with status {status}")


@contextlib.contextmanager
def _process(action: str, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", PROGRAM, action],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
