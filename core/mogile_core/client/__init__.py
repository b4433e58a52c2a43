"""Typed asyncio client of the tracker, with failover over several trackers, and helpers that move whole files."""

from mogile_core.client.checks import FsckEvent, FsckStatus, OrphanFile, OrphanWalk
from mogile_core.client.jobs import JobClass, TrackerJobs, WorkerInfo
from mogile_core.client.tracker import TrackerClient
from mogile_core.client.transport import parse_trackers
from mogile_core.client.values import (
    BalanceInfo,
    Census,
    CensusClass,
    CensusDevice,
    CensusShort,
    ClassInfo,
    ClusterInfo,
    Destination,
    DeviceInfo,
    DomainInfo,
    FileInfo,
    KeyPage,
    OpenedFile,
)

__all__ = [
    "BalanceInfo",
    "Census",
    "CensusClass",
    "CensusDevice",
    "CensusShort",
    "ClassInfo",
    "ClusterInfo",
    "Destination",
    "DeviceInfo",
    "DomainInfo",
    "FileInfo",
    "FsckEvent",
    "FsckStatus",
    "JobClass",
    "KeyPage",
    "OpenedFile",
    "OrphanFile",
    "OrphanWalk",
    "TrackerClient",
    "TrackerJobs",
    "WorkerInfo",
    "parse_trackers",
]
