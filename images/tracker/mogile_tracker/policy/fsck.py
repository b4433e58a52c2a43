"""What fsck makes of one file: which events its rows give at first sight, and what the digests of its copies say. Pure.

The event codes and the order of the tests are MogileFS's. Two things are decided more carefully than there: where the algorithm of a class
was changed, the stored digest of the old algorithm is compared before it is replaced, so that no damaged file is blessed; and copies are
called bad by a digest only when another copy matches the stored one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from mogile_core.checksum import Checksum, HashType


class Event(StrEnum):
    """`fsck_log.evcode`; the last one is ours."""

    NO_PATHS = "NOPA"  # a file without any location
    POLICY = "POVI"  # the policy asks for more copies, or for fewer
    BAD_COUNT = "BCNT"  # file.devcount differed from the locations
    MISSING = "MISS"  # a device does not have the copy it should have
    BAD_LENGTH = "BLEN"  # a copy of another length
    SEARCH = "SRCH"  # no good copy known: every device is asked
    FOUND = "FOND"  # the search found one
    GONE = "GONE"  # the search found none
    BAD_CHECKSUM = "BSUM"
    BAD_ALGORITHM = "BALG"
    NEW_CHECKSUM = "NSUM"
    MANY_CHECKSUMS = "MSUM"
    REPLICATE = "REPL"  # queued for replication
    ORPHAN = "ORPH"  # bytes on a device that no row knows


@dataclass(frozen=True, slots=True, kw_only=True)
class Digesting:
    """How copies are compared: by which algorithm (None: not at all), and whether for every file whatever its class wants."""

    algorithm: HashType | None
    everywhere: bool = False


def digesting(setting: str, class_hashtype: HashType | None) -> Digesting:
    """The setting `fsck_checksum`: `class` (or empty), `off`, or the name of an algorithm. A word nobody knows means `class`."""
    word = setting.strip()
    if word.lower() == "off":
        return Digesting(algorithm=None)
    try:
        return Digesting(algorithm=HashType.from_wire(word.upper()), everywhere=True)
    except ValueError:
        return Digesting(algorithm=class_hashtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstLook:
    """What the rows of a file say: `fix` it under its lease, ask its nodes for `sizes`, or leave it."""

    events: tuple[Event, ...] = ()
    fix: bool = False
    sizes: bool = False


def first_look(
    *,
    copies: int,
    devcount: int | None,
    happy: bool,
    wants_checksum: bool,
    reads_all: bool,
    policy_only: bool,
    skip_devcount: bool,
) -> FirstLook:
    """`wants_checksum`: its class has an algorithm and no digest is stored. `devcount` None: unknown, not compared."""
    if copies == 0:
        return FirstLook(events=(Event.NO_PATHS,), fix=True)
    if not happy:
        return FirstLook(events=(Event.POLICY,), fix=True)
    miscounted = devcount is not None and devcount != copies and not skip_devcount
    events = (Event.BAD_COUNT,) if miscounted else ()
    if wants_checksum or (reads_all and not policy_only):
        return FirstLook(events=events, fix=True)
    return FirstLook(events=events, fix=miscounted, sizes=not policy_only)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What digests say: events, devices whose copies are bad, and the digest to store."""

    events: tuple[Event, ...] = ()
    bad: frozenset[int] = frozenset()
    store: Checksum | None = None


def judge(
    found: Mapping[int, Checksum], stored: Checksum | None, *, class_hashtype: HashType | None, everywhere: bool
) -> Judgement:
    """Copies of the right length by device, digested by one algorithm, that of the stored checksum if there is one."""
    values = set(found.values())
    if not values:
        return Judgement()
    several = Event.MANY_CHECKSUMS if everywhere else Event.BAD_CHECKSUM
    if stored is None:
        if len(values) > 1:
            return Judgement(events=(several,))
        (value,) = values
        if value.hashtype is class_hashtype:
            return Judgement(events=(Event.NEW_CHECKSUM,), store=value)
        return Judgement()
    if values == {stored}:
        return Judgement()
    if len(values) == 1:
        return Judgement(events=(Event.BAD_CHECKSUM,))
    if stored in values:
        return Judgement(bad=frozenset(devid for devid, value in found.items() if value != stored))
    return Judgement(events=(several,))


def judge_new_algorithm(found: Mapping[int, Checksum], *, class_hashtype: HashType | None) -> Judgement:
    """The stored digest is of another algorithm than the one wanted now, and every copy matches it: `found` are the new digests."""
    values = set(found.values())
    if len(values) != 1:
        return Judgement(events=(Event.BAD_CHECKSUM,) if values else ())
    (value,) = values
    return Judgement(events=(Event.BAD_ALGORITHM,), store=value if value.hashtype is class_hashtype else None)
