"""The side channel of MogileFS (port 7501): sizes, digests and how busy the disks are, a line each.

One command of a connection is in service at a time; it may name several uris, answered a line each in their order. `shutdown` is
taken from loopback and from `admin_from` only. Digests are read from the disk every time, in the device's own threads, block by block,
so that they say what is there and a large file holds up no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
from collections.abc import Callable

from mogile_core.checksum import HashType, new_digest
from mogile_core.errors import SettingError
from mogile_core.runtime.logs import get_log
from mogile_storage.devices import Device
from mogile_storage.errors import BadRequestError, MissingError, NodeRefusal
from mogile_storage.marker import State
from mogile_storage.parts import conclude
from mogile_storage.registry import Registry
from mogile_storage.targets import parse_target

log = get_log(__name__)

Networks = tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]

LINE_BYTES_MAX = 4096
CONNECTIONS_MAX = 256
IDLE_SECONDS = 3600.0
WATCH_SECONDS = 1.0
BLOCK_BYTES = 1 << 20
_DIGESTS = {"md5": HashType.MD5, "sha-1": HashType.SHA1}


class SideChannel:
    """The server of the side channel."""

    def __init__(self, registry: Registry, shutdown: Callable[[], None], admin_from: Networks = ()) -> None:
        self._registry, self._shutdown, self._admin_from = registry, shutdown, admin_from
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._digest_locks: dict[int, asyncio.Lock] = {}

    async def start(self, host: str, port: int) -> int:
        """Listen and return the port; OSError when it is taken."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=LINE_BYTES_MAX)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._clients):
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            if len(self._clients) <= CONNECTIONS_MAX:
                await self._talk(reader, writer)
        except (OSError, TimeoutError, asyncio.CancelledError):
            pass
        except ValueError:  # a line over the limit
            writer.write(b"ERROR: line too long\r\n")
        finally:
            self._clients.discard(task)
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            async with asyncio.timeout(IDLE_SECONDS):
                line = await reader.readline()
            if not line.endswith(b"\n"):
                return
            words = line.decode("latin-1").split()
            if not words:
                continue
            command = words[0].lower()
            if command == "watch":
                await self._watch(reader, writer)
                return
            if command == "shutdown":
                if _may_order(writer, self._admin_from):
                    log.info("shutdown ordered on the side channel")
                    self._shutdown()
                    return
                answer = "ERROR: shutdown is taken from this machine and from MOGILE_ADMIN_FROM only"
            elif command == "quit":
                return
            elif command in ("size", *_DIGESTS):
                answer = await self._about(command, words[1:])
            else:
                answer = f"ERROR: unknown command: {words[0]}"
            writer.write(answer.encode("latin-1") + b"\r\n")
            await writer.drain()

    async def _about(self, command: str, arguments: list[str]) -> str:
        """A line for each uri of the list; the last word may be a reason."""
        fsck = arguments[-1:] == ["fsck"]
        uris = arguments[:-1] if fsck else arguments
        if not uris:
            return "ERROR: uri missing"
        return "\r\n".join([await self._about_one(command, uri, fsck=fsck) for uri in uris])

    async def _about_one(self, command: str, uri: str, *, fsck: bool) -> str:
        if ".." in uri:
            return "ERROR: uri invalid (contains ..)"
        try:
            target = parse_target(uri.encode("latin-1"))
        except MissingError:
            target = None
        except NodeRefusal as refusal:
            return f"ERROR: uri invalid ({refusal})"
        device = self._registry.devices.get(target.devid) if target is not None else None
        name = command.upper()
        try:
            if device is None or target is None or target.kind != "fid":
                raise MissingError
            if command == "size":
                return f"{uri} {await self._size(device, target.name)}"
            lock = self._digest_locks.setdefault(device.devid, asyncio.Lock())
            guard = lock if fsck else contextlib.nullcontext()
            async with guard:
                return f"{uri} {name}={await self._digest(device, target.name, _DIGESTS[command])}"
        except (MissingError, BadRequestError):
            return f"{uri} -1" if command == "size" else f"{uri} {name}=-1"
        except NodeRefusal as refusal:
            return f"ERR read {uri} failed: {refusal}"

    async def _size(self, device: Device, name: str) -> int:
        await conclude(device, name)
        service = device.usable()
        size: int = await service.reads.call(_size, service.store.fd, name)
        return size

    async def _digest(self, device: Device, name: str, hashtype: HashType) -> str:
        service = device.usable()
        opened = await service.reads.call(service.store.open_copy, name)
        digest, offset = new_digest(hashtype), 0
        try:
            while block := await service.reads.call(os.pread, opened.fd, BLOCK_BYTES, offset):
                if len(block) == BLOCK_BYTES:
                    await service.reads.call(digest.update, block)
                else:
                    digest.update(block)
                offset += len(block)
        finally:
            service.reads.clean_up(os.close, opened.fd)
        return digest.digest().hex()

    async def _watch(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Groups of `<devid>\\t<percent>` lines ended by a dot, one a second, until the client goes."""
        gone = asyncio.ensure_future(reader.read(1))
        try:
            while not gone.done():
                lines = []
                for devid, device in sorted(self._registry.devices.items()):
                    if device.state is State.READY and not device.hung:
                        busy = device.utilization
                        lines.append(f"{devid}\t{'-' if busy is None else round(busy)}\n")
                writer.write("".join(lines).encode() + b".\n")
                await writer.drain()
                await asyncio.wait({gone}, timeout=WATCH_SECONDS)
        finally:
            gone.cancel()


def _size(fd: int, name: str) -> int:
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False).st_size
    except (FileNotFoundError, NotADirectoryError):
        raise MissingError from None


def parse_networks(text: str) -> Networks:
    """`10.0.0.0/8,fd00::/8`; SettingError naming the setting."""
    try:
        return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as failure:
        raise SettingError(
            f"MOGILE_ADMIN_FROM must be networks such as 10.0.0.0/8, got {text!r}: {failure}"
        ) from failure


def _may_order(writer: asyncio.StreamWriter, networks: Networks) -> bool:
    peer = ipaddress.ip_address(writer.get_extra_info("peername")[0])
    address = getattr(peer, "ipv4_mapped", None) or peer
    return bool(address.is_loopback or any(address in network for network in networks))
