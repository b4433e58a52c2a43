"""Trackers as processes of their own, to be killed and stopped, that behave from the first moment as busy ones do."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping
from pathlib import Path

from testkit import programs
from testkit.ports import free_port
from testkit.waiting import EVENT_SECONDS, wait_for

# To be run before `main`. A tracker opens uploads without a sync, on fids reserved ahead, only where very many are opened.
ALWAYS_AHEAD = "from mogile_tracker.store import fids; fids.RATE_MIN = 0.0"


class WholeTracker:
    """`mogile-tracker` in a process group of its own, so that a kill takes all of it at once."""

    ADDRESS = "127.0.21.251"

    def __init__(self, dsn: str, settings: Mapping[str, object], folder: Path, number: int) -> None:
        self.port, http_port = free_port(self.ADDRESS), free_port(self.ADDRESS)
        own = {
            **{f"MOGILE_{name.upper()}": str(value) for name, value in settings.items()},
            "MOGILE_DB_DSN": dsn,
            "MOGILE_LISTEN": f"{self.ADDRESS}:{self.port}",
            "MOGILE_HTTP_LISTEN": f"{self.ADDRESS}:{http_port}",
        }
        kept = {k: v for k, v in os.environ.items() if not k.startswith("MOGILE_")}
        self.environment = {**kept, **own}
        self.log = folder / f"tracker{number}.log"
        self.process: programs.Program | None = None

    @property
    def where(self) -> str:
        return f"{self.ADDRESS}:{self.port}"

    def start(self) -> None:
        self.process = programs.start(
            programs.TRACKER, environment=self.environment, log=self.log, first=ALWAYS_AHEAD, own_group=True
        )

    def signal(self, number: int) -> None:
        """To all its processes."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)
        if number == signal.SIGKILL:
            self.process.wait(EVENT_SECONDS)

    def children(self) -> list[int]:
        """The pids of its servers and its jobs."""
        assert self.process is not None
        try:
            return [
                int(pid)
                for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            ]
        except FileNotFoundError:
            return []

    async def up(self) -> None:
        """Accepts connections."""

        async def accepts() -> bool:
            _, writer = await asyncio.open_connection(self.ADDRESS, self.port)
            writer.close()
            return True

        try:
            await wait_for(accepts, "the tracker to accept connections")
        except AssertionError as late:
            raise AssertionError(self.log.read_text()[-3000:]) from late
