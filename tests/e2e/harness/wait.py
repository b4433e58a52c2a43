"""``wait_until``: the only way a story waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from harness.errors import HarnessError
from harness.timeouts import timeout_of
from mogile_core.errors import MogError

T = TypeVar("T")
POLL_SECONDS_FIRST = 0.1
POLL_SECONDS_MAX = 2.0


class WaitTimeoutError(HarnessError):
    """An event did not happen in its time."""


def wait_until(
    condition: Callable[[], T],
    event: str,
    *,
    ignoring: tuple[type[Exception], ...] = (HarnessError, MogError, OSError, AssertionError),
    because: str = "",
) -> T:
    """Call ``condition`` until it returns something true and return that.

    Exceptions listed in ``ignoring`` mean "not yet"; the last one is told when time is up.  The product's own are among
    them: until Kubernetes has noticed that a machine is dead, half of the questions to a Service go nowhere.
    """
    limit = timeout_of(event)
    begun = time.monotonic()
    pause = POLL_SECONDS_FIRST
    problem: Exception | None = None
    value: T | None = None
    while True:
        try:
            value, problem = condition(), None
        except ignoring as exc:
            problem = exc
        else:
            if value:
                return value
        if time.monotonic() - begun + pause > limit:
            break
        time.sleep(pause)
        pause = min(pause * 1.3, POLL_SECONDS_MAX)
    last = f"last error: {problem}" if problem is not None else f"last value: {value!r}"
    reason = f" ({because})" if because else ""
    raise WaitTimeoutError(f"{event}: not within {limit:.0f} s{reason}; {last[:2000]}") from problem
