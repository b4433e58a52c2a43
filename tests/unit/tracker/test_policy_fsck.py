"""Fsck's decisions: the order of its tests, the setting `fsck_checksum`, and what digests say."""

from typing import Any

import pytest

from mogile_core.checksum import Checksum, HashType
from mogile_tracker.policy.fsck import (
    Digesting,
    Event,
    FirstLook,
    Judgement,
    digesting,
    first_look,
    judge,
    judge_new_algorithm,
)

A, B, C = (Checksum(HashType.MD5, bytes([n]) * 16) for n in range(3))
NEW, OTHER = (Checksum(HashType.SHA1, bytes([n]) * 20) for n in range(2))

SOUND: dict[str, Any] = {
    "copies": 2,
    "devcount": 2,
    "happy": True,
    "wants_checksum": False,
    "reads_all": False,
    "policy_only": False,
    "skip_devcount": False,
}


@pytest.mark.parametrize(
    ("changes", "look"),
    [
        ({}, FirstLook(sizes=True)),
        ({"copies": 0, "happy": False, "devcount": 5}, FirstLook(events=(Event.NO_PATHS,), fix=True)),
        ({"happy": False, "devcount": 5}, FirstLook(events=(Event.POLICY,), fix=True)),
        ({"devcount": 5}, FirstLook(events=(Event.BAD_COUNT,), fix=True, sizes=True)),
        ({"devcount": 5, "skip_devcount": True}, FirstLook(sizes=True)),
        ({"devcount": None}, FirstLook(sizes=True)),
        ({"wants_checksum": True, "policy_only": True}, FirstLook(fix=True)),
        ({"reads_all": True}, FirstLook(fix=True)),
        ({"reads_all": True, "policy_only": True}, FirstLook()),
        ({"policy_only": True}, FirstLook()),
    ],
)
def test_first_look(changes: dict[str, Any], look: FirstLook) -> None:
    assert first_look(**{**SOUND, **changes}) == look


@pytest.mark.parametrize(
    ("setting", "hashtype", "expected"),
    [
        ("", None, Digesting(algorithm=None)),
        ("", HashType.MD5, Digesting(algorithm=HashType.MD5)),
        ("class", HashType.SHA1, Digesting(algorithm=HashType.SHA1)),
        ("off", HashType.MD5, Digesting(algorithm=None)),
        ("MD5", None, Digesting(algorithm=HashType.MD5, everywhere=True)),
        ("sha-1", HashType.MD5, Digesting(algorithm=HashType.SHA1, everywhere=True)),
        ("what", HashType.MD5, Digesting(algorithm=HashType.MD5)),
    ],
)
def test_the_setting_fsck_checksum(setting: str, hashtype: HashType | None, expected: Digesting) -> None:
    assert digesting(setting, hashtype) == expected


@pytest.mark.parametrize(
    ("found", "stored", "hashtype", "everywhere", "verdict"),
    [
        ({}, A, HashType.MD5, False, Judgement()),
        ({1: A, 2: A}, A, HashType.MD5, False, Judgement()),
        ({1: A, 2: A}, B, HashType.MD5, False, Judgement(events=(Event.BAD_CHECKSUM,))),
        ({1: A, 2: B}, A, HashType.MD5, False, Judgement(bad=frozenset({2}))),
        ({1: A, 2: B}, A, None, True, Judgement(bad=frozenset({2}))),
        ({1: A, 2: B}, C, HashType.MD5, False, Judgement(events=(Event.BAD_CHECKSUM,))),
        ({1: A, 2: B}, C, HashType.MD5, True, Judgement(events=(Event.MANY_CHECKSUMS,))),
        ({1: A, 2: B}, None, HashType.MD5, False, Judgement(events=(Event.BAD_CHECKSUM,))),
        ({1: A, 2: B}, None, None, True, Judgement(events=(Event.MANY_CHECKSUMS,))),
        ({1: A, 2: A}, None, HashType.MD5, False, Judgement(events=(Event.NEW_CHECKSUM,), store=A)),
        ({1: A, 2: A}, None, None, True, Judgement()),
        ({1: A, 2: A}, None, HashType.SHA1, True, Judgement()),
    ],
)
def test_digests(found: Any, stored: Any, hashtype: Any, everywhere: bool, verdict: Judgement) -> None:
    assert judge(found, stored, class_hashtype=hashtype, everywhere=everywhere) == verdict


def test_a_changed_algorithm() -> None:
    balg = (Event.BAD_ALGORITHM,)
    assert judge_new_algorithm({1: NEW, 2: NEW}, class_hashtype=HashType.SHA1) == Judgement(events=balg, store=NEW)
    assert judge_new_algorithm({1: NEW}, class_hashtype=HashType.MD5) == Judgement(events=balg)
    assert judge_new_algorithm({1: NEW, 2: OTHER}, class_hashtype=HashType.SHA1).store is None
    assert judge_new_algorithm({}, class_hashtype=HashType.SHA1) == Judgement()
