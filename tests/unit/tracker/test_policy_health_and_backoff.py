"""Observed states from probes, and how long failures wait."""

import pytest

from mogile_core.model import Observed
from mogile_tracker.policy import backoff
from mogile_tracker.policy.health import Health, Probe


def good() -> Health:
    return Health().after(Probe.GOOD).after_write_test(writes=True)


def test_a_device_is_writeable_only_after_its_write_test() -> None:
    assert Health().after(Probe.GOOD).state is Observed.READABLE
    assert good().state is Observed.WRITEABLE
    assert good().after(Probe.GOOD).state is Observed.WRITEABLE


def test_one_silent_probe_is_forgiven_two_are_not() -> None:
    once = good().after(Probe.SILENT)
    assert once.state is Observed.WRITEABLE
    assert once.after(Probe.SILENT).state is Observed.UNREACHABLE
    assert once.after(Probe.GOOD).after(Probe.SILENT).state is Observed.WRITEABLE


@pytest.mark.parametrize("probe", [Probe.REFUSED, Probe.FOREIGN])
def test_a_definite_answer_counts_at_once(probe: Probe) -> None:
    after = good().after(probe)
    assert after.state is Observed.UNREACHABLE
    assert after.foreign is (probe is Probe.FOREIGN)


def test_silence_of_a_device_never_seen_counts_at_once() -> None:
    assert Health().after(Probe.SILENT).state is Observed.UNREACHABLE


def test_what_comes_back_is_not_believed_writeable_before_it_is_tested() -> None:
    assert good().after(Probe.REFUSED).after(Probe.GOOD).state is Observed.READABLE


def test_replication_delays_are_mogilefs_ladder() -> None:
    delays = [backoff.replication_delay_seconds(n, base_seconds=15, jitter=0.5) for n in range(1, 12)]
    minutes = 60.0
    hours = 60 * minutes
    assert delays == pytest.approx(
        [
            15,
            minutes,
            5 * minutes,
            30 * minutes,
            hours,
            2 * hours,
            4 * hours,
            8 * hours,
            24 * hours,
            24 * hours,
            24 * hours,
        ]
    )


def test_jitter_spreads_by_a_fifth_and_the_base_scales() -> None:
    assert backoff.replication_delay_seconds(1, base_seconds=1, jitter=0.0) == pytest.approx(0.8)
    assert backoff.replication_delay_seconds(1, base_seconds=1, jitter=0.999999) == pytest.approx(1.2, abs=0.001)


def test_delete_delays() -> None:
    assert backoff.unreachable_delay_seconds(0, base_seconds=15) == 600
    assert backoff.unreachable_delay_seconds(3, base_seconds=15) == 780
    assert backoff.forbidden_delay_seconds(1, base_seconds=15) == 7200
    assert backoff.failed_delay_seconds(0, base_seconds=15) == 1800
