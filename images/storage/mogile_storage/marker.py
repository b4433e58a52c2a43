"""Whose volume is this: the marker file of a device and what its absence or disagreement means.

A volume whose marker is missing or disagrees is never silently reused: an empty directory where a device used to be is the classic
way to lose data quietly (a disk that was not mounted, a claim bound to a fresh volume).
"""

from __future__ import annotations

import json
import os
import re
import uuid
from dataclasses import dataclass
from enum import StrEnum

MARKER_NAME = ".mogile-device"
MARKER_VERSION = 1
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")  # of clusters and volumes
_FID_DIRECTORY = re.compile(r"\d\Z")
_IGNORED = frozenset(
    {
        "lost+found",
        ".mogile-tmp",
        ".mogile-quarantine",
        ".mogile-damaged",
        ".mogile-scrub",
        ".mogile-partial",
        ".mogile-mark",
    }
)
_UPSTREAM = frozenset({"usage", "test-write"})


class State(StrEnum):
    """What a device directory is to this node; only READY ones serve."""

    READY = "ready"
    BLANK = "blank"
    FOREIGN = "foreign"
    LOST = "lost"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """Content of the marker file. An empty `cluster_id` waits for the first cluster that writes to it."""

    cluster_id: str
    devid: int
    volume_id: str

    def encode(self) -> bytes:
        fields = {
            "version": MARKER_VERSION,
            "clusterId": self.cluster_id,
            "devid": self.devid,
            "volumeId": self.volume_id,
        }
        return json.dumps(fields).encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> Marker:
        """ValueError when this is no marker of a version we know."""
        try:
            fields = json.loads(data)
            version, devid = fields["version"], fields["devid"]
            cluster_id, volume_id = fields["clusterId"], fields["volumeId"]
        except (KeyError, TypeError, UnicodeDecodeError) as failure:
            raise ValueError(f"not a device marker: {failure}") from failure
        if version != MARKER_VERSION or type(devid) is not int or not isinstance(cluster_id, str):
            raise ValueError(f"a device marker of an unknown form (version {version!r})")
        return cls(cluster_id=cluster_id, devid=devid, volume_id=str(volume_id))


def new_marker(devid: int, cluster_id: str, volume_id: str | None = None) -> Marker:
    """A marker for a fresh volume."""
    return Marker(cluster_id=cluster_id, devid=devid, volume_id=volume_id or str(uuid.uuid4()))


def read_marker(fd: int) -> Marker | None:
    """The marker of the device open as `fd`, None without one; ValueError when it is damaged."""
    try:
        marker_fd = os.open(MARKER_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    except FileNotFoundError:
        return None
    try:
        return Marker.decode(os.read(marker_fd, 4096))
    finally:
        os.close(marker_fd)


def judge(marker: Marker, devid: int, cluster_id: str) -> tuple[State, str]:
    """The state of a marked device on a node that belongs to `cluster_id` (empty: to none yet)."""
    if marker.devid != devid:
        return State.FOREIGN, f"the volume is device {marker.devid}, but it is mounted as dev{devid}"
    if cluster_id and marker.cluster_id and marker.cluster_id != cluster_id:
        return State.FOREIGN, f"the volume belongs to cluster {marker.cluster_id}, this node to {cluster_id}"
    return State.READY, ""


def judge_unmarked(fd: int) -> tuple[State, bool]:
    """(state, adoptable) of a device without a marker; adoptable: it looks like a MogileFS device of another server."""
    names = set(os.listdir(fd)) - _IGNORED
    if not names:
        return State.BLANK, False
    return State.LOST, any(name in _UPSTREAM or _FID_DIRECTORY.match(name) for name in names)
