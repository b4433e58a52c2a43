"""Plans of the statements that commands run: one index look-up per key, planned once, with and without statistics."""

import re

import pytest

from mogile_tracker.processes import LANE_SETTINGS
from mogile_tracker.store.postgres import connect
from mogile_tracker.store.queries import load

pytestmark = pytest.mark.every_postgres
KEYED = ("lookup", "lookup_one", "close", "delete", "rename", "updateclass")
SQL = load("files")


@pytest.mark.parametrize("analyzed", [False, True])
async def test_keys_are_found_by_their_own_index(database_dsn: str, analyzed: bool) -> None:
    connection = await connect(database_dsn, server_settings=LANE_SETTINGS)
    try:
        if analyzed:
            await connection.execute(
                "INSERT INTO file SELECT n, 1, 'k' || n, 1, n % 5, 1 FROM generate_series(1, 5000) n; ANALYZE file"
            )
        for name in KEYED:
            arguments = max(int(number) for number in re.findall(r"\$(\d+)", SQL[name]))
            await connection.execute(f"PREPARE {name} AS {SQL[name]}")
            nothing = ", ".join(["NULL"] * arguments)
            plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN EXECUTE {name} ({nothing})"))
            assert plan.count("using file_dmid_dkey_key on file") == (2 if name == "rename" else 1), plan
            assert "file_devcount" not in plan, plan
            assert "Seq Scan" not in plan, plan
    finally:
        await connection.close()


async def test_a_statement_is_planned_once(database_dsn: str) -> None:
    connection = await connect(database_dsn, server_settings=LANE_SETTINGS)
    try:
        for number in range(10):
            await connection.fetch(SQL["lookup"], [1], [f"k{number}"])
        generic, custom = await connection.fetchrow(
            "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE statement = $1", SQL["lookup"]
        )
        assert (generic, custom) == (10, 0)
    finally:
        await connection.close()
