"""mogadm settings and slave: the server settings, and those of them that name read replicas.

A slave is the setting `slave_<key>` with the value `dsn|user|password`; `slave_keys` lists the keys in use.
"""

from __future__ import annotations

from mogile_cli.classic import connection, program
from mogile_cli.classic.admin.grammar import BadUseError, Command, Request
from mogile_cli.classic.connection import Connection
from mogile_cli.classic.program import Died

SLAVE_FIELDS = ("dsn", "username", "password")


async def server_settings(tracker: Connection) -> dict[str, str]:
    """All settings the tracker shows."""
    answer = await tracker.ask("server_settings")
    numbers = range(1, connection.count(answer, "key_count") + 1)
    return {answer[f"key_{number}"]: answer.get(f"value_{number}", "") for number in numbers}


def setting_line(name: str, value: str) -> str:
    return f"{name:>25} = {value}"


async def _list(request: Request) -> None:
    """Without the state of rebalance, which has a topic of its own."""
    found = await server_settings(request.tracker)
    for name in sorted(found):
        if not name.startswith("rebal"):
            request.console.line(setting_line(name, found[name]))


async def _set(request: Request) -> None:
    with program.doing(f"setting {request['key']}"):
        await request.tracker.ask("set_server_setting", key=request["key"], value=request["value"])
    request.done("Setting changed.")


async def _slaves(tracker: Connection) -> dict[str, list[str]]:
    """key -> [dsn, username, password]."""
    found: dict[str, list[str]] = {}
    for key in await _slave_keys(tracker):
        value = (await tracker.ask("server_setting", key=f"slave_{key}")).get("value", "")
        found[key] = [*value.split("|", 2), "", "", ""][:3]
    return found


async def _slave_keys(tracker: Connection) -> list[str]:
    value = (await tracker.ask("server_setting", key="slave_keys")).get("value", "")
    return [key.strip() for key in value.split(",") if key.strip()]


async def _slave_list(request: Request) -> None:
    for key, fields in sorted((await _slaves(request.tracker)).items()):
        options = " ".join(f"--{name}={value}" for name, value in zip(SLAVE_FIELDS, fields, strict=True))
        request.console.line(f"{key} {options}")


async def _store(request: Request, key: str, fields: list[str]) -> None:
    if any("|" in field for field in fields):
        raise BadUseError("dsn, username and password cannot contain '|'")
    await request.tracker.ask("set_server_setting", key=f"slave_{key}", value="|".join(fields))


async def _slave_add(request: Request) -> None:
    key = _slave_key(request)
    with program.doing("adding slave"):
        keys = await _slave_keys(request.tracker)
        if key in keys:
            raise Died(f"Slave {key} exists already; use `mogadm slave modify`.")
        await _store(request, key, [request.get(name) or "" for name in SLAVE_FIELDS])
        await request.tracker.ask("set_server_setting", key="slave_keys", value=",".join([*keys, key]))
    request.done("Slave added.")


async def _slave_modify(request: Request) -> None:
    key = _slave_key(request)
    with program.doing("modifying slave"):
        old = (await _slaves(request.tracker)).get(key)
        if old is None:
            raise Died(f"Slave {key} not found.")
        fields = [request.get(name) or before for name, before in zip(SLAVE_FIELDS, old, strict=True)]
        await _store(request, key, fields)
    request.done("Slave modified.")


async def _slave_delete(request: Request) -> None:
    key = _slave_key(request)
    with program.doing("deleting slave"):
        keys = await _slave_keys(request.tracker)
        if key not in keys:
            raise Died(f"Slave {key} not found.")
        remaining = [name for name in keys if name != key]
        await request.tracker.ask("set_server_setting", key="slave_keys", value=",".join(remaining))
        await request.tracker.ask("set_server_setting", key=f"slave_{key}", value="")
    request.done("Slave deleted.")


def _slave_key(request: Request) -> str:
    key = request["slave_key"]
    if "," in key or key in ("keys", "version"):
        raise BadUseError(f"{key!r} cannot be the key of a slave")
    return key


_SLAVE_OPTIONS = {"dsn=s": "Database to connect to", "username=s": "User name there", "password=s": "Password there"}
COMMANDS = (
    Command(topic="settings", verb="list", help="List all server settings.", run=_list),
    Command(topic="settings", verb="set", help="Change a server setting.", run=_set, words=("key", "value")),
)
SLAVE_COMMANDS = (
    Command(topic="slave", verb="list", help="List the read replicas.", run=_slave_list),
    Command(
        topic="slave",
        verb="add",
        help="Add a read replica.",
        run=_slave_add,
        words=("slave_key",),
        options=_SLAVE_OPTIONS,
    ),
    Command(
        topic="slave",
        verb="modify",
        help="Change a read replica.",
        run=_slave_modify,
        words=("slave_key",),
        options=_SLAVE_OPTIONS,
    ),
    Command(topic="slave", verb="delete", help="Forget a read replica.", run=_slave_delete, words=("slave_key",)),
)
