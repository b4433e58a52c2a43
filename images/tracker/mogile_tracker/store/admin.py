"""Changes of hosts, devices, domains, classes and settings, and look-ups that are too rare to coalesce.

All changes take one lock (`mogile:topology`, until commit), because new ids are max+1 and names must stay unique: two trackers that create
the same thing at once end in the protocol's own error. Checks and change are one transaction.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import asyncpg

from mogile_core.checksum import HashType
from mogile_core.errors import CommandError
from mogile_core.model import DEFAULT_CLASS, DEFAULT_CLASS_ID, ClassId, DeviceState, DomainId, Fid, FileRow, HostState
from mogile_tracker.store.commits import run_once
from mogile_tracker.store.files import key_from_db, key_to_db
from mogile_tracker.store.postgres import Database
from mogile_tracker.store.queries import load
from mogile_tracker.topology import WriteRule

SQL = load("admin")
FILES = load("files")
ID_MAX = 32767  # smallint

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassChange:
    """The columns of a class; None keeps what there is (or the default of a new class)."""

    mindevcount: int
    replpolicy: str | None = None
    hashtype: HashType | None = None
    clear_hashtype: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HostChange:
    """The columns of a host; None keeps what there is. Empty text clears altip and altmask."""

    ip: str | None = None
    port: int | None = None
    getport: int | None = None
    altip: str | None = None
    altmask: str | None = None
    status: HostState | None = None


class AdminStore:
    """The store methods behind the administrative commands."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def _locked(self, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        async def run(connection: asyncpg.Connection) -> T:
            await connection.execute(SQL["lock_topology"])
            return await work(connection)

        return await run_once(self._database, run)

    # ---- domains and classes

    async def create_domain(self, name: str) -> None:
        """`domain_exists` when there is one."""

        async def work(connection: asyncpg.Connection) -> None:
            if await connection.fetchval(SQL["domain_id"], name) is not None:
                raise CommandError("domain_exists")
            await connection.execute(SQL["insert_domain"], name)

        await self._locked(work)

    async def delete_domain(self, name: str) -> None:
        """`domain_not_found`, `domain_has_files`, `domain_has_classes`."""

        async def work(connection: asyncpg.Connection) -> None:
            dmid = await _domain_id(connection, name)
            if await connection.fetchval(SQL["domain_has_files"], dmid):
                raise CommandError("domain_has_files")
            if await connection.fetchval(SQL["domain_has_classes"], dmid):
                raise CommandError("domain_has_classes")
            await connection.execute(SQL["delete_classes"], dmid)
            await connection.execute(SQL["delete_domain"], dmid)

        await self._locked(work)

    async def create_class(self, domain: str, name: str, change: ClassChange) -> None:
        """`domain_not_found`, `class_exists`; the name `default` gets id 0."""

        async def work(connection: asyncpg.Connection) -> None:
            dmid = await _domain_id(connection, domain)
            if await connection.fetchrow(SQL["class_row"], dmid, name) is not None:
                raise CommandError("class_exists")
            await _insert_class(connection, dmid, name, change)

        await self._locked(work)

    async def update_class(self, domain: str, name: str, change: ClassChange) -> None:
        """`domain_not_found`, `class_not_found`; a row for `default` is made when missing."""

        async def work(connection: asyncpg.Connection) -> None:
            dmid = await _domain_id(connection, domain)
            row = await connection.fetchrow(SQL["class_row"], dmid, name)
            if row is None:
                if name != DEFAULT_CLASS:
                    raise CommandError("class_not_found")
                await _insert_class(connection, dmid, name, change)
                return
            await connection.execute(
                SQL["update_class"],
                dmid,
                row["classid"],
                change.mindevcount,
                change.replpolicy,
                int(change.hashtype) if change.hashtype else None,
                change.clear_hashtype,
            )

        await self._locked(work)

    async def delete_class(self, domain: str, name: str) -> None:
        """`domain_not_found`, `class_not_found`, `class_has_files`."""

        async def work(connection: asyncpg.Connection) -> None:
            dmid = await _domain_id(connection, domain)
            row = await connection.fetchrow(SQL["class_row"], dmid, name)
            if row is None:
                raise CommandError("class_not_found")
            if await connection.fetchval(SQL["class_has_files"], dmid, row["classid"]):
                raise CommandError("class_has_files")
            await connection.execute(SQL["delete_class"], dmid, row["classid"])

        await self._locked(work)

    # ---- hosts

    async def create_host(self, name: str, change: HostChange) -> int:
        """The new host's id; `host_exists`, `dup`."""

        async def work(connection: asyncpg.Connection) -> int:
            if await connection.fetchval(SQL["host_id"], name) is not None:
                raise CommandError("host_exists")
            await _refuse_duplicate_address(connection, 0, change)
            hostid: int = await connection.fetchval(
                SQL["insert_host"],
                name,
                change.status or HostState.DOWN,
                change.ip,
                change.port,
                change.getport,
                change.altip or None,
                change.altmask or None,
            )
            return hostid

        return await self._locked(work)

    async def update_host(self, name: str, change: HostChange) -> int:
        """The host's id; `host_not_found`, `dup`."""

        async def work(connection: asyncpg.Connection) -> int:
            hostid: int | None = await connection.fetchval(SQL["host_id"], name)
            if hostid is None:
                raise CommandError("host_not_found")
            await _refuse_duplicate_address(connection, hostid, change)
            await connection.execute(
                SQL["update_host"],
                hostid,
                change.status,
                change.ip,
                change.port,
                change.getport,
                change.altip,
                change.altmask,
            )
            return hostid

        return await self._locked(work)

    async def delete_host(self, name: str) -> None:
        """`unknown_host`, `host_not_empty`."""

        async def work(connection: asyncpg.Connection) -> None:
            hostid = await connection.fetchval(SQL["host_id"], name)
            if hostid is None:
                raise CommandError("unknown_host")
            if await connection.fetchval(SQL["host_has_devices"], hostid):
                raise CommandError("host_not_empty")
            await connection.execute(SQL["delete_host_zone"], hostid)
            await connection.execute(SQL["delete_host"], hostid)

        await self._locked(work)

    async def set_zone(self, name: str, zone: str) -> None:
        """`unknown_host`; '' forgets the zone."""

        async def work(connection: asyncpg.Connection) -> None:
            hostid = await connection.fetchval(SQL["host_id"], name)
            if hostid is None:
                raise CommandError("unknown_host")
            await connection.execute(SQL["set_zone"], hostid, zone or None)

        await self._locked(work)

    # ---- devices

    async def create_device(self, devid: int, hostid: int, state: DeviceState) -> None:
        """`existing_devid`."""

        async def work(connection: asyncpg.Connection) -> None:
            if await connection.fetchval(SQL["device_exists"], devid):
                raise CommandError("existing_devid")
            await connection.execute(SQL["insert_device"], devid, hostid, state)

        await self._locked(work)

    async def set_state(self, devid: int, state: DeviceState) -> None:
        """`no_device`, `state_too_high` (dead to alive)."""

        async def work(connection: asyncpg.Connection) -> None:
            current = await connection.fetchval(SQL["device_state"], devid)
            if current is None:
                raise CommandError("no_device")
            if current == DeviceState.DEAD and state is DeviceState.ALIVE:
                raise CommandError("state_too_high")
            await connection.execute(SQL["set_device_state"], devid, state)

        await self._locked(work)

    async def set_weight(self, devid: int, weight: int) -> None:
        """`no_device`."""
        if not await self._database.execute(SQL["set_weight"], devid, weight):
            raise CommandError("no_device")

    async def set_out(self, devid: int, *, out: bool) -> None:
        """`no_device`; saying it again keeps the time since when."""

        async def work(connection: asyncpg.Connection) -> None:
            if not await connection.fetchval(SQL["device_exists"], devid):
                raise CommandError("no_device")
            await connection.execute(SQL["set_out"], devid, out)

        await self._locked(work)

    async def forget_device(self, devid: int) -> None:
        """`no_device`, `device_not_dead`, `device_not_empty`."""

        async def work(connection: asyncpg.Connection) -> None:
            current = await connection.fetchval(SQL["device_state"], devid)
            if current is None:
                raise CommandError("no_device")
            if current != DeviceState.DEAD:
                raise CommandError("device_not_dead")
            if await connection.fetchval(SQL["device_has_files"], devid):
                raise CommandError("device_not_empty")
            await connection.execute(SQL["forget_copy_deletes"], devid)
            await connection.execute(SQL["forget_out"], devid)
            for name in ("forget_device", "forget_walk"):
                await connection.execute(load("orphans")[name], devid)
            await connection.execute(SQL["delete_device"], devid)

        await self._locked(work)

    # ---- settings

    async def set_setting(self, field: str, value: str | None) -> None:
        """None deletes."""
        if value is None:
            await self._database.execute(SQL["delete_setting"], field)
        else:
            await self._database.execute(SQL["set_setting"], field, value)

    async def set_our_setting(self, name: str, value: str | None) -> None:
        """A setting of ours; None removes it."""
        if value is None:
            await self._database.execute(SQL["unset_our_setting"], name)
        else:
            await self._database.execute(SQL["set_our_setting"], name, value)

    async def set_write_rule(self, dmid: int, classid: int, rule: WriteRule) -> None:
        """How uploads of a class are acknowledged."""
        await self._locked(
            lambda connection: connection.execute(SQL["set_write_rule"], dmid, classid, rule.copies, rule.degraded)
        )

    async def replicate_now(self) -> int:
        """Make postponed replication rows due; how many."""
        return await self._database.execute(SQL["replicate_now"])

    # ---- look-ups

    async def list_keys(self, dmid: int, prefix: str, after: str, limit: int) -> list[str]:
        """A page of keys in byte order."""
        start = key_to_db(prefix)
        end = start[:-1] + chr(ord(start[-1]) + 1) if start else None
        rows = await self._database.fetch(FILES["list_keys"], dmid, key_to_db(after), start, end, limit)
        return [key_from_db(row["dkey"]) for row in rows]

    async def list_fids(self, after: int, limit: int) -> list[FileRow]:
        """Files in fid order."""
        return [
            FileRow(
                fid=Fid(row["fid"]),
                dmid=DomainId(row["dmid"]),
                dkey=key_from_db(row["dkey"]),
                length=row["length"] or 0,
                classid=ClassId(row["classid"]),
                devcount=row["devcount"],
            )
            for row in await self._database.fetch(FILES["list_fids"], after, limit)
        ]

    async def debug_rows(self, fid: int) -> dict[str, Mapping[str, object]]:
        """The rows about a fid by the prefix under which file_debug shows them."""
        statements: dict[str, tuple[str, tuple[object, ...]]] = {
            "fid": ("debug_file", (fid,)),
            "tempfile": ("debug_tempfile", (fid,)),
            "replqueue": ("debug_replqueue", (fid,)),
            "delqueue": ("debug_delqueue", (fid,)),
            "fsckqueue": ("debug_queue", (fid, 1)),
            "rebqueue": ("debug_queue", (fid, 2)),
        }
        rows: dict[str, Mapping[str, object]] = {}
        for prefix, (name, args) in statements.items():
            row = await self._database.fetchrow(FILES[name], *args)
            if row is not None:
                rows[prefix] = {k: key_from_db(v) if k == "dkey" and v else v for k, v in row.items()}
        return rows

    async def files_per_device(self, limit: int) -> dict[int, int]:
        """Copies per device now, counted no further than `limit`."""
        return {row["devid"]: row["files"] for row in await self._database.fetch(SQL["files_per_device"], limit)}

    async def debug_devices(self, fid: int) -> list[int]:
        """Devices a fid is recorded on."""
        return [row["devid"] for row in await self._database.fetch(FILES["debug_devices"], fid)]


async def _domain_id(connection: asyncpg.Connection, name: str) -> int:
    dmid: int | None = await connection.fetchval(SQL["domain_id"], name)
    if dmid is None:
        raise CommandError("domain_not_found")
    return dmid


async def _insert_class(connection: asyncpg.Connection, dmid: int, name: str, change: ClassChange) -> None:
    await connection.execute(
        SQL["insert_class"],
        dmid,
        DEFAULT_CLASS_ID if name == DEFAULT_CLASS else None,
        name,
        change.mindevcount,
        int(change.hashtype) if change.hashtype else None,
        change.replpolicy,
    )


async def _refuse_duplicate_address(connection: asyncpg.Connection, hostid: int, change: HostChange) -> None:
    if await connection.fetchval(SQL["address_taken"], hostid, change.ip, change.altip or None):
        raise CommandError("dup")
