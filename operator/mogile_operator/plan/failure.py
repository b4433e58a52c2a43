"""Storage nodes that are away and volumes that are lost: `down`, `out`, `dead`, and the way back.

The ladder. A node that neither trackers nor operator reach, on a machine that is not ready, has its host marked `down` (reads
go elsewhere at once). After `spec.failure.outAfter` its devices go `out`: their copies no longer count, new ones are made. When it
answers again both are undone; the surplus is trimmed by the trackers. `dead`, which is for ever, needs evidence that the volume
itself is lost, and goes through `out` first.

Safety. (1) One failure domain at a time: devices go out in a second zone (machine, where zones are unknown) only if no file lacks
copies any more and the last decision has settled. (2) A device is marked dead only while the census knows no file on it
without a live copy: being out, its own copies do not count there, so that "none without a copy" means that nobody needs it. Files that
are lost elsewhere do not matter here: this device has nothing of them. (3) What the census
does not know is not acted on. (4) A person's confirmation on the claim overrides (2).
"""

import re
from collections.abc import Iterator
from datetime import datetime, timedelta

from mogile_operator import naming
from mogile_operator.plan.actions import Action, MarkClaim, Note, Tell
from mogile_operator.plan.assess import StorageNode
from mogile_operator.plan.observed import Claim, DeviceRow, Observed, TrackerView, format_time

SETTLE = timedelta(seconds=60)
"""The census is incremental: this long after a decision its counts have caught up."""
_UNITS = {"h": 3600, "m": 60, "s": 1}


def duration(text: str) -> timedelta:
    """`1h30m` as a value; the schema guarantees the form."""
    return timedelta(seconds=sum(int(n) * _UNITS[u] for n, u in re.findall(r"([0-9]+)([smh])", text)))


def evidence(seen: Observed, node: StorageNode, claim: Claim) -> str | None:
    """Why this claim's volume is lost for good; None while there is no proof."""
    if claim.lost_confirmed:
        return "confirmed by annotation"
    if claim.phase == "Lost":
        return "its claim is Lost: the volume behind it is gone"
    if claim.pinned_to is not None and claim.pinned_to not in seen.machines:
        return f"its volume is bound to machine {claim.pinned_to}, which does not exist any more"
    report = node.report(claim.devid)
    if claim.volume_id is None or report is None:
        return None
    if report.state in {"blank", "lost"}:
        return f"the volume has lost its marker (it is {report.state})"
    if report.volume_id and report.volume_id != claim.volume_id:
        return "the volume is not the one that was initialised"
    return None


class Failures:
    """The failure decisions of one pass; keeps count of the failure domains that are already affected."""

    def __init__(self, seen: Observed, tracker: TrackerView, nodes: tuple[StorageNode, ...]) -> None:
        self._seen = seen
        self._tracker = tracker
        self._nodes = nodes
        self._out_after = duration(seen.cluster.spec.failure.out_after)
        # Surplus nodes are out on purpose and go on serving: they use up none of the budget.
        self._affected = {node.domain for node in nodes if node.wanted and any(row.out for row in node.rows)}
        self._last_out = max(
            (c.out_since for n in nodes for c in n.all_claims if c.out_since and not c.retired), default=None
        )
        self.actions: list[Action] = []
        self.notes: list[Note] = []

    def plan(self) -> None:
        """All nodes in order."""
        for node in self._nodes:
            if node.host is None:
                continue
            lost = {claim.name: why for claim in node.claims if (why := evidence(self._seen, node, claim))}
            for claim in node.claims:
                if claim.name in lost:
                    self._lost(node, claim, lost[claim.name])
            self._gone(node)
            if node.available is False:
                self._away(node)
            elif node.available:
                self._back(node, lost)
            self._retire_dead(node)

    def _away(self, node: StorageNode) -> None:
        # A pod that is merely between two lives has no machine to blame; the trackers' own probes cover that.
        machine_down = bool(node.machine_name) and (node.machine is None or not node.machine.ready)
        if node.host is not None and node.host.status == "alive" and machine_down:
            self._host(node, "down", "its machine is not ready and nobody reaches it")
        since = node.unavailable_since or self._seen.now
        if self._seen.now - since >= self._out_after:
            for row in node.rows:
                if not row.out:
                    self._out(node, row, f"unreachable since {format_time(since)}")

    def _back(self, node: StorageNode, lost: dict[str, str]) -> None:
        if node.host is not None and node.host.status == "down":
            self._host(node, "alive", "it answers again")
        for claim in node.claims:
            row = node.row(claim.devid)
            report = node.report(claim.devid)
            healthy = report is None or report.state == "ready"
            if row is None or claim.name in lost or claim.out_since is None or not healthy:
                continue
            if row.out:
                args = {"devid": str(row.devid), "out": "0"}
                reason = f"device {row.devid}: back in, {node.name} answers again"
                self.actions.append(Tell(scope=node.name, reason=reason, command="mogile_set_out", args=args))
            # The annotation goes last: while it is there the next pass knows that the operator took the device out.
            self._mark(node, claim, "device is back in", {naming.OUT_SINCE: None})

    def _out(self, node: StorageNode, row: DeviceRow, why: str) -> None:
        if not self._within_budget(node):
            others = ", ".join(sorted(self._affected))
            self.notes.append(
                Note(
                    condition="FailureBudgetExceeded",
                    reason="SecondFailureDomain",
                    message=f"device {row.devid} on {node.name} ({node.domain}) stays in although {why}: {others} is already affected",
                )
            )
            return
        self._affected.add(node.domain)
        claim = next((claim for claim in node.claims if claim.devid == row.devid), None)
        if claim is not None and claim.out_since is None:
            self._mark(node, claim, why, {naming.OUT_SINCE: format_time(self._seen.now)})
        args = {"devid": str(row.devid), "out": "1"}
        reason = f"device {row.devid}: out, {why}"
        self.actions.append(Tell(scope=node.name, reason=reason, command="mogile_set_out", args=args))

    def _within_budget(self, node: StorageNode) -> bool:
        if not self._affected or node.domain in self._affected:
            return True
        census = self._tracker.census
        settled = self._last_out is None or self._seen.now - self._last_out >= SETTLE
        return census is not None and census.fewer_copies == 0 and census.to_replicate == 0 and settled

    def _lost(self, node: StorageNode, claim: Claim, why: str) -> None:
        row = node.row(claim.devid)
        if row is None:
            return
        self.notes.append(
            Note(condition="Degraded", reason="VolumeLost", message=f"device {row.devid} on {node.name}: {why}")
        )
        if claim.lost_confirmed:
            self._dead(node, row, why)
        elif not row.out:
            self._out(node, row, why)
        elif self._settled(claim.out_since):
            self._dead_if_safe(node, row, why)

    def _gone(self, node: StorageNode) -> None:
        """Rows whose claim has vanished although files are on them."""
        held = {claim.devid for claim in node.all_claims}
        for row in node.rows:
            if row.devid in held or row.files == 0:
                continue
            why = "its claim has been deleted"
            self.notes.append(
                Note(condition="Degraded", reason="VolumeLost", message=f"device {row.devid} on {node.name}: {why}")
            )
            if not row.out:
                self._out(node, row, why)
            elif self._tracker.census is not None and self._tracker.census.to_replicate == 0:
                self._dead_if_safe(node, row, why)

    def _settled(self, since: datetime | None) -> bool:
        return since is not None and self._seen.now - since >= SETTLE

    def _dead_if_safe(self, node: StorageNode, row: DeviceRow, why: str) -> None:
        census = self._tracker.census
        if census is None:
            return
        needed = census.no_copy if row.no_copy is None else row.no_copy
        if needed > 0:
            self.notes.append(
                Note(
                    condition="LastCopyAtRisk",
                    reason="NoOtherCopy",
                    message=(
                        f"device {row.devid} on {node.name} is not marked dead: {needed} files have no other live copy. "
                        f"Annotate its claim with {naming.DEVICE_LOST}=confirmed to give it up"
                    ),
                )
            )
            return
        self._dead(node, row, why)

    def _dead(self, node: StorageNode, row: DeviceRow, why: str) -> None:
        args = {"host": node.name, "device": str(row.devid), "state": "dead"}
        self.actions.append(
            Tell(scope=node.name, reason=f"device {row.devid}: dead, {why}", command="set_state", args=args)
        )

    def _retire_dead(self, node: StorageNode) -> None:
        """Claims of dead devices are never mounted again; the volume is left for a person to look at."""
        dead = {row.devid for row in node.dead_rows}
        for claim in node.all_claims:
            if claim.devid in dead and not claim.retired:
                self._mark(node, claim, "its device is dead", {naming.RETIRED: "dead", naming.OUT_SINCE: None})

    def _host(self, node: StorageNode, status: str, why: str) -> None:
        args = {"host": node.name, "status": status}
        self.actions.append(
            Tell(scope=node.name, reason=f"{node.name}: {status}, {why}", command="update_host", args=args)
        )

    def _mark(self, node: StorageNode, claim: Claim, why: str, notes: dict[str, str | None]) -> None:
        self.actions.append(
            MarkClaim(scope=node.name, reason=f"{claim.name}: {why}", name=claim.name, uid=claim.uid, annotations=notes)
        )


def plan_failures(seen: Observed, tracker: TrackerView, nodes: tuple[StorageNode, ...]) -> Iterator[Action | Note]:
    """Actions and findings of all nodes."""
    failures = Failures(seen, tracker, nodes)
    failures.plan()
    yield from failures.actions
    yield from failures.notes
