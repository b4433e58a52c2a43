"""What the harness tells the person who waits: one line per step with the seconds it took, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Announce a step, then its duration."""
    say(f"  {text} ...")
    begun = time.monotonic()
    yield
    say(f"  {text}: {time.monotonic() - begun:.1f} s")
