"""`mogile_orphans`: search disks for files that no row accounts for, list them, have them removed or adopted."""

from mogile_core.errors import CommandError
from mogile_core.model import DeviceState, DevId
from mogile_tracker.commands.registry import Call, Pairs, Registry, Tracker, is_number
from mogile_tracker.store.orphans import OrphanStore

MIN_AGE_DEFAULT = 86_400  # a file a day old that no row knows is nobody's upload any more
MIN_AGE_MAX = 10 * 365 * 86_400
PAGE_MAX = 1000


def register(registry: Registry) -> None:
    """The commands of this module."""
    registry.add("mogile_orphans", mogile_orphans)


async def mogile_orphans(tracker: Tracker, call: Call) -> Pairs:
    """`action` start, stop, remove, adopt, list or status (default), all but the last of `devid` or of all devices."""
    store = OrphanStore(tracker.database)
    action = call.get("action") or "status"
    devid = _devid(tracker, call)
    devids = [devid] if devid is not None else [int(d) for d in tracker.topology.devices]
    match action:
        case "status":
            pass
        case "start":
            alive = [d for d in devids if tracker.topology.devices[DevId(d)].status is not DeviceState.DEAD]
            await store.start(alive, min_age=_whole(call, "age", MIN_AGE_DEFAULT, MIN_AGE_MAX))
        case "stop":
            await store.stop(devids)
        case "remove" | "adopt":
            await store.order(devid, action)
        case "list":
            return await _listed(store, call, devid)
        case _:
            raise CommandError("bad_params", "action must be start, stop, remove, adopt, list or status")
    return await _status(store)


def _devid(tracker: Tracker, call: Call) -> int | None:
    text = call.get("devid")
    if not text:
        return None
    if not is_number(text) or DevId(int(text)) not in tracker.topology.devices:
        raise CommandError("no_device")
    return int(text)


def _whole(call: Call, name: str, default: int, high: int) -> int:
    text = call.get(name)
    if not text:
        return default
    if not is_number(text) or int(text) > high:
        raise CommandError("bad_params", f"{name} must be a whole number from 0 to {high}")
    return int(text)


async def _status(store: OrphanStore) -> Pairs:
    walks = await store.walks()
    pairs: dict[str, object] = {"devices": len(walks)}
    for number, walk in enumerate(walks, 1):
        values = {
            "devid": walk.devid,
            "state": walk.state,
            "last_fid": walk.last_fid,
            "files": walk.files,
            "orphans": walk.orphans,
            "missing": walk.missing,
            "listed": walk.listed,
            "pending": walk.pending,
            "min_age": walk.min_age,
            "started": walk.started,
            "ended": walk.ended or "",
            "problem": walk.problem,
        }
        pairs |= {f"dev_{number}_{name}": value for name, value in values.items()}
    return pairs


async def _listed(store: OrphanStore, call: Call, devid: int | None) -> Pairs:
    after = _whole(call, "after_devid", 0, 32767), _whole(call, "after_fid", 0, 2**63 - 1)
    limit = min(_whole(call, "limit", PAGE_MAX, PAGE_MAX) or PAGE_MAX, PAGE_MAX)
    rows = await store.page(devid, after, limit)
    pairs: dict[str, object] = {"row_count": len(rows)}
    for number, row in enumerate(rows, 1):
        values = {
            "devid": row.devid,
            "fid": row.fid,
            "length": row.length,
            "mtime": row.mtime,
            "file": int(row.is_file),
            "todo": row.todo or "",
        }
        pairs |= {f"row_{number}_{name}": value for name, value in values.items()}
    return pairs
