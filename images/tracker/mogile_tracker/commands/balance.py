"""`mogile_balance`: the automatic balancer's switch, target and state."""

from mogile_core.errors import CommandError
from mogile_tracker.commands.registry import Call, Pairs, Registry, Tracker
from mogile_tracker.policy.balance import Fill, participants
from mogile_tracker.policy.from_topology import landscape_of
from mogile_tracker.policy.tunables import BALANCE_MODE, BALANCE_SPREAD
from mogile_tracker.store.census import CensusStore
from mogile_tracker.store.queues import Queues

QUEUE_COUNT_MAX = 100_000


def register(registry: Registry) -> None:
    """The commands of this module."""
    registry.add("mogile_balance", mogile_balance)


async def mogile_balance(tracker: Tracker, call: Call) -> Pairs:
    """Change mode or spread when given; answer what is going on. `bad_params` for values that cannot be."""
    changes = [
        (t, value) for t, name in ((BALANCE_SPREAD, "spread"), (BALANCE_MODE, "mode")) if (value := call.get(name))
    ]
    for tunable, value in changes:
        if (problem := tunable.problem(value)) is not None:
            raise CommandError("bad_params", problem)
    for tunable, value in changes:
        await tracker.admin.set_our_setting(tunable.name, value)
    if changes:
        await tracker.changed()
    settings = (tracker.topology if changes else await tracker.newest_topology()).our_settings
    queues = Queues(tracker.database, claim_seconds=tracker.settings.lease_seconds)
    backlog = await queues.backlog(QUEUE_COUNT_MAX)
    record = await CensusStore(tracker.database).balance()
    return {
        "mode": BALANCE_MODE.text(settings),
        "spread": f"{BALANCE_SPREAD.number(settings):g}",
        "state": "moving" if backlog.to_move else "idle",
        "queued": backlog.to_move,
        "moved_fids": record.moved_fids,
        "moved_bytes": record.moved_bytes,
        "current_spread": f"{Fill(participants(landscape_of(tracker.topology))).spread():.2f}",
    }
