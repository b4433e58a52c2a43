"""All waiting times of the suite, by event, in seconds; ``MOGILE_E2E_TIMEOUT_SCALE`` multiplies them.

A story names the event it waits for. The times are what a machine that builds and tests at once does not come near: they end a story that
would hang, and cost nothing where all is well. "files spread" is a promise of the product and stays what it says.
"""

from __future__ import annotations

import os

from harness.errors import HarnessError

SCALE_VARIABLE = "MOGILE_E2E_TIMEOUT_SCALE"

TIMEOUTS: dict[str, float] = {
    "control plane ready": 180,
    "containerd ready": 90,
    "node ready": 180,
    "node not ready": 150,
    "node gone": 150,
    "dns ready": 150,
    "namespace deleted": 240,
    "pod running": 240,
    "pod deleted": 240,
    "rollout": 400,
    "job complete": 400,
    "pvc bound": 180,
    "pvc grown": 180,
    "pvc deleted": 180,
    "policy effective": 90,
    "dns resolves": 90,
    "connection": 30,
    "service answers": 150,
    "operator ready": 300,
    "cluster ready": 600,
    "domain ready": 150,
    "class ready": 150,
    "devices alive": 300,
    "files replicated": 300,
    "files spread": 60,
    "operator killed": 400,
    "files healed": 600,
    "files balanced": 600,
    "condition changes": 300,
    "custom resource deleted": 300,
}


def scale() -> float:
    """The factor from the environment, 1 when unset."""
    text = os.environ.get(SCALE_VARIABLE, "1")
    try:
        factor = float(text)
    except ValueError as exc:
        raise HarnessError(f"{SCALE_VARIABLE}={text!r}: give a number such as 2 or 0.5") from exc
    if not 0 < factor <= 100:
        raise HarnessError(f"{SCALE_VARIABLE}={text!r}: give a number above 0 and up to 100")
    return factor


def timeout_of(event: str) -> float:
    """How long an event may take; an unknown event is a mistake in the story."""
    if event not in TIMEOUTS:
        raise HarnessError(f"no timeout for event {event!r}: add it to harness/timeouts.py")
    return TIMEOUTS[event] * scale()
