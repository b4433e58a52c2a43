"""Removing storage nodes: drain, let every file get its copies elsewhere, forget, delete. Any step before `dead` can be called off.

A surplus device is set to `drain` (it takes no new files and goes on serving) and `out` (its copies no longer count, so that trackers
make others). It is given up when it is empty, or when the census says that no file lacks copies although this device's do not count.
Nothing is deleted before the tracker itself has agreed that no file is on the device (`mogile_forget_device` refuses otherwise),
so a file that arrived late keeps its node. Volumes stay behind, marked as drained, unless deletionPolicy is Delete.
"""

from collections.abc import Iterator
from datetime import timedelta

from mogile_operator import naming
from mogile_operator.plan.actions import Action, Delete, MarkClaim, Note, Tell
from mogile_operator.plan.assess import StorageNode
from mogile_operator.plan.infra import remove
from mogile_operator.plan.observed import Claim, DeviceRow, Observed, TrackerView, format_time

QUIET = timedelta(seconds=60)
"""A draining device takes no new files; uploads that were under way have ended by then or fail."""
MARGIN = 1.1
"""Free space that must remain elsewhere, as a multiple of what has to move."""


def plan_scale_in(seen: Observed, tracker: TrackerView, nodes: tuple[StorageNode, ...]) -> Iterator[Action | Note]:
    """Surplus nodes step by step, and the undoing of drains that are not wanted any more."""
    for node in nodes:
        if node.wanted:
            yield from _call_off(node)
    surplus = [node for node in nodes if not node.wanted]
    if not surplus:
        return
    blocked = _blocked(tracker, nodes, surplus)
    if blocked:
        yield Note(condition="ScaleInBlocked", reason="NotPossible", message=blocked)
    for node in surplus:
        yield from _remove(seen, node, blocked=bool(blocked))


def _call_off(node: StorageNode) -> Iterator[Action]:
    for claim in node.claims:
        row = node.row(claim.devid)
        if claim.draining is None or row is None:
            continue
        if row.out:
            out = {"devid": str(row.devid), "out": "0"}
            yield Tell(
                scope=node.name,
                reason=f"device {row.devid}: its copies count again",
                command="mogile_set_out",
                args=out,
            )
        if row.state == "drain":
            args = {"host": node.name, "device": str(row.devid), "state": "alive"}
            yield Tell(
                scope=node.name, reason=f"device {row.devid}: it is wanted again", command="set_state", args=args
            )
        yield MarkClaim(
            scope=node.name,
            reason=f"{claim.name}: it is wanted again",
            name=claim.name,
            uid=claim.uid,
            annotations={naming.DRAINING: None},
        )


def _blocked(tracker: TrackerView, nodes: tuple[StorageNode, ...], surplus: list[StorageNode]) -> str:
    """Why the data could not live on what remains; empty when it could."""
    remaining = [
        node for node in nodes if node.wanted and any(row.state == "alive" and not row.out for row in node.rows)
    ]
    copies = max((row.mindevcount for classes in tracker.domains.values() for row in classes.values()), default=1)
    holding = [node for node in surplus if any(row.files for row in node.rows)]
    if holding and len(remaining) < copies:
        return f"{len(remaining)} storage nodes would remain, but a class wants copies on {copies}"
    moving = sum(row.mb_used for node in holding for row in node.rows)
    free = sum(row.mb_total - row.mb_used for node in remaining for row in node.rows if row.state == "alive")
    if moving * MARGIN > free:
        return f"{moving} MB would have to move, but only {free} MB are free on the storage nodes that remain"
    return ""


def _remove(seen: Observed, node: StorageNode, *, blocked: bool) -> Iterator[Action | Note]:
    for row in node.rows:
        yield from _drain(seen, node, row, blocked=blocked)
    for row in node.dead_rows:
        if row.files == 0:
            args = {"devid": str(row.devid)}
            why = f"device {row.devid}: drained and empty"
            yield Tell(
                scope=node.name, reason=why, command="mogile_forget_device", args=args, fine=frozenset({"no_device"})
            )
    if node.rows or node.dead_rows:
        return
    yield from remove(seen, "StatefulSet", node.name, node.name, "the storage node is not wanted any more and empty")
    if node.host is not None:
        args = {"host": node.name}
        why = f"{node.name}: removed"
        yield Tell(scope=node.name, reason=why, command="delete_host", args=args, fine=frozenset({"unknown_host"}))
        return
    yield from remove(seen, "Service", node.name, node.name, "the storage node has been removed")
    yield from _leftovers(seen, node)


def _drain(seen: Observed, node: StorageNode, row: DeviceRow, *, blocked: bool) -> Iterator[Action | Note]:
    claim = next((claim for claim in node.all_claims if claim.devid == row.devid), None)
    if row.state in {"alive", "readonly"} and not blocked:
        if claim is not None and claim.draining is None:
            yield _mark_draining(seen, node, claim)
        args = {"host": node.name, "device": str(row.devid), "state": "drain"}
        yield Tell(scope=node.name, reason=f"device {row.devid}: drain", command="set_state", args=args)
    if row.state != "drain":
        return
    if claim is not None and claim.draining is not None and not row.out and not blocked and row.files > 0:
        # The quiet time begins anew: the census needs a moment to notice that these copies do not count any more.
        yield _mark_draining(seen, node, claim)
        out = {"devid": str(row.devid), "out": "1"}
        yield Tell(
            scope=node.name,
            reason=f"device {row.devid}: its files get other copies",
            command="mogile_set_out",
            args=out,
        )
    if not _needless(seen, row):
        yield Note(
            condition="Draining", reason="Moving", message=f"device {row.devid} on {node.name}: {row.files} files on it"
        )
        return
    if claim is not None and (claim.draining is None or seen.now - claim.draining < QUIET):
        text = f"device {row.devid} on {node.name}: no longer needed, waiting for late uploads"
        yield Note(condition="Draining", reason="Settling", message=text)
        return
    args = {"host": node.name, "device": str(row.devid), "state": "dead"}
    yield Tell(scope=node.name, reason=f"device {row.devid}: drained", command="set_state", args=args)
    if claim is not None:
        yield MarkClaim(
            scope=node.name,
            reason=f"{claim.name}: drained",
            name=claim.name,
            uid=claim.uid,
            annotations={naming.RETIRED: "drained", naming.DRAINING: None},
        )


def _mark_draining(seen: Observed, node: StorageNode, claim: Claim) -> MarkClaim:
    return MarkClaim(
        scope=node.name,
        reason=f"{claim.name}: its storage node is not wanted any more",
        name=claim.name,
        uid=claim.uid,
        annotations={naming.DRAINING: format_time(seen.now)},
    )


def _needless(seen: Observed, row: DeviceRow) -> bool:
    """Whether every file has its copies without this device."""
    census = seen.tracker.census if seen.tracker is not None else None
    if census is None:
        return False
    everything_elsewhere = (census.fewer_copies, census.no_copy, census.to_replicate) == (0, 0, 0)
    return row.files == 0 or (row.out and everything_elsewhere)


def _leftovers(seen: Observed, node: StorageNode) -> Iterator[Action]:
    if seen.cluster.spec.deletion_policy != "Delete":
        return
    for claim in node.all_claims:
        if claim.retired == "drained" and not claim.deleting:
            why = f"{claim.name}: drained, and deletionPolicy is Delete"
            yield Delete(scope=node.name, reason=why, kind="PersistentVolumeClaim", name=claim.name, uid=claim.uid)
