"""Domains and classes: what the tracker lacks is created, what differs is updated, what is deleted here is deleted there if empty.

Two objects that claim one name: the older one has it, the other gets the condition Conflict and does nothing. What was made by
other means and has no object is left alone. The finalizer is on an object only while there may be something to clean up, and never
holds it longer than `PATIENCE`: a tracker that is away must not wedge a namespace.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from mogile_operator import naming
from mogile_operator.api.v1alpha1 import Domain, FileClass
from mogile_operator.plan.actions import Action, SetFinalizer, Tell
from mogile_operator.plan.observed import ClassRow, Observed, TrackerView, parse_time

PATIENCE = timedelta(minutes=10)
DEFAULT_POLICY = "MultipleHosts()"


@dataclass(frozen=True, slots=True, kw_only=True)
class NameResult:
    """What to say on a Domain or Class."""

    kind: str
    obj: Domain | FileClass
    ready: bool
    conflict: bool
    reason: str
    message: str


def owners(objects: Sequence[Domain | FileClass]) -> dict[str, str]:
    """Tracker name to the uid of the object that has it: the oldest, then the smaller uid."""
    out: dict[str, str] = {}
    for obj in sorted(objects, key=lambda o: (o.metadata.creation_timestamp, o.metadata.uid)):
        out.setdefault(obj.tracker_name, obj.metadata.uid)
    return out


def _finalizer(kind: str, obj: Domain | FileClass, *, present: bool, why: str) -> Iterator[Action]:
    if (naming.FINALIZER in obj.metadata.finalizers) != present:
        yield SetFinalizer(
            scope=f"{kind} {obj.metadata.name}",
            reason=f"{kind} {obj.metadata.name}: {why}",
            kind=kind,
            name=obj.metadata.name,
            uid=obj.metadata.uid,
            present=present,
        )


def _given_up(seen: Observed, obj: Domain | FileClass) -> str | None:
    """Why a deleted object may go without the tracker's word; None while it has to wait."""
    if seen.cluster.metadata.deletion_timestamp is not None:
        return "its cluster is being deleted"
    since = parse_time(obj.metadata.deletion_timestamp)
    if since is not None and seen.now - since > PATIENCE:
        return "the tracker did not answer in time; what it has is left alone"
    return None


class Names:
    """The decisions about domains and classes of one cluster in one pass."""

    def __init__(self, seen: Observed) -> None:
        self._seen = seen
        self.actions: list[Action] = []
        self.results: list[NameResult] = []

    def plan(self) -> None:
        """Domains first: classes live in them. Deletions the other way round, which scopes and retries sort out."""
        owning = owners(self._seen.domains)
        for domain in self._seen.domains:
            self._domain(domain, owns=owning[domain.tracker_name] == domain.metadata.uid)
        for domain in self._seen.domains:
            classes = tuple(c for c in self._seen.classes if c.spec.domain_ref.name == domain.metadata.name)
            class_owners = owners(classes)
            for item in classes:
                owns = class_owners[item.tracker_name] == item.metadata.uid
                self._class(domain, item, owns=owns and owning[domain.tracker_name] == domain.metadata.uid)

    def _domain(self, obj: Domain, *, owns: bool) -> None:
        tracker, name = self._seen.tracker, obj.tracker_name
        if obj.metadata.deletion_timestamp is not None:
            self._delete_domain(obj, owns=owns)
            return
        if not owns:
            self._say(
                "Domain", obj, reason="Conflict", conflict=True, message=f"another Domain has claimed the name {name}"
            )
            return
        if tracker is None:
            self._say(
                "Domain",
                obj,
                reason="TrackerUnavailable",
                message=self._seen.tracker_problem or "no tracker answers yet",
            )
            return
        self.actions.extend(_finalizer("Domain", obj, present=True, why="it may have to be cleaned up"))
        if name in tracker.domains:
            self._say("Domain", obj, ready=True, reason="Created", message="the tracker has it")
            return
        self._tell("Domain", obj, "create_domain", {"domain": name}, "created", fine="domain_exists")
        self._say("Domain", obj, reason="Creating", message="it is being created")

    def _delete_domain(self, obj: Domain, *, owns: bool) -> None:
        tracker, name = self._seen.tracker, obj.tracker_name
        why = _given_up(self._seen, obj)
        if tracker is None and why is None:
            return
        if tracker is not None and why is None and owns and name in tracker.domains:
            if any(
                c.spec.domain_ref.name == obj.metadata.name for c in self._seen.classes if c.metadata.deletion_timestamp
            ):
                return
            # A domain with files or classes stays in the tracker: deleting an object never deletes data.
            fine = "domain_not_found domain_has_files domain_has_classes domain_not_empty"
            self._tell("Domain", obj, "delete_domain", {"domain": name}, "deleted", fine=fine)
        self.actions.extend(_finalizer("Domain", obj, present=False, why=why or "cleaned up"))

    def _class(self, domain: Domain, obj: FileClass, *, owns: bool) -> None:
        tracker, name = self._seen.tracker, obj.tracker_name
        if obj.metadata.deletion_timestamp is not None:
            self._delete_class(domain, obj, owns=owns)
            return
        if not owns:
            self._say(
                "Class",
                obj,
                reason="Conflict",
                conflict=True,
                message=f"another Class has claimed the name {name}, or its Domain has",
            )
            return
        if tracker is None:
            self._say(
                "Class",
                obj,
                reason="TrackerUnavailable",
                message=self._seen.tracker_problem or "no tracker answers yet",
            )
            return
        self.actions.extend(_finalizer("Class", obj, present=True, why="it may have to be cleaned up"))
        row = tracker.domains.get(domain.tracker_name, {}).get(name)
        args = {
            "domain": domain.tracker_name,
            "class": name,
            "mindevcount": str(obj.spec.mindevcount),
            "hashtype": obj.spec.hashtype,
            **({"replpolicy": obj.spec.replpolicy} if obj.spec.replpolicy else {}),
        }
        if row is None:
            self._tell("Class", obj, "create_class", args, "created", fine="class_exists")
        elif _differs(obj, row) or _writes_differ(obj, row):
            if _differs(obj, row):
                self._tell("Class", obj, "update_class", args, "changed")
            if _writes_differ(obj, row):
                self._tell("Class", obj, "mogile_set_class", _write_rule(domain, obj), "uploads changed")
        else:
            self._say("Class", obj, ready=True, reason="Created", message="the tracker has it")
            return
        self._say("Class", obj, reason="Creating", message="it is being created or changed")

    def _delete_class(self, domain: Domain, obj: FileClass, *, owns: bool) -> None:
        tracker, name = self._seen.tracker, obj.tracker_name
        why = _given_up(self._seen, obj)
        if tracker is None and why is None:
            return
        if tracker is not None and why is None and owns and name in tracker.domains.get(domain.tracker_name, {}):
            args = {"domain": domain.tracker_name, "class": name}
            fine = "domain_not_found class_not_found class_has_files nodel_default_class"
            self._tell("Class", obj, "delete_class", args, "deleted", fine=fine)
        self.actions.extend(_finalizer("Class", obj, present=False, why=why or "cleaned up"))

    def _tell(
        self, kind: str, obj: Domain | FileClass, command: str, args: dict[str, str], what: str, *, fine: str = ""
    ) -> None:
        self.actions.append(
            Tell(
                scope=f"{kind} {obj.metadata.name}",
                reason=f"{kind} {obj.tracker_name}: {what}",
                command=command,
                args=args,
                fine=frozenset(fine.split()),
            )
        )

    def _say(
        self,
        kind: str,
        obj: Domain | FileClass,
        *,
        reason: str,
        message: str,
        ready: bool = False,
        conflict: bool = False,
    ) -> None:
        self.results.append(
            NameResult(kind=kind, obj=obj, ready=ready, conflict=conflict, reason=reason, message=message)
        )


def _differs(obj: FileClass, row: ClassRow) -> bool:
    policy = obj.spec.replpolicy
    return (
        row.mindevcount != obj.spec.mindevcount
        or (row.hashtype or "NONE") != obj.spec.hashtype
        or (policy is not None and policy != (row.replpolicy or DEFAULT_POLICY))
    )


def _writes_differ(obj: FileClass, row: ClassRow) -> bool:
    """An object that does not say how uploads are acknowledged leaves it as it is."""
    wanted = (obj.spec.write_copies, obj.spec.degraded_writes)
    return obj.spec.write_copies is not None and wanted != (row.write_copies, row.degraded_writes)


def _write_rule(domain: Domain, obj: FileClass) -> dict[str, str]:
    return {
        "domain": domain.tracker_name,
        "class": obj.tracker_name,
        "write_copies": str(obj.spec.write_copies),
        "degraded_writes": str(int(obj.spec.degraded_writes)),
    }


def unmanaged(seen: Observed, tracker: TrackerView) -> tuple[str, ...]:
    """Domains in the tracker without an object, the first hundred."""
    known = {domain.tracker_name for domain in seen.domains}
    return tuple(sorted(name[:512] for name in tracker.domains if name not in known)[:100])
