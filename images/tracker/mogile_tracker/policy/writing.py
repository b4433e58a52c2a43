"""On how many machines an upload has to be before it is acknowledged, and where its further copies go.

A class has its rule, or follows the setting `write_copies_default` if it wants two copies or more. Never more copies than the replication
policy wants: it would trim them again. The rule of a class is strict: fewer machines are an error unless it allows degraded writes. The
default asks for no more machines than the cluster has, so a cluster of one machine takes uploads; a machine that is only down counts.
"""

from collections.abc import Collection
from dataclasses import dataclass

from mogile_tracker.policy.landscape import Landscape
from mogile_tracker.policy.replication import Policy
from mogile_tracker.policy.sites import Randomness, Site
from mogile_tracker.policy.tunables import WRITE_COPIES_DEFAULT
from mogile_tracker.topology import Topology, WriteRule

WRITE_COPIES_MAX = 16
MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteGoal:
    """`copies` on different machines are wanted, `least` are enough."""

    copies: int
    least: int


def write_rule(topology: Topology, dmid: int, classid: int) -> tuple[WriteRule, bool]:
    """The rule of a class, and whether it is its own."""
    own = topology.write_rules.get((dmid, classid))
    if own is not None:
        return own, True
    copies = int(WRITE_COPIES_DEFAULT.number(topology.our_settings))
    return WriteRule(copies=copies if topology.class_by_id(dmid, classid).mindevcount >= 2 else 1), False


def write_goal(landscape: Landscape, policy: Policy, mindevcount: int, rule: WriteRule, *, own: bool) -> WriteGoal:
    """What the rule means for an upload now."""
    copies = min(rule.copies, policy.wanted(mindevcount))
    if not own:
        copies = min(copies, max(1, len(landscape.hosts_possible)))
    return WriteGoal(copies=copies, least=1 if rule.degraded else copies)


def next_target(
    landscape: Landscape,
    policy: Policy,
    mindevcount: int,
    holders: Collection[int],
    length: int,
    randomness: Randomness,
    failed: Collection[int],
) -> Site | None:
    """Where the policy wants the next copy, on a machine that has none; None when there is no such place now."""
    used = {site.hostid for devid in holders if (site := landscape.sites.get(devid)) is not None}
    barred = {site.devid for site in landscape.fit if site.hostid in used or _too_small(site, length)}
    plan = policy.plan(landscape, holders, mindevcount, randomness, failed=barred | set(failed))
    return plan.destinations[0] if plan.destinations else None


def _too_small(site: Site, length: int) -> bool:
    return site.free_mb is not None and site.free_mb * MIB <= length
