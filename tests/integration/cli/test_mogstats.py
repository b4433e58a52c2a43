"""mogstats on a real database of schema 17."""

import io
from collections.abc import Awaitable, Callable

import asyncpg
import pytest

from mogile_cli.classic.program import Console
from mogile_cli.classic.stats import mogstats

MIB = 1 << 20
NEVER = 2147483647
Run = Callable[..., Awaitable[str]]


@pytest.fixture
async def filled(database_dsn: str) -> str:
    """Two domains, three devices, four files and something in every queue."""
    connection = await asyncpg.connect(database_dsn)
    rows = {
        "domain (dmid, namespace)": [
            (1, "images"),
            (2, "Ã¤"),
        ],  # our tracker stores a name's bytes as Latin-1 characters
        "class (dmid, classid, classname, mindevcount)": [(1, 1, "thumb", 2)],
        "host (hostid, hostname, hostip, status)": [
            (1, "node1", "10.0.0.1", "alive"),
            (2, "node2", "10.0.0.2", "alive"),
        ],
        "device (devid, hostid, status)": [(1, 1, "alive"), (2, 2, "drain"), (10, 2, "dead"), (11, 2, "alive")],
        "file (fid, dmid, dkey, length, classid, devcount)": [
            (11, 1, "a", 3 * MIB, 0, 2),
            (12, 1, "b", 4 * MIB, 0, 1),
            (13, 1, "c", 10 * MIB, 1, 3),
            (14, 2, "d", 5, 0, 2),
        ],
        "file_on (fid, devid)": [(11, 1), (11, 2), (12, 10), (13, 1), (13, 2), (13, 10), (14, 1), (14, 99)],
        "file_to_replicate (fid, nexttry)": [
            (11, 0),
            (12, 1),
            (13, 7),
            (14, NEVER),
            (15, 5000),
            (16, NEVER - 1),
            (17, 0),
        ],
        "file_to_delete2 (fid, nexttry)": [(1, 0), (2, 5000), (3, NEVER - 1)],
        "file_to_queue (fid, type, nexttry)": [(1, 1, 0), (2, 1, 0), (1, 2, NEVER), (1, 9, NEVER - 1)],
    }
    for table, values in rows.items():
        marks = ", ".join(f"${index}" for index in range(1, len(values[0]) + 1))
        await connection.executemany(f"INSERT INTO {table} VALUES ({marks})", values)
    await connection.close()
    return database_dsn


@pytest.fixture
def run() -> Run:
    async def run_it(dsn: str, *argv: str) -> str:
        stdout, stderr = io.BytesIO(), io.BytesIO()
        console = Console(stdin=io.BytesIO(), stdout=stdout, stderr=stderr)
        status = await mogstats([f"--db_dsn={dsn}", *argv], {}, console)
        assert (status, stderr.getvalue()) == (0, b"")
        return stdout.getvalue().decode()

    return run_it


ALL = """\
Fetching statistics... (all)

Statistics for devices...
  device     host                    files     status
  ---------- ---------------- ------------ ----------
  dev1       node1                       3      alive
  dev2       node2                       2      drain
  dev10      node2                       2       dead
  dev99                                  1           {end}
  ---------- ---------------- ------------ ----------

Statistics for file ids...
  Max file id: 14

Statistics for files...
  domain               class           files    size (m)  fullsize (m)
  -------------------- ----------- ---------- ----------- -------------
  images               default             2           7            10
  images               thumb               1          10            30
  ä                    default             1           0             0
  -------------------- ----------- ---------- ----------- -------------

Statistics for replication...
  domain               class        devcount      files
  -------------------- ----------- ---------- ----------
  images               default             1          1
  images               default             2          1
  images               thumb               3          1
  ä                    default             2          1
  -------------------- ----------- ---------- ----------

Statistics for replication queue...
  status                      count
  -------------------- ------------
  deferred                        1
  manual                          1
  newfile                         2
  overdue                         1
  redo                            1
  unknown                         1
  -------------------- ------------

Statistics for delete queue...
  status                      count
  -------------------- ------------
  deferred                        1
  new                             1
  overdue                         1
  -------------------- ------------

Statistics for general queues...
  queue           status                      count
  --------------- -------------------- ------------
  FSCK_QUEUE      new                             2
  REBAL_QUEUE     manual                          1
  UNKNOWN_QUEUE   deferred                        1
  --------------- -------------------- ------------

done
""".format(end="")  # an editor must not eat the blanks before it


async def test_all(filled: str, run: Run) -> None:
    assert await run(filled) == ALL
    assert await run(filled, "--stats=all") == ALL


async def test_some_and_verbose(filled: str, run: Run) -> None:
    out = await run(filled, "--stats=fids,delete-queue", "--verbose")
    assert out.startswith(
        "Fetching statistics... (fids,delete-queue)\n... fids stats...\n... done\n\nStatistics for file ids...\n"
    )
    assert [line for line in out.splitlines() if line.startswith("Statistics")] == [
        "Statistics for file ids...",
        "Statistics for delete queue...",
    ]


async def test_domains_is_the_short_form_of_files(filled: str, run: Run) -> None:
    out = await run(filled, "--stats=domains")
    assert "Statistics for domains...\n  domain               class           files\n" in out
    assert "  images               default             2\n" in out
    assert "domains..." not in await run(filled, "--stats=domains,files")


async def test_an_empty_database(database_dsn: str, run: Run) -> None:
    out = await run(database_dsn)
    assert "  Max file id: none\n" in out
    assert out.endswith("\ndone\n")


async def test_a_database_that_may_only_be_read(filled: str, run: Run) -> None:
    connection = await asyncpg.connect(filled)
    try:
        database = await connection.fetchval("SELECT quote_ident(current_database())")
        await connection.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    finally:
        await connection.close()
    assert await run(filled) == ALL
