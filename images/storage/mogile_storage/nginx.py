"""The read nginx: its configuration from what the agent says about the devices, and the small parent that keeps the two in step.

nginx serves GET and HEAD of .fid files, usage and test-write files straight from the disk. It must serve ready devices only: after a
power cut a half-made file has a name until the agent has looked (module recovery), and a lost or foreign volume must not answer at
all. So the configuration is made from the agent's `/status`; until the agent was heard every device answers 503, and while the agent
is away the last state stays, because reads must outlive a restart of the agent.

The parent asks for news (the agent answers when there are some, or after a second), writes a new configuration when something
changed, has it checked by `nginx -t` and sends SIGHUP. A device that hangs blocks the worker that opens a file on it (open() runs in
its event loop): such a device is left out of the new configuration, and those old workers that do not come out of one system call
for a short grace are killed; others end their running answers.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import http.client
import json
import os
import pwd
import re
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from types import FrameType
from urllib.parse import urlencode

from mogile_core.errors import SettingError
from mogile_core.runtime.logs import get_log
from mogile_core.runtime.settings import parse_listen
from mogile_storage.settings import NginxSettings

log = get_log(__name__)

POLL_SECONDS = 1.0
STATUS_SECONDS_MAX = 2.0
START_WAIT_SECONDS = 1.0
STATUS_BYTES_MAX = 1 << 20
HUNG_GRACE_SECONDS = 0.3
HUNG_SAMPLES = 6
FILES_MAX = 65536
PREDECESSOR_SECONDS = 5.0  # one that is still closing gets a moment
LOCK_NAME = "nginx.lock"
_PR_SET_PDEATHSIG = 1
_UUID = re.compile(r"[0-9a-f-]{36}\Z")
_SAFE_PATH = re.compile(r"[A-Za-z0-9._/+@:-]+\Z")

# Measured (make bench-storage): tcp_nopush and a small sendfile_max_chunk each cost 64 KiB reads a tenth to a fifth more CPU.
_TEMPLATE = """\
daemon off;
{user}pid {run}/nginx.pid;
error_log stderr warn;
worker_processes {workers};
worker_rlimit_nofile {files};
worker_shutdown_timeout 20s;
events {{ worker_connections {connections}; }}
http {{
  access_log off;
  server_tokens off;
  sendfile on;
  tcp_nopush off;
  open_file_cache off;
  etag on;
  keepalive_timeout 300s;
  keepalive_requests 1000000;
  client_header_timeout 15s;
  send_timeout 60s;
  reset_timedout_connection on;
  client_body_temp_path {run}/nginx-body;
  proxy_temp_path {run}/nginx-proxy;
  fastcgi_temp_path {run}/nginx-fastcgi;
  uwsgi_temp_path {run}/nginx-uwsgi;
  scgi_temp_path {run}/nginx-scgi;
  types {{}}
  default_type application/octet-stream;
  map $http_x_mogile_cluster $mogile_wrong {{ {foreign} }}
  server {{
    listen {listen} backlog=4096;
    root {docroot};
    merge_slashes off;
    {cluster_header}
    if ($request_method !~ ^(GET|HEAD)$) {{ return 405; }}
    if ($mogile_wrong) {{ return 421 "this node belongs to another cluster\\n"; }}
    if ($request_uri ~ "[\\x25\\x5c]|/\\.\\.?(/|$)") {{ return 400; }}
    location = / {{ default_type text/plain; return 200 "mogile storage node\\n"; }}
{devices}    location / {{ return 404; }}
  }}
}}
"""

_READY = """\
    location ~ "^/dev{devid}/([0-9])/([0-9]{{3}})/([0-9]{{3}})/\\1\\2\\3[0-9]{{3,12}}\\.fid$" {{ }}
    location ~ "^/dev{devid}/test-write/[A-Za-z0-9_-][A-Za-z0-9._-]*$" {{ default_type text/plain; }}
    location = /dev{devid}/usage {{ default_type text/plain; }}
    location ~ "^/dev{devid}/?$" {{ default_type text/plain; return 200 "Directory listing disabled\\n"; }}
"""
_NOT_READY = """\
    location ~ "^/dev{devid}(/|$)" {{ default_type text/plain; return 503 "dev{devid} is not ready\\n"; }}
"""


def configuration(settings: NginxSettings, cluster_id: str, devices: Mapping[int, bool]) -> str:
    """The whole configuration. `devices`: devid to ready. Paths and ids were checked, nothing else is put in."""
    blocks = (_READY if ready else _NOT_READY for _, ready in sorted(devices.items()))
    filled = "".join(block.format(devid=devid) for block, devid in zip(blocks, sorted(devices), strict=True))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = FILES_MAX if hard == resource.RLIM_INFINITY else min(FILES_MAX, hard)
    host = f"[{settings.http_address}]" if ":" in settings.http_address else settings.http_address
    return _TEMPLATE.format(
        run=settings.run_dir,
        workers=settings.nginx_workers,
        user=""
        if os.geteuid()
        else f"user {pwd.getpwuid(0).pw_name};\n",  # else the workers of root's nginx are nobody
        files=files,
        connections=min(16384, files // 2),
        listen=f"{host}:{settings.get_port}",
        docroot=os.path.realpath(settings.docroot),
        foreign=f'default 1; "" 0; "~*^{cluster_id}$" 0;' if cluster_id else "default 0;",
        cluster_header=f'add_header X-Mogile-Cluster "{cluster_id}" always;' if cluster_id else "",
        devices=filled or '    location ~ "^/dev[0-9]+(/|$)" { return 503 "the agent was not heard yet\\n"; }\n',
    )


def check(settings: NginxSettings) -> None:
    """SettingError in one sentence for what can be seen before anything runs."""
    for name, value in (("run_dir", settings.run_dir), ("docroot", os.path.realpath(settings.docroot))):
        if not _SAFE_PATH.match(value):
            raise SettingError(f"MOGILE_{name.upper()} may hold letters, digits and ._/+@:- only, got {value!r}")
    if not os.path.isdir(settings.docroot):
        raise SettingError(f"MOGILE_DOCROOT: there is no directory {settings.docroot}")
    if shutil.which("nginx", path=search_path()) is None:
        raise SettingError("nginx is not installed; without it the agent serves reads on its own port")


def run(settings: NginxSettings) -> int:
    """Run nginx until SIGTERM (drains) or until it ends; its exit status."""
    check(settings)
    keeper = Keeper(settings, lock_run_dir(settings.run_dir))
    keeper.write()
    keeper.test()
    return keeper.run()


class Keeper:
    """Keeps one nginx in step with the agent."""

    def __init__(self, settings: NginxSettings, lock: int) -> None:
        """`lock`: the descriptor that holds the run directory."""
        self._settings, self._lock = settings, lock
        self._path = os.path.join(settings.run_dir, "nginx.conf")
        (host, port), *_ = parse_listen(settings.http_listen, "http_listen")
        self._agent = ({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port)  # noqa: S104 - compared, not bound
        self._cluster_id = settings.cluster_id.lower()
        self._devices: dict[int, bool] = {}
        self._view = ""
        self._suspects: set[int] = set()
        self._killed: set[int] = set()
        self._asking: http.client.HTTPConnection | None = None
        self._lost_some = False
        self._stopping = False
        self._process: subprocess.Popen[bytes] | None = None

    def write(self) -> None:
        text = configuration(self._settings, self._cluster_id, self._devices)
        with open(self._path + ".new", "w", encoding="ascii") as stream:
            stream.write(text)
        os.replace(self._path + ".new", self._path)

    def test(self) -> None:
        """`nginx -t`; SettingError with its first complaint."""
        result = subprocess.run(self._command("-t", "-q"), capture_output=True, check=False, timeout=30, text=True)
        if result.returncode != 0:
            lines = (
                [line for line in result.stderr.splitlines() if "[emerg]" in line]
                or result.stderr.splitlines()
                or ["no reason given"]
            )
            raise SettingError(f"nginx refuses its configuration: {lines[0]}")

    def run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, self._stop)
        self._ask_at_start()
        wait_for_port(self._settings.http_address, self._settings.get_port)
        self._process = subprocess.Popen(self._command(), preexec_fn=_die_with_parent)  # noqa: PLW1509 - one thread only
        log.info("read nginx is up", address=self._settings.http_address, port=self._settings.get_port)
        while self._process.poll() is None:
            if self._stopping:
                return self._end()
            began = time.monotonic()
            self._end_stuck()
            if self._ask(POLL_SECONDS):
                self._reload()
            elif time.monotonic() - began < POLL_SECONDS / 2:  # the agent is away, or does not wait
                self._pause()
        return self._process.returncode

    def _command(self, *more: str) -> list[str]:
        program = shutil.which("nginx", path=search_path()) or "nginx"
        return [program, "-p", self._settings.run_dir, "-e", "stderr", "-c", self._path, *more]

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True
        if self._asking is not None and self._asking.sock is not None:
            with contextlib.suppress(OSError):
                self._asking.sock.shutdown(socket.SHUT_RDWR)  # do not wait for the agent's news

    def _pause(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + POLL_SECONDS
        while not self._stopping and time.monotonic() < deadline:
            try:
                self._process.wait(timeout=0.25)
            except subprocess.TimeoutExpired:
                continue
            return

    def _end(self) -> int:
        """QUIT lets running answers end; `worker_shutdown_timeout` bounds it."""
        assert self._process is not None
        os.close(self._lock)  # nothing is written any more: the next one need not wait for the last answer
        self._process.send_signal(signal.SIGQUIT)
        try:
            self._process.wait(timeout=25)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        return 0

    def _ask_at_start(self) -> None:
        """A running agent is heard before the first configuration, so that a restart of nginx alone shows no 503."""
        deadline = time.monotonic() + START_WAIT_SECONDS
        while not self._ask() and not self._stopping and time.monotonic() < deadline:
            time.sleep(0.05)
        self.write()
        self.test()

    def _ask(self, wait: float = 0.0) -> bool:
        """Read the agent's status, after at most `wait` seconds without news; True when it changed the configuration."""
        path = "/status?" + urlencode({"known": self._view, "wait": wait}) if wait else "/status"
        self._asking = http.client.HTTPConnection(*self._agent, timeout=STATUS_SECONDS_MAX + wait)
        try:
            status = _status(self._asking, path)
        finally:
            self._asking = None
        if status is None:
            return False
        self._view, cluster_id, devices = status
        changed = (cluster_id, devices) != (self._cluster_id, self._devices)
        self._lost_some = any(ready and not devices.get(devid) for devid, ready in self._devices.items())
        self._cluster_id, self._devices = cluster_id, devices
        return changed

    def _reload(self) -> None:
        assert self._process is not None
        old_workers = _children(self._process.pid)
        self.write()
        try:
            self.test()
        except SettingError as error:
            log.error("the old configuration stays", reason=str(error))
            return
        self._process.send_signal(signal.SIGHUP)
        log.info(
            "read nginx reloads",
            cluster=self._cluster_id or "none",
            ready=sum(self._devices.values()),
            devices=len(self._devices),
        )
        if self._lost_some:
            self._suspects |= set(old_workers)
            self._end_stuck()

    def _end_stuck(self) -> None:
        """Kill workers of before the loss that hang, also those that do so only later, in the answers they are to end."""
        assert self._process is not None
        self._suspects &= set(_children(self._process.pid))
        for pid in _stuck(self._suspects - self._killed):
            log.warning("a read nginx worker hangs on a lost device and is killed", pid=pid)
            _kill(pid)
            self._killed.add(pid)  # it ends when the device lets go of it
        self._killed &= self._suspects


def lock_run_dir(path: str) -> int:
    """Make the run directory ours until the descriptor is closed or this process ends, however it ends. SettingError when another read
    nginx has it: the two would overwrite each other's configuration."""
    try:
        os.makedirs(path, exist_ok=True)
        fd = os.open(os.path.join(path, LOCK_NAME), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as failure:
        raise SettingError(f"MOGILE_RUN_DIR: cannot write in {path}: {failure.strerror}") from failure
    deadline = time.monotonic() + PREDECESSOR_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(fd)
                raise SettingError(
                    f"MOGILE_RUN_DIR: {path} is in use by another read nginx; each needs a directory of its own"
                ) from None
        except OSError as failure:
            os.close(fd)
            raise SettingError(f"MOGILE_RUN_DIR: cannot lock {path}/{LOCK_NAME}: {failure.strerror}") from failure
        else:
            return fd
        time.sleep(0.1)


def wait_for_port(host: str, port: int) -> None:
    """SettingError when somebody else has the port; a predecessor that is still closing gets a moment."""
    deadline = time.monotonic() + PREDECESSOR_SECONDS
    while True:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as failure:
                if time.monotonic() > deadline:
                    raise SettingError(
                        f"MOGILE_GET_PORT: cannot listen on {host}:{port}: {failure.strerror}"
                    ) from failure
            else:
                return
        time.sleep(0.1)


def _die_with_parent() -> None:
    """A nginx without its keeper would go on with an old idea of the devices: it drains and ends instead."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


def _status(connection: http.client.HTTPConnection, path: str) -> tuple[str, str, dict[int, bool]] | None:
    """(view, cluster id, devid to ready)."""
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        if answer.status != 200:
            return None
        status = json.loads(answer.read(STATUS_BYTES_MAX))
        cluster_id = str(status["clusterId"])
        if cluster_id and not _UUID.match(cluster_id):
            return None
        devices = {int(d["devid"]): d["state"] == "ready" for d in status["devices"]}
        return str(status.get("view", "")), cluster_id, devices
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return None
    finally:
        connection.close()


def _stuck(pids: set[int]) -> list[int]:
    """Those of the processes that were in one system call other than waiting for events whenever they were looked at."""
    stuck = pids
    for _ in range(HUNG_SAMPLES):
        stuck = {pid for pid in stuck if _blocked(pid)}
        if not stuck:
            break
        time.sleep(HUNG_GRACE_SECONDS / HUNG_SAMPLES)
    return sorted(stuck)


def _blocked(pid: int) -> bool:
    """Asleep in the kernel elsewhere than in epoll. Where the kernel does not tell where, every sleeper counts."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stream:
            state = stream.read().rpartition(")")[2].split()[0]
        with open(f"/proc/{pid}/wchan", encoding="ascii", errors="replace") as stream:
            where = stream.read().strip()
    except OSError:
        return False
    return state in ("S", "D") and not where.startswith(("ep_poll", "do_epoll"))


def _children(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as stream:
            return [int(word) for word in stream.read().split()]
    except (OSError, ValueError):
        return []


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def search_path() -> str:
    """nginx lies in sbin, which an unprivileged user's PATH often lacks."""
    return os.pathsep.join([os.defpath, "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/sbin"])
