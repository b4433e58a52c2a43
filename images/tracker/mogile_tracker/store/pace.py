"""Bandwidth that all trackers share: a debt per limited job or device, paid off at the rate of its limit.

Whoever wants to copy is let through while nothing is owed, and then owes its bytes. So the mean rate is the limit however many trackers
work and however large a file is, and a limit that is changed holds for what is owed already. A name may
as well owe something else than bytes (the search for orphans owes files).
"""

from collections.abc import Mapping
from typing import Any

from mogile_tracker.store.postgres import Database
from mogile_tracker.store.queries import load


class PaceStore:
    """The table `mogile_pace`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = load("pace")

    async def admit(self, rates: Mapping[str, float], bytes_: Mapping[str, int]) -> float:
        """0 when the bytes may be copied now, and they are owed then; else the seconds until nothing is owed, and nothing has changed."""
        names = sorted(rates)

        async def work(connection: Any) -> float:
            await connection.execute(self._sql["make_rows"], names)
            rows = await connection.fetch(self._sql["owed"], names, [rates[name] for name in names])
            wait = max(row["owed"] / row["rate"] for row in rows)
            if wait > 0:
                return float(wait)
            await connection.execute(self._sql["owe"], names, [float(bytes_.get(name, 0)) for name in names])
            return 0.0

        return await self._database.run(work) if names else 0.0
