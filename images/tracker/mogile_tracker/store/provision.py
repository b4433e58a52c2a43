"""Making the database and its user with an administrator's account, as mogdbsetup does; what exists is left as it is."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from mogile_core.errors import SettingError, StoreError
from mogile_tracker.store.migrate import Tell, opened
from mogile_tracker.store.queries import load

SQL = load("provision")


async def can_connect(dsn: str) -> str:
    """Empty when the user reaches the database, else the reason why not."""
    try:
        async with opened(dsn):
            return ""
    except StoreError as error:
        return str(error)


async def provision(root_dsn: str, dsn: str, *, tell: Tell) -> None:
    """`root_dsn` (of an administrator) makes what `dsn` names: user, password and database."""
    parts = urlsplit(dsn)
    user, password, name = unquote(parts.username or ""), unquote(parts.password or ""), parts.path.lstrip("/")
    if not user or not name:
        raise SettingError("the database and its user need names")
    async with opened(root_dsn) as root:
        if not await root.fetchval(SQL["role_exists"], user):
            tell("creating the user", {"user": user})
            await root.execute(await root.fetchval(SQL["create_role"], user, password))
        existed = await root.fetchval(SQL["database_exists"], name)
        if not existed:
            tell("creating the database", {"database": name})
            await root.execute(await root.fetchval(SQL["create_database"], name, user))
    if existed:
        async with opened(urlsplit(root_dsn)._replace(path=f"/{name}").geturl()) as inside:
            await inside.execute(await inside.fetchval(SQL["grant_schema"], user))
