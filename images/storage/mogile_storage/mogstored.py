"""`mogstored`: the storage node started the classic way, one command for agent and read nginx, with MogileFS's flags and file.

Values come from the command line, then the environment (MOGILE_*), then the file (`key = value`), then the defaults of the settings.
Beside the classic names every setting of `mogile-storage agent` and `nginx` may be given. Flags that mean nothing here are accepted
with a warning. The parent only starts, watches and ends its two children: it ends when the agent does and starts a dead nginx again.
"""

from __future__ import annotations

import ctypes
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import FrameType

from mogile_core.errors import SettingError
from mogile_core.runtime import keyvalues, logs
from mogile_core.runtime.daemon import PidFile, daemonize
from mogile_core.runtime.logs import get_log
from mogile_core.runtime.settings import environment_with, exit_with_line, load, parse_listen, variable_name
from mogile_storage.nginx import search_path
from mogile_storage.settings import AgentSettings, NginxSettings

log = get_log(__name__)

PROG = "mogstored"
CONFIG_FILE = "/etc/mogilefs/mogstored.conf"
SERVERS = ("nginx", "none", "perlbal", "lighttpd", "apache")
RESTART_SECONDS = 1.0
POLL_SECONDS = 0.1
END_SECONDS = 60.0
_PR_SET_PDEATHSIG = 1
_MEANINGLESS = {
    "serverbin": "nginx is found in the usual places",
    "iostat": "utilization is read from the kernel",
}
_SWITCHES = frozenset({"skipconfig", "daemonize"})
_CLASSIC = frozenset(
    {"config", "skipconfig", "daemonize", "httplisten", "mgmtlisten", "docroot", "maxconns", "server", "pidfile", *_MEANINGLESS}
)  # fmt: skip
_OURS = frozenset(f.name for cls in (AgentSettings, NginxSettings) for f in dataclasses.fields(cls))
HELP = f"""\
usage: mogstored [--config={CONFIG_FILE}] [--skipconfig] [-d | --daemonize] [--pidfile=FILE]
                 [--httplisten=0.0.0.0:7500] [--mgmtlisten=0.0.0.0:7501] [--docroot=/var/mogdata] [--maxconns=10000]
                 [--server=nginx|none] [--<setting>=VALUE ...]

Starts the storage agent and, with --server=nginx (the default where nginx is installed), the nginx that serves reads.
The file holds the same names as `key = value`. Settings: `mogile-storage agent --help`, `mogile-storage nginx --help`.
"""


@dataclass(slots=True)
class Given:
    """What was asked for: settings by name, and what concerns the parent only."""

    settings: dict[str, str] = field(default_factory=dict)
    parent: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def take(self, name: str, value: str, where: str) -> None:
        """One name and value; SettingError when it is none of ours."""
        name = name.replace("-", "_")
        if name in _MEANINGLESS:
            self.warnings.append(f"{where} has no effect: {_MEANINGLESS[name]}")
        elif name == "httplisten":
            self.settings["http_address"], self.settings["http_port"] = _listen(value, where)
        elif name == "mgmtlisten":
            self.parent["mgmt_address"], self.settings["mgmt_port"] = _listen(value, where)
        elif name == "maxconns":
            self.settings["connections_max"] = value
        elif name == "server" and value not in SERVERS:
            raise SettingError(f"{where} must be one of {', '.join(SERVERS)}, got {value!r}")
        elif name in _OURS:
            self.settings[name] = value
        elif name in _CLASSIC:
            self.parent[name] = value
        else:
            raise SettingError(f"{where} is unknown; mogstored --help lists what there is")


def from_flags(argv: Sequence[str]) -> Given:
    """The command line, classic flags with one or two dashes as Perl's tools take them."""
    given, words = Given(), iter(argv)
    for word in words:
        name, equals, value = word.lstrip("-").partition("=")
        name = {"d": "daemonize", "s": "skipconfig"}.get(name, name)
        if not word.startswith("-") or not name:
            raise SettingError(f"unexpected argument {word!r}; mogstored --help lists what there is")
        if name in _SWITCHES:
            value = value or "1"
        elif not equals:
            following = next(words, None)
            if following is None:
                raise SettingError(f"{word} needs a value")
            value = following
        given.take(name, value, f"--{name}")
    return given


def from_file(path: str) -> Given:
    """`key = value` lines; SettingError with file and line."""
    try:
        text = keyvalues.read_file(path)
    except OSError as error:
        raise SettingError(f"--config: cannot read {path}: {error.strerror or error}") from error
    given = Given()
    for number, name, value, _ in keyvalues.entries(text):
        where = f"{path} line {number}: {name}"
        if value is None and name not in _SWITCHES:
            raise SettingError(f"{where} needs a value, as in `docroot = /var/mogdata`")
        if name in ("config", "skipconfig"):
            raise SettingError(f"{where} belongs on the command line")
        if name.replace("-", "_") in _CLASSIC | _OURS:
            given.take(name, value or "1", where)
        else:  # a file of another version must not keep the node from starting
            given.warnings.append(f"{where} is unknown and has no effect")
    return given


def gather(argv: Sequence[str]) -> Given:
    """File below flags; the file at the usual place need not exist."""
    flags = from_flags(argv)
    path = flags.parent.get("config", CONFIG_FILE)
    if "skipconfig" in flags.parent or ("config" not in flags.parent and not os.path.exists(path)):
        return flags
    given = from_file(path)
    for name, value in given.settings.items():
        if environment_with({}).get(variable_name(name)) is None:  # the environment is stronger than the file
            flags.settings.setdefault(name, value)
    flags.parent = {**given.parent, **flags.parent}
    flags.warnings = [*given.warnings, *flags.warnings]
    return flags


class Parent:
    """Starts and ends the agent and the read nginx."""

    def __init__(self, environment: dict[str, str], *, with_nginx: bool) -> None:
        self._environment, self._with_nginx = environment, with_nginx
        self._stopping = False
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def run(self) -> int:
        """Until SIGTERM or SIGINT, or until the agent ends; its exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        agent = self._start("agent")
        next_start = 0.0
        while agent.poll() is None and not self._stopping:
            nginx = self._processes.get("nginx")
            if self._with_nginx and (nginx is None or nginx.poll() is not None) and time.monotonic() >= next_start:
                if nginx is not None:
                    log.error("the read nginx ended and is started again", status=nginx.returncode)
                self._start("nginx")
                next_start = time.monotonic() + RESTART_SECONDS
            time.sleep(POLL_SECONDS)
        for process in self._processes.values():
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + END_SECONDS
        for process in self._processes.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        return agent.returncode

    def _start(self, what: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "mogile_storage.main", what]
        process = self._processes[what] = subprocess.Popen(command, env=self._environment, preexec_fn=_die_with_parent)  # noqa: PLW1509 - one thread
        return process

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True


def main(argv: Sequence[str] | None = None) -> None:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--help" in arguments or "-h" in arguments:
        sys.stdout.write(HELP)
        return
    try:
        given = gather(arguments)
        environment = environment_with({variable_name(name): value for name, value in given.settings.items()})
        settings = load(AgentSettings, (), environment)
        load(NginxSettings, (), environment)
        with_nginx = _with_nginx(given)
        pidfile = PidFile(given.parent.get("pidfile", ""), "--pidfile")
        pidfile.check()
    except SettingError as error:
        exit_with_line(PROG, str(error))
    logs.setup(settings.log_format, settings.log_level)
    address = given.parent.get("mgmt_address", settings.http_address)
    if address != settings.http_address:
        given.warnings.append(f"--mgmtlisten: the side channel listens on {settings.http_address}, as --httplisten")
    for warning in given.warnings:
        log.warning(warning)
    if "daemonize" in given.parent:
        daemonize()
    pidfile.write()
    status = Parent(environment, with_nginx=with_nginx).run()
    pidfile.remove()
    sys.exit(status)


def _with_nginx(given: Given) -> bool:
    server = given.parent.get("server", "")
    installed = shutil.which("nginx", path=search_path()) is not None
    if server == "nginx" and not installed:
        raise SettingError("--server: nginx is not installed; --server=none serves reads by the agent alone")
    if server in ("perlbal", "lighttpd", "apache"):
        given.warnings.append(
            f"--server={server} is not used: the agent takes uploads, nginx (if installed) serves reads"
        )
    return server != "none" and installed


def _listen(value: str, where: str) -> tuple[str, str]:
    """`0.0.0.0:7500`, or a port only."""
    text = f"0.0.0.0:{value}" if value.isdigit() else value
    try:
        (host, port), *more = parse_listen(text, "httplisten")
    except SettingError:
        more = [("", 0)]
    if more:
        raise SettingError(f"{where} must be one address such as 0.0.0.0:7500, got {value!r}")
    return host, str(port)


def _die_with_parent() -> None:
    """A node without its parent would keep the ports from the next one: it drains and ends instead."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    main()
