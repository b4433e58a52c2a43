"""Commands for domains and classes."""

from __future__ import annotations

from mogile_core.checksum import HashType
from mogile_core.errors import CommandError
from mogile_core.model import DEFAULT_CLASS
from mogile_tracker.commands.registry import Call, Pairs, Registry, Tracker, is_number
from mogile_tracker.policy.parsing import parse_policy
from mogile_tracker.store.admin import ClassChange

MINDEVCOUNT_MAX = 255


def register(registry: Registry) -> None:
    """The commands of this module."""
    registry.add("get_domains", get_domains)
    registry.add("mogile_domains", mogile_domains)
    registry.add("create_domain", create_domain)
    registry.add("delete_domain", delete_domain)
    registry.add("create_class", create_class)
    registry.add("update_class", update_class)
    registry.add("delete_class", delete_class)


async def get_domains(tracker: Tracker, _: Call) -> Pairs:
    """All domains with all classes; `default` is always listed."""
    topology = await tracker.newest_topology()
    pairs: dict[str, object] = {"domains": len(topology.domains)}
    for i, domain in enumerate(topology.domains.values(), 1):
        classes = topology.classes_of(domain.dmid)
        pairs[f"domain{i}"], pairs[f"domain{i}classes"] = domain.name, len(classes)
        for j, file_class in enumerate(classes, 1):
            prefix = f"domain{i}class{j}"
            pairs[f"{prefix}name"] = file_class.name
            pairs[f"{prefix}mindevcount"] = file_class.mindevcount
            pairs[f"{prefix}replpolicy"] = file_class.policy
            pairs[f"{prefix}hashtype"] = file_class.hashtype.wire_name if file_class.hashtype else "NONE"
    return pairs


async def mogile_domains(tracker: Tracker, call: Call) -> Pairs:
    """Everything of `get_domains`, and of every class how its uploads are acknowledged."""
    pairs = dict(await get_domains(tracker, call))
    topology = tracker.topology
    for i, domain in enumerate(topology.domains.values(), 1):
        for j, file_class in enumerate(topology.classes_of(domain.dmid), 1):
            rule, _ = tracker.write_rule(domain.dmid, file_class.classid)
            pairs[f"domain{i}class{j}write_copies"] = rule.copies
            pairs[f"domain{i}class{j}degraded_writes"] = int(rule.degraded)
    return pairs


async def create_domain(tracker: Tracker, call: Call) -> Pairs:
    """A new domain."""
    name = call.need_true("domain", "no_domain")
    await tracker.admin.create_domain(name)
    await tracker.changed()
    return {"domain": name}


async def delete_domain(tracker: Tracker, call: Call) -> Pairs:
    """Remove an empty domain."""
    name = call.need_true("domain", "no_domain")
    await tracker.admin.delete_domain(name)
    await tracker.changed()
    return {"domain": name}


async def create_class(tracker: Tracker, call: Call) -> Pairs:
    """A new class."""
    domain, name, change = _class_arguments(call)
    await tracker.admin.create_class(domain, name, change)
    await tracker.changed()
    return {"class": name, "mindevcount": change.mindevcount, "domain": domain}


async def update_class(tracker: Tracker, call: Call) -> Pairs:
    """Change a class; files follow when fsck or updateclass looks at them."""
    domain, name, change = _class_arguments(call)
    await tracker.admin.update_class(domain, name, change)
    await tracker.changed()
    return {"class": name, "mindevcount": change.mindevcount, "domain": domain}


async def delete_class(tracker: Tracker, call: Call) -> Pairs:
    """Remove a class without files."""
    domain = call.need_true("domain", "no_domain")
    name = call.need_true("class", "no_class")
    if name == DEFAULT_CLASS:
        raise CommandError("nodel_default_class")
    await tracker.admin.delete_class(domain, name)
    await tracker.changed()
    return {"domain": domain, "class": name}


def _class_arguments(call: Call) -> tuple[str, str, ClassChange]:
    domain = call.need_true("domain", "no_domain")
    name = call.need_true("class", "no_class")
    count = call.get("mindevcount")
    if not is_number(count) or not 1 <= int(count) <= MINDEVCOUNT_MAX:
        raise CommandError("invalid_mindevcount")
    policy = call.get("replpolicy")
    if policy:
        try:
            parse_policy(policy)
        except ValueError as error:
            raise CommandError("invalid_replpolicy", str(error)) from error
    hashname = call.get("hashtype")
    hashtype = None
    if hashname and hashname != "NONE":
        try:
            hashtype = HashType.from_wire(hashname)
        except ValueError as error:
            raise CommandError("invalid_hashtype") from error
    change = ClassChange(
        mindevcount=int(count), replpolicy=policy or None, hashtype=hashtype, clear_hashtype=hashname == "NONE"
    )
    return domain, name, change
