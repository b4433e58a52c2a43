"""The on-disk contract, on a real directory."""

import hashlib
import os
import resource
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mogile_storage.blob import BlobStore
from mogile_storage.commit import GroupCommitter, SmallPut
from mogile_storage.copies import ATTRIBUTE, Record
from mogile_storage.errors import (
    DeviceUnavailableError,
    DigestMismatchError,
    ExistsDiffersError,
    MissingError,
    WrongCopyError,
)
from mogile_storage.recovery import Mark, recover

NAME = "0/000/000/0000000001.fid"


@pytest.fixture(params=["each", "group", "named"])
def store(request, tmp_path):
    store = BlobStore(str(tmp_path), each=request.param == "each")
    if request.param == "named":  # as on a file system without O_TMPFILE
        store._nameless = False
    yield store
    store.close()


def put(store, data, name=NAME, **more):
    staged = store.stage(name)
    for start in range(0, len(data), 1000):
        staged.write(data[start : start + 1000])
    return store.publish(staged, **more)


def content(store, name=NAME):
    with store.open(name) as opened:
        return os.pread(opened.fd, 1 << 20, 0)


def leftovers(store):
    folder = os.path.join(store.root, ".mogile-tmp")
    return os.listdir(folder) if os.path.isdir(folder) else []


def test_a_body_gets_its_name_with_its_record(store):
    stored = put(store, b"x" * 2500)
    assert (stored.outcome, stored.length, stored.md5) == ("created", 2500, hashlib.md5(b"x" * 2500).hexdigest())
    record = Record.decode(os.getxattr(os.path.join(store.root, NAME), ATTRIBUTE))
    assert record == (stored.copy_id, stored.md5, 2500)
    with store.open(NAME) as opened:
        assert (opened.copy_id, opened.md5, opened.damaged) == (stored.copy_id, stored.md5, False)
    assert leftovers(store) == []


def test_nothing_is_seen_before_publish_and_nothing_after_discard(store):
    staged = store.stage(NAME)
    staged.write(b"half")
    with pytest.raises(MissingError):
        store.open_copy(NAME)
    store.discard(staged)
    store.discard(staged)
    assert leftovers(store) == []
    assert os.listdir(os.path.join(store.root, "0/000/000")) == []


def test_small_and_stepwise_agree(store):
    small = store.put_small(NAME, b"body", None, replace=False)
    again = store.put_small(NAME, b"body", None, replace=False)
    assert (again.outcome, again.copy_id) == ("repeated", small.copy_id)
    assert put(store, b"body").outcome == "repeated"
    other = NAME.replace("1", "2")
    assert put(store, b"body", other).outcome == "created"
    assert store.put_small(other, b"body", None, replace=False).outcome == "repeated"
    with pytest.raises(ExistsDiffersError):
        store.put_small(NAME, b"ydob", None, replace=False)
    with pytest.raises(DigestMismatchError):
        store.put_small(NAME.replace("1", "3"), b"body", b"0" * 16, replace=False)
    assert content(store) == b"body"


def test_a_wrong_digest_stores_nothing(store):
    with pytest.raises(DigestMismatchError):
        put(store, b"x", md5=b"0" * 16)
    with pytest.raises(MissingError):
        store.open_copy(NAME)
    assert leftovers(store) == []


def test_replacing_keeps_the_old_bytes(store):
    first = put(store, b"old")
    second = put(store, b"new", replace=True)
    assert second.outcome == "replaced"
    assert second.copy_id != first.copy_id
    assert content(store) == b"new"
    assert [path.read_bytes() for path in Path(store.root, ".mogile-quarantine").iterdir()] == [b"old"]
    assert leftovers(store) == []


def test_deletion_obeys_the_copy_id(store):
    stored = put(store, b"x")
    with pytest.raises(WrongCopyError):
        store.delete(NAME, "0" * 32)
    store.delete(NAME, stored.copy_id)
    with pytest.raises(MissingError):
        store.delete(NAME, None)
    with pytest.raises(MissingError):
        store.delete("0/000", None)


def test_many_writers_of_one_name_make_one_file(store):
    outcomes, barrier = [], threading.Barrier(8)

    def write(n):
        barrier.wait()
        try:
            outcomes.append(put(store, b"same" if n % 2 else b"else").outcome)
        except ExistsDiffersError:
            outcomes.append("differs")

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(outcomes) == ["created"] + ["differs"] * 4 + ["repeated"] * 3
    assert content(store) in (b"same", b"else")


def test_a_directory_removed_behind_our_back_is_made_again(store):
    put(store, b"x")
    os.unlink(os.path.join(store.root, NAME))
    os.rmdir(os.path.join(store.root, "0/000/000"))
    assert store.put_small(NAME, b"y", None, replace=False).outcome == "created"


def test_plain_files_are_whole_or_absent(store):
    store.write_plain("usage", b"one")
    store.write_plain("usage", b"two", sync=True)
    assert store.read_plain("usage") == b"two"
    assert sorted(os.listdir(store.root)) == ["usage"]


def test_a_plain_file_that_finds_room_for_a_part_only_is_refused_and_the_old_one_stays(store):
    store.write_plain("usage", b"one")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))  # the first write is cut there, the next one fails
    try:
        with pytest.raises(OSError, match="too large"):
            store.write_plain("usage", b"x" * 20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.read_plain("usage") == b"one"
    assert sorted(os.listdir(store.root)) == ["usage"]


@given(st.text("0123456789abcdef", min_size=32, max_size=32), st.integers(0, 1 << 60))
def test_records_round_trip(digits, length):
    record = Record(digits, digits[::-1], length)
    assert Record.decode(record.encode()) == record


@given(st.binary(max_size=80))
def test_other_bytes_are_no_record(data):
    record = Record.decode(data)
    assert record is None or record.encode() == data or int(data.split(b" ")[2]) == record.length


def test_recovery_looks_at_what_is_newer_than_the_mark_only(tmp_path):
    store = BlobStore(str(tmp_path), each=False)
    mark = Mark(store)
    assert mark.read() == (False, 0.0)
    names = [f"0/000/00{n}/000000{n}001.fid" for n in range(3)]
    for name in names:
        put(store, b"content", name)
        os.truncate(tmp_path / name, 3)
    now = os.stat(tmp_path / names[0]).st_ctime
    for name in names[:2]:
        os.utime((tmp_path / name).parent, (now - 1000, now - 1000))
    mark.write(clean=False, seconds=now - 500, sync=True)
    found = recover(store, mark, fresh=False)
    assert found.quarantined == (names[2],)
    mark.write(clean=True, seconds=now, sync=True)
    assert recover(store, mark, fresh=False).clean
    mark.write(clean=False, seconds=0, sync=False)
    assert set(recover(store, mark, fresh=False).quarantined) == set(names[:2])
    mark.close()
    store.close()


class NoLoop:
    """Takes the place of the event loop, which nobody asks."""

    def put(self, jobs):
        pass


def committed(store, mark, name, **callbacks):
    """One PUT as a batch of its own, in this thread."""
    committer = GroupCommitter(
        "c",
        NoLoop(),
        store,
        on_os_error=pytest.fail,
        on_begin=mark.follow,
        **{"on_sync_failure": pytest.fail, **callbacks},
    )
    job = SmallPut(store, lambda _: None, name, b"content", None, replace=False)
    committer._work([job])
    return job


def test_recovery_looks_at_what_was_made_after_the_clock_was_set_back(tmp_path):
    store = BlobStore(str(tmp_path), each=False)
    mark = Mark(store)
    mark.write(clean=False, seconds=time.time() + 86400, sync=True)  # the clock was a day ahead until now
    assert committed(store, mark, NAME).error is None
    assert mark.read()[1] <= os.stat(tmp_path / NAME).st_ctime + 1.0  # times of files are a tick of the kernel behind
    os.truncate(tmp_path / NAME, 3)  # as after a power cut
    assert recover(store, mark, fresh=False).quarantined == (NAME,)
    mark.close()
    store.close()


def test_no_name_is_made_when_the_mark_cannot_go_back(tmp_path):
    store = BlobStore(str(tmp_path), each=False)
    mark = Mark(store)
    mark.write(clean=False, seconds=time.time() + 86400, sync=True)
    mark.close()  # the write of the mark fails
    failures = []
    job = committed(store, mark, NAME, on_sync_failure=failures.append)
    assert isinstance(job.error, DeviceUnavailableError)
    assert len(failures) == 1
    assert not (tmp_path / NAME).exists()
    store.close()
