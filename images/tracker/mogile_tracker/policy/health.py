"""From probes of a device to its observed state, with memory: one slow answer on a busy machine must not take a device away.

A definite answer (refused connection, error status, wrong owner) counts at once; silence counts after `SILENT_ROUNDS` probes in a row.
A good probe brings a device back at once. Whether it can be written is known from the last write test and forgotten when the device is
lost, because what comes back may be another disk.
"""

from dataclasses import dataclass, replace
from enum import Enum, auto

from mogile_core.model import Observed

SILENT_ROUNDS = 2


class Probe(Enum):
    """How the usage file of a device could be read."""

    GOOD = auto()
    REFUSED = auto()  # a definite no, or a connection that was refused
    SILENT = auto()  # no answer in time
    FOREIGN = auto()  # somebody else's node, device or volume


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What is remembered about a device between probes."""

    state: Observed = Observed.UNKNOWN
    silent: int = 0
    foreign: bool = False
    writes: bool | None = None  # result of the last write test; None: not tested since the device came (back)

    def after(self, probe: Probe) -> "Health":
        """The health after one more probe."""
        if probe is Probe.GOOD:
            return Health(state=_reachable(writes=self.writes), writes=self.writes)
        if probe is Probe.SILENT and self.silent + 1 < SILENT_ROUNDS and self.state is not Observed.UNKNOWN:
            return replace(self, silent=self.silent + 1)
        return Health(state=Observed.UNREACHABLE, silent=self.silent + 1, foreign=probe is Probe.FOREIGN)

    def after_write_test(self, *, writes: bool) -> "Health":
        """The health after a write test of a device whose usage could be read."""
        return replace(self, writes=writes, state=_reachable(writes=writes))

    @property
    def reachable(self) -> bool:
        """The device answers."""
        return self.state in (Observed.READABLE, Observed.WRITEABLE)


def _reachable(*, writes: bool | None) -> Observed:
    return Observed.WRITEABLE if writes else Observed.READABLE
