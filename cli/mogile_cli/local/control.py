"""Orders from other terminals to the process that runs the cluster: one JSON line each way over a Unix socket.

The socket lies in the cluster's run folder (temporary, mode 0700: only the same user gets in, and its path is short enough for a socket
address whatever the data folder is called). One request per connection, bounded in size and time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from mogile_cli.errors import CliError, UsageError
from mogile_core.errors import MogError

LINE_BYTES_MAX = 1 << 20
REPLY_SECONDS = 180.0
READ_SECONDS = 5.0

Handler = Callable[..., Awaitable[Any]]


class ControlServer:
    """Answers orders with the handlers given by name; a handler gets the order's arguments as keywords and returns JSON values."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers
        self._server: asyncio.Server | None = None
        self._work = asyncio.Lock()  # orders change the cluster: one after the other

    async def start(self, path: str) -> None:
        """Listen at this path."""
        self._server = await asyncio.start_unix_server(self._serve, path, limit=LINE_BYTES_MAX)

    async def stop(self) -> None:
        """Take no more orders."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(READ_SECONDS):
                line = await reader.readline()
            answer = await self._answer(line)
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        except (TimeoutError, ValueError, ConnectionError):
            pass  # the other side went away or sent no line; nobody is left to be told
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            order = json.loads(line)
            name, arguments = order["order"], dict(order["arguments"])
        except (ValueError, KeyError, TypeError):
            return {"error": "the order is no JSON object with order and arguments", "status": 2}
        handler = self._handlers.get(name)
        if handler is None:
            return {"error": f"unknown order {name!r}: the running cluster is of another version", "status": 1}
        try:
            async with self._work:
                return {"result": await handler(**arguments)}
        except MogError as error:
            return {"error": str(error), "status": getattr(error, "status", 1)}


async def order(path: str, name: str, **arguments: object) -> Any:
    """Send one order to the running cluster; its result, or its error as ours."""
    try:
        async with asyncio.timeout(REPLY_SECONDS):
            reader, writer = await asyncio.open_unix_connection(path, limit=LINE_BYTES_MAX)
            try:
                writer.write(json.dumps({"order": name, "arguments": arguments}).encode() + b"\n")
                line = await reader.readline()
            finally:
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()
        answer = json.loads(line)
    except TimeoutError as error:
        raise CliError(f"the running cluster did not answer {name} within {REPLY_SECONDS:.0f} s") from error
    except (OSError, ValueError) as error:
        raise CliError(f"the running cluster cannot be asked ({error or 'no answer'}); is it just stopping?") from error
    if "error" in answer:
        raise (UsageError if answer.get("status") == 2 else CliError)(str(answer["error"]))
    return answer.get("result")
