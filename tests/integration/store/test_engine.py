"""The coalescing engine on real PostgreSQL: batches, poisoned items, races."""

import asyncio
import dataclasses
import enum
import random
from typing import Any

import pytest

from mogile_core.checksum import Checksum, HashType
from mogile_core.errors import CommandError, StoreError
from mogile_tracker.store.closing import Closing
from mogile_tracker.store.files import ClassOutcome, NewUpload, RenameOutcome
from testkit.stores import Stores, create

pytestmark = pytest.mark.every_postgres

LEAKED = """SELECT count(*) FROM file_on o WHERE NOT EXISTS (SELECT 1 FROM file f WHERE f.fid = o.fid)
    AND NOT EXISTS (SELECT 1 FROM file_to_delete2 d WHERE d.fid = o.fid)"""


async def test_one_file_from_open_to_delete(stores: Stores) -> None:
    store = await stores.make()
    fid = await store.open(NewUpload(classid=3, dmid=1, dkey="a", devids=(4, 7)))
    upload = await store.upload(fid)
    assert upload is not None
    assert (upload.classid, upload.dmid, upload.devids) == (3, 1, (4, 7))
    assert await store.lookup(1, "a") is None
    checksum = Checksum(HashType.MD5, bytes(range(16)))
    assert await store.close(Closing(fid=fid, dmid=1, dkey="a", length=9, devid=7, checksum=checksum))
    found = await store.lookup(1, "a")
    assert found is not None
    assert (found.fid, found.length, found.classid, found.devcount, found.devids) == (fid, 9, 3, 1, (7,))
    assert await store.checksum(fid) == checksum
    assert await store.upload(fid) is None
    assert await stores.look.fetchval("SELECT nexttry FROM file_to_replicate WHERE fid = $1", fid) == 0
    assert not await store.close(Closing(fid=fid, dmid=1, dkey="b", length=9, devid=7))
    assert await store.delete(1, "a")
    assert not await store.delete(1, "a")
    assert await stores.look.fetchval("SELECT count(*) FROM file_to_delete2 WHERE fid = $1", fid) == 1


async def test_abandoned_upload_is_queued_for_deletion(stores: Stores) -> None:
    store = await stores.make()
    fid = await store.open(NewUpload(classid=0, dmid=1, dkey="a", devids=(1,)))
    assert await store.abandon(fid, 1)
    assert not await store.abandon(fid, 1)
    assert await stores.look.fetchval("SELECT count(*) FROM file_on WHERE fid = $1", fid) == 1
    assert await stores.look.fetchval("SELECT count(*) FROM file_to_delete2 WHERE fid = $1", fid) == 1


async def test_requested_fid(stores: Stores) -> None:
    store = await stores.make()
    wanted = NewUpload(classid=0, dmid=1, dkey="a", devids=(1,), fid=3)
    assert await store.open(wanted) == 3
    with pytest.raises(CommandError, match="fid_in_use"):
        await store.open(wanted)
    fids = await asyncio.gather(*[store.open(NewUpload(classid=0, dmid=1, dkey="b", devids=(1,))) for _ in range(10)])
    assert len(set(fids)) == 10
    assert 3 not in fids


async def test_rename_and_class_change(stores: Stores) -> None:
    store = await stores.make()
    fid = await create(store, "a")
    await create(store, "b")
    assert await store.rename(1, "none", "c") is RenameOutcome.UNKNOWN_KEY
    assert await store.rename(1, "a", "b") is RenameOutcome.KEY_EXISTS
    assert await store.rename(1, "a", "a") is RenameOutcome.KEY_EXISTS
    assert await store.rename(1, "a", "c") is RenameOutcome.DONE
    assert await store.lookup(1, "a") is None
    assert await store.updateclass(1, "none", 2) is ClassOutcome.UNKNOWN_KEY
    await stores.look.execute("DELETE FROM file_to_replicate")
    assert await store.updateclass(1, "c", 0) is ClassOutcome.DONE
    assert await stores.look.fetchval("SELECT count(*) FROM file_to_replicate") == 0, "nothing changed, nothing queued"
    assert await store.updateclass(1, "c", 2) is ClassOutcome.DONE
    assert await stores.look.fetchval("SELECT fid FROM file_to_replicate") == fid
    await stores.look.execute("DELETE FROM file_on WHERE fid = $1", fid)
    assert await store.updateclass(1, "c", 3) is ClassOutcome.NO_COPIES


@pytest.mark.parametrize("key", ["nul\0x", "\0", "\xff\xfe", "a'b\\c%_", "x" * 255, "newline\n", "\x01\x7f\x80"])
async def test_any_byte_in_keys(stores: Stores, key: str) -> None:
    store = await stores.make()
    fid = await create(store, key)
    found = await store.lookup(1, key)
    assert found is not None
    assert found.fid == fid
    assert await store.rename(1, key, "plain") is RenameOutcome.DONE
    assert await store.rename(1, "plain", key) is RenameOutcome.DONE
    assert await store.delete(1, key)


class Poison(enum.Enum):
    """What is wrong with one close among 63 good ones of the same statement, and how that one ends."""

    LONG_KEY = {"dkey": "x" * 300}, StoreError
    UNSTORABLE_KEY = {"dkey": "\ud800"}, StoreError
    LENGTH_BEYOND_THE_COLUMN = {"length": 2**70}, StoreError
    NEGATIVE_LENGTH = {"length": -1}, StoreError
    DEVICE_BEYOND_THE_COLUMN = {"devid": 99999}, StoreError
    DUPLICATE_FID = {}, CommandError  # a file row with this fid exists already
    LOST_RACE = {}, False  # another tracker closed it a moment ago

    @property
    def change(self) -> dict[str, Any]:
        return self.value[0]

    @property
    def end(self) -> Any:
        return self.value[1]


@pytest.mark.parametrize("poison", list(Poison), ids=lambda poison: poison.name.lower())
async def test_one_poisoned_item_among_63_fails_alone(stores: Stores, poison: Poison) -> None:
    store = await stores.make(lanes=1)
    news = [NewUpload(classid=0, dmid=1, dkey=f"k{i}", devids=(1,)) for i in range(64)]
    fids = await asyncio.gather(*[store.open(new) for new in news])
    closings = [Closing(fid=fid, dmid=1, dkey=f"k{i}", length=5, devid=1) for i, fid in enumerate(fids)]
    closings[37] = dataclasses.replace(closings[37], **poison.change)
    if poison is Poison.DUPLICATE_FID:
        await stores.look.execute("INSERT INTO file VALUES ($1, 1, 'other', 1, 0, 1)", fids[37])
    elif poison is Poison.LOST_RACE:
        other = await stores.make(lanes=1)
        assert await other.close(dataclasses.replace(closings[37], dkey="elsewhere"))
    results = await asyncio.gather(*[store.close(c) for c in closings], return_exceptions=True)
    end = results.pop(37)
    if poison.end is False:
        assert end is False
    else:
        assert isinstance(end, poison.end), end
        assert not isinstance(end, CommandError) or end.wire_code == "fid_exists"
    assert results == [True] * 63
    good = {f"k{i}" for i in range(64)} - {"k37"}
    rows = await stores.look.fetch("SELECT dkey FROM file WHERE dkey LIKE 'k%'")
    assert {row["dkey"] for row in rows} == good
    assert await stores.look.fetchval(LEAKED) == 0


async def test_requests_are_answered_together(stores: Stores) -> None:
    store = await stores.make()
    await create(store, "a")
    engine = stores.engines[0]
    before = engine._batches.total()
    await asyncio.gather(*[store.lookup(1, "a") for _ in range(1000)])
    assert engine._batches.total() - before < 100


@pytest.mark.slow
async def test_overwriting_closers_leak_nothing(stores: Stores) -> None:
    """Four closers per key at once over three trackers: upstream lost or leaked half of them."""
    trackers = [await stores.make() for _ in range(3)]
    acknowledged: list[int] = []

    async def client(number: int) -> None:
        store, dice = trackers[number % 3], random.Random(number)
        for _ in range(60):
            acknowledged.append(await create(store, f"hot{dice.randrange(6)}"))
            if dice.random() < 0.1:
                await store.delete(1, f"hot{dice.randrange(6)}")
            if dice.random() < 0.1:
                await store.rename(1, f"hot{dice.randrange(6)}", f"hot{dice.randrange(6)}")

    await asyncio.gather(*[client(n) for n in range(24)])
    assert len(set(acknowledged)) == 24 * 60
    assert await stores.look.fetchval(LEAKED) == 0
    current = {r[0] for r in await stores.look.fetch("SELECT fid FROM file")}
    queued = {r[0] for r in await stores.look.fetch("SELECT fid FROM file_to_delete2")}
    assert current | queued == set(acknowledged)
    assert not current & queued
    assert len(current) <= 6
