"""Answers to reads, decided on values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mogile_storage.copies import Opened
from mogile_storage.reading import plan_read

TAG = b'"' + b"a" * 32 + b'"'


def plan(headers, length=100, *, head=False):
    opened = Opened(fd=-1, length=length, mtime=1_700_000_000.7, copy_id="a" * 32, md5=None, recorded_length=None)
    return plan_read(headers, opened, head=head)


@pytest.mark.parametrize(
    ("value", "status", "start", "total"),
    [
        (b"bytes=0-9", 206, 0, 10),
        (b"bytes=90-", 206, 90, 10),
        (b"bytes=-10", 206, 90, 10),
        (b"bytes=-1000", 206, 0, 100),
        (b"bytes=99-1000", 206, 99, 1),
        (b"bytes=100-", 416, 0, 0),
        (b"bytes=-0", 416, 0, 0),
        (b"bytes=9-5", 200, 0, 100),
        (b"bytes=0-1,5-6", 200, 0, 100),
        (b"bytes=-", 200, 0, 100),
        (b"bytes=a-b", 200, 0, 100),
        (b"items=0-1", 200, 0, 100),
    ],
)
def test_ranges(value, status, start, total):
    made = plan({b"range": value})
    assert (made.status, made.start, made.total) == (status, start, total)


def test_an_empty_file_has_no_range():
    assert plan({b"range": b"bytes=0-"}, 0).status == 416
    assert plan({}, 0).status == 200


def test_head_ignores_ranges():
    made = plan({b"range": b"bytes=0-1"}, head=True)
    assert (made.status, made.total, made.with_body) == (200, 100, False)


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 500))
def test_a_range_never_leaves_the_file(first, last, length):
    made = plan({b"range": b"bytes=%d-%d" % (first, last)}, length)
    assert 0 <= made.start <= made.start + made.total <= max(length, 0)
    if made.status == 206:
        assert made.total == min(last, length - 1) - first + 1


def test_conditions_come_in_order():
    later = b"Wed, 15 Nov 2023 00:00:00 GMT"
    assert plan({b"if-none-match": TAG, b"if-modified-since": later}).status == 304
    assert plan({b"if-none-match": b'"b"', b"if-modified-since": later}).status == 200
    assert plan({b"if-modified-since": later}).status == 304
    assert plan({b"if-modified-since": b"nonsense"}).status == 200
    assert plan({b"if-match": b"*"}).status == 200
    assert plan({b"if-none-match": b"*"}).status == 304
    assert plan({b"if-match": b'"b"', b"if-none-match": TAG}).status == 412
    assert plan({b"if-none-match": b"W/" + TAG}).status == 304
    assert plan({b"if-match": b"W/" + TAG}).status == 412
