"""Stores for the tests of the engine."""

from collections.abc import AsyncIterator

import pytest

from mogile_tracker.store.postgres import connect
from testkit.stores import Stores


@pytest.fixture
async def stores(database_dsn: str) -> AsyncIterator[Stores]:
    made = Stores(database_dsn)
    made.look = await connect(database_dsn)
    yield made
    for engine in made.engines:
        await engine.stop()
    await made.look.close()
