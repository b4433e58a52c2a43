"""What a census adds up: files and bytes in all, per device and per class, and what lacks copies (by copies left) or zones."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from mogile_tracker.policy.landscape import Landscape
from mogile_tracker.policy.replication import Policy

Pair = tuple[int, int]  # files, bytes


@dataclass(slots=True, kw_only=True)
class Totals:
    """Grows by `add`; plain data otherwise, so that it can be stored between two parts of a pass."""

    files: int = 0
    bytes: int = 0
    fewer_copies: int = 0  # fewer live copies than the class wants
    one_copy: int = 0  # exactly one live copy where more are wanted
    no_copy: int = 0  # no live copy at all
    zone_violations: int = 0
    no_copy_on: dict[int, int] = field(
        default_factory=dict
    )  # of the files without a live copy, those with a location on a device
    devices: dict[int, Pair] = field(default_factory=dict)
    classes: dict[str, Pair] = field(default_factory=dict)  # "dmid:classid"
    short: dict[str, Pair] = field(default_factory=dict)  # "dmid:classid:live copies", only where more are wanted

    def add(
        self, *, dmid: int, classid: int, holders: Iterable[int], files: int, bytes_: int, found: "Finding"
    ) -> None:
        """Count files that share class and holders."""
        self.files += files
        self.bytes += bytes_
        self.fewer_copies += files * found.fewer
        self.one_copy += files * found.one
        self.no_copy += files * found.none
        self.zone_violations += files * found.zones
        for devid in holders:
            if found.none:
                self.no_copy_on[devid] = self.no_copy_on.get(devid, 0) + files
            before = self.devices.get(devid, (0, 0))
            self.devices[devid] = (before[0] + files, before[1] + bytes_)
        name = f"{dmid}:{classid}"
        before = self.classes.get(name, (0, 0))
        self.classes[name] = (before[0] + files, before[1] + bytes_)
        if found.fewer:
            name = f"{name}:{found.live}"
            before = self.short.get(name, (0, 0))
            self.short[name] = (before[0] + files, before[1] + bytes_)

    def to_data(self) -> dict[str, object]:
        """Plain JSON data."""
        return {
            "files": self.files,
            "bytes": self.bytes,
            "fewer_copies": self.fewer_copies,
            "one_copy": self.one_copy,
            "no_copy": self.no_copy,
            "zone_violations": self.zone_violations,
            "no_copy_on": {str(devid): count for devid, count in self.no_copy_on.items()},
            "devices": {str(devid): list(pair) for devid, pair in self.devices.items()},
            "classes": {name: list(pair) for name, pair in self.classes.items()},
            "short": {name: list(pair) for name, pair in self.short.items()},
        }

    @classmethod
    def from_data(cls, data: dict[str, object]) -> "Totals":
        """The inverse of `to_data`."""

        def number(name: str) -> int:
            return int(str(data.get(name, 0)))

        def pairs(name: str) -> dict[str, Pair]:
            found = data.get(name)
            return {str(k): (int(v[0]), int(v[1])) for k, v in found.items()} if isinstance(found, dict) else {}

        lost = data.get("no_copy_on")
        return cls(
            files=number("files"),
            bytes=number("bytes"),
            fewer_copies=number("fewer_copies"),
            one_copy=number("one_copy"),
            no_copy=number("no_copy"),
            zone_violations=number("zone_violations"),
            no_copy_on={int(devid): int(count) for devid, count in lost.items()} if isinstance(lost, dict) else {},
            devices={int(devid): pair for devid, pair in pairs("devices").items()},
            classes=pairs("classes"),
            short=pairs("short"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is wrong with files of one class on one set of devices."""

    live: int  # copies that count and can be read now
    fewer: bool
    one: bool
    none: bool
    zones: bool
    lacking: bool  # the policy wants a copy more, whatever is reachable right now


def examine(landscape: Landscape, policy: Policy, mindevcount: int, holders: tuple[int, ...]) -> Finding:
    """Live copies are those that count and can be read right now: a file on a stopped node is short of a copy until it is back."""
    live = [site for site in landscape.counting(holders) if site.readable]
    wanted = policy.wanted(mindevcount)
    count = len(live)
    return Finding(
        live=count,
        fewer=count < wanted,
        one=count == 1 and wanted > 1,
        none=count == 0,
        zones=policy.violates_zones(landscape, [site.devid for site in live], mindevcount),
        lacking=not policy.satisfied(landscape, holders, mindevcount),
    )
