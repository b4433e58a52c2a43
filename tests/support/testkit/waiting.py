"""How a test waits: for the event it needs, never for a time.

The limits are what no healthy machine comes near, even one that is ten times slower: they end a test that would hang, and say nothing
about speed. A connection that is refused, broken or silent means "not yet", since what is waited for may be a process that starts, ends
or is being replaced; the last such error is told when time is up.
"""

import asyncio
import http.client
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import aiohttp

EVENT_SECONDS = 90.0
POLL_SECONDS = 0.05
NOT_YET = (OSError, EOFError, http.client.HTTPException, aiohttp.ClientConnectionError)

T = TypeVar("T")


class _Patience:
    """The deadline of one wait, and what it heard last."""

    def __init__(self, what: str, seconds: float) -> None:
        self.what, self.seconds = what, seconds
        self.deadline = time.monotonic() + seconds
        self.last: object = None

    def heard(self, last: object) -> None:
        """Not yet: AssertionError when the time is up."""
        self.last = last
        assert time.monotonic() < self.deadline, f"waited {self.seconds:.0f} s for {self.what}; last: {self.last!r}"


def wait_until(check: Callable[[], T], what: str, seconds: float = EVENT_SECONDS) -> T:
    """Call until it gives something true, and give that."""
    patience = _Patience(what, seconds)
    while True:
        try:
            if found := check():
                return found
            patience.heard(found)
        except NOT_YET as problem:
            patience.heard(problem)
        time.sleep(POLL_SECONDS)


async def wait_for(check: Callable[[], Awaitable[T]], what: str, seconds: float = EVENT_SECONDS) -> T:
    """The same for a coroutine function, beside whatever else the loop does."""
    patience = _Patience(what, seconds)
    while True:
        try:
            if found := await check():
                return found
            patience.heard(found)
        except NOT_YET as problem:
            patience.heard(problem)
        await asyncio.sleep(POLL_SECONDS)
