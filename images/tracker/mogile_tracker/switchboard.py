"""The parent's side of the channels: who is there, what they said, and questions that one child asks and others answer.

No asyncio: it is driven by the supervisor's loop. Everything kept for a child is bounded (see `channel`): newest message of a kind, a
limited number of log lines. A question ends when everybody asked has answered or died, or at its deadline, so nobody waits for a child
that hangs.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import socket
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any, Protocol

from mogile_core.runtime.logs import get_log
from mogile_tracker.channel import log_message
from mogile_tracker.foreground import busyness
from mogile_tracker.jobclasses import HTTP, QUERYWORKER
from mogile_tracker.jobstate import jobs_of_process
from mogile_tracker.logwatch import KEPT_LINES_MAX, Tap

QUESTION_SECONDS_MAX = 4.5  # shorter than a child's patience
READ_BYTES = 1 << 16
STATE_EVERY_SECONDS = 0.2

Message = dict[str, Any]
log = get_log(__name__)


@dataclass(slots=True, eq=False)
class Child:
    """One process and what lies ready for it. `role`: a job class, `jobs` (the shared process), or `http`."""

    name: str
    role: str
    pid: int
    sock: socket.socket
    started: float
    heard: float
    inbox: bytearray = field(default_factory=bytearray)
    outbox: bytearray = field(default_factory=bytearray)
    newest: dict[str, bytes] = field(default_factory=dict)
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_LINES_MAX))
    status: Message | None = None
    cores: float = 0.0  # processor time a second, of a server process
    watching: bool = False
    retiring: bool = False  # it shall end, and nobody counts on it any more
    term_at: float | None = None  # when it is told so at the latest
    kill_at: float = float("inf")

    def post(self, message: Message, key: str = "") -> None:
        """Send the newest message of its kind."""
        self.newest[key or message["t"]] = json.dumps(message).encode() + b"\n"

    def read(self) -> list[Message] | None:
        """Complete messages that have arrived, None when nothing has; an end is left to whoever reaps the process."""
        try:
            data = self.sock.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            data = b""
        if not data:
            select.select([], [], [], 0.01)
            return None
        self.heard = time.monotonic()
        self.inbox += data
        *lines, rest = self.inbox.split(b"\n")
        self.inbox = bytearray(rest)
        return [json.loads(line) for line in lines]

    def write(self) -> None:
        """Send as much as the socket takes."""
        while self.newest or self.outbox or self.lines:
            if not self.outbox:
                self.outbox += self.newest.pop(next(iter(self.newest))) if self.newest else log_message(self.lines)
            try:
                sent = self.sock.send(self.outbox)
            except (BlockingIOError, InterruptedError):
                return  # tried again in the next turn
            except OSError:
                self.outbox.clear()
                self.newest.clear()
                self.lines.clear()
                return
            del self.outbox[:sent]


@dataclass(slots=True)
class _Question:
    asker: Child
    number: int
    waiting: set[Child]
    deadline: float
    answers: list[Any] = field(default_factory=list)


class Control(Protocol):
    """What the supervisor does for an operator's line."""

    def want(self, job: str, count: int, asker: Child) -> None:
        """So many processes of a class from now on."""

    def tell_job(self, job: str, text: str) -> int:
        """A message to all processes of a class; how many."""

    def stop(self) -> None:
        """End the tracker."""


class Switchboard:
    """Messages between the parent and its children."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self.children: dict[str, Child] = {}
        self.desired: dict[str, int] = {}
        self.shared: list[str] = []
        self._started = time.monotonic()
        self._processors = len(os.sched_getaffinity(0))
        self._questions: dict[int, _Question] = {}
        self._number = 0
        self._observed: Message | None = None
        self._ended: Counter[str] = Counter()
        self._state_due: float | None = None
        self._state_at = float("-inf")
        self._tap = Tap(self._spread, "")

    @property
    def patience_seconds(self) -> float:
        """How long the loop may sleep."""
        return 0.02 if self._questions else 0.2 if self._state_due is not None else 0.5

    def greet(self, child: Child) -> None:
        """What a new child must know."""
        if self._observed is not None:
            child.post(self._observed)
        if self._watched:
            child.post({"t": "watch", "on": True})
        self.changed()

    def forget(self, child: Child) -> None:
        """A child is gone: nobody waits for it, what it counted stays counted."""
        if child.status is not None:
            self._ended.update(child.status["figures"].get("counters", {}))
        for number, question in list(self._questions.items()):
            question.waiting.discard(child)
            if question.asker is child:
                del self._questions[number]
        self._watch()
        self.changed()

    def turn(self, now: float) -> None:
        """Finish questions, tell everybody the state when it has changed, write."""
        for number, question in list(self._questions.items()):
            if not question.waiting or now >= question.deadline:
                del self._questions[number]
                self._answer(question.asker, question.number, question.answers)
        if self._state_due is not None and now >= self._state_due:
            self._post_state(now)
        for child in self.children.values():
            child.write()

    def changed(self) -> None:
        """Processes or wishes have changed."""
        if self._state_due is None:
            self._state_due = self._state_at + STATE_EVERY_SECONDS

    def read(self, child: Child) -> bool:
        """Take what a child says; False when it said nothing."""
        messages = child.read()
        for message in messages or ():
            self._handle(child, message)
        return messages is not None

    def _handle(self, child: Child, message: Message) -> None:
        match message["t"]:
            case "status":
                child.status = message
                self.changed()
            case "load":
                child.cores = message["cores"]
                self._tell_load()
            case "observed":
                self._observed = message
                for other in self.children.values():
                    if other is not child:
                        other.post(message)
            case "ask":
                self._asked(child, message)
            case "told" if message["id"] in self._questions:
                question = self._questions[message["id"]]
                question.waiting.discard(child)
                question.answers.append(message["data"])
            case "watching":
                child.watching = message["on"]
                self._watch()
            case "log":
                for line in message["lines"]:
                    self._spread(line)

    def _tell_load(self) -> None:
        cores = [child.cores for child in self.children.values() if child.role == QUERYWORKER]
        busy = busyness(cores, self._processors)
        for child in self.children.values():
            if child.role not in (QUERYWORKER, HTTP):
                child.post({"t": "load", "busy": round(busy, 2)})

    # ---- questions

    def _asked(self, child: Child, message: Message) -> None:
        number, what = message["id"], message["what"]
        if what == "want":
            self._control.want(message["job"], message["count"], child)
            self._answer(child, number, True)
        elif what == "to":
            self._answer(child, number, self._control.tell_job(message["job"], message["text"]))
        elif what == "shutdown":
            self._answer(child, number, True)
            child.write()
            self._control.stop()
        elif what == "reload":
            self._put(child, number, what, {c for c in self.children.values() if c is not child and c.role != HTTP})
        else:
            self._put(child, number, what, {c for c in self.children.values() if c.role == QUERYWORKER})

    def _put(self, asker: Child, number: int, what: str, to: set[Child]) -> None:
        self._number += 1
        self._questions[self._number] = _Question(asker, number, to, time.monotonic() + QUESTION_SECONDS_MAX)
        for child in to:
            child.post({"t": "tell", "id": self._number, "what": what}, f"tell/{self._number}")

    def _answer(self, asker: Child, number: int, data: object) -> None:
        asker.post({"t": "answer", "id": number, "data": data}, f"answer/{number}")

    # ---- the state of all

    def _post_state(self, now: float) -> None:
        self._state_at, self._state_due = now, None
        full = {child.name: self._describe(child) for child in self.children.values()}
        common = {"t": "state", "desired": self.desired, "ended": self._ended, "started": self._started}
        short = {name: {k: v for k, v in one.items() if k != "metrics"} for name, one in full.items()}
        for_servers = json.dumps({**common, "processes": short}).encode() + b"\n"
        for_http = json.dumps({**common, "processes": full}).encode() + b"\n"
        for child in self.children.values():
            if child.role == QUERYWORKER:
                child.newest["state"] = for_servers
            elif child.role == HTTP:
                child.newest["state"] = for_http

    def _describe(self, child: Child) -> Message:
        said = child.status or {"at": child.started, "figures": {}, "metrics": {}}
        jobs = [] if child.retiring else jobs_of_process(child.role, self.shared)
        return {**said, "pid": child.pid, "role": child.role, "jobs": jobs}

    # ---- watchers

    @property
    def _watched(self) -> bool:
        return any(child.watching for child in self.children.values())

    def _watch(self) -> None:
        on = self._watched
        if on == (self._tap in logging.getLogger().handlers):
            return
        self._tap.switch(on=on)
        for child in self.children.values():
            child.post({"t": "watch", "on": on})

    def _spread(self, line: str) -> None:
        for child in self.children.values():
            if child.watching:
                child.lines.append(line)

    def close(self) -> None:
        """Nobody is left."""
        with contextlib.suppress(ValueError):
            self._tap.switch(on=False)
