"""Commands about the tracker and the cluster as a whole: noop, settings, cache, mogile_cluster, mogile_devices."""

from __future__ import annotations

import asyncio
import re

from mogile_core.checksum import HashType
from mogile_core.errors import CommandError
from mogile_tracker.commands.hosts import device_pairs
from mogile_tracker.commands.registry import NOTHING, Call, Pairs, Registry, Tracker, is_number
from mogile_tracker.store.census import CensusStore
from mogile_tracker.store.schema import SCHEMA_VERSION
from mogile_tracker.version import VERSION

SLEEP_SECONDS_DEFAULT, SLEEP_SECONDS_MAX = 10, 60
MONITOR_ROUND_SECONDS_MAX = 10.0
EXACT_FILES_MAX = 10_000

_BOOLEANS = frozenset({"skip_devcount", "skip_mkcol", "case_sensitive_list_keys"})
_NUMBERS = frozenset({"memcache_ttl", "internal_queue_limit"})
_WORDS = frozenset({"memcache_servers", "network_zones"})
_FALSE = frozenset({"0", "f", "off", "n", "no", "false", ""})
_TRUE = frozenset({"1", "t", "on", "y", "yes", "true"})
_NETMASKS = re.compile(r"[0-9a-fA-F.:/, ]*")


def register(registry: Registry) -> None:
    """The commands of this module."""
    registry.add("noop", noop)
    registry.add("test", test)
    registry.add("sleep", sleep)
    registry.add("clear_cache", clear_cache)
    registry.add("do_monitor_round", do_monitor_round)
    registry.add("server_setting", server_setting)
    registry.add("server_settings", server_settings)
    registry.add("set_server_setting", set_server_setting)
    registry.add("replicate_now", replicate_now)
    registry.add("mogile_cluster", mogile_cluster)
    registry.add("mogile_devices", mogile_devices)


async def noop(_: Tracker, __: Call) -> Pairs:
    """Nothing."""
    return NOTHING


async def test(_: Tracker, call: Call) -> Pairs:
    """Nothing, or a failure when asked to crash."""
    if call.flag("crash"):
        raise CommandError("failure")
    return NOTHING


async def sleep(_: Tracker, call: Call) -> Pairs:
    """Answer later."""
    duration = call.get("duration")
    await asyncio.sleep(min(int(duration), SLEEP_SECONDS_MAX) if is_number(duration) else SLEEP_SECONDS_DEFAULT)
    return NOTHING


async def clear_cache(tracker: Tracker, _: Call) -> Pairs:
    """Every process of this tracker re-reads hosts, devices, domains and classes."""
    await tracker.changed()
    return NOTHING


async def do_monitor_round(tracker: Tracker, _: Call) -> Pairs:
    """Answer after a monitor round that began later."""
    await tracker.changed()
    start = tracker.topology.observations.rounds
    try:
        async with asyncio.timeout(MONITOR_ROUND_SECONDS_MAX):
            # + 2: the next round may be under way already
            while tracker.topology.observations.rounds < start + 2:  # noqa: ASYNC110 - a rare command of tests
                await asyncio.sleep(0.05)
    except TimeoutError as error:
        raise CommandError("failure", "the monitor did not complete a round") from error
    return NOTHING


async def server_setting(tracker: Tracker, call: Call) -> Pairs:
    """One setting; empty when unset."""
    key = call.need("key", "bad_params")
    topology = await tracker.newest_topology()
    return {"key": key, "value": topology.settings.get(key, "")}


async def server_settings(tracker: Tracker, _: Call) -> Pairs:
    """All settings but the state of fsck."""
    topology = await tracker.newest_topology()
    shown = {k: v for k, v in sorted(topology.settings.items()) if not k.startswith("fsck_") or k == "fsck_checksum"}
    pairs: dict[str, object] = {"key_count": len(shown)} if shown else {}
    for i, (key, value) in enumerate(shown.items(), 1):
        pairs[f"key_{i}"], pairs[f"value_{i}"] = key, value
    return pairs


async def set_server_setting(tracker: Tracker, call: Call) -> Pairs:
    """Change a setting that may be changed; an empty value resets it."""
    key = call.need("key", "bad_params")
    if "value" not in call.args:
        raise CommandError("bad_params")
    value = _checked_setting(key, call.get("value"))
    await tracker.admin.set_setting(key, value)
    await tracker.changed()
    return NOTHING


def _checked_setting(key: str, value: str) -> str | None:
    if key in _BOOLEANS:
        if value.lower() not in _FALSE | _TRUE:
            raise CommandError("invalid_format", "The value must be a boolean: 0 or 1")
        return "1" if value.lower() in _TRUE else "0"
    if key in _NUMBERS or (key.startswith("queue_") and len(key) > len("queue_")):
        if value and not is_number(value):
            raise CommandError("invalid_format", "The value must be a number")
        return value or "0"
    if key.startswith("zone_"):
        if not _NETMASKS.fullmatch(value):
            raise CommandError("invalid_format", "The value must be a list of netmasks")
        return value
    if key in _WORDS:
        return value
    if key == "fsck_checksum":
        return _checked_checksum(value)
    if key.startswith("slave_"):
        return value or None
    raise CommandError("not_writable")


def _checked_checksum(value: str) -> str | None:
    """`class` is the default, kept as no setting at all."""
    if value.lower() in ("", "class"):
        return None
    if value.lower() == "off":
        return "off"
    try:
        return HashType.from_wire(value.upper()).wire_name
    except ValueError as error:
        raise CommandError("invalid_format", "The value must be class, off, MD5 or SHA-1") from error


async def replicate_now(tracker: Tracker, _: Call) -> Pairs:
    """Make postponed replication due."""
    return {"count": await tracker.admin.replicate_now()}


async def mogile_cluster(tracker: Tracker, _: Call) -> Pairs:
    """Who this cluster is."""
    return {"cluster_id": tracker.topology.cluster_id, "version": VERSION, "schema_version": SCHEMA_VERSION}


async def _files_per_device(tracker: Tracker) -> dict[int, int]:
    """Exact while small (an emptied device must show 0 at once), from the last census beyond."""
    counts = await tracker.admin.files_per_device(EXACT_FILES_MAX)
    if any(count >= EXACT_FILES_MAX for count in counts.values()):
        complete = await CensusStore(tracker.database).load("complete")
        counted = complete[1].devices if complete is not None else {}
        for devid, count in counts.items():
            if count >= EXACT_FILES_MAX:
                counts[devid] = max(count, counted.get(devid, (0, 0))[0])
    return counts


async def mogile_devices(tracker: Tracker, _: Call) -> Pairs:
    """get_devices and what only we know."""
    topology = await tracker.newest_topology()
    pairs = device_pairs(topology, topology.devices.values())
    files = await _files_per_device(tracker)
    for i, device in enumerate(topology.devices.values(), 1):
        pairs[f"dev{i}_out"] = int(device.out)
        pairs[f"dev{i}_zone"] = topology.zone_of(device.devid)
        pairs[f"dev{i}_files"] = files.get(device.devid, 0)
        pairs[f"dev{i}_damaged"] = topology.observation(device.devid).damaged
        pairs[f"dev{i}_cluster_ok"] = int(topology.observation(device.devid).cluster_ok)
    return pairs
