"""Orders over the control socket: results, errors with their status, and what a stranger or a dead cluster gets."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mogile_cli.errors import CliError, UsageError
from mogile_cli.local import control
from mogile_cli.local.control import ControlServer
from mogile_core.errors import CommandError


async def double(number: int) -> dict[str, int]:
    return {"doubled": number * 2}


async def fail(how: str) -> None:
    raise (
        {"usage": UsageError, "cli": CliError}[how]("there is no storage node 9")
        if how != "wire"
        else CommandError("no_device")
    )


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[str]:
    server = ControlServer({"double": double, "fail": fail})
    socket_path = str(tmp_path / "control")
    await server.start(socket_path)
    yield socket_path
    await server.stop()


async def test_an_order_is_answered_with_its_result(path: str) -> None:
    assert await control.order(path, "double", number=21) == {"doubled": 42}


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("usage", UsageError, "no storage node 9"),
        ("cli", CliError, "no storage node 9"),
        ("wire", CliError, "no_device"),
    ],
)
async def test_errors_arrive_as_errors(path: str, how: str, kind: type[CliError], message: str) -> None:
    with pytest.raises(CliError, match=message) as caught:
        await control.order(path, "fail", how=how)
    assert type(caught.value) is kind


async def test_an_unknown_order_says_so(path: str) -> None:
    with pytest.raises(CliError, match="unknown order 'explode'"):
        await control.order(path, "explode")


async def test_nobody_listening_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="cannot be asked"):
        await control.order(str(tmp_path / "nothing"), "double", number=1)


@pytest.mark.parametrize(
    "line", [b"\n", b"nonsense\n", b"[]\n", b'{"order": "double"}\n', b'{"order": "double", "arguments": 3}\n']
)
async def test_garbage_gets_an_error_and_the_server_goes_on(path: str, line: bytes) -> None:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(line)
    assert b"error" in await reader.readline()
    writer.close()
    await writer.wait_closed()
    assert await control.order(path, "double", number=1) == {"doubled": 2}


async def test_a_client_that_goes_away_harms_nobody(path: str) -> None:
    _, writer = await asyncio.open_unix_connection(path)
    writer.close()
    await writer.wait_closed()
    assert await control.order(path, "double", number=4) == {"doubled": 8}
