"""mogadm rebalance: moving files by a policy of the operator."""

from __future__ import annotations

from mogile_cli.classic.admin.grammar import BadUseError, Command, Request
from mogile_cli.classic.admin.settings import server_settings, setting_line


async def _start(request: Request) -> None:
    await request.tracker.ask("rebalance_start")
    request.done("rebalance started")


async def _stop(request: Request) -> None:
    await request.tracker.ask("rebalance_stop")
    request.done("rebalance stopped")


async def _reset(request: Request) -> None:
    await request.tracker.ask("rebalance_reset")
    request.done("rebalance reset")


async def _policy(request: Request) -> None:
    policy = request.get("options")
    if policy is None:
        raise BadUseError('give the policy: --options="from_hosts=3 to_percent_free=50"')
    await request.tracker.ask("rebalance_set_policy", policy=policy)
    request.done("changed policy setting")


async def _status(request: Request) -> None:
    settings = await server_settings(request.tracker)
    state = (await request.tracker.ask("rebalance_status")).get("state", "")
    request.console.line(f"Rebalance is {'running' if settings.get('rebal_host') else 'stopped'}")
    request.console.line("Rebalance status:")
    for word in sorted(state.split()):
        name, _, value = word.partition("=")
        request.console.line(setting_line(name, value))


async def _settings(request: Request) -> None:
    found = await server_settings(request.tracker)
    for name in sorted(found):
        if name.startswith("rebal_") and name != "rebal_state":
            request.console.line(setting_line(name, found[name]))


async def _test(request: Request) -> None:
    answer = await request.tracker.ask("rebalance_test")
    policy = (await server_settings(request.tracker)).get("rebal_policy", "")
    request.console.line("Tested rebalance policy...")
    request.console.line(f"Policy: {policy}")
    request.console.line()
    for title, name in (("Source devices:", "sdevs"), ("Destination devices:", "ddevs")):
        request.console.line(title)
        for devid in sorted(filter(None, answer.get(name, "").split(",")), key=lambda devid: (len(devid), devid)):
            request.console.line(f" - {devid}")


COMMANDS = (
    Command(topic="rebalance", verb="start", help="Start or go on moving files.", run=_start),
    Command(topic="rebalance", verb="stop", help="Stop queueing files to move.", run=_stop),
    Command(topic="rebalance", verb="status", help="Show how far it is.", run=_status),
    Command(topic="rebalance", verb="settings", help="Show policy and settings.", run=_settings),
    Command(topic="rebalance", verb="test", help="Show which devices the policy means.", run=_test),
    Command(topic="rebalance", verb="reset", help="Begin again with the next start.", run=_reset),
    Command(
        topic="rebalance",
        verb="policy",
        help="Set the policy.",
        run=_policy,
        options={"options=s": 'The policy, such as "from_devices=1,2"'},
    ),
)
