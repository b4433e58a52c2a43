"""Which mount a path lies on, from /proc/self/mountinfo (proc(5)), and what that says about syncs."""

from __future__ import annotations

import re
from typing import NamedTuple

_MOUNTINFO = "/proc/self/mountinfo"


class Mount(NamedTuple):
    """One mount: its point, the root inside the file system, type, source and the file system's own options."""

    point: str
    root: str
    kind: str
    source: str
    options: frozenset[str]

    @property
    def is_ext(self) -> bool:
        """ext4, or ext3, which is the same program."""
        return self.kind in {"ext3", "ext4"}

    @property
    def without_barriers(self) -> bool:
        """A sync does not have the disk empty its cache: right only where the cache outlives a power cut."""
        return not self.options.isdisjoint({"nobarrier", "barrier=0"})


def mount_of(path: str, mountinfo: str | None = None) -> Mount | None:
    """The mount that holds `path`; None when nothing there says so."""
    if mountinfo is None:
        with open(_MOUNTINFO, encoding="utf-8", errors="surrogateescape") as stream:
            mountinfo = stream.read()
    best: Mount | None = None
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, kinds = left.split(" "), right.split(" ")
        if len(fields) < 6 or len(kinds) < 3:
            continue
        root, point = _unescape(fields[3]), _unescape(fields[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and (best is None or len(point) >= len(best.point)):
            best = Mount(point, root, kinds[0], _unescape(kinds[1]), frozenset(kinds[2].split(",")))
    return best


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), text)
