"""Carries out actions one by one. After a failure the rest of its scope is skipped; a failure in the scope "" ends the pass.

Before each action the lease is looked at: a replica that was stopped and has come back must not write. Nothing is remembered here:
the next pass observes what came of it.
"""

import secrets
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mogile_core.errors import MogError
from mogile_core.runtime.logs import get_log
from mogile_operator import naming
from mogile_operator.api.v1alpha1 import StorageCluster
from mogile_operator.conditions import Failure
from mogile_operator.kube import Kube, KubeError
from mogile_operator.nodeadmin import NodeAdmin
from mogile_operator.plan.actions import (
    Action,
    Apply,
    CreatePassword,
    Delete,
    Evict,
    Initialise,
    MarkClaim,
    SetFinalizer,
    Tell,
)
from mogile_operator.specs.postgres import build_secret
from mogile_operator.trackeradmin import TrackerAdmin

log = get_log(__name__)


class LeaseLostError(MogError):
    """This replica is not the leader any more; it must stop writing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one action."""

    action: Action
    error: str | None


class Executor:
    """Does what plans say."""

    def __init__(self, kube: Kube, nodes: NodeAdmin, leading: Callable[[], bool]) -> None:
        self._kube = kube
        self._nodes = nodes
        self._leading = leading

    async def run(
        self, cluster: StorageCluster, tracker: TrackerAdmin, actions: Sequence[Action]
    ) -> tuple[list[Outcome], list[Failure]]:
        """All actions whose scope has not failed; LeaseLostError when leadership ends in between."""
        outcomes: list[Outcome] = []
        failures: list[Failure] = []
        broken: set[str] = set()
        for action in actions:
            if action.scope in broken:
                continue
            if not self._leading():
                raise LeaseLostError
            try:
                await self._one(cluster, tracker, action)
            except MogError as error:
                log.warning("action failed", cluster=cluster.metadata.name, action=action.reason, error=error)
                outcomes.append(Outcome(action=action, error=str(error)))
                failures.append(Failure(reason=action.reason, error=str(error)))
                broken.add(action.scope)
                if not action.scope:
                    break
            else:
                log.info("done", cluster=cluster.metadata.name, action=action.reason)
                outcomes.append(Outcome(action=action, error=None))
        return outcomes, failures

    async def _one(self, cluster: StorageCluster, tracker: TrackerAdmin, action: Action) -> None:
        namespace = cluster.metadata.namespace
        match action:
            case Apply():
                await self._apply(action.obj)
            case CreatePassword():
                await self._create_password(cluster)
            case Delete():
                await self._kube.delete(action.kind, namespace, action.name, action.uid)
            case Evict():
                await self._kube.evict(namespace, action.name, action.uid)
            case MarkClaim():
                await self._mark(namespace, action.name, action.uid, action.labels, action.annotations)
            case Tell():
                await tracker.tell(action.command, action.args, action.fine)
            case Initialise():
                volume_id = str(uuid.uuid4())
                await self._nodes.initialise(action.address, action.devid, action.cluster_id, volume_id)
                await self._mark(namespace, action.claim, action.claim_uid, {}, {naming.VOLUME_ID: volume_id})
            case SetFinalizer():
                wanted = [naming.FINALIZER] if action.present else []
                await self._kube.finalizer(action.kind, namespace, action.name, action.uid, wanted)

    async def _apply(self, obj: dict[str, Any]) -> None:
        try:
            await self._kube.apply(obj)
        except KubeError as error:
            wish = obj.get("spec", {}).get("clusterIP")
            refused = error.status == 422 and obj["kind"] == "Service" and wish not in {None, "None"}
            if not refused or "clusterIP" not in error.message:
                raise
            # The address that the tracker knows is taken: any other will do, and the host row follows it.
            spec = {key: value for key, value in obj["spec"].items() if key != "clusterIP"}
            await self._kube.apply({**obj, "spec": spec})

    async def _create_password(self, cluster: StorageCluster) -> None:
        try:
            await self._kube.create(build_secret(cluster, secrets.token_hex(24)))
        except KubeError as error:
            if error.status != 409:
                raise

    async def _mark(
        self, namespace: str, name: str, uid: str, label_set: dict[str, str], notes: dict[str, str | None]
    ) -> None:
        meta: dict[str, Any] = {"uid": uid}
        if label_set:
            meta["labels"] = label_set
        if notes:
            meta["annotations"] = notes
        await self._kube.merge("PersistentVolumeClaim", namespace, name, {"metadata": meta})


Recorder = Callable[[StorageCluster, Sequence[Outcome]], Awaitable[None]]
