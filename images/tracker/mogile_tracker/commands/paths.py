"""Commands that look files up: get_paths, file_info, file_debug, list_keys, list_fids."""

from __future__ import annotations

import operator
from collections.abc import Mapping

from mogile_core.errors import CommandError, NodeError
from mogile_core.model import Host
from mogile_tracker.commands.registry import Call, Pairs, Registry, Tracker, is_number, known_key
from mogile_tracker.store.files import FoundFile
from mogile_tracker.topology import Topology

LIST_KEYS_MAX = 1000
LIST_FIDS_DEFAULT, LIST_FIDS_MAX = 100, 500
_RANK = operator.itemgetter(0, 1, 2)


def register(registry: Registry) -> None:
    """The commands of this module."""
    registry.add("get_paths", get_paths)
    registry.add("file_info", file_info)
    registry.add("file_debug", file_debug)
    registry.add("list_keys", list_keys)
    registry.add("list_fids", list_fids)


async def _find(tracker: Tracker, call: Call) -> tuple[FoundFile, int, str]:
    domain = await tracker.domain(call)
    key = call.need("key", "no_key")
    found = await tracker.files.lookup(domain.dmid, key) if known_key(key) else None
    if found is None:
        raise CommandError("unknown_key")
    return found, domain.dmid, domain.name


async def get_paths(tracker: Tracker, call: Call) -> Pairs:
    """URLs of copies in the order in which a client should try them."""
    found, _, _ = await _find(tracker, call)
    await tracker.live.until_observed()
    count = call.get("pathcount")
    wanted = max(2, int(count)) if is_number(count) else 2
    order, backup = read_order(tracker.topology, found.devids, tracker)
    verify = not call.flag("noverify")
    urls: list[str] = []
    for devid, host in order:
        if verify and not urls and not await _has_length(tracker, host, devid, found):
            continue
        urls.append(tracker.read_url(host, devid, found.fid, call))
        if len(urls) == wanted:
            break
    if not urls and backup is not None:
        urls.append(tracker.read_url(backup[1], backup[0], found.fid, call))
    pairs: dict[str, object] = {"paths": len(urls)}
    for i, url in enumerate(urls, 1):
        pairs[f"path{i}"] = url
    return pairs


def read_order(
    topology: Topology, devids: tuple[int, ...], tracker: Tracker
) -> tuple[list[tuple[int, Host]], tuple[int, Host] | None]:
    """Readable devices drawn without replacement by weight, draining ones last; and one that is not readable, as a last resort."""
    ranked: list[tuple[bool, float, int, Host]] = []
    backup: tuple[int, Host] | None = None
    for devid in devids:
        reading = topology.reading(devid)
        if reading is None:
            continue
        if reading.readable:
            # Sorting by exponential draws is a weighted draw without replacement.
            ranked.append((reading.draining, tracker.random.expovariate(reading.weight), devid, reading.host))
        elif reading.last_resort:
            backup = (devid, reading.host)
    if len(ranked) > 1:
        ranked.sort(key=_RANK)
    return [(devid, host) for _, _, devid, host in ranked], backup


async def _has_length(tracker: Tracker, host: Host, devid: int, found: FoundFile) -> bool:
    try:
        return await tracker.nodes.size(host, devid, found.fid) == found.length
    except NodeError:
        return False


async def file_info(tracker: Tracker, call: Call) -> Pairs:
    """What is known about a key."""
    found, dmid, domain = await _find(tracker, call)
    file_class = tracker.topology.class_by_id(dmid, found.classid)
    pairs: dict[str, object] = {
        "fid": found.fid,
        "domain": domain,
        "class": file_class.name,
        "key": call.get("key"),
        "length": found.length,
        "devcount": found.devcount,
    }
    if file_class.hashtype is not None:
        pairs["checksum"] = await tracker.files.checksum(found.fid) or "MISSING"
    if call.flag("devices"):
        pairs["devids"] = ",".join(map(str, sorted(found.devids)))
    return pairs


async def file_debug(tracker: Tracker, call: Call) -> Pairs:
    """Every row about a fid or key."""
    fid_text = call.get("fid")
    fid = int(fid_text) if is_number(fid_text) else 0
    if fid_text in ("", "0"):
        fid = (await _find(tracker, call))[0].fid
    rows = await tracker.admin.debug_rows(fid)
    pairs: dict[str, object] = {}
    for prefix, row in rows.items():
        pairs.update({f"{prefix}_{column}": value for column, value in row.items()})
    if "fid" in rows:
        row = rows["fid"]
        pairs["fid_domain"], pairs["fid_class"] = _names(tracker.topology, row)
    devids = await tracker.admin.debug_devices(fid)
    if devids:
        pairs["devids"] = ",".join(map(str, devids))
    for devid in devids:
        host = tracker.topology.host_of(devid)
        if host is not None:
            pairs[f"devpath_{devid}"] = tracker.read_url(host, devid, fid, call)
    pairs["checksum"] = await tracker.files.checksum(fid) or "NONE"
    return pairs


def _names(topology: Topology, row: Mapping[str, object]) -> tuple[str, str]:
    dmid, classid = int(str(row["dmid"])), int(str(row["classid"]))
    domain = topology.domains_by_id.get(dmid)  # type: ignore[call-overload]
    return (domain.name if domain else ""), topology.class_by_id(dmid, classid).name


async def list_keys(tracker: Tracker, call: Call) -> Pairs:
    """A page of keys in byte order."""
    domain = await tracker.domain(call)
    prefix, after, limit = call.get("prefix"), call.get("after"), _list_limit(call.get("limit"))
    if prefix and after and not after.startswith(prefix):
        raise CommandError("after_mismatch")
    keys = await tracker.admin.list_keys(domain.dmid, prefix, after, limit) if limit else []
    if not keys:
        raise CommandError("none_match")
    pairs: dict[str, object] = {"key_count": len(keys), "next_after": keys[-1]}
    for i, key in enumerate(keys, 1):
        pairs[f"key_{i}"] = key
    return pairs


def _list_limit(text: str) -> int:
    """Default and maximum 1000; a word counts as nothing, a negative number fails (both as recorded from the original)."""
    if text in ("", "0"):
        return LIST_KEYS_MAX
    if text.startswith("-") and is_number(text[1:]):
        raise CommandError("failure")
    return min(int(text), LIST_KEYS_MAX) if is_number(text) else 0


async def list_fids(tracker: Tracker, call: Call) -> Pairs:
    """Files by fid; `to` is a count."""
    start, count_text = call.get("from"), call.get("to")
    count = LIST_FIDS_DEFAULT
    if count_text not in ("", "0"):
        count = int(count_text) if is_number(count_text) else LIST_FIDS_MAX
    rows = await tracker.admin.list_fids(int(start) if is_number(start) else 0, min(count, LIST_FIDS_MAX))
    pairs: dict[str, object] = {"fid_count": len(rows)}
    topology = tracker.topology
    for i, row in enumerate(rows, 1):
        domain = topology.domains_by_id.get(row.dmid)
        pairs[f"fid_{i}_fid"] = row.fid
        pairs[f"fid_{i}_domain"] = domain.name if domain else ""
        pairs[f"fid_{i}_class"] = topology.class_by_id(row.dmid, row.classid).name
        pairs[f"fid_{i}_key"] = row.dkey
        pairs[f"fid_{i}_length"] = row.length
        pairs[f"fid_{i}_devcount"] = row.devcount
    return pairs
