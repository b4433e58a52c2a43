"""The parent: forks the children from preloaded code, keeps as many of each kind as the roster wants, ends them. No asyncio, no threads.

It must stay forkable at any time, so it runs a plain selector loop and keeps no connection of its own; what it passes between children is
`switchboard`'s. Children that die at once again and again are started ever more slowly; one that exits with 2 has a bad setting (a busy
port) and ends the tracker with the line it has already printed. A child that gives no sign of life for the watchdog time of its kind is
killed and replaced: what it had claimed is due again in seconds, because its leases end.

The listening sockets of the line protocol are the parent's, a fixed number of them, and the server processes take turns: whichever of
them ends, by whatever cause, connections that wait in a socket's queue stay there for those that are left.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import NoReturn

from mogile_core.runtime.logs import get_log
from mogile_tracker.jobclasses import HTTP, QUERYWORKER, SHARED, Roster
from mogile_tracker.jobstate import jobs_of_process
from mogile_tracker.switchboard import Child, Switchboard

STABLE_SECONDS = 30.0
KILL_GRACE_SECONDS = 3.0
REPLACE_SECONDS_MAX = 5.0

_OURS = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}  # what the parent handles itself

ChildMain = Callable[[str, str, socket.socket], int]  # (name, role, socket) -> exit status
log = get_log(__name__)


class Supervisor:
    """Runs the children until SIGTERM, SIGINT or `!shutdown`."""

    def __init__(
        self,
        roster: Roster,
        main: ChildMain,
        *,
        listeners: Sequence[socket.socket] = (),
        drain_seconds: float,
        watchdog_seconds: Mapping[str, float],
        restart_pauses: tuple[float, float],
    ) -> None:
        self._roster = roster
        self._main = main
        self._listeners = listeners
        self._turns: dict[int, list[int]] = {}  # pid of a server process -> the listening sockets it accepts from
        self._drain_seconds = drain_seconds
        self._watchdog = watchdog_seconds
        self._pause_seconds, self._pause_seconds_max = restart_pauses
        self._selector = selectors.DefaultSelector()
        self._board = Switchboard(self)
        self._children = self._board.children
        self._not_before: dict[str, float] = {}
        self._pauses: dict[str, float] = {}
        self._stopping = False
        self._asked_to_stop = self._heeded = 0  # signals
        self._kill_at = float("inf")
        self._exit_code = 0
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> int:
        """The exit status of the tracker."""
        signal.set_wakeup_fd(self._wake_write)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop_signal)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        self._tell_wishes()
        while self._children or not self._stopping:
            self._keep(time.monotonic())
            self._turn()
        self._board.close()
        return self._exit_code

    # ---- what operators ask for

    def want(self, job: str, count: int, asker: Child) -> None:
        """So many processes of a class from now on; the one that was asked goes last."""
        self._roster.want(job, count)
        self._tell_wishes()
        self._keep(time.monotonic(), asker)

    def tell_job(self, job: str, text: str) -> int:
        """A message to all processes of a class; how many. `:shutdown` ends them (others take their place), `:wake_up` ends their waits."""
        told = [child for child in self._children.values() if not child.retiring and job in self._jobs_of(child)]
        for child in told:
            if text == ":shutdown" and child.role == job:
                self._retire(child, replaced_first=job == QUERYWORKER)
            else:
                child.post({"t": "to", "job": job, "text": text}, f"to/{job}/{text[:40]}")
        if text == ":shutdown" and told and told[0].role == SHARED:
            _announce(job, 0, 1, 1)
        return len(told)

    def stop(self) -> None:
        """Finish what was accepted, then end."""
        self._stopping = True
        self._kill_at = time.monotonic() + self._drain_seconds + KILL_GRACE_SECONDS
        for listener in self._listeners:
            listener.close()
        self._signal(signal.SIGTERM, lambda child: child.role != HTTP)

    def _tell_wishes(self) -> None:
        self._board.desired = dict(self._roster.desired)
        self._board.shared = self._roster.shared()
        for child in self._children.values():
            self._post_duty(child)
        self._board.changed()

    def _post_duty(self, child: Child) -> None:
        if child.role == QUERYWORKER:
            on = self._roster.desired[QUERYWORKER] > 0
            child.post({"t": "serve", "on": on, "accept": self._turns.get(child.pid, [])})
        elif child.role != HTTP:
            child.post({"t": "assign", "jobs": self._jobs_of(child)})

    def _take_turns(self) -> None:
        """Every listening socket has a server process that is ready, whoever comes and goes; the first to start have them all."""
        servers = [c for c in self._children.values() if c.role == QUERYWORKER and not c.retiring]
        ready = sorted((c for c in servers if c.status is not None), key=lambda c: c.started) or servers
        turns = {child.pid: share(number, len(ready), len(self._listeners)) for number, child in enumerate(ready)}
        if turns != self._turns:
            self._turns = turns
            for child in servers:
                self._post_duty(child)

    def _jobs_of(self, child: Child) -> list[str]:
        return jobs_of_process(child.role, self._board.shared)

    # ---- children

    def _keep(self, now: float, asker: Child | None = None) -> None:
        """As many processes of each kind as are wanted: start what lacks, end what is too many."""
        if self._stopping:
            return
        have = Counter(child.role for child in self._children.values() if not child.retiring)
        wanted = self._roster.processes()
        for role in {*have, *wanted}:
            lacking = wanted.get(role, 0) - have[role]
            if lacking > 0 and now >= self._not_before.get(role, 0):
                for job in [role] if role != SHARED else self._board.shared:
                    if role != HTTP:
                        _announce(job, have[role], wanted[role], lacking)
                for _ in range(lacking):
                    self._fork(role)
            elif lacking < 0:
                mine = [child for child in self._children.values() if child.role == role and not child.retiring]
                for child in sorted(mine, key=lambda c: (c is asker, -c.started))[:-lacking]:
                    self._retire(child)

    def _fork(self, role: str) -> None:
        taken = {child.name for child in self._children.values()}
        name = role if role in (SHARED, HTTP) and role not in taken else ""
        name = name or next(n for i in range(1, len(taken) + 2) if (n := f"{_NAMES.get(role, role)}{i}") not in taken)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        # A child that is told to end before it runs must not take that for the parent's signal: it finds the parent's handlers.
        signal.pthread_sigmask(signal.SIG_BLOCK, _OURS)
        pid = os.fork()
        if pid == 0:
            ours.close()
            self._become(name, role, theirs)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _OURS)
        theirs.close()
        now = time.monotonic()
        child = self._children[name] = Child(name, role, pid, ours, now, now)
        self._selector.register(ours, selectors.EVENT_READ, child)
        self._post_duty(child)
        self._board.greet(child)
        log.debug("started a process", name=name, pid=pid)

    def _become(self, name: str, role: str, sock: socket.socket) -> NoReturn:
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _OURS)
            self._selector.close()
            for fd in (self._wake_read, self._wake_write):
                os.close(fd)
            for other in self._children.values():
                other.sock.close()
            sock.setblocking(False)
            status = self._main(name, role, sock)
        except SystemExit as exit_:
            status = exit_.code if isinstance(exit_.code, int) else 1
        except BaseException:
            log.exception("process failed", name=name)
        finally:
            sys.stderr.flush()
            os._exit(status)

    def _retire(self, child: Child, *, replaced_first: bool = False) -> None:
        """End a child: its place is free at once; a server may first wait until another listens, so that no client is turned away."""
        child.retiring = True
        child.term_at = time.monotonic() + (REPLACE_SECONDS_MAX if replaced_first else 0)
        self._board.changed()

    def _end_retired(self, now: float) -> None:
        for child in self._children.values():
            if child.term_at is None:
                continue
            ready = sum(
                c.role == child.role and not c.retiring and c.status is not None for c in self._children.values()
            )
            if now >= child.term_at or ready >= self._roster.processes().get(child.role, 0):
                child.term_at = None
                child.kill_at = now + self._drain_seconds + KILL_GRACE_SECONDS
                os.kill(child.pid, signal.SIGTERM)

    def _kill_silent(self, now: float) -> None:
        """The watchdog. A child whose time to end is over is killed as well."""
        for child in self._children.values():
            limit = min((self._watchdog[job] for job in [*self._jobs_of(child)]), default=float("inf"))
            silent = now - child.heard
            if now >= child.kill_at:
                child.kill_at = now + KILL_GRACE_SECONDS
            elif silent > limit and not self._stopping:
                log.error("process killed: no sign of life", name=child.name, pid=child.pid, seconds=round(silent))
                child.heard = now  # once, not in every turn until it is reaped
            else:
                continue
            os.kill(child.pid, signal.SIGKILL)

    def _reap(self) -> None:
        for child in list(self._children.values()):
            pid, raw = os.waitpid(child.pid, os.WNOHANG)
            if not pid:
                continue
            while self._board.read(child):  # its last words
                pass
            self._forget(child)
            status = os.waitstatus_to_exitcode(raw)
            if self._stopping or child.retiring:
                continue
            if status == 2:
                self._exit_code = 2
                self.stop()
                return
            now = time.monotonic()
            calm = now - child.started > STABLE_SECONDS
            pause = self._pause_seconds if calm else self._pauses.get(child.role, self._pause_seconds)
            self._pauses[child.role] = min(pause * 2, self._pause_seconds_max)
            self._not_before[child.role] = now + pause
            log.error(
                "a process ended and is started again", name=child.name, pid=pid, status=status, pause_seconds=pause
            )

    def _forget(self, child: Child) -> None:
        del self._children[child.name]
        self._selector.unregister(child.sock)
        child.sock.close()
        self._board.forget(child)

    # ---- the loop

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._board.patience_seconds):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 1024)
            else:
                self._board.read(key.data)
        self._heed_signals()
        self._reap()
        self._take_turns()
        now = time.monotonic()
        self._end_retired(now)
        self._kill_silent(now)
        if now >= self._kill_at:
            self._signal(signal.SIGKILL, lambda _: True)
            self._kill_at = now + KILL_GRACE_SECONDS
        if self._stopping and all(child.role == HTTP for child in self._children.values()):
            self._signal(signal.SIGTERM, lambda _: True)
        self._board.turn(now)

    def _on_stop_signal(self, _number: int, _frame: FrameType | None) -> None:
        """Heeded in the next turn: here a child could be half made, and would not be told."""
        self._asked_to_stop += 1

    def _heed_signals(self) -> None:
        """The first one ends what was accepted and then the tracker, the second one ends it at once."""
        while self._heeded < self._asked_to_stop:
            self._heeded += 1
            if self._stopping:
                self._kill_at = time.monotonic()
            else:
                self.stop()

    def _signal(self, number: int, whom: Callable[[Child], bool]) -> None:
        for child in self._children.values():
            if whom(child):
                os.kill(child.pid, number)


_NAMES = {QUERYWORKER: "server", SHARED: "jobs"}


def share(number: int, servers: int, sockets: int) -> list[int]:
    """The sockets that server process `number` of so many accepts from: each has at least one server, each server at least one socket."""
    if number >= sockets:
        return [number % sockets] if sockets else []
    return list(range(number, sockets, servers))


def _announce(job: str, have: int, wanted: int, making: int) -> None:
    """In MogileFS's words: operators' scripts wait for this line."""
    words = f"Job {job} has only {have}, wants {wanted}, making {making}."
    log.info(words)
