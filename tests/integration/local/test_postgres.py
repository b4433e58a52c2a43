"""The embedded PostgreSQL of local mode, run for real (as root and as whoever runs the tests)."""

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from mogile_cli.local.postgres import EmbeddedPostgres, PostgresError


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mogile-test-pg-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


async def _count(dsn: str, statement: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        value: int = await connection.fetchval(statement)
        return value
    finally:
        await connection.close()


async def test_data_stays_after_a_stop_and_a_second_start(folder: Path) -> None:
    server = EmbeddedPostgres(directory=folder / "pg")
    server.start()
    connection = await asyncpg.connect(server.dsn())
    await connection.execute("CREATE TABLE kept AS SELECT generate_series(1, 7)")
    await connection.close()
    server.stop()
    assert server.pid is None
    again = EmbeddedPostgres(directory=folder / "pg")
    again.start()
    try:
        assert await _count(again.dsn(), "SELECT count(*) FROM kept") == 7
    finally:
        again.stop()


def test_a_busy_port_is_one_clear_sentence(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = EmbeddedPostgres(directory=folder / "pg", port=port)
        with pytest.raises(PostgresError, match=rf"cannot listen on 127\.0\.0\.1:{port}"):
            server.start()


async def test_a_wrong_password_is_refused(folder: Path) -> None:
    server = EmbeddedPostgres(directory=folder / "pg")
    server.start()
    try:
        password = (folder / "pg" / "password").read_text().strip()
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(server.dsn().replace(password, "wrong"))
    finally:
        server.stop()
