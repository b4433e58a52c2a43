"""What a plan may ask for. Every action is idempotent: it can be repeated after a crash at any line.

`scope` groups actions that depend on each other: after a failure the rest of its scope is left to the next pass, while other
scopes go on, so that one bad volume does not hold up the others. The scope `""` carries everything: a failure there ends the pass.
"""

from dataclasses import dataclass, field
from typing import Any

Obj = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Apply:
    """Server-side apply of a complete object."""

    scope: str
    reason: str
    obj: Obj


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatePassword:
    """Make the Secret of the managed database with a random password, if there is none."""

    scope: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """Delete one object, only if it is still the one that was seen."""

    scope: str
    reason: str
    kind: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evict:
    """Ask for a pod to go, within its disruption budget."""

    scope: str
    reason: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkClaim:
    """Set labels and annotations of a claim; None removes one."""

    scope: str
    reason: str
    name: str
    uid: str
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tell:
    """One tracker command; error codes in `fine` mean that it was done before."""

    scope: str
    reason: str
    command: str
    args: dict[str, str]
    fine: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Initialise:
    """Mark a blank volume as a device of this cluster, then remember on the claim that it was."""

    scope: str
    reason: str
    address: str
    devid: int
    cluster_id: str
    claim: str
    claim_uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetFinalizer:
    """Put our finalizer on an object of a user, or take it off."""

    scope: str
    reason: str
    kind: str
    name: str
    uid: str
    present: bool


Action = Apply | CreatePassword | Delete | Evict | MarkClaim | Tell | Initialise | SetFinalizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A finding that becomes (part of) a condition."""

    condition: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Ordered actions and what has to be said."""

    actions: tuple[Action, ...] = ()
    notes: tuple[Note, ...] = ()
