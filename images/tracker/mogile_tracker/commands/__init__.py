"""One coroutine per protocol command, grouped by topic; `all_commands` collects them. A new file of commands is added to MODULES."""

from __future__ import annotations

from importlib import import_module

from mogile_tracker.commands.registry import Registry

MODULES = (
    "files",
    "paths",
    "domains",
    "hosts",
    "cluster",
    "census",
    "balance",
    "rebalance",
    "jobs",
    "fsck",
    "orphans",
    "settings",
)


def all_commands() -> Registry:
    """Every command this tracker knows."""
    registry = Registry()
    for name in MODULES:
        import_module(f"mogile_tracker.commands.{name}").register(registry)
    return registry
