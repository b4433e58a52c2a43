"""The tracker's end of a node's side channel: many questions on one connection, and a node that stops answering."""

import asyncio

import pytest

from mogile_core.errors import NodeUnreachableError
from mogile_tracker.nodes.sidechannel import SideChannel, watch

ADDRESS = "127.0.20.5"


class Node:
    """Answers each line with itself, or keeps silent after a certain one."""

    def __init__(self) -> None:
        self.connections = 0
        self.silent_after = ""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while line := await reader.readline():
                if line.decode().strip() == self.silent_after:
                    await reader.read()
                    return
                writer.write(line)
        except ConnectionError:
            pass
        finally:
            writer.close()


async def test_a_missed_answer_fails_all_that_wait_and_the_next_question_connects_anew() -> None:
    node = Node()
    server = await asyncio.start_server(node, ADDRESS, 0)
    channel = SideChannel(ADDRESS, server.sockets[0].getsockname()[1], connect_timeout_seconds=5)
    answers = await asyncio.gather(*(channel.ask(f"q{n}", timeout_seconds=5) for n in range(500)))
    assert answers == [f"q{n}" for n in range(500)]
    node.silent_after = "q3"
    patient = [asyncio.create_task(channel.ask(f"q{n}", timeout_seconds=60)) for n in range(3)]
    hasty = asyncio.create_task(channel.ask("q3", timeout_seconds=0.3))
    behind = [asyncio.create_task(channel.ask(f"q{n}", timeout_seconds=60)) for n in range(4, 7)]
    assert await asyncio.gather(*patient) == ["q0", "q1", "q2"]
    with pytest.raises(NodeUnreachableError, match="did not answer in"):
        await hasty
    for each in behind:
        with pytest.raises(NodeUnreachableError):
            await each
    node.silent_after = ""
    assert await channel.ask("again", timeout_seconds=5) == "again"
    given_up = asyncio.create_task(channel.ask("given up", timeout_seconds=5))
    await asyncio.sleep(0)
    given_up.cancel()
    assert await channel.ask("after it", timeout_seconds=5) == "after it", "its answer is not taken for another's"
    assert node.connections == 2
    await channel.close()
    server.close()


async def test_a_node_that_falls_silent_is_hung_up_on() -> None:
    seen: list[tuple[int, float | None]] = []
    hung_up = asyncio.Event()

    async def one_line(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"7\t12.5\n")
        await reader.read()
        writer.close()
        await writer.wait_closed()
        hung_up.set()

    server = await asyncio.start_server(one_line, ADDRESS, 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(NodeUnreachableError, match="side channel failed"):
        async with asyncio.timeout(30):
            await watch(ADDRESS, port, timeout_seconds=5, silence_seconds=0.5, seen=lambda *each: seen.append(each))
    assert seen == [(7, 12.5)]
    await hung_up.wait()
    server.close()


async def test_a_node_that_closes_at_once_is_known_at_once() -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), ADDRESS, 0)
    channel = SideChannel(ADDRESS, server.sockets[0].getsockname()[1], connect_timeout_seconds=5)
    for _ in range(20):
        async with asyncio.timeout(30):
            with pytest.raises(NodeUnreachableError, match="side channel"):
                await channel.ask("q", timeout_seconds=60)
    await channel.close()
    server.close()


@pytest.mark.parametrize("says", [b"one\nanother\n", b"one\n" + b"x" * 10_000])
async def test_after_a_word_too_many_the_next_question_connects_anew(says: bytes) -> None:
    connections = ended = 0

    async def node(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections, ended
        connections += 1
        await reader.readline()
        writer.write(says)
        await reader.read()  # until the tracker has closed
        writer.close()
        ended += 1

    server = await asyncio.start_server(node, ADDRESS, 0)
    channel = SideChannel(ADDRESS, server.sockets[0].getsockname()[1], connect_timeout_seconds=5)
    async with asyncio.timeout(30):
        for number in range(1, 4):
            assert await channel.ask("q", timeout_seconds=60) == "one"
            while ended < number:  # the rest may come a moment later
                await asyncio.sleep(0.01)
            assert connections == number
    await channel.close()
    server.close()
