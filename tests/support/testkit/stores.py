"""File stores as several trackers have them, on one database."""

from collections.abc import Awaitable, Callable

import asyncpg

from mogile_tracker.store.closing import Closing
from mogile_tracker.store.engine import Engine
from mogile_tracker.store.files import FileStore, NewUpload
from mogile_tracker.store.postgres import connect


class Stores:
    """FileStores as several trackers would have them, and a connection to look."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.engines: list[Engine] = []
        self.look: asyncpg.Connection = None

    async def make(self, lanes: int = 3, retry_seconds: float = 2.5) -> FileStore:
        reads = await self.engine(2, retry_seconds)
        return FileStore(reads, await self.engine(lanes, retry_seconds))

    async def engine(
        self,
        lanes: int,
        retry_seconds: float = 2.5,
        connector: Callable[[], Awaitable[asyncpg.Connection]] | None = None,
    ) -> Engine:
        async def plain() -> asyncpg.Connection:
            return await connect(self.dsn, server_settings={"enable_seqscan": "off"})

        engine = Engine("test", connector or plain, lanes=lanes, retry_seconds=retry_seconds)
        await engine.start()
        self.engines.append(engine)
        return engine


async def create(store: FileStore, key: str, *, length: int = 5, devid: int = 1) -> int:
    """Open and close an upload; its fid."""
    fid = await store.open(NewUpload(classid=0, dmid=1, dkey=key, devids=(devid, 2)))
    assert await store.close(Closing(fid=fid, dmid=1, dkey=key, length=length, devid=devid))
    return fid
