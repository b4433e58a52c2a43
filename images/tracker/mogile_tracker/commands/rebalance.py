"""The `rebalance_*` commands: policy, test, start, status, stop, reset. The run itself is the jobs process's worker."""

import platform
from collections.abc import Mapping
from dataclasses import replace

from mogile_core.errors import CommandError
from mogile_tracker.commands.registry import NOTHING, Call, Pairs, Registry, Tracker
from mogile_tracker.policy.from_topology import landscape_of
from mogile_tracker.policy.rebalance import RebalancePolicy, RebalanceState, limit_for
from mogile_tracker.store.rebalance import RebalanceStore


def register(registry: Registry) -> None:
    """The commands of this module."""
    registry.add("rebalance_set_policy", rebalance_set_policy)
    registry.add("rebalance_test", rebalance_test)
    registry.add("rebalance_start", rebalance_start)
    registry.add("rebalance_status", rebalance_status)
    registry.add("rebalance_stop", rebalance_stop)
    registry.add("rebalance_reset", rebalance_reset)


def _policy(text: str) -> RebalancePolicy:
    try:
        return RebalancePolicy.parse(text)
    except ValueError as error:
        raise CommandError("bad_rebal_pol", str(error)) from error


async def rebalance_set_policy(tracker: Tracker, call: Call) -> Pairs:
    """`no_set_rebal` while running, `bad_rebal_pol`."""
    text = call.get("policy")

    def decide(found: Mapping[str, str]) -> Mapping[str, str | None]:
        if found.get("rebal_host"):
            raise CommandError("no_set_rebal", "cannot change rebalance policy while rebalance is running")
        _policy(text)
        return {"rebal_policy": text}

    await RebalanceStore(tracker.database).change(decide)
    await tracker.changed()
    return NOTHING


async def rebalance_test(tracker: Tracker, _: Call) -> Pairs:
    """Which devices the policy means now; `no_rebal_policy`."""
    settings = await RebalanceStore(tracker.database).settings()
    if not settings.get("rebal_policy"):
        raise CommandError("no_rebal_policy")
    policy = _policy(settings["rebal_policy"])
    landscape = landscape_of(tracker.topology)
    sources = [site.devid for site in policy.sources(landscape)]
    targets = [site.devid for site in policy.destinations(landscape, sources)]
    return {"sdevs": ",".join(map(str, sources)), "ddevs": ",".join(map(str, targets))}


async def rebalance_start(tracker: Tracker, _: Call) -> Pairs:
    """Begin, or go on with a run that was stopped; `rebal_running`, `fsck_running`, `no_rebal_policy`."""
    landscape = landscape_of(tracker.topology)
    now = int(tracker.clock.now())
    started: list[str] = []

    def decide(found: Mapping[str, str]) -> Mapping[str, str | None]:
        if found.get("rebal_host"):
            raise CommandError("rebal_running", "rebalance is already running")
        if found.get("fsck_host"):
            raise CommandError("fsck_running", "fsck running; cannot run rebalance at same time")
        if not found.get("rebal_policy"):
            raise CommandError("no_rebal_policy")
        policy = _policy(found["rebal_policy"])
        state = RebalanceState.parse(found.get("rebal_state", ""))
        if not found.get("rebal_state") or state.time_finished:
            sources = policy.sources(landscape)
            used = sum((site.used_mb or 0) << 20 for site in sources)
            state = RebalanceState(
                source_devs=tuple(site.devid for site in sources),
                limit=limit_for(policy, used) if policy.limit_type == "global" else None,
                time_started=now,
            )
        state = replace(state, time_stopped=0)
        started.append(state.to_text())
        return {"rebal_host": platform.node() or "mogile", "rebal_signal": None, "rebal_state": started[-1]}

    await RebalanceStore(tracker.database).change(decide)
    await tracker.changed()
    return {"state": started[-1]}


async def rebalance_status(tracker: Tracker, _: Call) -> Pairs:
    """How far a run is; `no_rebal_state`."""
    settings = await RebalanceStore(tracker.database).settings()
    if not settings.get("rebal_state"):
        raise CommandError("no_rebal_state")
    return {"state": settings["rebal_state"]}


async def rebalance_stop(tracker: Tracker, _: Call) -> Pairs:
    """Queue no more moves; those queued are still carried out. `rebal_not_started`."""

    def decide(found: Mapping[str, str]) -> Mapping[str, str | None]:
        if not found.get("rebal_host"):
            raise CommandError("rebal_not_started")
        return {"rebal_signal": "stop"}

    await RebalanceStore(tracker.database).change(decide)
    await tracker.changed()
    return NOTHING


async def rebalance_reset(tracker: Tracker, _: Call) -> Pairs:
    """Forget how far a run was; `rebal_running`."""

    def decide(found: Mapping[str, str]) -> Mapping[str, str | None]:
        if found.get("rebal_host"):
            raise CommandError("rebal_running", "rebalance is running; stop it first")
        return {"rebal_state": None, "rebal_signal": None}

    await RebalanceStore(tracker.database).change(decide)
    await tracker.changed()
    return NOTHING
