"""Settings of the storage node; see docs/architecture.md for the table. Read once in `main`."""

from __future__ import annotations

from dataclasses import dataclass

from mogile_core.model import NODE_GET_PORT, NODE_HTTP_PORT, NODE_MGMT_PORT
from mogile_core.runtime.logs import FORMATS, LEVELS
from mogile_core.runtime.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """What agent and read nginx have in common."""

    docroot: str = setting("/var/mogdata", "directory that holds the device directories dev<N>")
    http_address: str = setting("0.0.0.0", "address of the agent, the side channel and the read port")  # noqa: S104
    http_port: int = setting(NODE_HTTP_PORT, "port of the agent", minimum=0, maximum=65535)
    mgmt_port: int = setting(NODE_MGMT_PORT, "port of the side channel", minimum=0, maximum=65535)
    get_port: int = setting(NODE_GET_PORT, "port of the read nginx", minimum=1, maximum=65535)
    http_listen: str = setting("0.0.0.0:7502", "address of health, status and metrics")
    cluster_id: str = setting("", "the cluster this node belongs to; empty: learned from the first marked device")
    log_format: str = setting("plain", "plain or json", choices=FORMATS)
    log_level: str = setting("info", "least level that is logged", choices=LEVELS)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings(NodeSettings):
    """The agent."""

    initialise: str = setting(
        "auto", "auto: mark blank device directories by itself; manual: only when told to", choices=("auto", "manual")
    )
    anonymous_writes: str = setting(
        "full",
        "what requests without a cluster id may do: safe (create or repeat) or full (also delete)",
        choices=("safe", "full"),
    )
    sync_mode: str = setting(
        "auto", "auto, group (one syncfs per batch) or each (fsync per file)", choices=("auto", "group", "each")
    )
    admin_from: str = setting(
        "", "networks (comma-separated) beside loopback whose hosts may order a shutdown on the side channel"
    )
    usage_interval_seconds: float = setting(10.0, "time between rewrites of the usage files", minimum=0.1, maximum=300)
    reserve_mb: int = setting(64, "free space never given to uploads, in MiB", minimum=0)
    device_limit_mb: int = setting(
        0,
        "a device directory counts as a disk of this size (looked through each second); 0: its file system's",
        minimum=0,
    )
    connections_max: int = setting(
        10_000, "client connections at a time; more are answered 503", minimum=1, maximum=200_000
    )
    client_silence_seconds: float = setting(
        60.0,
        "a client that is silent so long in the middle of a body it sends or reads is cut off",
        minimum=0.1,
        maximum=3600,
    )
    small_uploads_mb: int = setting(
        64,
        "memory for small uploads (64 KiB and less) that are kept whole until they are on disk, in MiB; more are streamed",
        minimum=0,
    )
    pull_concurrency: int = setting(128, "files pulled at a time by one order", minimum=1, maximum=256)
    scrub_interval_hours: float = setting(
        168.0, "time from the beginning of one scrub of a device to the next; 0: only when ordered", minimum=0
    )
    scrub_bytes_per_second: int = setting(20 << 20, "bytes a scrub reads at most, of each device", minimum=1024)
    scrub_files_per_second: int = setting(200, "files a scrub reads at most, of each device", minimum=1)
    scrub_records: bool = setting(
        True,
        "a scrub computes and keeps the digest of files that have none (taken over from another server)",
    )
    without_attributes: bool = setting(
        False,
        "serve devices whose file system keeps no extended attributes: no digests, no copy ids, no scrub",
    )
    partial_hours: float = setting(
        48.0, "uploads in parts (Content-Range) to which nothing was added for so long are removed", minimum=0.001
    )
    drain_seconds: float = setting(20.0, "longest wait for running requests at shutdown", minimum=0, maximum=600)


@dataclass(frozen=True, slots=True, kw_only=True)
class NginxSettings(NodeSettings):
    """The read nginx."""

    run_dir: str = setting(
        "/run/mogile", "writable directory for configuration, lock, pid and temp files; each node needs its own"
    )
    nginx_workers: int = setting(1, "worker processes", minimum=1, maximum=64)
