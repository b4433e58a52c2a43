"""Trackers behind a DNS name, nginx gateway: all records count, a new list is taken over, the last good one stays when DNS is gone."""

import asyncio
import socket
import struct
from typing import Any, cast

import aiohttp
import pytest

PORT = 17001
NAME = "demo-tracker-peers.ns.svc.cluster.test"


class NameServer(asyncio.DatagramProtocol):
    """Answers A questions for NAME with `addresses`; `truncated` sends the asker to TCP."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self.truncated = False
        self.asked = 0
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def answer(self, data: bytes, *, truncated: bool) -> bytes:
        self.asked += 1
        end = data.index(b"\0", 12) + 5
        name = b".".join(_labels(data)).decode()
        kind = struct.unpack(">H", data[end - 4 : end - 2])[0]
        found = self.addresses if kind == 1 and name == NAME and not truncated else []
        flags = 0x8180 | (0x0200 if truncated else 0)
        head = data[:2] + struct.pack(">HHHHH", flags, 1, len(found), 0, 0) + data[12:end]
        return head + b"".join(b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 5, 4) + socket.inet_aton(one) for one in found)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        assert self.transport is not None
        self.transport.sendto(self.answer(data, truncated=self.truncated), addr)

    async def serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = struct.unpack(">H", await reader.readexactly(2))[0]
        reply = self.answer(await reader.readexactly(length), truncated=False)
        writer.write(struct.pack(">H", len(reply)) + reply)
        await writer.drain()
        writer.close()


def _labels(data: bytes) -> list[bytes]:
    labels, at = [], 12
    while data[at]:
        labels.append(data[at + 1 : at + 1 + data[at]])
        at += 1 + data[at]
    return labels


@pytest.mark.parametrize("kind", ["nginx"], indirect=True)
@pytest.mark.parametrize("truncated", [False, True])
async def test_tracker_names(
    start_gateway: Any, store: Any, http: aiohttp.ClientSession, request: Any, truncated: bool
) -> None:
    tracker_class = request.getfixturevalue("tracker_class")
    server = NameServer()
    server.addresses, server.truncated = ["127.0.23.41", "127.0.23.42"], truncated
    loop = asyncio.get_running_loop()
    tcp = await asyncio.start_server(server.serve_tcp, "127.0.23.53", 0)
    port = tcp.sockets[0].getsockname()[1]
    transport, _ = await loop.create_datagram_endpoint(lambda: server, local_addr=("127.0.23.53", port))
    trackers = {
        address: tracker_class(store, address, PORT) for address in ("127.0.23.41", "127.0.23.42", "127.0.23.43")
    }
    for tracker in trackers.values():
        await tracker.start()
    store.put(b"k", b"data")
    try:
        gateway = await start_gateway([f"{NAME}:{PORT}"], resolver=f"127.0.23.53:{port}")

        async def until_asked(addresses: set[str]) -> None:
            async with asyncio.timeout(90):
                while True:
                    for tracker in trackers.values():
                        tracker.seen.clear()
                    for _ in range(6):
                        async with http.get(gateway.url + "/images/k") as answer:
                            assert await answer.read() == b"data"
                    if {one for one, tracker in trackers.items() if tracker.commands("get_paths")} == addresses:
                        return
                    await asyncio.sleep(0.2)

        await until_asked({"127.0.23.41", "127.0.23.42"})
        server.addresses = ["127.0.23.42", "127.0.23.43"]
        await until_asked({"127.0.23.42", "127.0.23.43"})
        asked = server.asked
        transport.close()
        tcp.close()
        await asyncio.sleep(0 if truncated else 8)  # past the next look-up, which now fails
        await until_asked({"127.0.23.42", "127.0.23.43"})
        assert asked >= 4
    finally:
        transport.close()
        tcp.close()
        await tcp.wait_closed()
        for tracker in trackers.values():
            await tracker.stop()
