"""Ranges of files that arrive in parts, and what of them survives."""

import itertools
import os

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mogile_storage.blob import BlobStore
from mogile_storage.errors import BadRequestError, BusyError, ExistsDiffersError, LengthMismatchError
from mogile_storage.partials import (
    Arrived,
    ContentRange,
    Partials,
    parse_content_range,
    with_range,
    without_range,
)

NAME = "0/000/000/0000000001.fid"
SPAN = st.tuples(st.integers(0, 40), st.integers(0, 40)).map(lambda p: (min(p), max(p)))


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), SPAN), max_size=30))
@example([(True, (0, 2)), (False, (1, 1))])
def test_ranges_are_sets_of_bytes(steps):
    ranges, model = (), set()
    for add, (first, end) in steps:
        ranges = with_range(ranges, first, end) if add else without_range(ranges, first, end)
        model = model | set(range(first, end)) if add else model - set(range(first, end))
    assert {byte for first, end in ranges for byte in range(first, end)} == model
    assert all(a[1] < b[0] for a, b in itertools.pairwise(ranges))
    assert Arrived.decode(Arrived(99, ranges).encode()) == Arrived(99, ranges)


@pytest.mark.parametrize(
    ("value", "length", "wanted"),
    [
        (b"bytes 0-9/100", 10, ContentRange(0, 10, 100)),
        (b"bytes 90-99/100", 10, ContentRange(90, 10, 100)),
        (b"bytes 5-5/*", 1, ContentRange(5, 1, None)),
        (b"bytes */7", 0, ContentRange(0, 0, 7)),
        (b"bytes */*", 0, ContentRange(0, 0, None)),
    ],
)
def test_content_range(value, length, wanted):
    assert parse_content_range(value, length) == wanted


@pytest.mark.parametrize(
    ("value", "length"),
    [
        (b"bytes 0-9/100", 9),
        (b"bytes 0-9/100", None),
        (b"bytes 9-0/100", 10),
        (b"bytes 0-9/9", 10),
        (b"bytes 0-9", 10),
        (b"bytes=0-9/100", 10),
        (b"0-9/100", 10),
        (b"bytes -9/100", 10),
        (b"bytes 0-/100", 10),
        (b"bytes */7", 1),
        (b"bytes 0-9/100, bytes 1-2/3", 10),
        (b"bytes 0-9999999999999999999/*", 10),
    ],
)
def test_bad_content_ranges(value, length):
    with pytest.raises(BadRequestError):
        parse_content_range(value, length)


@pytest.fixture
def store(tmp_path):
    store = BlobStore(str(tmp_path), each=True)
    yield store
    store.close()


def loaded(store):
    partials = Partials(store)
    partials.load()
    return partials


def write(partials, first, data, total=None):
    part = partials.begin(NAME, ContentRange(first, len(data), total), replace_empty=False)
    part.write(data)
    arrived = part.settle()
    part.close()
    return arrived


def test_what_was_settled_is_there_after_a_restart(store):
    write(loaded(store), 4, b"efgh")
    assert write(loaded(store), 0, b"abc", 8).text() == "0-2,4-7"
    part = loaded(store).begin(NAME, ContentRange(3, 1, None), replace_empty=False)
    part.write(b"d")
    assert part.settle().complete
    stored = store.publish(part.take())
    part.published()
    with store.open(NAME) as opened:
        assert os.pread(opened.fd, 100, 0) == b"abcdefgh"
        assert (opened.copy_id, opened.recorded_length) == (stored.copy_id, 8)
        assert os.listxattr(opened.fd) == ["user.mogile"]
    assert not loaded(store).named(NAME)


def test_a_range_that_is_written_anew_does_not_count_meanwhile(store):
    write(loaded(store), 0, b"abcdefgh", 10)
    part = loaded(store).begin(NAME, ContentRange(2, 3, 10), replace_empty=False)
    part.write(b"X")  # and here the power goes
    again = loaded(store).begin(NAME, ContentRange(9, 1, 10), replace_empty=False)
    assert again.arrived.text() == "0-1,5-7"


def test_one_part_at_a_time_and_totals_that_agree(store):
    partials = loaded(store)
    part = partials.begin(NAME, ContentRange(0, 4, 10), replace_empty=False)
    with pytest.raises(BusyError):
        partials.begin(NAME, ContentRange(4, 4, 10), replace_empty=False)
    part.close()
    with pytest.raises(ExistsDiffersError):
        partials.begin(NAME, ContentRange(4, 4, 11), replace_empty=False)
    with pytest.raises(LengthMismatchError):
        partials.begin(NAME, ContentRange(8, 4, None), replace_empty=False)
    write(partials, 4, b"1234", 10)


def test_a_file_that_got_its_name_is_never_written_again(store):
    """As after a crash between link and unlink: the name in the directory of parts is another name of an immutable file."""
    partials = loaded(store)
    write(partials, 0, b"whole", 5)
    os.makedirs(os.path.join(store.root, os.path.dirname(NAME)))
    os.link(os.path.join(store.root, f".mogile-partial/{1:019d}"), os.path.join(store.root, NAME))
    with pytest.raises(ExistsDiffersError):
        loaded(store).begin(NAME, ContentRange(0, 5, 5), replace_empty=True)
    os.unlink(os.path.join(store.root, NAME))
    os.link(os.path.join(store.root, f".mogile-partial/{1:019d}"), os.path.join(store.root, "kept"))
    write(loaded(store), 0, b"other", 5)
    with open(os.path.join(store.root, "kept"), "rb") as stream:
        assert stream.read() == b"whole"


def test_too_many_separate_ranges_are_refused(store):
    partials = loaded(store)
    for number in range(64):
        write(partials, number * 10, b"x", 10_000)
    with pytest.raises(BadRequestError):
        write(partials, 5000, b"x", 10_000)
    assert write(partials, 1, b"123456789", 10_000).text().startswith("0-10,20-20")


def test_old_ones_are_swept_but_not_one_in_use(store):
    partials = loaded(store)
    write(partials, 0, b"x", 10)
    assert partials.sweep(0.0) == 0
    part = partials.begin(NAME, ContentRange(1, 1, 10), replace_empty=False)
    assert partials.sweep(1e12) == 0
    part.close()
    assert partials.sweep(1e12) == 1
    assert not partials.named(NAME)
    assert os.listdir(os.path.join(store.root, ".mogile-partial")) == []
