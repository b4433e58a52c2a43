"""The typed client: one method per tracker command, plus upload and download (`transfer`).

    async with TrackerClient("10.0.0.5:7001,10.0.0.6:7001") as client:
        await client.create_domain("images")
        await client.upload("images", "cat.jpg", data)
        data = await client.fetch("images", "cat.jpg")

Errors: CommandError (the tracker said no: `wire_code`), TrackerUnavailableError (nobody answered), TrackerOutcomeUnknownError (sent, then
lost, and repeating it would not be harmless), TransferError (the bytes). One client serves any number of tasks of one event loop.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Self

from mogile_core.checksum import Checksum, HashType
from mogile_core.client import checks, values
from mogile_core.client.jobs import TrackerJobs, tracker_jobs
from mogile_core.client.transfer import Source, Transfer
from mogile_core.client.transport import TrackerTransport
from mogile_core.errors import CommandError
from mogile_core.model import DeviceState, Host, HostId, HostState
from mogile_core.wire import from_text, to_text

LIST_PAGE_MAX = 1000


class TrackerClient:
    """Talks to whichever tracker answers."""

    def __init__(
        self,
        trackers: str | Sequence[str],
        *,
        connect_timeout_seconds: float = 2.0,
        answer_timeout_seconds: float = 15.0,
        rounds: int = 3,
    ) -> None:
        self._transport = TrackerTransport(
            trackers,
            connect_timeout_seconds=connect_timeout_seconds,
            answer_timeout_seconds=answer_timeout_seconds,
            rounds=rounds,
        )
        self._transfer = Transfer(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Drop all connections."""
        await self._transport.close()
        await self._transfer.close()

    async def command(
        self, name: str, args: Mapping[str, object] | None = None, *, safe: bool = False
    ) -> dict[str, str]:
        """Any command: str values are text (sent as UTF-8), None is left out, booleans become 1 and 0; the answer is wire text.

        `safe`: doing it twice is the same as once, so it may be repeated when an answer was lost.
        """
        return await self._transport.request(name, _wire_args(args or {}), safe=safe)

    # ---- files

    async def create_open(
        self, domain: str, key: str | bytes, *, class_name: str = "", size: int | None = None
    ) -> values.OpenedFile:
        """Get a fid and up to three places to write it (on distinct hosts); an open that is never closed is cleaned up."""
        args = {"domain": domain, "key": key, "class": class_name, "size": size, "multi_dest": 1}
        return values.opened(await self.command("create_open", args, safe=True))

    async def create_close(
        self,
        domain: str,
        key: str | bytes,
        fid: int,
        destination: values.Destination,
        *,
        size: int | None = None,
        checksum: Checksum | None = None,
        verify: bool = False,
    ) -> None:
        """Commit an upload: the key now means these bytes."""
        args = {
            "domain": domain,
            "key": key,
            "fid": fid,
            "devid": destination.devid,
            "path": destination.url,
            "size": size,
            "checksum": None if checksum is None else str(checksum),
            "checksumverify": verify or None,
        }
        await self.command("create_close", args)

    async def get_paths(self, domain: str, key: str | bytes, *, verify: bool = False, count: int = 9) -> list[str]:
        """URLs of copies, best first."""
        args = {"domain": domain, "key": key, "noverify": not verify, "pathcount": count}
        pairs = await self.command("get_paths", args, safe=True)
        return [values.need(pairs, f"path{i}") for i in range(1, values.number(pairs, "paths") + 1)]

    async def file_info(self, domain: str, key: str | bytes, *, devices: bool = False) -> values.FileInfo:
        """What the tracker knows about a key."""
        return values.file_info(
            await self.command("file_info", {"domain": domain, "key": key, "devices": devices}, safe=True)
        )

    async def file_debug(self, domain: str, key: str | bytes) -> dict[str, str]:
        """Every row about a key."""
        return await self.command("file_debug", {"domain": domain, "key": key}, safe=True)

    async def delete(self, domain: str, key: str | bytes) -> None:
        """Remove a key; its bytes go later."""
        await self.command("delete", {"domain": domain, "key": key})

    async def rename(self, domain: str, key: str | bytes, new_key: str | bytes) -> None:
        """Give a file another key of the same domain; `key_exists` when that is taken."""
        await self.command("rename", {"domain": domain, "from_key": key, "to_key": new_key})

    async def updateclass(self, domain: str, key: str | bytes, class_name: str) -> None:
        """Move a file to another class; it is replicated accordingly."""
        await self.command("updateclass", {"domain": domain, "key": key, "class": class_name}, safe=True)

    async def list_keys(
        self, domain: str, *, prefix: str | bytes = "", after: str | bytes = "", limit: int = LIST_PAGE_MAX
    ) -> values.KeyPage:
        """One page of keys in byte order; empty when there are no more."""
        args = {"domain": domain, "prefix": prefix, "after": after, "limit": limit}
        try:
            pairs = await self.command("list_keys", args, safe=True)
        except CommandError as error:
            if error.wire_code == "none_match":
                return values.KeyPage(keys=(), next_after="")
            raise
        count = values.number(pairs, "key_count")
        keys = tuple(to_text(values.need(pairs, f"key_{i}")) for i in range(1, count + 1))
        return values.KeyPage(keys=keys, next_after=to_text(pairs.get("next_after", "")))

    async def keys(self, domain: str, *, prefix: str | bytes = "") -> AsyncIterator[str]:
        """All keys with a prefix, page by page."""
        after = ""
        while True:
            page = await self.list_keys(domain, prefix=prefix, after=after)
            for key in page.keys:
                yield key
            if len(page.keys) < LIST_PAGE_MAX:
                return
            after = page.next_after

    async def upload(
        self, domain: str, key: str | bytes, source: Source, *, class_name: str = "", size: int | None = None
    ) -> values.FileInfo:
        """Store bytes under a key (replacing what it meant); durable when this returns. See `transfer.Source`."""
        return await self._transfer.upload(domain, key, source, class_name=class_name, size=size)

    async def fetch(self, domain: str, key: str | bytes, *, bytes_max: int = 1 << 30) -> bytes:
        """The bytes of a key; TransferError when longer than `bytes_max`."""
        return await self._transfer.fetch(domain, key, bytes_max)

    def download(self, domain: str, key: str | bytes) -> AsyncIterator[bytes]:
        """The bytes of a key in pieces; goes on at another copy when one fails half-way."""
        return self._transfer.download(domain, key)

    # ---- domains and classes

    async def get_domains(self) -> list[values.DomainInfo]:
        """All domains with their classes."""
        return values.domains(await self.command("get_domains", safe=True))

    async def domains(self) -> list[values.DomainInfo]:
        """All domains and classes with how their uploads are acknowledged (a command of ours)."""
        return values.domains(await self.command("mogile_domains", safe=True))

    async def create_domain(self, domain: str) -> None:
        """A new domain."""
        await self.command("create_domain", {"domain": domain})

    async def delete_domain(self, domain: str) -> None:
        """Remove an empty domain."""
        await self.command("delete_domain", {"domain": domain})

    async def create_class(
        self,
        domain: str,
        name: str,
        mindevcount: int,
        *,
        replpolicy: str | None = None,
        hashtype: HashType | None = None,
    ) -> None:
        """A new class."""
        args = {"domain": domain, "class": name, "mindevcount": mindevcount, "replpolicy": replpolicy}
        await self.command("create_class", {**args, "hashtype": hashtype and hashtype.wire_name})

    async def update_class(
        self, domain: str, name: str, mindevcount: int, *, replpolicy: str | None = None, hashtype: str | None = None
    ) -> None:
        """Change a class; `hashtype="NONE"` clears it, None keeps it."""
        args = {
            "domain": domain,
            "class": name,
            "mindevcount": mindevcount,
            "replpolicy": replpolicy,
            "hashtype": hashtype,
        }
        await self.command("update_class", args, safe=True)

    async def delete_class(self, domain: str, name: str) -> None:
        """Remove a class without files."""
        await self.command("delete_class", {"domain": domain, "class": name})

    async def set_class(
        self, domain: str, name: str, *, write_copies: int | None = None, degraded_writes: bool | None = None
    ) -> values.WriteRule:
        """Change how uploads of a class are acknowledged (a command of ours); what holds now. None keeps."""
        args = {"domain": domain, "class": name, "write_copies": write_copies, "degraded_writes": degraded_writes}
        pairs = await self.command("mogile_set_class", args, safe=True)
        return values.WriteRule(
            copies=values.number(pairs, "write_copies"), degraded=pairs.get("degraded_writes") == "1"
        )

    async def settings(self) -> list[values.SettingInfo]:
        """All settings of ours that can be changed at run time."""
        return values.settings(await self.command("mogile_setting", safe=True))

    async def set_setting(self, name: str, value: str) -> str:
        """Change one of them, '' is back to the default; the value in force."""
        return (await self.command("mogile_setting", {"name": name, "value": value}, safe=True)).get("value", "")

    # ---- hosts and devices

    async def get_hosts(self) -> list[Host]:
        """All hosts (without zones: see `mogile_devices`)."""
        return values.hosts(await self.command("get_hosts", safe=True))

    async def create_host(
        self,
        name: str,
        ip: str,
        port: int,
        *,
        getport: int | None = None,
        altip: str | None = None,
        altmask: str | None = None,
        status: HostState | None = None,
    ) -> HostId:
        """A new host; its state is `down` unless given."""
        args = {"host": name, "ip": ip, "port": port, "getport": getport, "altip": altip, "altmask": altmask}
        pairs = await self.command("create_host", {**args, "status": status})
        return HostId(values.number(pairs, "hostid"))

    async def update_host(
        self,
        name: str,
        *,
        ip: str | None = None,
        port: int | None = None,
        getport: int | None = None,
        altip: str | None = None,
        altmask: str | None = None,
        status: HostState | None = None,
    ) -> None:
        """Change what is given."""
        args = {"host": name, "ip": ip, "port": port, "getport": getport, "altip": altip, "altmask": altmask}
        await self.command("update_host", {**args, "status": status}, safe=True)

    async def delete_host(self, name: str) -> None:
        """Remove a host without devices."""
        await self.command("delete_host", {"host": name})

    async def get_devices(self) -> list[values.DeviceInfo]:
        """All devices as MogileFS shows them."""
        return values.devices(await self.command("get_devices", safe=True))

    async def create_device(self, devid: int, host: str, *, state: DeviceState = DeviceState.ALIVE) -> None:
        """A new device; the database arbitrates (`existing_devid`)."""
        await self.command("create_device", {"devid": devid, "hostname": host, "state": state})

    async def set_state(self, host: str, devid: int, state: DeviceState) -> None:
        """Change a device's state."""
        await self.command("set_state", {"host": host, "device": devid, "state": state}, safe=True)

    async def set_weight(self, host: str, devid: int, weight: int) -> None:
        """Change a device's weight."""
        await self.command("set_weight", {"host": host, "device": devid, "weight": weight}, safe=True)

    # ---- commands of ours

    async def cluster(self) -> values.ClusterInfo:
        """Who the cluster is."""
        pairs = await self.command("mogile_cluster", safe=True)
        return values.ClusterInfo(
            cluster_id=values.need(pairs, "cluster_id"),
            version=values.need(pairs, "version"),
            schema_version=values.number(pairs, "schema_version"),
        )

    async def set_zone(self, host: str, zone: str) -> None:
        """Say in which zone a host is; '' means unknown."""
        await self.command("mogile_set_zone", {"host": host, "zone": zone}, safe=True)

    async def set_out(self, devid: int, *, out: bool) -> None:
        """Stop (or start again) counting a device's copies."""
        await self.command("mogile_set_out", {"devid": devid, "out": out}, safe=True)

    async def forget_device(self, devid: int, *, lost_files: int | None = None) -> None:
        """Remove a dead device without files; with files that are lost only when their exact number is given."""
        await self.command("mogile_forget_device", {"devid": devid, "lost_files": lost_files})

    async def jobs(self) -> TrackerJobs:
        """Processes and background workers of the tracker that answers; each tracker has its own."""
        return tracker_jobs(await self.command("mogile_jobs", safe=True))

    async def balance(self, *, mode: str | None = None, spread: float | None = None) -> values.BalanceInfo:
        """Read and, with arguments, change how data is spread over devices."""
        pairs = await self.command("mogile_balance", {"mode": mode, "spread": spread}, safe=True)
        return values.BalanceInfo(
            mode=values.need(pairs, "mode"),
            spread=values.float_or_none(pairs, "spread") or 0.0,
            state=values.need(pairs, "state"),
            queued=values.number(pairs, "queued"),
            moved_fids=values.number(pairs, "moved_fids"),
            moved_bytes=values.number(pairs, "moved_bytes"),
            current_spread=values.float_or_none(pairs, "current_spread") or 0.0,
        )

    async def census(self, *, detail: bool = False) -> values.Census:
        """Counts of files and copies; with `detail` also per domain and class."""
        return values.census(await self.command("mogile_census", {"detail": int(detail)}, safe=True))

    async def devices(self) -> list[values.DeviceInfo]:
        """All devices with out, zone, files and cluster_ok."""
        return values.devices(await self.command("mogile_devices", safe=True))

    # ---- checks

    async def fsck_start(
        self, *, domain: str | None = None, class_name: str | None = None, prefix: str | bytes | None = None
    ) -> None:
        """Begin a check of all files or some, or go on with one that was stopped; `fsck_running`, `rebal_running`."""
        await self.command("fsck_start", {"domain": domain, "class": class_name, "prefix": prefix})

    async def fsck_stop(self) -> None:
        """Queue no more files."""
        await self.command("fsck_stop", safe=True)

    async def fsck_reset(self, *, policy_only: bool = False, start: int = 0) -> None:
        """Forget place, counts and limits; the next check begins after the fid `start`."""
        await self.command("fsck_reset", {"policy_only": policy_only, "startpos": start}, safe=True)

    async def fsck_clear_log(self) -> None:
        """Forget all events."""
        await self.command("fsck_clearlog", safe=True)

    async def fsck_log(self, after: int = 0) -> list[checks.FsckEvent]:
        """Up to a hundred events after a log id."""
        return checks.fsck_events(await self.command("fsck_getlog", {"after_logid": after}, safe=True))

    async def fsck_status(self) -> checks.FsckStatus:
        """How far the check is and what it found."""
        return checks.fsck_status(await self.command("mogile_fsck", safe=True))

    async def orphans(
        self, action: str = "status", *, devid: int | None = None, age_seconds: int | None = None
    ) -> list[checks.OrphanWalk]:
        """The searches for files on disks that belong to nothing, after start, stop, remove or adopt (of one device or all)."""
        args = {"action": action, "devid": devid, "age": age_seconds}
        return checks.orphan_walks(await self.command("mogile_orphans", args, safe=True))

    async def orphan_files(self, devid: int | None = None) -> AsyncIterator[checks.OrphanFile]:
        """What they found, page by page."""
        after_devid, after_fid = 0, 0
        while True:
            args = {"action": "list", "devid": devid, "after_devid": after_devid, "after_fid": after_fid}
            page = checks.orphan_files(await self.command("mogile_orphans", args, safe=True))
            for orphan in page:
                yield orphan
            if not page:
                return
            after_devid, after_fid = page[-1].devid, page[-1].fid


def _wire_args(args: Mapping[str, object]) -> dict[str, object]:
    result: dict[str, object] = {}
    for name, value in args.items():
        if value is None:
            continue
        if isinstance(value, bool):
            result[name] = int(value)
        elif isinstance(value, str | bytes):
            result[name] = from_text(value)
        else:
            result[name] = value
    return result
