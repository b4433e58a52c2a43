"""`python -m mogile_tracker.dbadmin ACTION`: work on the database that is no tracker's daily business, for `mog db` and `mogdbsetup`.

A program and not a library, because the command line may not import the tracker: it is started with the settings in the environment
(MOGILE_DB_DSN, MOGILE_DB_PASSWORD or _FILE, MOGILE_DB_POOLED; for `setup` MOGILE_DB_ROOT_DSN) and answers on stdout with one JSON object
a line: `plan` (origin, changes, notes, refusals), `step`, `progress`, `done`, `error`. Exit status: 0 done, 1 failed or refused, 2 called
in a way that cannot work. Nothing is changed by `plan` and `plan-handback`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mogile_core.errors import SettingError, StoreError
from mogile_core.runtime.settings import load, secret_from, setting
from mogile_tracker.store import handback, provision
from mogile_tracker.store.migrate import build_index, look, opened, upgrade, upstream_jobs
from mogile_tracker.store.postgres import checked_dsn
from mogile_tracker.store.queries import load as statements_of
from mogile_tracker.store.schema import Origin, Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSettings:
    """What this program is told."""

    db_dsn: str = setting("", "postgresql://user@host:5432/database")
    db_password: str | None = setting(None, "overrides the password in the DSN", secret=True)
    db_password_file: str | None = setting(None, "file that holds the password")
    db_pooled: bool = setting(False, "1 behind a transaction-mode connection pooler")
    db_root_dsn: str = setting("", "an administrator's connection, for setup", secret=True)
    db_drop_tables: bool = setting(False, "handback: drop the tables mogile_* too")
    db_keep_schema: bool = setting(False, "setup: leave a database that has MogileFS's tables as it is")

    @property
    def dsn(self) -> str:
        """The DSN with its password."""
        return checked_dsn(self.db_dsn, secret_from(self.db_password, self.db_password_file, "db_password"))


def say(event: str, **what: object) -> None:
    """One line of the answer."""
    sys.stdout.write(json.dumps({"event": event, **what}) + "\n")
    sys.stdout.flush()


def tell(what: str, figures: dict[str, object]) -> None:
    """Progress of a step."""
    if "total" in figures:
        say("progress", text=what, **figures)
    else:
        say("step", text=" ".join([what, *(str(value) for value in figures.values())]))


async def _plan(settings: DatabaseSettings) -> Plan:
    """Look, say, and give back the plan; StoreError when it must not be carried out."""
    async with opened(settings.dsn, pooled=settings.db_pooled) as connection:
        plan = await look(connection, rolled_out=True)
        notes, refusals = [*plan.notes, *plan.warnings], list(plan.refusals)
        if plan.origin is Origin.MOGILEFS and not refusals:
            clients = await upstream_jobs(connection)
            if clients:
                refusals.append(
                    f"job workers of MogileFS are at work ({', '.join(clients)}): stop them, only queries may go on"
                )
            async with connection.transaction(readonly=True):
                wide = await connection.fetchval(statements_of("handback")["wide_keys"])
            if wide:
                notes.append(
                    f"{wide}{' or more' if wide >= 1000 else ''} keys hold characters beyond U+00FF: no client can name them"
                )
    changes = [{"what": change.what, "lock": change.lock} for change in plan.changes]
    say("plan", origin=plan.origin.value, changes=changes, notes=notes, refusals=refusals)
    if refusals:
        raise StoreError("; ".join(refusals))
    return plan


async def _upgrade(settings: DatabaseSettings) -> None:
    await _plan(settings)
    await upgrade(settings.dsn, pooled=settings.db_pooled, rolled_out=True, tell=tell)
    async with opened(settings.dsn, pooled=settings.db_pooled) as connection:
        await build_index(settings.dsn, connection, pooled=settings.db_pooled, wait=True, tell=tell)


async def _setup(settings: DatabaseSettings) -> None:
    reason = await provision.can_connect(settings.dsn)
    if reason:
        if not settings.db_root_dsn:
            raise StoreError(f"{reason}; name an administrator who can create database and user")
        await provision.provision(settings.db_root_dsn, settings.dsn, tell=tell)
    if settings.db_keep_schema:
        async with opened(settings.dsn) as connection:
            if (await look(connection)).origin is not Origin.NEW:
                return tell("the tables are left as they are", {})
    await _upgrade(settings)
    return None


async def _plan_handback(settings: DatabaseSettings) -> None:
    async with opened(settings.dsn, pooled=settings.db_pooled) as connection:
        found = await handback.look(connection, drop_tables=settings.db_drop_tables)
    changes = [{"what": what, "lock": "none"} for what in found.changes]
    say("plan", origin=Origin.OURS.value, changes=changes, notes=found.notes, refusals=found.refusals)
    if found.refusals:
        raise StoreError("; ".join(found.refusals))


async def _handback(settings: DatabaseSettings) -> None:
    await _plan_handback(settings)
    async with opened(settings.dsn, pooled=settings.db_pooled) as connection:
        await handback.carry_out(connection, drop_tables=settings.db_drop_tables, tell=tell)


ACTIONS: dict[str, Callable[[DatabaseSettings], Awaitable[object]]] = {
    "plan": _plan,
    "upgrade": _upgrade,
    "setup": _setup,
    "plan-handback": _plan_handback,
    "handback": _handback,
}


async def _run(action: str, settings: DatabaseSettings) -> None:
    await ACTIONS[action](settings)


def main() -> int:
    """Entry point; the exit status."""
    action = sys.argv[1] if len(sys.argv) > 1 else ""
    try:
        if action not in ACTIONS:
            raise SettingError(f"say what to do: {', '.join(ACTIONS)}")
        asyncio.run(_run(action, load(DatabaseSettings, sys.argv[2:])))
    except SettingError as error:
        say("error", text=str(error), status=2)
        return 2
    except StoreError as error:
        say("error", text=str(error), status=1)
        return 1
    say("done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
