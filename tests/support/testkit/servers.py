"""PostgreSQL servers of a test's own: killed and brought back."""

import asyncpg

from mogile_cli.local.postgres import EmbeddedPostgres, PostgresError
from testkit.waiting import wait_until


async def no_moves(dsn: str) -> None:
    """Turn the balancer off, as it is in the template of all other tests: it would move files while a test looks at them."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("INSERT INTO mogile_setting (name, value) VALUES ('balance_mode', 'off')")
    finally:
        await connection.close()


def start_again(server: EmbeddedPostgres) -> None:
    """Start a PostgreSQL that was killed: the last backends of the dead one hold its memory for a moment."""
    server.stop()  # only takes note of the end
    problem: PostgresError | None = None

    def started() -> bool:
        nonlocal problem
        try:
            server.start()
        except PostgresError as again:
            problem = again
            return False
        return True

    try:
        wait_until(started, "PostgreSQL to start again")
    except AssertionError as late:
        raise late from problem
