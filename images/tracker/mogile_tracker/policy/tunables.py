"""Settings of ours that are changed at run time: the one home of their names, defaults and limits.

They live in `mogile_setting`, every tracker re-reads them with its topology (seconds), and the command `mogile_setting` reads and writes
them. A stored value that is missing or spoilt counts as the default, so a bad row never stops a job.

Rates and concurrency: a limit on a job (`replicate_...`) holds for that job, one on devices (`device_...`) for every device as source or
destination of copies and where copies are read to be compared, `dev<N>_...` for one device instead. Rates are honoured by all trackers
together, concurrency by each jobs process for itself. 0: no limit. Fetching damaged copies again is a job of its own (`heal`): it is the
more urgent the less fsck is, so a limit that keeps a check from being felt must not hold it up.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

RATE_MAX = 1e12  # bytes per second
CONCURRENCY_MAX = 10_000
COPYING_JOBS = ("replicate", "rebalance", "balance", "drain", "heal")
JOBS = (*COPYING_JOBS, "fsck")

_DEVICE_NAME = re.compile(r"dev([0-9]{1,5})_(bytes_per_second|concurrency)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunable:
    """One setting; a number within limits, or one of a few words."""

    name: str
    default: str
    help: str
    minimum: float = 0.0
    maximum: float = 0.0
    whole: bool = False
    words: tuple[str, ...] = ()

    def problem(self, text: str) -> str | None:
        """Why this value cannot be stored, in one sentence; None when it can."""
        if self.words:
            return None if text in self.words else f"{self.name} must be one of {', '.join(self.words)}, not {text!r}"
        kind = "a whole number" if self.whole else "a number"
        wanted = f"{self.name} must be {kind} from {self.minimum:g} to {self.maximum:g}, not {text!r}"
        try:
            value = float(text)
        except ValueError:
            return wanted
        if not self.minimum <= value <= self.maximum or (self.whole and not value.is_integer()):
            return wanted
        return None

    def text(self, settings: Mapping[str, str]) -> str:
        """The value in force."""
        stored = settings.get(self.name)
        return self.default if stored is None or self.problem(stored) is not None else stored

    def number(self, settings: Mapping[str, str]) -> float:
        """The value in force of a setting that is a number."""
        return float(self.text(settings))


def _rate(name: str, what: str) -> Tunable:
    return Tunable(name=f"{name}_bytes_per_second", default="0", help=f"bytes a second {what}", maximum=RATE_MAX)


def _concurrency(name: str, what: str) -> Tunable:
    return Tunable(
        name=f"{name}_concurrency", default="0", help=f"copies at once {what}", maximum=CONCURRENCY_MAX, whole=True
    )


BALANCE_MODE = Tunable(name="balance_mode", default="auto", help="whether fill is evened out", words=("auto", "off"))
BALANCE_SPREAD = Tunable(
    name="balance_spread",
    default="5",
    help="percent points between the fullest and the emptiest device that are left alone",
    minimum=0.1,
    maximum=100,
)
BALANCE_SHARE = Tunable(
    name="balance_share",
    default="50",
    help="percent by which a device may differ from its fair share of all bytes, however little that fills it",
    minimum=5,
    maximum=1000,
)
DRAIN_MOVES = Tunable(
    name="drain_moves",
    default="off",
    help="on: devices in state drain are emptied; off: as in MogileFS they only take no new files",
    words=("on", "off"),
)
WRITE_COPIES_DEFAULT = Tunable(
    name="write_copies_default",
    default="1",
    help="machines an upload is on before it is acknowledged, for classes that do not say",
    minimum=1,
    maximum=16,
    whole=True,
)
ORPHANS_RATE = Tunable(
    name="orphans_fids_per_second",
    default="20000",
    help="files on disks a second looked at by the search for orphans; 0: no limit",
    maximum=1e6,
    whole=True,
)
BACKGROUND_SHARE = Tunable(
    name="background_share",
    default="25",
    help="percent of the time that the jobs of a process work all together while commands come at a high rate; 100: they never give way",
    minimum=1,
    maximum=100,
)
URGENT_SHARE = Tunable(
    name="urgent_share",
    default="50",
    help="the same for each worker whose files have a single copy left; larger than background_share or without effect",
    minimum=10,
    maximum=100,
)
_FIXED: dict[str, Tunable] = {
    tunable.name: tunable
    for tunable in (
        BALANCE_MODE,
        BALANCE_SPREAD,
        BALANCE_SHARE,
        DRAIN_MOVES,
        WRITE_COPIES_DEFAULT,
        ORPHANS_RATE,
        BACKGROUND_SHARE,
        URGENT_SHARE,
        *(_rate(job, f"copied by {job}") for job in COPYING_JOBS),
        *(_concurrency(job, f"by {job}, in each jobs process") for job in COPYING_JOBS),
        _rate("fsck", "read to compare copies, by fsck and orders about orphans"),
        _concurrency("fsck", "asked about or read by fsck and for orphans, in each jobs process"),
        _rate("device", "read from or written to each device by all jobs"),
        _concurrency("device", "on each device, in each jobs process"),
    )
}


def find(name: str) -> Tunable | None:
    """A setting by its name, also one of a single device."""
    known = _FIXED.get(name)
    if known is None and (found := _DEVICE_NAME.fullmatch(name)) is not None:
        what = f"of device {int(found[1])}, instead of device_{found[2]}"
        return _rate(f"dev{found[1]}", what) if found[2] == "bytes_per_second" else _concurrency(f"dev{found[1]}", what)
    return known


def known_names() -> list[str]:
    """All names but those of single devices."""
    return sorted(_FIXED)


def listed(settings: Mapping[str, str]) -> Iterator[Tunable]:
    """All settings: the fixed ones and those of single devices that are stored."""
    yield from (_FIXED[name] for name in known_names())
    for name in sorted(settings):
        if name not in _FIXED and (tunable := find(name)) is not None:
            yield tunable


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits that hold for one job, read from one snapshot."""

    settings: Mapping[str, str]
    job: str

    def rates(self, devids: tuple[int, ...]) -> dict[str, float]:
        """What is limited in bytes per second -> its limit: the job, and each device."""
        found = {f"job:{self.job}": self._value(self.job, "bytes_per_second")}
        found.update({f"dev:{devid}": self._of_device(devid, "bytes_per_second") for devid in devids})
        return {name: limit for name, limit in found.items() if limit > 0}

    def slots(self, devids: tuple[int, ...]) -> dict[str, int]:
        """What is limited in copies at once -> its limit."""
        found = {f"job:{self.job}": self._value(self.job, "concurrency")}
        found.update({f"dev:{devid}": self._of_device(devid, "concurrency") for devid in devids})
        return {name: int(limit) for name, limit in found.items() if limit > 0}

    def _of_device(self, devid: int, what: str) -> float:
        name = f"dev{devid}"
        return self._value(name if f"{name}_{what}" in self.settings else "device", what)

    def _value(self, prefix: str, what: str) -> float:
        tunable = find(f"{prefix}_{what}")
        return tunable.number(self.settings) if tunable is not None else 0.0
