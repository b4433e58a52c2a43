"""mogadm check: does everybody answer, seen from this machine, and how full are the devices.

Trackers one after the other, then hosts, then the usage files of their devices; those two at once within a limit, printed in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from mogile_cli.classic import connection
from mogile_cli.classic.admin import topology
from mogile_cli.classic.admin.grammar import Command, Request, number
from mogile_cli.classic.connection import Pairs
from mogile_cli.classic.nodes import Answer, Nodes, nodes
from mogile_cli.classic.program import Died
from mogile_core.errors import MogError
from mogile_core.paths import base_url

AT_ONCE_MAX = 32
PORT_MAX = 65535
KIB_PER_GIB = 1 << 20
NEEDED_FIELDS = ("available", "device", "disk")


async def _check(request: Request) -> None:
    line = request.console.line
    found = await _check_trackers(request)
    if found is None:
        raise Died(topology.NO_HOSTS)
    hosts, devices = found
    line()
    async with nodes() as http:
        bases = await _check_hosts(request, http, hosts)
        if not bases:
            raise Died(topology.NO_DEVICES)
        line()
        await _check_devices(request, http, bases, devices)


async def _check_trackers(request: Request) -> tuple[list[Pairs], dict[str, list[Pairs]]] | None:
    """Hosts and devices as the last tracker that answered knows them."""
    found = None
    request.console.line("Checking trackers...")
    for name in request.trackers:
        request.console.text(f"  {name} ... ")
        request.console.flush()
        try:
            async with connection.connect([name], rounds=1) as tracker:
                found = await topology.hosts(tracker), await topology.devices(tracker)
        except MogError:
            request.console.line("REQUEST FAILURE (is the tracker up?)")
        else:
            request.console.line("OK")
    return found


async def _all(http: Nodes, urls: Sequence[str]) -> list[Answer]:
    """The answers of all, in order."""
    limit = asyncio.Semaphore(AT_ONCE_MAX)

    async def one(url: str) -> Answer:
        async with limit:
            return await http.small(url)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(url)) for url in urls]
    return [task.result() for task in tasks]


async def _check_hosts(request: Request, http: Nodes, hosts: Sequence[Pairs]) -> dict[str, str]:
    """Host id -> base URL of those that answer."""
    request.console.line("Checking hosts...")
    bases = {
        host["hostid"]: base_url(host["hostip"], connection.whole(host, "http_port", PORT_MAX))
        for host in hosts
        if host["status"] == "alive"
    }
    answers = dict(zip(bases, await _all(http, [base + "/" for base in bases.values()]), strict=True))
    for host in hosts:
        answer = answers.get(host["hostid"])
        if answer is None:
            result = f"skipping; status = {host['status']}"
        else:
            result = "OK" if answer.well else f"REQUEST FAILURE FETCHING: {answer.url}"
        request.console.line(f"  [{host['hostid']:>2}] {host['hostname']} ... {result}")
    return {hostid: base for hostid, base in bases.items() if answers[hostid].well}


async def _check_devices(
    request: Request, http: Nodes, bases: Mapping[str, str], devices: Mapping[str, Sequence[Pairs]]
) -> None:
    line = request.console.line
    line("Checking devices...")
    line(
        f"  host device      {'size(G)':>10} {'used(G)':>10} {'free(G)':>10} {'use% ':>7}  {'ob state':>7}   {'I/O%':>4}"
    )
    line("  ---- ------------ ---------- ---------- ---------- ------ ---------- -----")
    shown = [(hostid, device) for hostid in bases for device in devices.get(hostid, ()) if device["status"] != "dead"]
    answers = await _all(http, [f"{bases[hostid]}/dev{device['devid']}/usage" for hostid, device in shown])
    totals = [0.0, 0.0, 0.0]
    for (hostid, device), answer in zip(shown, answers, strict=True):
        sizes = _sizes(answer)
        if isinstance(sizes, str):
            line(f"  [{hostid:>2}] {'dev' + device['devid']:<7} {sizes}")
            continue
        totals = [total + size for total, size in zip(totals, sizes, strict=True)]
        state, busy = device.get("observed_state") or "?", number(device.get("utilization"))
        figures = "{:>12.3f} {:>10.3f} {:>10.3f}".format(*sizes)
        line(
            f"  [{hostid:>2}] {'dev' + device['devid']:<7}   {figures} {_percent(sizes):>6.2f}%  {state:<10} {busy:>4.1f}"
        )
    line("  ---- ------------ ---------- ---------- ---------- ------")
    line("             total:{:>10.3f} {:>10.3f} {:>10.3f} {:>6.2f}%".format(*totals, _percent(totals)))


def _sizes(answer: Answer) -> list[float] | str:
    """[total, used, free] in GiB out of a usage file, or what is wrong with it."""
    if not answer.well:
        return f"REQUEST FAILURE FETCHING: {answer.url}"
    pairs = (line.partition(":") for line in answer.body.decode("utf-8", "replace").splitlines())
    usage = {name.strip(): value.strip() for name, _, value in pairs}
    if not answer.body or not number(usage.get("total")):
        return f"USAGE FILE BROKEN OR EMPTY: {answer.url}"
    for name in NEEDED_FIELDS:
        if not usage.get(name):
            return f"MISSING FIELD ({name}) FROM USAGE FILE: {answer.url}"
    return [number(usage.get(name)) / KIB_PER_GIB for name in ("total", "used", "available")]


def _percent(sizes: Sequence[float]) -> float:
    total, _, free = sizes
    return 100 - 100 * free / total if total else 0.0


COMMAND = Command(topic="check", verb="", help="Check trackers, hosts and devices from this machine.", run=_check)
