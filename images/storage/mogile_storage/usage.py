"""How full and how busy a device is: the usage file MogileFS trackers read, and the figures behind it. No decisions."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from mogile_storage.marker import Marker
from mogile_storage.mounts import mount_of

USAGE_NAME = "usage"
_DISKSTATS = "/proc/diskstats"


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Bytes of the file system; `available` is what an unprivileged writer may still take."""

    total: int
    used: int
    available: int
    read_only: bool


def space_of(fd: int) -> Space:
    """total = used + available, so blocks reserved for root are left out (as MogileFS counts)."""
    status = os.fstatvfs(fd)
    used = (status.f_blocks - status.f_bfree) * status.f_frsize
    available = status.f_bavail * status.f_frsize
    return Space(total=used + available, used=used, available=available, read_only=bool(status.f_flag & os.ST_RDONLY))


def limited(space: Space, path: str, limit_bytes: int) -> Space:
    """The same for a directory that counts as a disk of its own: several devices share a file system then.

    Looks at every file below `path`, so it is for the few files of a trial; raises OSError when the directory is gone.
    """
    used, folders = 0, [path]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                    continue
                try:
                    used += entry.stat(follow_symlinks=False).st_blocks * 512
                except FileNotFoundError:  # removed meanwhile
                    continue
    available = max(0, min(limit_bytes - used, space.available))
    return Space(total=used + available, used=used, available=available, read_only=space.read_only)


def usage_text(space: Space, path: str, marker: Marker, damaged: int) -> str:
    """The usage file: sorted `key: value` lines, sizes in KiB, plus whose device this is and how many damaged copies wait for healing."""
    mount = mount_of(path)
    use = round(100 * space.used / space.total) if space.total else 0
    fields = {
        "available": space.available // 1024,
        "damaged": damaged,
        "cluster": marker.cluster_id,
        "devid": marker.devid,
        "device": mount.source if mount else "unknown",
        "disk": mount.point if mount else path,
        "time": int(time.time()),
        "total": space.total // 1024,
        "use": f"{use}%",
        "used": space.used // 1024,
        "volume": marker.volume_id,
    }
    return "".join(f"{key}: {fields[key]}\n" for key in sorted(fields))


def usage_fields(text: bytes) -> dict[str, str]:
    """The lines of a usage file by name."""
    return dict(line.split(": ", 1) for line in text.decode().splitlines())


class BusyMeter:
    """Share of time the disk below a device was busy, from the kernel's counters; None where the kernel has none for it."""

    def __init__(self) -> None:
        self._before: tuple[float, int] | None = None

    def sample(self, device_number: int) -> float | None:
        """Percent since the last sample."""
        ticks = _busy_milliseconds(device_number)
        now = time.monotonic()
        before, self._before = self._before, None if ticks is None else (now, ticks)
        if before is None or ticks is None or now <= before[0]:
            return None
        return min(100.0, max(0.0, (ticks - before[1]) / ((now - before[0]) * 10)))


def _busy_milliseconds(device_number: int) -> int | None:
    wanted = (str(os.major(device_number)), str(os.minor(device_number)))
    try:
        with open(_DISKSTATS, encoding="ascii") as stream:
            for line in stream:
                fields = line.split()
                if len(fields) > 12 and (fields[0], fields[1]) == wanted:
                    return int(fields[12])
    except OSError:
        pass
    return None
