"""How fast a scrub may read, and how its place is kept."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mogile_storage.scrub import BURST_SECONDS, Pace, Pass


def run(pace, work, now=0.0):
    """The time at which everything is done when each piece is waited for and takes no time itself."""
    for size, files in work:
        now += pace.delay(now, size=size, files=files)
    return now


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 1)), min_size=1, max_size=200))
def test_neither_rate_is_exceeded(work):
    seconds = run(Pace(1 << 20, 50), work, now=1000.0) - 1000.0
    before_last = work[:-1]
    assert seconds >= sum(size for size, _ in before_last) / (1 << 20) - BURST_SECONDS - 1e-6
    assert seconds >= sum(files for _, files in before_last) / 50 - BURST_SECONDS - 1e-6


def test_the_rates_are_reached():
    assert run(Pace(1 << 20, 1000), [(1 << 18, 0)] * 41, now=5.0) == pytest.approx(5 + 10 - BURST_SECONDS, abs=0.01)
    assert run(Pace(1 << 30, 10), [(4096, 1)] * 101, now=5.0) == pytest.approx(5 + 10 - BURST_SECONDS, abs=0.01)


def test_a_long_rest_is_not_made_up_for():
    pace = Pace(1000, 1000)
    run(pace, [(1000, 0)])
    assert run(pace, [(1000, 0)] * 3, now=1000.0) == pytest.approx(1000 + 2 - BURST_SECONDS)


def test_a_pass_survives_as_text():
    known = Pass(started=5.5, position=9, files=3, bytes=4, damaged=1)
    from dataclasses import asdict

    assert Pass.decode(json.dumps(asdict(known)).encode()) == known
    assert known.running


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[1]", b'{"started": -1}', b'{"started": "x"}', b'{"other": 1}', b"null", b"\0" * 80]
)
def test_a_damaged_place_means_a_new_pass(text):
    assert Pass.decode(text) == Pass()
