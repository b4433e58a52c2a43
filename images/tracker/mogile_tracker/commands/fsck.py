"""The fsck commands of MogileFS, with limits of ours for `fsck_start`, and `mogile_fsck`: how a run is going.

A run may be limited to a domain, one of its classes and keys with a prefix. Such limits begin a new run, unless the unfinished one has the
same; without them an unfinished run goes on as it was begun.
"""

import platform
from collections.abc import Mapping
from dataclasses import replace

from mogile_core.errors import CommandError
from mogile_tracker.commands.registry import NOTHING, Call, Pairs, Registry, Tracker, is_number
from mogile_tracker.store.files import key_from_db, key_to_db
from mogile_tracker.store.fsck import COUNT_PREFIX, Begin, FsckStore, Scope, State

QUEUE_COUNT_MAX = 100_000


def register(registry: Registry) -> None:
    """The commands of this module."""
    registry.add("fsck_start", fsck_start)
    registry.add("fsck_stop", fsck_stop)
    registry.add("fsck_reset", fsck_reset)
    registry.add("fsck_clearlog", fsck_clearlog)
    registry.add("fsck_getlog", fsck_getlog)
    registry.add("fsck_status", fsck_status)
    registry.add("mogile_fsck", mogile_fsck)


def _number(settings: Mapping[str, str], name: str) -> int:
    text = settings.get(name, "")
    return int(text) if is_number(text) else 0


async def _scope(tracker: Tracker, call: Call) -> Scope | None:
    """The limits that are asked for: `no_domain` for a class or prefix alone, `unreg_domain`, `unreg_class`."""
    if not any(call.get(name) for name in ("domain", "class", "prefix")):
        return None
    domain = await tracker.domain(call)
    name = call.get("class")
    file_class = await tracker.file_class(domain, name, "unreg_class") if name else None
    return Scope(
        dmid=domain.dmid,
        classid=file_class.classid if file_class is not None else None,
        prefix=key_to_db(call.get("prefix")) or None,
    )


def _from(position: int, state: State, scope: Scope) -> Begin:
    """A run from a place to the newest file there is now."""
    return Begin(
        settings={
            "fsck_highest_fid_checked": str(position),
            "fsck_fid_at_end": str(state.max_fid),
            "fsck_start_time": None,
            "fsck_stop_time": None,
            "fsck_fids_checked": "0",
            "fsck_start_maxlogid": str(state.max_logid),
            "fsck_logid_processed": str(state.max_logid),
        },
        forget_counts=True,
        scope=scope,
    )


async def fsck_start(tracker: Tracker, call: Call) -> Pairs:
    """Begin, or go on with a run that was stopped; `fsck_running`, `rebal_running`."""
    asked = await _scope(tracker, call)

    def decide(state: State) -> Begin:
        settings = state.settings
        if settings.get("fsck_host"):
            raise CommandError("fsck_running", "fsck is already running")
        if settings.get("rebal_host"):
            raise CommandError("rebal_running", "rebalance running; cannot run fsck at same time")
        position, end = _number(settings, "fsck_highest_fid_checked"), _number(settings, "fsck_fid_at_end")
        complete = position >= end
        fresh = not settings.get("fsck_start_time")  # since fsck_reset: its position is meant for this run
        if complete or (asked is not None and asked != state.scope and not fresh):
            position, begin = 0, _from(0, state, asked or Scope())
        else:
            begin = Begin(settings={}, scope=asked if asked is not None and fresh else None)
        started = {
            "fsck_host": platform.node() or "mogile",
            "fsck_start_time": str(state.now),
            "fsck_stop_time": None,
            "fsck_fids_checked": "0",
            "fsck_start_fid": str(position),
        }
        return replace(begin, settings={**begin.settings, **started})

    await FsckStore(tracker.database).change(decide)
    await tracker.changed()
    return NOTHING


async def fsck_stop(tracker: Tracker, _: Call) -> Pairs:
    """Queue no more files; those queued are still checked."""
    await FsckStore(tracker.database).change(
        lambda state: Begin(settings={"fsck_host": None, "fsck_stop_time": str(state.now)})
    )
    await tracker.changed()
    return NOTHING


async def fsck_reset(tracker: Tracker, call: Call) -> Pairs:
    """Forget how far a run was, its counts and its limits; the next one begins after `startpos`."""
    position = call.get("startpos") or "0"
    if not is_number(position):
        raise CommandError("bad_params")

    def decide(state: State) -> Begin:
        begin = _from(int(position), state, Scope())
        return replace(
            begin, settings={**begin.settings, "fsck_opt_policy_only": "1" if call.flag("policy_only") else None}
        )

    await FsckStore(tracker.database).change(decide)
    await tracker.changed()
    return NOTHING


async def fsck_clearlog(tracker: Tracker, _: Call) -> Pairs:
    """Forget all events."""
    await FsckStore(tracker.database).clear_log()
    return NOTHING


async def fsck_getlog(tracker: Tracker, call: Call) -> Pairs:
    """A hundred events after one; columns without a value are left out."""
    after = call.get("after_logid")
    rows = await FsckStore(tracker.database).read_log(int(after) if is_number(after) else 0)
    pairs: dict[str, object] = {"row_count": len(rows)}
    for number, row in enumerate(rows, 1):
        pairs |= {f"row_{number}_{column}": value for column, value in row.items() if value is not None}
    return pairs


def _status(state: State) -> dict[str, object]:
    settings = state.settings
    counts = {k.removeprefix(COUNT_PREFIX): _number(settings, k) for k in settings if k.startswith(COUNT_PREFIX)}
    return {
        "running": int(bool(settings.get("fsck_host"))),
        "host": settings.get("fsck_host", ""),
        "max_fid_checked": _number(settings, "fsck_highest_fid_checked"),
        "end_fid": _number(settings, "fsck_fid_at_end"),
        "start_time": _number(settings, "fsck_start_time"),
        "stop_time": _number(settings, "fsck_stop_time"),
        "current_time": state.now,
        "policy_only": _number(settings, "fsck_opt_policy_only"),
        "max_logid": state.max_logid,
        **{f"num_{code}": count for code, count in sorted(counts.items())},
    }


async def fsck_status(tracker: Tracker, _: Call) -> Pairs:
    """How far a run is and what it found."""
    return _status(await FsckStore(tracker.database).state())


async def mogile_fsck(tracker: Tracker, _: Call) -> Pairs:
    """fsck_status and what is not in it: the run's limits, checks done and waiting, rate and seconds to go (empty: not known)."""
    store = FsckStore(tracker.database)
    state = await store.state()
    due, waiting = await store.queued(QUEUE_COUNT_MAX)
    status = _status(state)
    start = _number(state.settings, "fsck_start_time")
    elapsed = max(1, (_number(state.settings, "fsck_stop_time") or state.now) - start) if start else 0
    checked = _number(state.settings, "fsck_fids_checked")
    position, first = _number(state.settings, "fsck_highest_fid_checked"), _number(state.settings, "fsck_start_fid")
    to_go = _number(state.settings, "fsck_fid_at_end") - position
    eta: object = ""
    if status["running"] and position > first:
        eta = round(max(0, to_go) * elapsed / (position - first))
    domain = next((d for d in tracker.topology.domains.values() if d.dmid == state.scope.dmid), None)
    classid = state.scope.classid
    return {
        **status,
        "domain": domain.name if domain is not None else "",
        "class": tracker.topology.class_by_id(domain.dmid, classid).name if domain and classid is not None else "",
        "prefix": key_from_db(state.scope.prefix or ""),
        "checksum": state.settings.get("fsck_checksum", "") or "class",
        "checked": checked,
        "queued": due + waiting,
        "waiting": waiting,
        "rate": f"{checked / elapsed:.1f}" if elapsed else "",
        "eta": eta,
    }
