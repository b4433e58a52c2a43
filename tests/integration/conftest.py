"""PostgreSQL for the integration tests: one server per session, a migrated template database, a clone per test.

Tests marked `every_postgres` run once per PostgreSQL this machine has: the wheel's and the distribution's (Debian 12: 15). The
distribution's server is never started as a service; every server here has a data directory of its own.
"""

import asyncio
import itertools
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from mogile_cli.local.postgres import EmbeddedPostgres, find_binaries
from testkit.places import server_folder

TEMPLATE = "mogile_template"
UPSTREAM = Path(__file__).parents[1] / "data" / "mogilefs-schema-17.sql"
# Both en_US make upper and lower case, punctuation and Latin-1 letters sort otherwise than their bytes do.
COLLATIONS = {
    "C": "LOCALE 'C'",
    "en_US libc": "LOCALE 'en_US.UTF-8'",
    "en_US icu": "LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LOCALE 'C'",
}
FILL = """
INSERT INTO domain VALUES (1, 'd1'), (2, 'empty');
INSERT INTO class VALUES (1, 1, 'few', 1, 1, 'MultipleHosts()');
INSERT INTO host (hostid, status, hostname, hostip) VALUES (1, 'alive', 'h1', '10.0.0.1'), (2, 'alive', 'h2', '10.0.0.2');
INSERT INTO device (devid, hostid, status) VALUES (1, 1, 'alive'), (2, 2, 'alive'), (3, 2, 'alive');
INSERT INTO file
    SELECT n, 1, (ARRAY['a', 'B', '_', 'é', 'Z', 'a-'])[1 + n % 6] || '/' || chr(97 + n % 26) || chr(65 + n % 17) || n, n, n % 2, 2
    FROM generate_series(1, {FILES}) n;
INSERT INTO file_on SELECT n, 1 + n % 2 FROM generate_series(1, {FILES}) n;
INSERT INTO file_on SELECT n, 3 FROM generate_series(1, {FILES}) n;
INSERT INTO file_to_replicate SELECT n, 2147483647, NULL, 3, 0 FROM generate_series(1, 200) n;
INSERT INTO tempfile (fid, createtime, classid, dmid, dkey, devids)
    SELECT {FILES} + n, extract(epoch FROM now())::int, 0, 1, 'open' || n, '1,2' FROM generate_series(1, 50) n;
SELECT setval('tempfile_fid_seq', {FILES} + 20);
"""
HAS_ICU = "SELECT EXISTS (SELECT FROM pg_collation WHERE collname LIKE '%-x-icu')"  # `unicode` is there without ICU too
_numbers = itertools.count(1)


@pytest.fixture(autouse=True, scope="session")
def _no_settings_from_the_shell() -> Iterator[None]:
    """A developer's MOGILE_* variables must not change results."""
    kept = {
        name: os.environ.pop(name) for name in list(os.environ) if name.startswith("MOGILE_") and name != "MOGILE_CACHE"
    }
    yield
    os.environ.update(kept)


def installed_servers() -> dict[str, Path]:
    """Major version -> folder of binaries; the wheel's wins over the distribution's of the same version."""
    found = [*sorted(Path("/usr/lib/postgresql").glob("*/bin")), find_binaries()]
    versions = {}
    for binaries in found:
        if (binaries / "postgres").exists():
            text = subprocess.run(
                [binaries / "postgres", "--version"], capture_output=True, text=True, check=True
            ).stdout
            versions[text.split()[2].partition(".")[0]] = binaries
    return versions


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("every_postgres")
    if marker and "postgres" in metafunc.fixturenames:
        versions = sorted(installed_servers(), key=int)
        chosen = versions[-1:] if marker.kwargs.get("newest_only") else versions
        metafunc.parametrize("postgres", chosen, indirect=True, scope="session")


def _compiled_locale(folder: Path) -> Path:
    """en_US.UTF-8, which minimal systems do not have, for servers that are started with LOCPATH."""
    folder.mkdir(mode=0o755)
    made = folder / "en_US.UTF-8"
    done = subprocess.run(
        ["localedef", "-i", "en_US", "-f", "UTF-8", "--no-archive", made], capture_output=True, text=True, check=False
    )
    assert (made / "LC_COLLATE").exists(), f"Debian's package locales has the sources: {done.stderr}"
    return folder


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> Iterator[EmbeddedPostgres]:
    """A running server with durability on (the product's promises are tested with fsync, synchronous_commit and full_page_writes)."""
    version: str | None = getattr(request, "param", None)
    folder = server_folder("mogile-test-pg-")
    server = EmbeddedPostgres(directory=folder / "pg", binaries=installed_servers()[version] if version else None)
    with pytest.MonkeyPatch.context() as patch:
        if version:
            patch.setenv("LOCPATH", str(_compiled_locale(folder / "locales")))
        server.start()
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def own_postgres() -> Iterator[EmbeddedPostgres]:
    """A server of this test's own, that it can kill."""
    folder = server_folder("mogile-test-pg-")
    server = EmbeddedPostgres(directory=folder / "pg")
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


def _execute(dsn: str, statement: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(dsn)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(run())


@pytest.fixture(scope="session")
def template_database(postgres: EmbeddedPostgres) -> str:
    """The name of a database that holds the current schema and nothing else."""
    from mogile_tracker.store.migrate import upgrade

    _execute(postgres.dsn("postgres"), f'CREATE DATABASE "{TEMPLATE}"')
    asyncio.run(upgrade(postgres.dsn(TEMPLATE)))
    # Nearly all tests are about what MogileFS does as well; those of write copies set them. And files stay where a test has put them:
    # its devices are as uneven as it needs them, which the balancer would set right in the middle of a test that takes its time.
    _execute(postgres.dsn(TEMPLATE), "DELETE FROM mogile_setting WHERE name = 'write_copies_default'")
    _execute(postgres.dsn(TEMPLATE), "INSERT INTO mogile_setting (name, value) VALUES ('balance_mode', 'off')")
    return TEMPLATE


@pytest.fixture
def database_dsn(postgres: EmbeddedPostgres, template_database: str) -> Iterator[str]:
    """A fresh migrated database of the test's own; dropped afterwards."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    _execute(postgres.dsn("postgres"), f'CREATE DATABASE "{name}" TEMPLATE "{template_database}"')
    yield postgres.dsn(name)
    _execute(postgres.dsn("postgres"), f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def empty_database_dsn(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A fresh database without any table, for the migration tests."""
    name = f"empty_{os.getpid()}_{next(_numbers)}"
    _execute(postgres.dsn("postgres"), f'CREATE DATABASE "{name}" TEMPLATE template0')
    yield postgres.dsn(name)
    _execute(postgres.dsn("postgres"), f'DROP DATABASE "{name}" WITH (FORCE)')


class Origins:
    """Databases as MogileFS leaves them, filled once per collation and size and cloned for every test."""

    def __init__(self, postgres: EmbeddedPostgres) -> None:
        self.postgres = postgres
        self.made: set[str] = set()

    async def clone(self, admin: asyncpg.Connection, collation: str, files: int) -> str:
        if "icu" in collation and not await admin.fetchval(HAS_ICU):
            pytest.skip("this PostgreSQL is built without ICU")
        template = f"origin_{collation}_{files}".replace(" ", "_")
        if template not in self.made:
            await admin.execute(
                f'CREATE DATABASE "{template}" TEMPLATE template0 ENCODING UTF8 {COLLATIONS[collation]}'
            )
            connection = await asyncpg.connect(self.postgres.dsn(template))
            try:
                await connection.execute(UPSTREAM.read_text())
                await connection.execute(FILL.replace("{FILES}", str(files)))
                await connection.execute("ANALYZE")
            finally:
                await connection.close()
            self.made.add(template)
        name = f"upstream_{next(_numbers)}"
        await admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return name

    async def cloned(self, collation: str, files: int) -> AsyncIterator[str]:
        """The DSN of a fresh one, dropped afterwards."""
        admin = await asyncpg.connect(self.postgres.dsn("postgres"))
        try:
            name = await self.clone(admin, collation, files)
            yield self.postgres.dsn(name)
            await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        finally:
            await admin.close()


@pytest.fixture(scope="session")
def origins(postgres: EmbeddedPostgres) -> Origins:
    return Origins(postgres)
