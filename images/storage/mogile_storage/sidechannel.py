"""The side channel of MogileFS (port 7501): sizes, digests and how busy the disks are, a line each.

Commands of a connection are answered in their order; one may name several uris, answered a line each. Sizes that are asked together are
looked at by one job per device: a tracker asks for every upload it closes, and the way to a thread and back costs ten times the look.
`shutdown` is taken from loopback and from `admin_from` only. Digests are read from the disk every time, in the device's own threads,
block by block, so that they say what is there and a large file holds up no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import os
from collections.abc import AsyncIterator, Callable, Sequence

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
READ_BYTES = 64 << 10  # what is answered together has come in one such read
SIZES_IN_A_JOB = 32  # few enough that a job on a slow disk does not look like one that hangs
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
        self._server = await asyncio.start_server(self._serve, host, port, limit=READ_BYTES)
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
        async for commands in _commands(reader):
            sizes: list[str] = []
            for words in commands:
                if len(words) == 2 and words[0].lower() == "size":
                    sizes.append(words[1])
                    continue
                if sizes:
                    _write(writer, await self._sizes(sizes))
                    sizes = []
                if not await self._obey(words, reader, writer):
                    return
            if sizes:
                _write(writer, await self._sizes(sizes))
            await writer.drain()

    async def _obey(self, words: Sequence[str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Carry out one command; False when it ends the connection."""
        command = words[0].lower()
        if command == "watch":
            await self._watch(reader, writer)
            return False
        if command == "shutdown":
            if _may_order(writer, self._admin_from):
                log.info("shutdown ordered on the side channel")
                self._shutdown()
                return False
            answers = ["ERROR: shutdown is taken from this machine and from MOGILE_ADMIN_FROM only"]
        elif command == "quit":
            return False
        elif command in ("size", *_DIGESTS):
            answers = await self._about(command, words[1:])
        else:
            answers = [f"ERROR: unknown command: {words[0]}"]
        _write(writer, answers)
        return True

    async def _about(self, command: str, arguments: Sequence[str]) -> list[str]:
        """A line for each uri of the list; the last word may be a reason."""
        fsck = arguments[-1:] == ["fsck"]
        uris = arguments[:-1] if fsck else arguments
        if not uris:
            return ["ERROR: uri missing"]
        if command == "size":
            return await self._sizes(uris)
        return [await self._digest_line(command, uri, fsck=fsck) for uri in uris]

    def _copy(self, uri: str) -> tuple[Device, str]:
        """The device of a copy and its name there; MissingError when it is nowhere on this node, ValueError when it is no uri."""
        if ".." in uri:
            raise ValueError("contains ..")
        try:
            target = parse_target(uri.encode("latin-1"))
        except MissingError:
            raise
        except NodeRefusal as refusal:
            raise ValueError(str(refusal)) from None
        device = self._registry.devices.get(target.devid)
        if device is None or target.kind != "fid":
            raise MissingError
        return device, target.name

    async def _digest_line(self, command: str, uri: str, *, fsck: bool) -> str:
        try:
            device, name = self._copy(uri)
            lock = self._digest_locks.setdefault(device.devid, asyncio.Lock())
            guard = lock if fsck else contextlib.nullcontext()
            async with guard:
                return f"{uri} {command.upper()}={await self._digest(device, name, _DIGESTS[command])}"
        except ValueError as problem:
            return f"ERROR: uri invalid ({problem})"
        except NodeRefusal as refusal:
            return _refused(uri, f"{command.upper()}=-1", refusal)

    async def _sizes(self, uris: Sequence[str]) -> list[str]:
        """A line for each of them, in their order."""
        lines = [""] * len(uris)
        asked: dict[Device, list[tuple[int, str]]] = {}
        for place, uri in enumerate(uris):
            try:
                device, name = self._copy(uri)
                await conclude(device, name)
                asked.setdefault(device, []).append((place, name))
            except ValueError as problem:
                lines[place] = f"ERROR: uri invalid ({problem})"
            except NodeRefusal as refusal:
                lines[place] = _refused(uri, "-1", refusal)
        for device, places in asked.items():
            for at in range(0, len(places), SIZES_IN_A_JOB):
                some = places[at : at + SIZES_IN_A_JOB]
                sizes = await self._look(device, [name for _, name in some])
                for (place, _), size in zip(some, sizes, strict=True):
                    uri = uris[place]
                    lines[place] = _refused(uri, "-1", size) if isinstance(size, NodeRefusal) else f"{uri} {size}"
        return lines

    async def _look(self, device: Device, names: Sequence[str]) -> list[int | NodeRefusal]:
        """The sizes of some copies of a device; one that cannot be looked at fails alone."""
        try:
            service = device.usable()
            sizes: list[int | NodeRefusal] = await service.reads.call(_sizes, service.store.fd, names)
        except NodeRefusal as refusal:
            if len(names) == 1:
                return [refusal]
            return [(await self._look(device, [name]))[0] for name in names]
        return sizes

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


async def _commands(reader: asyncio.StreamReader) -> AsyncIterator[list[list[str]]]:
    """The words of every line that has come, again and again until the client ends; ValueError for a line over the limit, when those
    before it have been given out."""
    tail = b""
    while True:
        async with asyncio.timeout(IDLE_SECONDS):
            data = await reader.read(READ_BYTES)
        if not data:
            return
        *lines, tail = (tail + data).split(b"\n")
        good = list(itertools.takewhile(lambda line: len(line) <= LINE_BYTES_MAX, lines))
        if commands := [words for line in good if (words := line.decode("latin-1").split())]:
            yield commands
        if len(good) < len(lines) or len(tail) > LINE_BYTES_MAX:
            raise ValueError("line too long")


def _write(writer: asyncio.StreamWriter, lines: Sequence[str]) -> None:
    writer.write("".join([f"{line}\r\n" for line in lines]).encode("latin-1"))


def _refused(uri: str, missing: str, refusal: NodeRefusal) -> str:
    if isinstance(refusal, MissingError | BadRequestError):
        return f"{uri} {missing}"
    return f"ERR read {uri} failed: {refusal}"


def _sizes(fd: int, names: Sequence[str]) -> list[int | NodeRefusal]:
    """In a thread of the device."""
    sizes: list[int | NodeRefusal] = []
    for name in names:
        try:
            sizes.append(os.stat(name, dir_fd=fd, follow_symlinks=False).st_size)
        except (FileNotFoundError, NotADirectoryError):
            sizes.append(MissingError())
    return sizes


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
