"""State of a rebalance run, in MogileFS's own settings, so that its tools see it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mogile_tracker.store.postgres import Database
from mogile_tracker.store.queries import load

Change = Callable[[Mapping[str, str]], Mapping[str, str | None]]


class RebalanceStore:
    """The `rebal_*` settings and the files of a source device."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = load("rebalance")

    async def settings(self) -> dict[str, str]:
        """What is set."""
        rows = await self._database.fetch(self._sql["settings"])
        return {row["field"]: row["value"] for row in rows}

    async def change(self, decide: Change) -> None:
        """Read the settings and change some, alone; what `decide` raises leaves everything as it is. None unsets."""

        async def work(connection: Any) -> None:
            await connection.execute(self._sql["lock"])
            found = {row["field"]: row["value"] for row in await connection.fetch(self._sql["settings"])}
            await self._store(connection, decide(found))

        await self._database.run(work)

    async def _store(self, connection: Any, changes: Mapping[str, str | None]) -> None:
        for field, value in changes.items():
            if value is not None:
                await connection.execute(self._sql["set"], field, value)
        unset = [field for field, value in changes.items() if value is None]
        if unset:
            await connection.execute(self._sql["unset"], unset)

    async def queue(self, fids: Sequence[int], source: int, destinations: Sequence[int], state: str) -> None:
        """Queue moves and remember how far the run is, in one transaction."""
        queue_moves = load("queues")["enqueue_moves"]
        arg = ",".join(map(str, destinations))

        async def work(connection: Any) -> None:
            await connection.execute(self._sql["lock"])
            count = len(fids)
            await connection.execute(queue_moves, list(fids), [source] * count, [arg] * count, [0] * count)
            await self._store(connection, {"rebal_state": state})

        await self._database.run(work)

    async def files(self, devid: int, after: int, limit: int, *, newest_first: bool) -> list[tuple[int, int | None]]:
        """(fid, length) of locations on a device beyond a place; no length: the file is gone."""
        name = "files_descending" if newest_first else "files_ascending"
        rows = await self._database.fetch(self._sql[name], devid, after, limit)
        return [(row["fid"], row["length"]) for row in rows]

    async def queued(self, limit: int) -> int:
        """Moves that wait, counted up to the limit."""
        return int(await self._database.fetchval(self._sql["queued"], limit))

    async def set_draining(self, devid: int) -> bool:
        """True when the device was alive and is draining now."""
        return bool(await self._database.execute(self._sql["set_draining"], devid))
