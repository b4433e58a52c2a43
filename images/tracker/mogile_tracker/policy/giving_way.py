"""How much of the time background jobs work while commands come at a high rate. Pure.

`busy` is how much of the processor the server processes use of what they could use (`foreground`). Up to `CALM` jobs work as they like.
From there to `PRESSED` the time they may work all together shrinks, and from `PRESSED` on it is the configured share: at 25 % all
workers of a jobs process together work fifteen seconds of a minute, in turns. What a unit of work took is paid for by the pause after
it, so the share holds whatever a unit costs, and on a machine that is slow because others use it too.

Promises: no pause is longer than `PAUSE_SECONDS_MAX`, so every worker gets on however busy the servers are; a worker whose work is about
files with a single copy left pays for its own work only, at the share for urgent work.
"""

from dataclasses import dataclass

CALM = 0.15
PRESSED = 0.4
WORKERS_UNPRESSED = 4.0  # where the allowance begins to shrink; more have hardly ever much to do at the same time
PAUSE_SECONDS_MAX = 5.0


def allowance(busy: float, share: float) -> float:
    """Seconds of work a second for all workers of a process together: infinite while it is calm, `share` (0 to 1) when pressed."""
    if busy <= CALM or share >= 1:
        return float("inf")
    pressed = min(1.0, (busy - CALM) / (PRESSED - CALM))
    return float(WORKERS_UNPRESSED ** (1 - pressed) * share**pressed)


def urgent_pause_seconds(worked_seconds: float, allowed: float, urgent_share: float) -> float:
    """The pause after a unit of urgent work; it takes no turn from others and waits for no turn of theirs."""
    share = max(allowed, urgent_share)
    return 0.0 if share >= 1 else min(worked_seconds * (1 / share - 1), PAUSE_SECONDS_MAX)


@dataclass(slots=True)
class Turns:
    """The turns of the workers of one process: each unit of work takes its time, divided by the allowance, out of the common future."""

    taken_until: float = float("-inf")

    def pause_seconds(self, now: float, worked_seconds: float, allowed: float) -> float:
        """The pause of a worker that has just worked so long."""
        if allowed == float("inf"):
            return 0.0
        taken = max(self.taken_until, now - worked_seconds) + worked_seconds / allowed
        pause = min(max(0.0, taken - now), PAUSE_SECONDS_MAX)
        self.taken_until = now + pause
        return pause
