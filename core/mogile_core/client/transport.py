"""Sends one request to one of several trackers and gets its answer: connections, failover, bounded retries.

Any tracker will do, so a request goes to the one that worked last and to the next when that cannot be reached. A request that may have been
executed is sent again only when that is harmless (`safe`): look-ups, and changes that say what shall be so. Otherwise the caller gets
TrackerOutcomeUnknownError and has to look. Everything is bounded: connect and answer times, rounds over the trackers, idle connections.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

from mogile_core.errors import (
    CommandError,
    ProtocolError,
    SettingError,
    TrackerOutcomeUnknownError,
    TrackerUnavailableError,
)
from mogile_core.model import TRACKER_PORT
from mogile_core.wire import REPLY_BYTES_MAX, Reply, encode_request, parse_reply

IDLE_CONNECTIONS_MAX = 16
AVOID_SECONDS = 5.0  # a tracker that could not be reached is tried last for so long
ROUND_PAUSE_SECONDS = 0.3
_ELSEWHERE = frozenset({"draining"})  # answers that say: not executed, ask another tracker


def parse_trackers(trackers: str | Sequence[str]) -> list[tuple[str, int]]:
    """`a:7001,b` or a list of such -> addresses; the port defaults to 7001."""
    parts = trackers.split(",") if isinstance(trackers, str) else list(trackers)
    addresses = []
    for part in filter(None, (p.strip() for p in parts)):
        host, colon, port = part.rpartition(":")
        if not colon or (":" in host and not part.startswith("[")):
            host, port = part, str(TRACKER_PORT)
        if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise SettingError(f"a tracker address looks like host:7001, got {part!r}")
        addresses.append((host.strip("[]"), int(port)))
    if not addresses:
        raise SettingError("no tracker address given")
    return addresses


class _Connection:
    def __init__(self, address: tuple[str, int], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.address, self.reader, self.writer = address, reader, writer

    @property
    def usable(self) -> bool:
        return not (self.reader.at_eof() or self.writer.is_closing())

    def close(self) -> None:
        self.writer.transport.abort()


class TrackerTransport:
    """A failover transport for any number of concurrent requests of one event loop."""

    def __init__(
        self,
        trackers: str | Sequence[str],
        *,
        connect_timeout_seconds: float = 2.0,
        answer_timeout_seconds: float = 15.0,
        rounds: int = 3,
    ) -> None:
        self._addresses = parse_trackers(trackers)
        self._connect_timeout = connect_timeout_seconds
        self._answer_timeout = answer_timeout_seconds
        self._rounds = rounds
        self._idle: list[_Connection] = []
        self._avoid_until: dict[tuple[str, int], float] = {}
        self._preferred = 0

    async def close(self) -> None:
        """Drop all connections."""
        while self._idle:
            self._idle.pop().close()

    async def request(self, command: str, args: Mapping[str, object], *, safe: bool) -> dict[str, str]:
        """The pairs of an OK answer; CommandError for ERR."""
        line = encode_request(command, args)
        last: Exception = TrackerUnavailableError()
        for attempt in range(self._rounds * len(self._addresses)):
            if attempt and attempt % len(self._addresses) == 0:
                await asyncio.sleep(ROUND_PAUSE_SECONDS)
            try:
                reply = await self._once(line)
            except _NotSentError as error:
                last = error
                continue
            except (
                OSError,
                TimeoutError,
                asyncio.IncompleteReadError,
                asyncio.LimitOverrunError,
                ProtocolError,
            ) as error:
                if not safe:
                    raise TrackerOutcomeUnknownError(
                        f"the tracker went away during {command} ({_words(error)}): it may or may not have been done"
                    ) from error
                last = error
                continue
            if reply.ok:
                return reply.args
            if reply.code not in _ELSEWHERE:
                raise CommandError(reply.code, reply.text)
            last = CommandError(reply.code, reply.text)
        names = ", ".join(f"{h}:{p}" for h, p in self._addresses)
        raise TrackerUnavailableError(f"no tracker of {names} could do {command}: {_words(last)}") from last

    async def _once(self, line: bytes) -> Reply:
        connection = await self._connection()
        done = False
        try:
            async with asyncio.timeout(self._answer_timeout):
                connection.writer.write(line)
                answer = await connection.reader.readuntil(b"\n")
            reply = parse_reply(answer.decode("latin-1"))
            done = reply.code not in _ELSEWHERE
            return reply
        finally:
            if done and connection.usable and len(self._idle) < IDLE_CONNECTIONS_MAX:
                self._idle.append(connection)
            else:
                connection.close()
                self._avoid(connection.address, unless=done)

    async def _connection(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            connection.close()
        address = self._next_address()
        try:
            async with asyncio.timeout(self._connect_timeout):
                reader, writer = await asyncio.open_connection(*address, limit=REPLY_BYTES_MAX)
        except (OSError, TimeoutError) as error:
            self._avoid(address)
            raise _NotSentError(f"{address[0]}:{address[1]}: {_words(error)}") from error
        return _Connection(address, reader, writer)

    def _next_address(self) -> tuple[str, int]:
        now = time.monotonic()
        count = len(self._addresses)
        order = [self._addresses[(self._preferred + i) % count] for i in range(count)]
        for address in order:
            if self._avoid_until.get(address, 0.0) <= now:
                return address
        self._preferred = (self._preferred + 1) % count  # all are out of favour: go round
        return order[0]

    def _avoid(self, address: tuple[str, int], *, unless: bool = False) -> None:
        if not unless:
            self._avoid_until[address] = time.monotonic() + AVOID_SECONDS


class _NotSentError(Exception):
    """The request has not left this process."""


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
