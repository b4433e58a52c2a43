"""Reads the cluster's picture and changes it: hosts, devices, domains, classes.

Changes that must not race (new ids are max+1, names are unique) run under one transaction-scoped lock, so that duplicates end in the
proper error of the protocol and never in a second row.
"""

from __future__ import annotations

import asyncpg

from mogile_core.checksum import HashType
from mogile_core.model import (
    ClassId,
    Device,
    DeviceState,
    DevId,
    Domain,
    DomainId,
    FileClass,
    Host,
    HostId,
    HostState,
)
from mogile_tracker.store.postgres import Database
from mogile_tracker.store.queries import load
from mogile_tracker.topology import Topology, WriteRule

SQL = load("topology")


class TopologyStore:
    """Loads snapshots."""

    def __init__(self, database: Database, *, min_free_space_mb: int, default_mindevcount: int) -> None:
        self._database = database
        self._min_free_space_mb = min_free_space_mb
        self._default_mindevcount = default_mindevcount

    async def load(self) -> Topology:
        """One consistent snapshot without observations."""
        return await self._database.run(self._load)

    async def _load(self, connection: asyncpg.Connection) -> Topology:
        return Topology(
            cluster_id=str(await connection.fetchval(SQL["cluster_id"])),
            hosts=[_host(row) for row in await connection.fetch(SQL["hosts"])],
            devices=[_device(row) for row in await connection.fetch(SQL["devices"])],
            domains=[
                Domain(dmid=DomainId(row["dmid"]), name=row["namespace"])
                for row in await connection.fetch(SQL["domains"])
            ],
            classes=[_class(row) for row in await connection.fetch(SQL["classes"])],
            settings={row["field"]: row["value"] for row in await connection.fetch(SQL["settings"])},
            our_settings={row["name"]: row["value"] for row in await connection.fetch(SQL["our_settings"])},
            write_rules={
                (row["dmid"], row["classid"]): WriteRule(copies=row["write_copies"], degraded=row["degraded_writes"])
                for row in await connection.fetch(SQL["write_rules"])
            },
            min_free_space_mb=self._min_free_space_mb,
            default_mindevcount=self._default_mindevcount,
        )


def _host(row: asyncpg.Record) -> Host:
    return Host(
        hostid=HostId(row["hostid"]),
        hostname=row["hostname"],
        status=HostState(row["status"]),
        hostip=row["hostip"],
        http_port=row["http_port"],
        http_get_port=row["http_get_port"],
        altip=row["altip"],
        altmask=row["altmask"],
        zone=row["zone"],
    )


def _device(row: asyncpg.Record) -> Device:
    return Device(
        devid=DevId(row["devid"]),
        hostid=HostId(row["hostid"]),
        status=DeviceState(row["status"]),
        weight=row["weight"],
        mb_total=row["mb_total"],
        mb_used=row["mb_used"],
        mb_asof=row["mb_asof"],
        out=row["out"],
    )


def _class(row: asyncpg.Record) -> FileClass:
    return FileClass(
        dmid=DomainId(row["dmid"]),
        classid=ClassId(row["classid"]),
        name=row["classname"],
        mindevcount=row["mindevcount"],
        replpolicy=row["replpolicy"] or None,
        hashtype=HashType(row["hashtype"]) if row["hashtype"] else None,
    )
