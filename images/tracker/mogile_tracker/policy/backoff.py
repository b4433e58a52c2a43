"""How long a failed job waits before it is tried again.

The steps are MogileFS's (15 s, 1 min, 5 min, 30 min, 1 h, 2 h, 4 h, 8 h, then 24 h), written as multiples of the first one, so
that a test cluster can run the same ladder with a base of a second or less.
"""

REPLICATION_STEPS = (1, 4, 20, 120, 240, 480, 960, 1920, 5760)
UNREACHABLE_STEPS = 40  # 10 min at the default base: the device is not writeable now
FORBIDDEN_STEPS = 240  # 1 h: the device's state forbids deletes
FAILED_STEPS = 120  # 30 min: the node answered something unexpected


def replication_delay_seconds(failures: int, *, base_seconds: float, jitter: float) -> float:
    """Wait after the given number of failures (1 = the first); `jitter` in [0, 1) spreads it by 0.8 to 1.2."""
    index = min(max(failures, 1), len(REPLICATION_STEPS)) - 1
    return REPLICATION_STEPS[index] * base_seconds * (0.8 + 0.4 * jitter)


def unreachable_delay_seconds(failures: int, *, base_seconds: float) -> float:
    """Wait before deleting from a device that cannot be written now: 10 min and 1 min more per failure."""
    return (UNREACHABLE_STEPS + 4 * min(max(failures, 0), 1000)) * base_seconds


def forbidden_delay_seconds(failures: int, *, base_seconds: float) -> float:
    """Wait before deleting from a device whose state forbids it: an hour per failure."""
    return FORBIDDEN_STEPS * (1 + min(max(failures, 0), 23)) * base_seconds


def failed_delay_seconds(failures: int, *, base_seconds: float) -> float:
    """Wait after a delete that was answered with an error: half an hour per failure, a day at most."""
    return FAILED_STEPS * (1 + min(max(failures, 0), 47)) * base_seconds
