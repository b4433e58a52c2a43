"""Paths, checksums and the client's reading of answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mogile_core.checksum import Checksum, HashType, new_digest
from mogile_core.client import parse_trackers, values
from mogile_core.errors import ProtocolError, SettingError
from mogile_core.model import DeviceState
from mogile_core.paths import DEVID_MAX, FID_MAX, fid_path, fid_url, parse_fid_path


@given(st.integers(0, DEVID_MAX), st.integers(0, FID_MAX))
def test_path_round_trip(devid: int, fid: int) -> None:
    assert parse_fid_path(fid_path(devid, fid)) == (devid, fid)


@pytest.mark.parametrize(
    ("devid", "fid", "path"),
    [
        (4, 123, "/dev4/0/000/000/0000000123.fid"),
        (4, 1234567890, "/dev4/1/234/567/1234567890.fid"),
        (1, 12345678901, "/dev1/1/234/567/12345678901.fid"),
    ],
)
def test_known_paths(devid: int, fid: int, path: str) -> None:
    assert fid_path(devid, fid) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/dev4/0/000/000/0000000123.fiX",
        "/dev4/0/000/001/0000000123.fid",
        "/dev4/0/000/000/123.fid",
        "/dev04/0/000/000/0000000123.fid",
        "/dev4/../../0/000/000/0000000123.fid",
        "/dev4/0/000/000/0000000123.fid/",
        "/dev٤/0/000/000/0000000123.fid",
        "/dev99999/0/000/000/0000000123.fid",
    ],
)
def test_paths_that_are_none(path: str) -> None:
    with pytest.raises(ValueError, match="not the path of a copy"):
        parse_fid_path(path)


def test_urls_of_both_address_families() -> None:
    assert fid_url("10.0.0.1", 7500, 1, 1) == "http://10.0.0.1:7500/dev1/0/000/000/0000000001.fid"
    assert fid_url("fd00::1", 7500, 1, 1) == "http://[fd00::1]:7500/dev1/0/000/000/0000000001.fid"


def test_checksums() -> None:
    digest = new_digest(HashType.MD5)
    digest.update(b"hello")
    checksum = Checksum(HashType.MD5, digest.digest())
    assert str(checksum) == "MD5:5d41402abc4b2a76b9719d911017c592"
    assert Checksum.parse(str(checksum).replace("5d", "5D")) == checksum
    assert Checksum.parse("SHA-1:" + "0" * 40).hashtype is HashType.SHA1
    for bad in ("", "MD5", "MD5:", "MD5:xyz", "CRC:00", "MD5:" + "0" * 40, "MD5:" + "g" * 32, "MD5:" + "0 " * 16):
        with pytest.raises(ValueError, match=r"."):
            Checksum.parse(bad)


def test_tracker_addresses() -> None:
    assert parse_trackers("a:1, b,[::1]:7,fd00::2") == [("a", 1), ("b", 7001), ("::1", 7), ("fd00::2", 7001)]
    assert parse_trackers(["a", "b:2"]) == [("a", 7001), ("b", 2)]
    for bad in ("", ",", "a:", "a:x", "a:0", "a:99999"):
        with pytest.raises(SettingError):
            parse_trackers(bad)


def test_answers_that_lack_something_are_protocol_errors() -> None:
    with pytest.raises(ProtocolError, match="domains"):
        values.domains({})
    with pytest.raises(ProtocolError, match="expected a number"):
        values.hosts({"hosts": "x"})
    with pytest.raises(ProtocolError, match="dev1_devid"):
        values.devices({"devices": "1"})


def test_device_without_figures() -> None:
    pairs = {
        "devices": "1",
        "dev1_devid": "90",
        "dev1_hostid": "4",
        "dev1_status": "down",
        "dev1_weight": "100",
        "dev1_mb_total": "",
    }
    (device,) = values.devices(pairs)
    assert (device.status, device.mb_total, device.utilization, device.out) == (DeviceState.DOWN, None, None, False)
