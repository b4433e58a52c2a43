"""What services started the classic way have in common: another user, a pid file, the background.

Everything here happens before a service has threads or children.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
import sys

from mogile_core.errors import SettingError


def become(user: str) -> None:
    """Run as `user`; only root can become another."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError as error:
        raise SettingError(f"MOGILE_USER: there is no user {user!r}") from error
    if os.geteuid() == entry.pw_uid:
        return
    try:
        os.initgroups(user, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    except OSError as error:
        raise SettingError(f"MOGILE_USER: cannot become {user!r}: {error.strerror}; only root can") from error


class PidFile:
    """A file for our process id, `named` as in messages; without a path nothing is done. A change of the folder does not matter."""

    def __init__(self, path: str, named: str) -> None:
        self._given, self._named = path, named
        self._path = os.path.abspath(path) if path else ""

    def check(self) -> None:
        """SettingError when the file cannot be written; nothing is changed in one that exists."""
        self._open("a")

    def write(self) -> None:
        """Our process id, which is another after going to the background."""
        self._open("w", f"{os.getpid()}\n")

    def remove(self) -> None:
        """Away with it, where we may; else empty."""
        if not self._path:
            return
        try:
            os.unlink(self._path)
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(self._path, 0)

    def _open(self, mode: str, text: str = "") -> None:
        if not self._path:
            return
        try:
            with open(self._path, mode, encoding="ascii") as stream:
                stream.write(text)
        except OSError as error:
            raise SettingError(f"{self._named}: cannot write {self._given}: {error.strerror}") from error


def daemonize() -> None:
    """Leave the terminal and whoever started us, who sees exit status 0. Error output stays where it is if that is a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        if stream != 2 or not stat.S_ISREG(os.fstat(2).st_mode):
            os.dup2(nothing, stream)
    os.close(nothing)
