"""Walking the directories of a device without following links and without keeping a large directory in memory.

Fids lie in `<b>/<mmm>/<ttt>/<fid, at least 10 digits>.fid`, named by their leading digits: in order of names the directories are in
order of fids of one length, and longer fids share the directories of shorter ones.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator

SHORTEST, LONGEST = 10, 19  # digits of a fid in a path
FIDS_MAX = 4096  # in one piece of a walk
_FID_MAX = 2**63 - 1


def names(root: int, directory: str) -> Iterator[str]:
    """The names in a directory, in no order; none when it is gone or is no directory."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(directory or ".", flags, dir_fd=root)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        entries = os.scandir(fd)  # keeps a descriptor of its own
    finally:
        os.close(fd)
    with entries:
        for entry in entries:
            yield entry.name


def directories(root: int, parent: str) -> list[str]:
    """The directories of fids below `parent` (relative to the device), in order; at most a thousand."""
    width = 3 if parent else 1
    found = sorted(n for n in names(root, parent) if len(n) == width and n.isascii() and n.isdigit())
    return [f"{parent}/{name}" for name in found] if parent else found


def fids(root: int, after: int = -1) -> Iterator[tuple[list[int], str]]:
    """(fids in order, their directory) for all fids larger than `after`, ascending, FIDS_MAX at most in one."""
    digits = max(SHORTEST, len(str(after)))
    if digits == SHORTEST:
        yield from _of_length(root, after, SHORTEST)
    for length in sorted(_longer_lengths(root, digits)):
        yield from _of_length(root, after, length)


def _of_length(root: int, after: int, length: int) -> Iterator[tuple[list[int], str]]:
    start = str(max(0, after)).rjust(length, "0")
    for third in _third_directories(root, (start[0], start[1:4], start[4:7])):
        last = after
        while True:
            found = _smallest(root, third, last, length)
            yield found, third
            if len(found) < FIDS_MAX:
                break
            last = found[-1]


def _third_directories(root: int, start: tuple[str, str, str]) -> Iterator[str]:
    """`b/mmm/ttt` in order, `start` (the leading digits of a fid) first."""
    for first in directories(root, ""):
        if first < start[0]:
            continue
        for second in directories(root, first):
            here = (first, second[2:])
            if here < start[:2]:
                continue
            for third in directories(root, second):
                if (*here, third[6:]) >= start:
                    yield third


def _smallest(root: int, third: str, after: int, length: int) -> list[int]:
    found = (int(name[:-4]) for name in fid_names(root, third) if len(name) == length + 4)
    return heapq.nsmallest(FIDS_MAX, (fid for fid in found if fid > after))


def _longer_lengths(root: int, least: int) -> set[int]:
    """Digits of the fids that are longer than usual: an extra look at all names, made once at the end of a walk."""
    found: set[int] = set()
    for third in _third_directories(root, ("", "", "")):
        found.update(len(name) - 4 for name in fid_names(root, third))
    return {length for length in found if length >= max(least, SHORTEST + 1)}


def fid_names(root: int, third: str) -> Iterator[str]:
    """The names in a directory that are fids which belong there; anything else was put there by somebody else."""
    prefix = third.replace("/", "")
    for name in names(root, third):
        digits = name[:-4]
        if not (name.endswith(".fid") and name.startswith(prefix) and digits.isascii() and digits.isdigit()):
            continue
        if len(digits) == SHORTEST or (
            SHORTEST < len(digits) <= LONGEST and digits[0] != "0" and int(digits) <= _FID_MAX
        ):
            yield name
