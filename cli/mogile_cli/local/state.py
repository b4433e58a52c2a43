"""The running cluster as other terminals see it: a lock that says whether it runs, and `state.json` with its processes and addresses.

The lock is an flock held by the supervising process; the kernel drops it when that process ends, however it ends, so it never lies.
The state file may outlive its processes (kill -9, power cut): whoever uses it compares start times (`processes`).
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mogile_cli.errors import CliError
from mogile_cli.local.processes import ProcessRecord, record_from_json

STATE_NAME = "state.json"
LOCK_NAME = "lock"


class AlreadyRunningError(CliError):
    """The cluster of this data folder runs already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """One running cluster: its supervisor first, then its processes in the order in which they were started."""

    data: Path
    supervisor: ProcessRecord
    control: str
    trackers: tuple[str, ...]
    gateway: str
    ready: bool = False  # everything is started and files can be stored
    processes: tuple[ProcessRecord, ...] = ()


class Lock:
    """Held while a cluster runs from a data folder."""

    def __init__(self, data: Path) -> None:
        self._path = data / LOCK_NAME
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """AlreadyRunningError when somebody else holds it."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise AlreadyRunningError(f"the cluster in {self._path.parent} runs already") from error
        self._descriptor = descriptor

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def is_running(data: Path) -> bool:
    """Whether a supervisor holds the lock now."""
    try:
        descriptor = os.open(data / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def write(state: RunState) -> None:
    """Replace the state file as a whole."""
    value = {
        "version": 1,
        "supervisor": state.supervisor.as_json(),
        "control": state.control,
        "trackers": list(state.trackers),
        "gateway": state.gateway,
        "ready": state.ready,
        "processes": [p.as_json() for p in state.processes],
    }
    draft = state.data / f".{STATE_NAME}.new"
    draft.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    draft.replace(state.data / STATE_NAME)


def remove(data: Path) -> None:
    (data / STATE_NAME).unlink(missing_ok=True)


def read(data: Path) -> RunState | None:
    """The state file's content; None when there is none, CliError when it cannot be read."""
    path = data / STATE_NAME
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return RunState(
            data=data,
            supervisor=record_from_json(value["supervisor"]),
            control=str(value["control"]),
            trackers=tuple(str(t) for t in value["trackers"]),
            gateway=str(value["gateway"]),
            ready=value["ready"] is True,
            processes=tuple(record_from_json(p) for p in value["processes"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CliError(f"{path} cannot be read ({error!r}); remove it if no cluster runs there") from error


def find_running(candidates: Sequence[Path]) -> RunState | None:
    """The first of these data folders whose cluster runs."""
    for data in candidates:
        if is_running(data) and (state := read(data)) is not None:
            return state
    return None
