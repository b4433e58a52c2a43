"""Settings of the tracker: environment `MOGILE_<NAME>` and flags `--<name>`, read once in `main`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mogile_core.errors import SettingError
from mogile_core.runtime import logs
from mogile_core.runtime.settings import parse_listen, secret_from, setting, variable_name
from mogile_tracker.jobclasses import JOB_CLASSES, WANT_MAX, WATCHDOG_SECONDS, parse_pairs
from mogile_tracker.store.postgres import checked_dsn


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackerSettings:
    """All settings of a tracker; every process of it has the same."""

    listen: str = setting("0.0.0.0:7001", "line protocol address; comma list")
    http_listen: str = setting("0.0.0.0:7002", "health and metrics address")
    db_dsn: str = setting("", "postgresql://user@host:5432/database")
    db_password: str | None = setting(None, "overrides the password in the DSN", secret=True)
    db_password_file: str | None = setting(None, "file that holds the password")
    db_pooled: bool = setting(False, "1 behind a transaction-mode connection pooler: no prepared statements")
    db_read_connections: int = setting(2, "connections per server process for look-ups", minimum=1, maximum=64)
    db_write_connections: int = setting(2, "connections per server process for changes", minimum=1, maximum=64)
    db_start_timeout_seconds: float = setting(60.0, "how long to wait for PostgreSQL at start", minimum=0, maximum=3600)
    db_start_pause_seconds: float = setting(
        2.0, "between two attempts to reach PostgreSQL at start", minimum=0.05, maximum=600
    )
    db_retry_seconds: float = setting(
        2.5, "how long a command waits for a lost database before ERR db", minimum=0, maximum=60
    )
    batch_max: int = setting(64, "most commands answered by one statement", minimum=1, maximum=1000)
    processes: int = setting(
        1,
        "server processes sharing the port; one more runs all jobs that have no process of their own",
        minimum=1,
        maximum=64,
    )
    jobs: str = setting(
        "",
        "job classes with processes of their own, such as replicate=2,delete=1; 0: the class does not run in this tracker",
    )
    watchdog_seconds: str = setting(
        "",
        "a process silent for longer is killed and replaced; such as queryworker=30; what is not named has MogileFS's time",
    )
    restart_pause_seconds: float = setting(
        0.2,
        "before a process that has ended is started again; doubled each time it ends soon",
        minimum=0.01,
        maximum=600,
    )
    restart_pause_seconds_max: float = setting(10.0, "the longest such pause", minimum=0.01, maximum=3600)
    admin_from: str = setting(
        "", "networks beside this machine that may send !want, !to and !shutdown; comma list such as 10.0.0.0/8"
    )
    backlog_interval_seconds: float = setting(
        10.0, "counting of the queues for !stats and metrics", minimum=0.1, maximum=3600
    )
    monitor_interval_seconds: float = setting(2.5, "device probe round", minimum=0.1, maximum=300)
    min_free_space_mb: int = setting(100, "below it a device takes no new files", minimum=0)
    job_idle_seconds: float = setting(1.0, "longest wait of a worker that found no work", minimum=0.01, maximum=60)
    retry_base_seconds: float = setting(
        15.0, "first replication retry delay; the later ones scale with it", minimum=0.01
    )
    jobs_nice: int = setting(
        10, "how much the background jobs yield the processor to commands (niceness)", minimum=0, maximum=19
    )
    default_mindevcount: int = setting(2, "copies of files in a class without a row", minimum=1, maximum=255)
    topology_interval_seconds: float = setting(
        4.0, "re-reading of hosts, devices, domains and classes", minimum=0.1, maximum=60
    )
    lease_seconds: float = setting(
        15.0, "how long a claim of a background job lasts without a heartbeat", minimum=1, maximum=600
    )
    write_test_interval_seconds: float = setting(15.0, "test write per device", minimum=0.1, maximum=3600)
    reap_interval_seconds: float = setting(5.0, "look for dead, out and returned devices", minimum=0.05, maximum=3600)
    sweep_interval_seconds: float = setting(
        5.0,
        "look for uploads never closed, rows of MogileFS's older queues, leases of the dead",
        minimum=0.05,
        maximum=3600,
    )
    busy_retry_seconds: float = setting(
        1.0, "a queued file that another worker is at is tried again after this", minimum=0.01, maximum=3600
    )
    delete_barred_seconds: float = setting(
        60.0,
        "a device takes no new copy of a file for so long after a DELETE that could not name the copy; longer than a lease",
        minimum=1,
        maximum=86400,
    )
    copy_intent_seconds: float = setting(
        30.0,
        "a copy order without a heartbeat for so long, beside the time of its bytes, is abandoned: what it wrote is deleted",
        minimum=1,
        maximum=3600,
    )
    transfer_idle_seconds: float = setting(
        45.0, "a transfer to or from a storage node without a byte for so long is given up", minimum=1, maximum=3600
    )
    space_interval_seconds: float = setting(5.0, "sizes of devices go to the database", minimum=0.05, maximum=3600)
    node_retry_seconds: float = setting(
        60.0,
        "a node without a side channel is asked for one again; after 5 times as long for copy orders",
        minimum=0.05,
        maximum=86400,
    )
    side_channel_silence_seconds: float = setting(
        30.0,
        "a node that has told no utilization for so long (it does about once a second) is asked for it anew",
        minimum=2,
        maximum=3600,
    )
    write_copies_patience_seconds: float = setting(
        5.0,
        "writeCopies: a node that has not made a further copy by then, beside the time of its bytes, is given up for another",
        minimum=0.1,
        maximum=600,
    )
    error_pause_seconds_max: float = setting(
        5.0, "longest pause of a worker whose work fails again and again", minimum=0.5, maximum=3600
    )
    tempfile_max_age_seconds: float = setting(3600.0, "an upload not closed by then is thrown away", minimum=1)
    replicate_workers: int = setting(2, "replication batches under way at once", minimum=1, maximum=32)
    replicate_batch: int = setting(200, "files per replication batch", minimum=1, maximum=1000)
    balance_interval_seconds: float = setting(
        5.0, "shortest time between two evaluations of the balance", minimum=0.05, maximum=3600
    )
    census_pause_seconds: float = setting(60.0, "rest between two passes over all files", minimum=0.05, maximum=86400)
    conn_timeout_seconds: float = setting(2.0, "for a storage node to take a connection", minimum=0.1, maximum=60)
    node_timeout_seconds: float = setting(2.0, "for a storage node to answer a question", minimum=0.1, maximum=60)
    mgmt_port: int = setting(7501, "side channel port of the storage nodes", minimum=1, maximum=65535)
    request_bytes_max: int = setting(1 << 20, "longest request line", minimum=1024, maximum=64 << 20)
    slow_reader_seconds: float = setting(120.0, "a client that does not read its answers is cut after this", minimum=1)
    connections_max: int = setting(10000, "client connections per server process", minimum=1)
    drain_seconds: float = setting(10.0, "deadline for finishing accepted work at SIGTERM", minimum=0, maximum=600)
    daemonize: bool = setting(False, "go into the background once everything is checked; logs go to syslog")
    pidfile: str = setting("", "file for the process id")
    user: str = setting("", "user to run as when started by root")
    migrate_only: bool = setting(False, "bring the database schema up to date and exit")
    log_format: str = setting("plain", "plain or json", choices=logs.FORMATS)
    log_level: str = setting("info", "debug, info, warning or error", choices=logs.LEVELS)

    @property
    def dsn(self) -> str:
        """The DSN with its password."""
        return checked_dsn(self.db_dsn, secret_from(self.db_password, self.db_password_file, "db_password"))

    @property
    def listen_addresses(self) -> list[tuple[str, int]]:
        return parse_listen(self.listen, "listen")

    @property
    def own_jobs(self) -> dict[str, int]:
        """Job classes with processes of their own."""
        return _pairs("jobs", self.jobs, JOB_CLASSES, maximum=WANT_MAX)

    @property
    def watchdog(self) -> dict[str, float]:
        """Silence allowed per kind of process."""
        return {
            **WATCHDOG_SECONDS,
            **_pairs("watchdog_seconds", self.watchdog_seconds, WATCHDOG_SECONDS, maximum=86400),
        }

    @property
    def restart_pauses(self) -> tuple[float, float]:
        """Seconds: the first pause before a process is started again, and the longest."""
        first, longest = self.restart_pause_seconds, self.restart_pause_seconds_max
        if first > longest:
            names = variable_name("restart_pause_seconds"), variable_name("restart_pause_seconds_max")
            raise SettingError(f"{names[0]} ({first:g}) must not be larger than {names[1]} ({longest:g})")
        return first, longest

    @property
    def http_address(self) -> tuple[str, int]:
        return parse_listen(self.http_listen, "http_listen")[0]


def _pairs(name: str, text: str, allowed: Iterable[str], *, maximum: int) -> dict[str, int]:
    try:
        return parse_pairs(text, allowed, maximum=maximum)
    except ValueError as error:
        raise SettingError(f"{variable_name(name)} {error}") from error
