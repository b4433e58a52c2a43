"""What is one batch of a group commit: one turn of the loop, and with several clients at work what comes a moment later."""

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mogile_storage import commit
from mogile_storage.blob import BlobStore
from mogile_storage.commit import GroupCommitter, SmallPut
from mogile_storage.pool import Delivery, Job

LONG_SECONDS = 30.0
_fids = itertools.count(1)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BlobStore]:
    monkeypatch.setattr(commit, "sync_file_system", lambda fd: None)
    monkeypatch.setattr(commit, "GATHER_SECONDS", LONG_SECONDS)
    store = BlobStore(str(tmp_path), each=False)
    yield store
    store.close()


class Clients:
    """Puts files through a committer; `answered` counts them."""

    def __init__(self, store: BlobStore) -> None:
        self.committer = GroupCommitter(
            "dev1", Delivery(asyncio.get_running_loop()), store, on_os_error=print, on_sync_failure=print
        )
        self._store = store
        self.answered = 0

    def put(self, count: int) -> None:
        """In one turn of the loop."""
        for _ in range(count):
            name = f"0/000/000/{next(_fids):010d}.fid"
            self.committer.submit(SmallPut(self._store, self._done, name, b"x", None, replace=False))

    def _done(self, job: Job) -> None:
        assert job.error is None
        self.answered += 1

    async def wait(self, count: int) -> None:
        async with asyncio.timeout(LONG_SECONDS / 3):
            while self.answered < count:
                await asyncio.sleep(0.005)


async def test_what_comes_in_one_turn_is_one_batch(store: BlobStore) -> None:
    clients = Clients(store)
    clients.put(20)
    await clients.wait(20)
    assert (clients.committer.batches, clients.committer.changes) == (1, 20)


async def test_a_lone_client_waits_for_nobody(store: BlobStore) -> None:
    clients = Clients(store)
    for number in range(1, 6):
        clients.put(1)
        await clients.wait(number)
    assert clients.committer.batches == 5


async def test_with_others_at_work_the_first_waits_for_the_second(store: BlobStore) -> None:
    clients = Clients(store)
    clients.put(2)
    await clients.wait(2)
    clients.put(1)
    await asyncio.sleep(0.05)
    assert clients.answered == 2
    clients.put(1)
    await clients.wait(4)
    assert (clients.committer.batches, clients.committer.changes) == (2, 4)


async def test_who_waited_behind_a_batch_goes_with_its_clients(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the clients stay two groups, and each waits for the sync of the other before its own."""
    under_way, go_on = threading.Event(), threading.Event()

    def sync(_fd: int) -> None:
        under_way.set()
        assert go_on.wait(LONG_SECONDS)

    monkeypatch.setattr(commit, "sync_file_system", sync)
    clients = Clients(store)
    clients.put(1)
    await asyncio.to_thread(under_way.wait, LONG_SECONDS)
    clients.put(2)
    await asyncio.sleep(0.05)  # handed over
    go_on.set()
    await clients.wait(1)
    await asyncio.sleep(0.05)
    assert clients.answered == 1, "the two wait for the one that was answered"
    clients.put(1)
    await clients.wait(4)
    assert (clients.committer.batches, clients.committer.changes) == (2, 4)


async def test_nobody_waits_longer_than_a_moment(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    clients = Clients(store)
    clients.put(2)
    await clients.wait(2)
    monkeypatch.setattr(commit, "GATHER_SECONDS", 0.05)
    began = time.monotonic()
    clients.put(1)
    await clients.wait(3)
    assert time.monotonic() - began >= 0.05, "it did wait"
    clients.put(1)
    await clients.wait(4)
    assert clients.committer.batches == 3


async def test_many_at_work_are_not_all_waited_for(store: BlobStore) -> None:
    clients = Clients(store)
    clients.put(commit.GATHER_JOBS * 4)
    await clients.wait(commit.GATHER_JOBS * 4)
    clients.put(commit.GATHER_JOBS)
    await clients.wait(commit.GATHER_JOBS * 5)
    assert clients.committer.batches == 2


async def test_what_was_handed_over_before_the_pool_closed_is_done(store: BlobStore) -> None:
    clients = Clients(store)
    clients.put(2)
    await clients.wait(2)
    clients.put(1)
    clients.committer.close()
    await clients.wait(3)
