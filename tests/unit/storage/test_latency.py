"""Times of a device's system calls."""

from mogile_storage import latency
from mogile_storage.latency import Latency


def test_percentiles_worst_and_outliers():
    times = Latency()
    assert times.summary() == {
        "count": 0,
        "p50Milliseconds": 0.0,
        "p99Milliseconds": 0.0,
        "worstMilliseconds": 0.0,
        "slow": 0,
    }
    for _ in range(98):
        times.observe(0.0007)
    times.observe(0.3)
    times.observe(1.5)
    found = times.summary()
    assert (found["count"], found["p50Milliseconds"], found["worstMilliseconds"], found["slow"]) == (
        100,
        1.0,
        1500.0,
        1,
    )
    assert found["p99Milliseconds"] == 500.0
    assert times.series[-1] == 100
    assert abs(times.series[-2] - (98 * 0.0007 + 1.8)) < 1e-9


def test_old_times_are_forgotten(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(latency.time, "monotonic", lambda: now)
    times = Latency()
    times.observe(2.0)
    now += 61
    assert times.summary()["worstMilliseconds"] == 2000.0
    times.observe(0.001)
    now += 61
    assert (times.summary()["count"], times.summary()["worstMilliseconds"]) == (1, 1.0)
    now += 500
    assert (times.summary()["count"], times.summary()["slow"]) == (0, 1)
    assert times.series[-1] == 2
