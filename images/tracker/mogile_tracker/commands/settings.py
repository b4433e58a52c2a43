"""`mogile_setting` and `mogile_set_class`: what of ours can be changed at run time.

Errors are `bad_params` with a sentence that names the argument and what would be right.
"""

from mogile_core.errors import CommandError
from mogile_tracker.commands.registry import Call, Pairs, Registry, Tracker, is_number
from mogile_tracker.policy.tunables import find, known_names, listed
from mogile_tracker.policy.writing import WRITE_COPIES_MAX
from mogile_tracker.topology import WriteRule


def register(registry: Registry) -> None:
    """The commands of this module."""
    registry.add("mogile_setting", mogile_setting)
    registry.add("mogile_set_class", mogile_set_class)


async def mogile_setting(tracker: Tracker, call: Call) -> Pairs:
    """Change a setting (an empty value: back to the default), read one, or list all."""
    name = call.get("name")
    topology = tracker.topology if "value" in call.args else await tracker.newest_topology()
    if not name:
        pairs: dict[str, object] = {}
        for number, tunable in enumerate(listed(topology.our_settings), 1):
            pairs[f"setting_{number}_name"] = tunable.name
            pairs[f"setting_{number}_value"] = tunable.text(topology.our_settings)
            pairs[f"setting_{number}_default"] = tunable.default
            pairs[f"setting_{number}_help"] = tunable.help
            pairs["settings"] = number
        return pairs
    found = find(name)
    if found is None:
        raise CommandError("bad_params", f"no setting is named {name}; there are {', '.join(known_names())}")
    if "value" in call.args:
        value = call.get("value")
        problem = found.problem(value) if value else None
        if problem:
            raise CommandError("bad_params", problem)
        await tracker.admin.set_our_setting(name, value or None)
        await tracker.changed()
    return {"name": name, "value": found.text(tracker.topology.our_settings), "default": found.default}


async def mogile_set_class(tracker: Tracker, call: Call) -> Pairs:
    """Change on how many machines an upload of a class is before it is acknowledged; answer what holds now."""
    domain = await tracker.domain(call)
    file_class = await tracker.file_class(domain, call.need("class", "no_class"), "class_not_found")
    copies, degraded = call.get("write_copies"), call.get("degraded_writes")
    if copies and not (is_number(copies) and 1 <= int(copies) <= WRITE_COPIES_MAX):
        raise CommandError("bad_params", f"write_copies must be a number from 1 to {WRITE_COPIES_MAX}, not {copies}")
    if degraded not in ("", "0", "1"):
        raise CommandError("bad_params", f"degraded_writes must be 0 or 1, not {degraded}")
    rule, _ = tracker.write_rule(domain.dmid, file_class.classid)
    if copies or degraded:
        rule = WriteRule(
            copies=int(copies) if copies else rule.copies, degraded=degraded == "1" if degraded else rule.degraded
        )
        await tracker.admin.set_write_rule(domain.dmid, file_class.classid, rule)
        await tracker.changed()
    return {"write_copies": rule.copies, "degraded_writes": int(rule.degraded)}
