"""mogstats: command line, DSN and printed form (the database itself: tests/integration/cli)."""

import re
from collections.abc import Callable

import pytest

from mogile_cli.classic.program import Died
from mogile_cli.classic.stats import STATISTICS, TABLES, Names, connect_arguments, statements, table_lines


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("DBI:Pg:dbname=m;host=h;port=5433", {"database": "m", "host": "h", "port": 5433}),
        ("dbi:Pg:db=m", {"database": "m"}),
        ("DBI:Pg:database=m; host=/run/pg;sslmode=require", {"database": "m", "host": "/run/pg", "ssl": "require"}),
        ("postgresql://u:p@h/m", {"dsn": "postgresql://u:p@h/m"}),
    ],
)
def test_dsn(dsn: str, expected: dict[str, object]) -> None:
    assert connect_arguments({"db_dsn": dsn}) == expected
    login = {"user": "me", "password": "secret"}
    assert connect_arguments({"db_dsn": dsn, "db_user": "me", "db_pass": "secret"}) == expected | login


@pytest.mark.parametrize(
    ("dsn", "message"),
    [
        ("DBI:mysql:mfs:host=h", "is no PostgreSQL database"),
        ("m", "is no PostgreSQL database"),
        ("DBI:Pg:dbname=m;flavour=x", "'flavour=x' is not understood"),
        ("DBI:Pg:m", "'m' is not understood"),
        ("DBI:Pg:port=x", "port 'x' is not a number"),
    ],
)
def test_dsn_that_cannot_be_used(dsn: str, message: str) -> None:
    with pytest.raises(Died, match=re.escape(message)):
        connect_arguments({"db_dsn": dsn})


async def test_bad_use_prints_the_usage_and_exits_1(run: Callable) -> None:
    dsn = "--db_dsn=DBI:Pg:dbname=m"
    for argv, start in [
        (["--help"], "Usage:\n    mogstats "),
        ([dsn, "--stats=devices,nonsense"], "ERROR: Invalid stat nonsense\n\nUsage:"),
        (["--stats=devices"], "ERROR: no database: use --db_dsn"),
        (["--nope"], "ERROR: Unknown option: nope\n"),
        ([dsn, "word"], "ERROR: Unexpected argument: word\n"),
    ]:
        result = await run("mogstats", *argv)
        assert (result.status, result.err) == (1, "")
        assert result.out.startswith(start)
        assert result.out.endswith(
            "valid stats: all, delete-queue, devices, domains, fids, files, general-queues, replication, replication-queue\n"
        )


async def test_no_database_there(run: Callable) -> None:
    result = await run("mogstats", "--db_dsn=DBI:Pg:dbname=m;host=127.0.0.1;port=1", "--stats=fids")
    assert (result.status, result.out) == (255, "Fetching statistics... (fids)\n")
    assert result.err.startswith("Failed to connect to database: ")


def test_every_statistic_has_its_statement_and_no_statement_is_left_over() -> None:
    assert set(statements()) == {"classes", *STATISTICS}
    assert set(TABLES) | {"fids"} == set(STATISTICS)


def test_a_table_with_names_missing() -> None:
    names = Names(domains={1: "d"}, classes={(1, 2): "c"})
    assert table_lines(TABLES["domains"], [(1, 2, 5), (1, 0, 6), (9, 3, 7)], names) == [
        "Statistics for domains...",
        "  domain               class           files",
        "  -------------------- ----------- ----------",
        "  d                    c                   5",
        "  d                    default             6",
        "  domain 9             class 3             7",
        "  -------------------- ----------- ----------",
    ]
