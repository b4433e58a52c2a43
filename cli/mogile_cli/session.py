"""What data and administration commands share: options, which trackers to ask, which domain is meant, one event loop per command.

Trackers come from `--trackers`, else `MOGILE_TRACKERS`, else the local cluster that runs on this machine, else 127.0.0.1:7001.
The domain comes from `--domain`, else `MOGILE_DOMAIN`, else it is the only one there is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import typer

from mogile_cli.errors import UsageError
from mogile_cli.local import folders, state
from mogile_core.client import TrackerClient
from mogile_core.errors import MogError
from mogile_core.model import TRACKER_PORT

T = TypeVar("T")

TrackersOption = Annotated[
    str,
    typer.Option(
        "--trackers", envvar="MOGILE_TRACKERS", help="Trackers as host:port, separated by commas.", show_default=False
    ),
]
COMPLETIONS_MAX = 100
COMPLETION_SECONDS = 1.0


def complete_domain(context: typer.Context, incomplete: str) -> list[str]:
    """Names of domains, for the shell."""

    async def work(client: TrackerClient) -> list[str]:
        return [domain.name for domain in await client.get_domains()]

    return _completed(context, work, incomplete)


def complete_class(context: typer.Context, incomplete: str) -> list[str]:
    """Names of the classes of the domain that is meant (of all, when that is not clear), for the shell."""
    wanted = context.params.get("domain")

    async def work(client: TrackerClient) -> list[str]:
        domains = await client.get_domains()
        return sorted({c.name for d in domains if not wanted or d.name == wanted for c in d.classes})

    return _completed(context, work, incomplete)


def complete_key(context: typer.Context, incomplete: str) -> list[str]:
    """Keys that begin so, for the shell."""

    async def work(client: TrackerClient) -> list[str]:
        domain = await domain_or_only(client, context.params.get("domain") or "")
        return list((await client.list_keys(domain, prefix=incomplete, limit=COMPLETIONS_MAX)).keys)

    return _completed(context, work, incomplete)


def complete_host(context: typer.Context, incomplete: str) -> list[str]:
    """Names of hosts, for the shell."""

    async def work(client: TrackerClient) -> list[str]:
        return [host.hostname for host in await client.get_hosts()]

    return _completed(context, work, incomplete)


def _completed(
    context: typer.Context, work: Callable[[TrackerClient], Awaitable[list[str]]], incomplete: str
) -> list[str]:
    """A completion never fails and never makes anybody wait: without an answer in time there is none."""

    async def main() -> list[str]:
        addresses = tracker_addresses(context.params.get("trackers") or "")
        async with asyncio.timeout(COMPLETION_SECONDS), TrackerClient(addresses, rounds=1) as client:
            return await work(client)

    try:
        return [name for name in asyncio.run(main()) if name.startswith(incomplete)]
    except (MogError, OSError, TimeoutError):
        return []


DomainOption = Annotated[
    str,
    typer.Option(
        "--domain",
        "-d",
        envvar="MOGILE_DOMAIN",
        help="Domain; may be left out when there is only one.",
        autocompletion=complete_domain,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def with_client(trackers: str, work: Callable[[TrackerClient], Awaitable[T]]) -> T:
    """Run `work` with a client of the trackers that are meant."""

    async def main() -> Any:
        async with TrackerClient(tracker_addresses(trackers)) as client:
            return await work(client)

    result: T = asyncio.run(main())
    return result


def tracker_addresses(trackers: str) -> str:
    """The trackers to ask when `trackers` was given or left empty."""
    if trackers:
        return trackers
    running = state.find_running(folders.candidates())
    return ",".join(running.trackers) if running is not None else f"127.0.0.1:{TRACKER_PORT}"


async def domain_or_only(client: TrackerClient, domain: str) -> str:
    """The domain given, or the only one; UsageError names the choice."""
    if domain:
        return domain
    names = sorted(d.name for d in await client.get_domains())
    if len(names) == 1:
        return names[0]
    if not names:
        raise UsageError("there is no domain yet; make one with: mog domain add NAME")
    raise UsageError(f"there are several domains; choose one with --domain: {', '.join(names)}")
