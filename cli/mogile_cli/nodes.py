"""What the command line asks storage nodes themselves: how their scrubs are (health port), and to begin one (agent port)."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp

from mogile_core.errors import NodeError, NodeUnreachableError
from mogile_core.model import CLUSTER_HEADER, Host

ANSWER_SECONDS = 10.0
ANSWER_BYTES_MAX = 1 << 20
CONNECTIONS_MAX = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrub:
    """The scrub of one device as its node tells it: the pass that runs, else the last one.

    `started` and `finished` are seconds since 1970 (0: never), `position` is the last fid that was read, `recorded` counts files whose
    first digest was kept, `failure` says why it does not get on. `error` says why nothing is known; the rest means nothing then.
    """

    devid: int
    host: str
    error: str = ""
    running: bool = False
    started: float = 0.0
    finished: float = 0.0
    position: int = 0
    files: int = 0
    bytes: int = 0
    damaged: int = 0
    recorded: int = 0
    failure: str = ""


class Nodes:
    """The storage nodes of a cluster, over HTTP."""

    def __init__(self, cluster_id: str, health_port: int) -> None:
        self._headers, self._health_port = {CLUSTER_HEADER: cluster_id}, health_port

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX, force_close=True),
            timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def scrubs(self, host: Host) -> dict[int, Scrub]:
        """The scrubs of a node by devid; NodeError when it does not tell."""
        url = _url(host, self._health_port, "/status")
        try:
            async with self._session.get(url) as answer:
                if answer.status != 200:
                    raise NodeError(f"{url} answers {answer.status}, as no storage node does")
                status = await answer.json(content_type=None)
            return {int(device["devid"]): _scrub(device, host.hostname) for device in status["devices"]}
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise NodeUnreachableError(
                f"{url} does not answer; is the node up, and its health port (--health-port) another one?"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise NodeError(f"{url} does not answer as a storage node does") from error

    async def begin_scrub(self, host: Host, devid: int) -> None:
        """Order a pass from the first file; NodeError with the node's own sentence when it refuses."""
        url = _url(host, host.http_port, f"/dev{devid}/scrub")
        try:
            async with self._session.post(url, headers=self._headers) as answer:
                if answer.status != 202:
                    text = (await answer.content.read(300)).decode("utf-8", "replace").strip()
                    raise NodeError(text or f"{url} answers {answer.status}")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise NodeUnreachableError(f"{url} does not answer; is the node up?") from error


def _url(host: Host, port: int, path: str) -> str:
    address = f"[{host.hostip}]" if ":" in host.hostip else host.hostip
    return f"http://{address}:{port}{path}"


def _scrub(device: dict[str, Any], host: str) -> Scrub:
    """From a device of `/status`; KeyError, ValueError or TypeError when it is none."""
    scrub, state = device["scrub"], device["state"]
    if state != "ready":
        why = str(device.get("message") or "")
        return Scrub(devid=int(device["devid"]), host=host, error=f"the device is {state}{why and f': {why}'}")
    return Scrub(
        devid=int(device["devid"]),
        host=host,
        running=bool(scrub["running"]),
        started=float(scrub["started"]),
        finished=float(scrub["finished"]),
        position=int(scrub["position"]),
        files=int(scrub["files"]),
        bytes=int(scrub["bytes"]),
        damaged=int(scrub["damaged"]),
        recorded=int(scrub["recorded"]),
        failure=str(scrub["failure"]),
    )
