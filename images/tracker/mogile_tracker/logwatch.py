"""What `!watch` shows: the log lines of every process of a tracker, as `[class(pid)] words field=value`.

A tap is installed in each process while somebody watches; what it catches goes to the parent, which gives it to the watching processes.
Lines are events, so what is not sent yet is kept, but bounded: a watcher that is too slow misses lines, nobody waits for it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextvars import ContextVar

from mogile_core.runtime.logs import event_text

LINE_CHARS_MAX = 2000
KEPT_LINES_MAX = 2000

current_job: ContextVar[str] = ContextVar("current_job", default="")


class Tap(logging.Handler):
    """Gives every log line of this process to `sink`; `job` names the process where no job class is at work."""

    def __init__(self, sink: Callable[[str], None], job: str) -> None:
        super().__init__()
        self._sink = sink
        self._job = job

    def emit(self, record: logging.LogRecord) -> None:
        job = current_job.get() or self._job
        text = event_text(record).replace("\r", " ").replace("\n", " ")
        prefix = f"[{job}({os.getpid()})] " if job else ""
        self._sink(f"{prefix}{text}"[:LINE_CHARS_MAX])

    def switch(self, *, on: bool) -> None:
        """Begin or end."""
        root = logging.getLogger()
        if on and self not in root.handlers:
            root.addHandler(self)
        elif not on:
            root.removeHandler(self)
