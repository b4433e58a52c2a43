"""A cache of one kind of API object, kept current by list and watch in a thread.

Level-triggered: whoever reads it decides from all objects it holds, never from an event.  Any error means list
again, with a bounded back-off; a harness controller therefore outlives restarts of the API server.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from harness.api import ApiClient, ApiError, Json

BACKOFF_SECONDS_FIRST = 0.2
BACKOFF_SECONDS_MAX = 3.0


class Informer:
    """Objects by (namespace, name); ``changed`` is set whenever something is different."""

    def __init__(self, client: ApiClient, path: str, changed: threading.Event) -> None:
        self._client = client
        self._path = path
        self._changed = changed
        self._lock = threading.Lock()
        self._objects: dict[tuple[str, str], Json] = {}
        self.synced = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name=self._path, daemon=True).start()

    def objects(self) -> list[Json]:
        """A snapshot of everything known."""
        with self._lock:
            return list(self._objects.values())

    def _run(self) -> None:
        pause = BACKOFF_SECONDS_FIRST
        while True:
            begun = time.monotonic()
            try:
                self._follow(self._list())
            except (ApiError, OSError, ValueError) as exc:
                print(f"informer {self._path}: {exc}", file=sys.stderr, flush=True)
            if time.monotonic() - begun > BACKOFF_SECONDS_MAX:
                pause = BACKOFF_SECONDS_FIRST
            time.sleep(pause)
            pause = min(pause * 2, BACKOFF_SECONDS_MAX)

    def _list(self) -> str:
        answer = self._client.get(self._path)
        with self._lock:
            self._objects = {_key(item): item for item in answer["items"]}
        self.synced.set()
        self._changed.set()
        return str(answer["metadata"]["resourceVersion"])

    def _follow(self, version: str) -> None:
        """Watch until the server ends it; a watch that ended in order is continued from its last version."""
        while True:
            for event in self._client.watch(self._path, version):
                item: dict[str, Any] = event["object"]
                version = str(item["metadata"]["resourceVersion"])
                if event["type"] == "BOOKMARK":
                    continue
                with self._lock:
                    if event["type"] == "DELETED":
                        self._objects.pop(_key(item), None)
                    else:
                        self._objects[_key(item)] = item
                self._changed.set()


def _key(item: Json) -> tuple[str, str]:
    return str(item["metadata"].get("namespace", "")), str(item["metadata"]["name"])
