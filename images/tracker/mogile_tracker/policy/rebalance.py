"""Rebalancing by a policy of the operator (MogileFS's `rebalance_*` commands): what the policy text means, and how far a run is.

Policy and state are texts of `key=value` words, stored in MogileFS's settings, so its tools can read them. Differences from the original,
on purpose: `limit_by=percent` works (percent of the bytes on the device), and a source device keeps the state its operator gave it; the
original sets it to `drain` and afterwards to `alive`, whatever it was before. With `leave_in_drain_mode` it is set to `drain` when its
turn comes, and stays so.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from mogile_tracker.policy.landscape import Landscape
from mogile_tracker.policy.placement import free_space_order
from mogile_tracker.policy.sites import Randomness, Site

_UNITS = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}


@dataclass(frozen=True, slots=True, kw_only=True)
class RebalancePolicy:
    """The keys of the text; percent and space filters mean "more than", None means no filter."""

    from_all_devs: bool = True
    from_hosts: tuple[int, ...] = ()
    from_devices: tuple[int, ...] = ()
    from_percent_used: float | None = None
    from_percent_free: float | None = None
    from_space_used: float | None = None  # MB
    from_space_free: float | None = None
    fid_age: str = "old"  # old: ascending fids
    limit_type: str = "device"
    limit_by: str = "none"
    limit: int = 0  # files, bytes or percent
    to_all_devs: bool = True
    to_hosts: tuple[int, ...] = ()
    to_devices: tuple[int, ...] = ()
    to_percent_used: float | None = None
    to_percent_free: float | None = None
    to_space_used: float | None = None
    to_space_free: float | None = None
    not_to_hosts: tuple[int, ...] = ()
    not_to_devices: tuple[int, ...] = ()
    use_dest_devs: int | None = None  # None: all
    leave_in_drain_mode: bool = False

    @classmethod
    def parse(cls, text: str) -> "RebalancePolicy":
        """ValueError with one sentence when a word cannot be understood."""
        known = {each.name for each in fields(cls)}
        words: dict[str, str] = {}
        for word in text.split():
            key, equals, value = word.partition("=")
            if key not in known:
                raise ValueError(f"Invalid setting {key}")
            if not equals:
                raise ValueError(f"Setting {key} needs a value: {key}=...")
            words[key] = value
        values: dict[str, object] = {}
        for key, value in words.items():
            try:
                values[key] = _value(key, value, words.get("limit_by", "none"))
            except ValueError as error:
                raise ValueError(f"Invalid value for {key}: {value!r} ({error})") from error
        return replace(cls(), **values)  # type: ignore[arg-type]  # every value was made by its key

    def sources(self, landscape: Landscape) -> list[Site]:
        """Devices files are moved away from."""
        return [
            site
            for site in landscape.sites.values()
            if site.removable
            and _named(site, self.from_hosts, self.from_devices, everything=self.from_all_devs)
            and _more_than(
                site, self.from_percent_used, self.from_percent_free, self.from_space_used, self.from_space_free
            )
        ]

    def destinations(self, landscape: Landscape, sources: Iterable[int]) -> list[Site]:
        """Devices files may be moved to."""
        barred = {*sources, *self.not_to_devices}
        return [
            site
            for site in landscape.sites.values()
            if site.fit
            and site.devid not in barred
            and site.hostid not in self.not_to_hosts
            and _named(site, self.to_hosts, self.to_devices, everything=self.to_all_devs)
            and _more_than(site, self.to_percent_used, self.to_percent_free, self.to_space_used, self.to_space_free)
        ]

    def ordered_destinations(
        self, landscape: Landscape, sources: Iterable[int], randomness: Randomness
    ) -> tuple[int, ...]:
        """Device ids in the order to be tried, cut to `use_dest_devs`."""
        order = [site.devid for site in free_space_order(self.destinations(landscape, sources), randomness)]
        return tuple(order if self.use_dest_devs is None else order[: self.use_dest_devs])


def _named(site: Site, hosts: tuple[int, ...], devices: tuple[int, ...], *, everything: bool) -> bool:
    if hosts or devices:
        return site.hostid in hosts or site.devid in devices
    return everything


def _more_than(
    site: Site,
    percent_used: float | None,
    percent_free: float | None,
    space_used: float | None,
    space_free: float | None,
) -> bool:
    return (
        (percent_used is None or 100 * site.used_fraction > percent_used)
        and (percent_free is None or 100 * site.free_fraction > percent_free)
        and (space_used is None or (site.used_mb or 0) > space_used)
        and (space_free is None or (site.free_mb or 0) > space_free)
    )


def _value(key: str, text: str, limit_by: str) -> object:
    if key in ("from_all_devs", "to_all_devs", "leave_in_drain_mode"):
        return text not in ("", "0")
    if key in ("from_hosts", "from_devices", "to_hosts", "to_devices", "not_to_hosts", "not_to_devices"):
        return tuple(_whole(word) for word in text.split(",") if word)
    if key == "limit":
        return _limit(text, limit_by)
    if key in _CHOICES:
        if text not in _CHOICES[key]:
            raise ValueError(f"one of {', '.join(_CHOICES[key])}")
        return text
    if key == "use_dest_devs":
        return None if text == "all" else max(1, _whole(text))
    return float(_whole(text))


_CHOICES = {
    "fid_age": ("old", "new"),
    "limit_type": ("device", "global"),
    "limit_by": ("none", "count", "size", "percent"),
}


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise ValueError("a whole number is needed")
    return int(text)


def _limit(text: str, limit_by: str) -> int:
    unit = text[-1:].lower()
    if limit_by == "size" and unit in _UNITS:
        return _whole(text[:-1]) * _UNITS[unit]
    number = _whole(text.removesuffix("%") if limit_by == "percent" else text)
    if limit_by == "percent" and not 1 <= number <= 100:
        raise ValueError("1 to 100 percent")
    return number


@dataclass(frozen=True, slots=True, kw_only=True)
class RebalanceState:
    """How far a run is. Times are unix seconds, 0: never; `limit_left` and `device_limit_left` are None without a limit."""

    completed_devs: tuple[int, ...] = ()
    source_devs: tuple[int, ...] = ()
    sdev_current: int = 0
    sdev_lastfid: int = 0
    sdev_limit: int | None = None  # left on the current device
    limit: int | None = None  # left in all
    fids_queued: int = 0
    bytes_queued: int = 0
    time_started: int = 0
    time_finished: int = 0
    time_stopped: int = 0
    time_latest_run: int = 0
    time_latest_empty_run: int = 0
    empty_runs: int = 0

    def to_text(self) -> str:
        """As in the setting `rebal_state`."""
        words = []
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, tuple):
                words.append(f"{each.name}={','.join(map(str, value))}")
            elif value is not None:
                words.append(f"{each.name}={value}")
        return " ".join(words)

    @classmethod
    def parse(cls, text: str) -> "RebalanceState":
        """Unknown or spoilt words are passed over: the state of an older tracker must not stop a new one."""
        values: dict[str, object] = {}
        for word in text.split():
            key, _, value = word.partition("=")
            if key in ("completed_devs", "source_devs"):
                values[key] = tuple(int(part) for part in value.split(",") if part.isascii() and part.isdigit())
            elif key in _NUMBERS and value.isascii() and value.isdigit():
                values[key] = int(value)
        return replace(cls(), **values)  # type: ignore[arg-type]  # every value was made by its key

    def next_device(self, policy: RebalancePolicy, device_bytes: dict[int, int]) -> "RebalanceState":
        """The current device is done; take the next one, or none."""
        done = (*self.completed_devs, self.sdev_current) if self.sdev_current else self.completed_devs
        rest = self.source_devs
        if not rest or (policy.limit_type == "global" and self.limit == 0):
            return replace(self, completed_devs=done, source_devs=rest, sdev_current=0, sdev_lastfid=0, sdev_limit=None)
        current = rest[0]
        left = None
        if policy.limit_type == "device":
            left = limit_for(policy, device_bytes.get(current, 0))
        return replace(
            self, completed_devs=done, source_devs=rest[1:], sdev_current=current, sdev_lastfid=0, sdev_limit=left
        )

    def room(self) -> int | None:
        """What may still be queued from the current device, in the unit of the limit; None: anything."""
        lefts = [left for left in (self.sdev_limit, self.limit) if left is not None]
        return min(lefts) if lefts else None


_NUMBERS = frozenset(
    {
        "sdev_current",
        "sdev_lastfid",
        "sdev_limit",
        "limit",
        "fids_queued",
        "bytes_queued",
        "time_started",
        "time_finished",
        "time_stopped",
        "time_latest_run",
        "time_latest_empty_run",
        "empty_runs",
    }
)


def limit_for(policy: RebalancePolicy, bytes_: int) -> int | None:
    """The limit of a device (or of a whole run) in files or bytes; None: none."""
    if policy.limit_by == "none":
        return None
    if policy.limit_by == "percent":
        return bytes_ * policy.limit // 100
    return policy.limit


def take(
    policy: RebalancePolicy, state: RebalanceState, files: Iterable[tuple[int, int | None]], now: int
) -> tuple[list[int], RebalanceState, bool]:
    """The fids of (fid, length) that the limits allow, the state after queueing them, and whether the device is exhausted."""
    room = state.room()
    taken: list[int] = []
    bytes_ = 0
    used = 0
    full = False
    last = state.sdev_lastfid
    for fid, length in files:
        if length is None:
            last = fid
            continue
        cost = 1 if policy.limit_by == "count" else length
        if room is not None and used + cost > room:
            full = True
            break
        last = fid
        taken.append(fid)
        bytes_ += length
        used += cost
    after = replace(
        state,
        sdev_lastfid=last,
        sdev_limit=None if state.sdev_limit is None else state.sdev_limit - used,
        limit=None if state.limit is None else state.limit - used,
        fids_queued=state.fids_queued + len(taken),
        bytes_queued=state.bytes_queued + bytes_,
        time_latest_run=now,
        time_latest_empty_run=state.time_latest_empty_run if taken else now,
        empty_runs=state.empty_runs + (not taken),
    )
    return taken, after, full
