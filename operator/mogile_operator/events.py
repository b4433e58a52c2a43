"""Events for people who use `kubectl describe`: one object per deed and per place of failure, repeated ones counted, never a stream.

The name of an event is derived from what it is about, so a restarted operator goes on counting instead of starting anew. Events
complement the status and carry no state; that one could not be written is logged and forgotten.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from mogile_core.runtime.logs import get_log
from mogile_operator.api.v1alpha1 import GROUP, VERSION, StorageCluster
from mogile_operator.execute import Outcome
from mogile_operator.kube import Kube, KubeError
from mogile_operator.plan.actions import Action, CreatePassword, Evict, Initialise, Tell
from mogile_operator.specs.base import digest

REPEAT_SECONDS = 300.0
FAILED = "ActionFailed"
KNOWN_MAX = 5000
NOTE_MAX = 1000
COMMANDS = {
    "create_device": "DeviceJoined",
    "set_state": "DeviceState",
    "mogile_set_out": "DeviceOut",
    "mogile_forget_device": "DeviceRemoved",
    "update_host": "HostChanged",
    "delete_host": "HostRemoved",
    "create_domain": "DomainCreated",
    "delete_domain": "DomainDeleted",
    "create_class": "ClassCreated",
    "update_class": "ClassChanged",
    "mogile_set_class": "ClassChanged",
    "delete_class": "ClassDeleted",
    "mogile_balance": "RebalanceChanged",
}

log = get_log(__name__)


def reason_of(action: Action) -> str | None:
    """The event of a successful action; None for what is not worth one."""
    match action:
        case Tell():
            return COMMANDS.get(action.command)
        case Initialise():
            return "VolumeInitialised"
        case Evict():
            return "PodReplaced"
        case CreatePassword():
            return "DatabasePrepared"
        case _:
            return None


class Recorder:
    """Writes events, with a memory of what it wrote."""

    def __init__(self, kube: Kube, identity: str, clock: Callable[[], float]) -> None:
        self._kube = kube
        self._identity = identity
        self._clock = clock
        self._known: dict[str, tuple[float, int]] = {}

    async def record(self, cluster: StorageCluster, outcomes: Sequence[Outcome]) -> None:
        """Events of one pass."""
        for outcome in outcomes:
            reason = FAILED if outcome.error is not None else reason_of(outcome.action)
            if reason is None:
                continue
            note = outcome.action.reason if outcome.error is None else f"{outcome.action.reason}: {outcome.error}"
            warn = outcome.error is not None or "dead" in note or ": out," in note
            try:
                await self._write(cluster, reason, outcome.action.scope, note[:NOTE_MAX], warn=warn)
            except KubeError as error:
                log.info("event not written", reason=reason, error=error)

    async def _write(self, cluster: StorageCluster, reason: str, scope: str, note: str, *, warn: bool) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        # Failures are told apart by where they happen, not by their words, which may differ each time; deeds by their words.
        about = [cluster.metadata.uid, reason, scope, "" if reason == FAILED else note]
        name = f"{cluster.metadata.name}.{digest(about)}"
        written, count = self._known.get(name, (0.0, 0))
        count += 1
        if count > 1 and self._clock() - written < REPEAT_SECONDS:
            self._known[name] = (written, count)
            return
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        self._known[name] = (self._clock(), count)
        try:
            await self._kube.create(self._event(cluster, name, reason, note, now, warn=warn))
        except KubeError as error:
            if error.status != 409:
                raise
            # Everything but the series is immutable.
            body = {"series": {"count": max(2, count), "lastObservedTime": now}}
            await self._kube.merge("Event", cluster.metadata.namespace, name, body)

    def _event(
        self, cluster: StorageCluster, name: str, reason: str, note: str, now: str, *, warn: bool
    ) -> dict[str, Any]:
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": cluster.metadata.namespace},
            "eventTime": now,
            "reportingController": f"{GROUP}/operator",
            "reportingInstance": self._identity[:128],
            "action": "Reconcile",
            "reason": reason,
            "type": "Warning" if warn else "Normal",
            "note": note,
            "regarding": {
                "apiVersion": f"{GROUP}/{VERSION}",
                "kind": "StorageCluster",
                "namespace": cluster.metadata.namespace,
                "name": cluster.metadata.name,
                "uid": cluster.metadata.uid,
            },
        }
