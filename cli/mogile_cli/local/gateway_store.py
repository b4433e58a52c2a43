"""What the built-in gateway asks of trackers and storage nodes: the same order, limits and memory as the nginx gateway's.

One client per tracker, so that the choice is made here: trackers that answer come first, those that did not come last until a
probe has heard from them again. An answer with an error code is an answer; silence, nonsense, "my database is gone" and "I know no
device" (another may have seen them already) make the next tracker be asked. `uncertain` says that a tracker may have carried the
command out although its answer was lost.
"""

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp

from mogile_core.client import TrackerClient
from mogile_core.errors import CommandError, MogError, TrackerOutcomeUnknownError

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 0.5
LOOKUP_SECONDS = 2.0
CLOSE_SECONDS = 60.0
PROBE_SECONDS = 1.0
DOWN_SECONDS = 6.0
ASKED_MAX = 6
PATHS_MAX = 8
DEVICES_MAX = 8
DEAD_SECONDS = 5.0
ALIVE_SECONDS = 0.2
NODE_PROBE_SECONDS = 1.5
CLUSTER_SECONDS = 30.0
MISDIRECTED = 421

_ELSEWHERE = frozenset({"db", "failure", "draining", "no_devices"})
_SLOW = frozenset({"create_open", "create_close", "delete"})
_URL_PATH = re.compile(r"/[\w/.~%-]*", re.ASCII)
_FID_PATH = re.compile(r"/dev\d+/\d/\d{3}/\d{3}/0*(\d+)\.fid")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackerReply:
    """What the trackers said: `code` is empty for success, "unreachable" when none answered."""

    code: str
    values: Mapping[str, str]
    uncertain: bool
    tracker: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One URL of a file on a storage node."""

    url: str
    peer: str
    fid: str
    devid: str = ""


def place(url: str, devid: str = "") -> Place | None:
    """A URL a tracker gave, or None when it is not one we would ask for."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.netloc or "@" in parts.netloc or parts.query or parts.fragment:
        return None
    if not _URL_PATH.fullmatch(parts.path):
        return None
    match = _FID_PATH.fullmatch(parts.path)
    return Place(url=url, peer=parts.netloc, fid=match[1] if match else "", devid=devid)


class Trackers:
    """The trackers of one configuration."""

    def __init__(self, addresses: Sequence[tuple[str, int]]) -> None:
        names = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in addresses]
        self._quick = {name: _client(name, LOOKUP_SECONDS) for name in names}
        self._slow = {name: _client(name, CLOSE_SECONDS) for name in names}
        self._down_until = dict.fromkeys(names, 0.0)
        self._turn = 0
        self.on_result: Callable[[str, str], None] = lambda _command, _result: None

    async def close(self) -> None:
        for client in (*self._quick.values(), *self._slow.values()):
            await client.close()

    def health(self) -> dict[str, bool]:
        """Which trackers answered lately."""
        now = time.monotonic()
        return {name: until <= now for name, until in self._down_until.items()}

    def _order(self, preferred: str) -> list[str]:
        self._turn += 1
        names = list(self._quick)
        turned = [names[(self._turn + index) % len(names)] for index in range(len(names))]
        healthy = self.health()
        return sorted(turned, key=lambda name: (not healthy[name], name != preferred))

    def _mark(self, name: str, *, answered: bool) -> None:
        self._down_until[name] = 0.0 if answered else time.monotonic() + DOWN_SECONDS

    async def call(self, command: str, arguments: Mapping[str, object], *, preferred: str = "") -> TrackerReply:
        """Ask one tracker after the other until one answers."""
        uncertain, code = False, "unreachable"
        for name in self._order(preferred)[:ASKED_MAX]:
            client = (self._slow if command in _SLOW else self._quick)[name]
            try:
                values = await client.command(command, arguments)
            except CommandError as error:
                self._mark(name, answered=True)
                self.on_result(command, "error")
                code = error.wire_code
                if code not in _ELSEWHERE:
                    return TrackerReply(code=code, values={}, uncertain=uncertain, tracker=name)
                uncertain = uncertain or code != "no_devices"
            except MogError as error:
                self._mark(name, answered=False)
                self.on_result(command, "unreachable")
                uncertain = uncertain or isinstance(error, TrackerOutcomeUnknownError)
                logger.warning("tracker %s did not answer %s: %s", name, command, error)
            else:
                self._mark(name, answered=True)
                self.on_result(command, "ok")
                return TrackerReply(code="", values=values, uncertain=uncertain, tracker=name)
        return TrackerReply(code=code, values={}, uncertain=uncertain)

    async def _probe(self, name: str) -> bool:
        answered = True
        try:
            await self._quick[name].command("noop", safe=True)
        except CommandError:
            pass
        except MogError:
            answered = False
        self._mark(name, answered=answered)
        return answered

    async def ready(self) -> bool:
        """True when a tracker answers now."""
        for name in self._order(""):
            if await self._probe(name):
                return True
        return False

    async def watch(self) -> None:
        """Hear from every tracker once a second, for as long as the gateway runs."""
        while True:
            async with asyncio.TaskGroup() as group:
                for name in self._quick:
                    group.create_task(self._probe(name))
            await asyncio.sleep(PROBE_SECONDS)


def _client(name: str, answer_seconds: float) -> TrackerClient:
    return TrackerClient(name, connect_timeout_seconds=CONNECT_SECONDS, answer_timeout_seconds=answer_seconds, rounds=1)


class Cluster:
    """The id of the cluster, sent to storage nodes: configured, else learned from a tracker and remembered."""

    def __init__(self, configured: str, trackers: Trackers) -> None:
        self._configured, self._trackers = configured, trackers
        self._learned, self._asked_at = "", float("-inf")

    @property
    def known(self) -> str:
        return self._configured or self._learned

    async def id(self) -> str:
        """What is known; asks when it is time to."""
        if not self._configured and time.monotonic() - self._asked_at >= CLUSTER_SECONDS:
            reply = await self._trackers.call("mogile_cluster", {})
            if reply.code not in _ELSEWHERE | {"unreachable"}:
                self._asked_at = time.monotonic()
            found = reply.values.get("cluster_id", "")
            if re.fullmatch(r"[0-9a-fA-F-]{1,64}", found):
                self._learned = found
        return self.known

    async def watch(self) -> None:
        while True:
            await self.id()
            await asyncio.sleep(CLUSTER_SECONDS)


class Nodes:
    """Which storage nodes failed lately, and the probe before an upload."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http
        self._dead_until: dict[str, float] = {}
        self._alive_until: dict[str, float] = {}
        self.on_failure: Callable[[str], None] = lambda _phase: None

    def failed(self, peer: str, phase: str) -> None:
        """Ask this node last for a while."""
        now = time.monotonic()
        self._dead_until = {name: until for name, until in self._dead_until.items() if until > now}
        self._dead_until[peer] = now + DEAD_SECONDS
        self._alive_until.pop(peer, None)
        self.on_failure(phase)

    def order(self, places: Sequence[Place]) -> list[Place]:
        now = time.monotonic()
        return sorted(places, key=lambda one: self._dead_until.get(one.peer, 0.0) > now)

    async def probe(self, peer: str, cluster_id: str) -> bool:
        """Does the node take an upload now? A good answer counts for a moment."""
        now = time.monotonic()
        if self._alive_until.get(peer, 0.0) > now:
            return True
        headers = {"X-Mogile-Cluster": cluster_id} if cluster_id else {}
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
            async with (
                asyncio.timeout(NODE_PROBE_SECONDS),
                self._http.head(f"http://{peer}/", headers=headers) as answer,
            ):
                if answer.status != MISDIRECTED:
                    self._alive_until = {name: until for name, until in self._alive_until.items() if until > now}
                    self._alive_until[peer] = now + ALIVE_SECONDS
                    return True
        logger.warning("storage node %s takes no upload", peer)
        self.failed(peer, "probe")
        return False
