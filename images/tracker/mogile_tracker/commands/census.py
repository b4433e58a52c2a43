"""`mogile_census`: how many files there are, how well they are kept, and what every device holds.

A store of up to `LIVE_FILES_MAX` files is counted anew at every call, so the answer is true at that moment; a larger one is answered from
the last complete pass of the census worker, whose size tells which it is: the cost of a call never grows with the number of files. Until a
large store has been counted once, the figures are those of the pass under way and `complete` is 0.
"""

from dataclasses import replace

from mogile_core.model import DomainId
from mogile_tracker.commands.registry import Call, Pairs, Registry, Tracker
from mogile_tracker.policy.from_topology import landscape_of
from mogile_tracker.policy.parsing import Policies
from mogile_tracker.policy.totals import Totals, examine
from mogile_tracker.store.census import CensusStore, Counted
from mogile_tracker.store.queues import Queues
from mogile_tracker.topology import Topology

LIVE_FILES_MAX = 20_000
QUEUE_COUNT_MAX = 100_000


def register(registry: Registry) -> None:
    """The commands of this module."""
    registry.add("mogile_census", mogile_census)


async def mogile_census(tracker: Tracker, call: Call) -> Pairs:
    """All numbers of the census."""
    topology = tracker.topology
    counted = await counted_now(CensusStore(tracker.database), topology, int(tracker.clock.now()))
    totals = counted.totals
    backlog = await Queues(tracker.database, claim_seconds=tracker.settings.lease_seconds).backlog(QUEUE_COUNT_MAX)
    pairs: dict[str, object] = {
        "files": totals.files,
        "bytes": totals.bytes,
        "to_replicate": backlog.to_replicate,
        "to_delete": backlog.to_delete,
        "fewer_copies": totals.fewer_copies,
        "one_copy": totals.one_copy,
        "no_copy": totals.no_copy,
        "zone_violations": totals.zone_violations,
        "counted_at": counted.counted_at,
        "complete": int(counted.complete),
        "devices": len(topology.devices),
    }
    if call.flag("detail"):
        pairs.update(_by_class(topology, totals))
    for number, (devid, device) in enumerate(topology.devices.items(), 1):
        files, bytes_ = totals.devices.get(devid, (0, 0))
        pairs[f"dev_{number}_devid"] = devid
        pairs[f"dev_{number}_files"] = files
        pairs[f"dev_{number}_bytes"] = bytes_
        pairs[f"dev_{number}_no_copy"] = totals.no_copy_on.get(devid, 0)
        pairs[f"dev_{number}_state"] = device.status.value
        pairs[f"dev_{number}_out"] = int(device.out)
        pairs[f"dev_{number}_observed"] = topology.observed(devid).value
    return pairs


def _by_class(topology: Topology, totals: Totals) -> dict[str, object]:
    """Files and bytes per domain and class, and what is short of copies there by the copies left; the fewest left come first."""
    pairs: dict[str, object] = {"classes": len(totals.classes), "shorts": len(totals.short)}
    for number, (name, (files, bytes_)) in enumerate(sorted(totals.classes.items()), 1):
        pairs |= _named(topology, f"class_{number}_", name) | {
            f"class_{number}_files": files,
            f"class_{number}_bytes": bytes_,
        }
    by_copies = sorted(totals.short.items(), key=lambda item: int(item[0].rpartition(":")[2]))
    for number, (name, (files, bytes_)) in enumerate(by_copies, 1):
        place, _, copies = name.rpartition(":")
        pairs |= _named(topology, f"short_{number}_", place)
        pairs |= {f"short_{number}_copies": copies, f"short_{number}_files": files, f"short_{number}_bytes": bytes_}
    return pairs


def _named(topology: Topology, prefix: str, place: str) -> dict[str, object]:
    dmid, classid = (int(part) for part in place.split(":"))
    domain = topology.domains_by_id.get(DomainId(dmid))
    return {
        f"{prefix}domain": domain.name if domain else f"domain {dmid}",
        f"{prefix}class": topology.class_by_id(dmid, classid).name,
    }


async def counted_now(store: CensusStore, topology: Topology, now: int) -> Counted:
    """Counted now when that is cheap, else what the census worker has stored."""
    stored = await store.counted()
    if stored is not None and stored.totals.files > LIVE_FILES_MAX:
        return stored
    totals = await count_all(store, topology)
    if totals is not None:
        return Counted(totals=totals, counted_at=now, complete=True)
    return (
        replace(stored, complete=False)
        if stored is not None
        else Counted(totals=Totals(), counted_at=now, complete=False)
    )


async def count_all(store: CensusStore, topology: Topology) -> Totals | None:
    """All files, counted now; None when there are so many that it would not be cheap."""
    patterns = await store.patterns(0, LIVE_FILES_MAX + 1)
    if sum(pattern.files for pattern in patterns) > LIVE_FILES_MAX:
        return None
    landscape = landscape_of(topology)
    totals, policies = Totals(), Policies()
    for pattern in patterns:
        file_class = topology.class_by_id(pattern.dmid, pattern.classid)
        found = examine(landscape, policies.get(file_class.policy), file_class.mindevcount, pattern.holders)
        totals.add(
            dmid=pattern.dmid,
            classid=pattern.classid,
            holders=pattern.holders,
            files=pattern.files,
            bytes_=pattern.bytes,
            found=found,
        )
    return totals
