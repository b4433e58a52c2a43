"""The operator's view of storage nodes: their status (7502) and the order to mark a blank volume (7500).

A node that does not answer in time has no report; that is an observation, not an error.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import aiohttp

from mogile_core.errors import NodeError, NodeUnreachableError
from mogile_core.runtime.logs import get_log
from mogile_operator.plan.observed import DeviceReport
from mogile_operator.specs.base import AGENT_HTTP, AGENT_PORT

STATUS_SECONDS = 1.5
INITIALISE_SECONDS = 30.0
ANSWER_BYTES_MAX = 1024 * 1024
AT_ONCE = 16

log = get_log(__name__)


def _url(address: str, port: int, path: str) -> str:
    host = f"[{address}]" if ":" in address else address
    return f"http://{host}:{port}{path}"


def read_status(raw: Any) -> tuple[DeviceReport, ...]:
    """The devices of a status answer; what cannot be understood is left out."""
    devices = raw.get("devices", []) if isinstance(raw, dict) else []
    out = []
    for item in devices:
        if not isinstance(item, dict) or not str(item.get("devid", "")).isdigit():
            continue
        out.append(
            DeviceReport(
                devid=int(item["devid"]),
                state=str(item.get("state", "")),
                cluster_id=str(item.get("clusterId") or ""),
                volume_id=str(item.get("volumeId") or ""),
                message=str(item.get("message") or "")[:300],
            )
        )
    return tuple(out)


class NodeAdmin:
    """One HTTP session to all storage nodes."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._limit = asyncio.Semaphore(AT_ONCE)

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=AT_ONCE, force_close=True))
        return self._session

    async def close(self) -> None:
        """Give the connections back."""
        if self._session is not None:
            await self._session.close()

    async def statuses(self, addresses: Mapping[str, str]) -> dict[str, tuple[DeviceReport, ...]]:
        """Reports of the nodes that answered, by the given names."""
        names = sorted(addresses)
        answers = await asyncio.gather(*(self._status(addresses[name]) for name in names))
        return {name: answer for name, answer in zip(names, answers, strict=True) if answer is not None}

    async def _status(self, address: str) -> tuple[DeviceReport, ...] | None:
        timeout = aiohttp.ClientTimeout(total=STATUS_SECONDS)
        try:
            async with self._limit, self._http().get(_url(address, AGENT_HTTP, "/status"), timeout=timeout) as answer:
                if answer.status != 200 or (answer.content_length or 0) > ANSWER_BYTES_MAX:
                    return None
                return read_status(await answer.json(content_type=None))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            log.debug("no status of storage node", address=address, reason=error)
            return None

    async def initialise(self, address: str, devid: int, cluster_id: str, volume_id: str) -> None:
        """Mark a blank device; NodeError with the node's own sentence when it refuses."""
        url = _url(address, AGENT_PORT, f"/dev{devid}/initialise")
        timeout = aiohttp.ClientTimeout(total=INITIALISE_SECONDS)
        headers = {"X-Mogile-Cluster": cluster_id}
        try:
            async with self._http().post(url, json={"volumeId": volume_id}, headers=headers, timeout=timeout) as answer:
                if answer.status not in {200, 201}:
                    text = (await answer.text())[:300].strip()
                    raise NodeError(f"device {devid} at {address} was not initialised: {answer.status} {text}")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise NodeUnreachableError(
                f"device {devid} at {address} was not initialised: {error or 'no answer in time'}"
            ) from error
