"""Paths of requests."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mogile_core.paths import DEVID_MAX, fid_path
from mogile_storage.errors import BadRequestError, ForbiddenError, MissingError, NodeRefusal
from mogile_storage.targets import parse_target


@given(devid=st.integers(0, DEVID_MAX), fid=st.integers(0, 2**63 - 1))
def test_every_fid_path_is_understood(devid, fid):
    target = parse_target(fid_path(devid, fid).encode())
    assert (target.kind, target.devid) == ("fid", devid)
    assert f"/dev{devid}/{target.name}" == fid_path(devid, fid)


@given(raw=st.binary(max_size=60).map(lambda tail: b"/dev1/" + tail) | st.binary(max_size=60))
def test_nothing_else_becomes_a_file_name_with_surprises(raw):
    try:
        target = parse_target(raw)
    except NodeRefusal:
        return
    assert ".." not in target.name
    assert not target.name.startswith(("/", "."))
    assert target.kind != "fid" or target.name.endswith(".fid")
    assert all("!" <= c <= "~" for c in target.name)


@pytest.mark.parametrize(
    ("raw", "kind", "name"),
    [
        (b"/", "root", ""),
        (b"/pull", "pull", ""),
        (b"/dev1", "collection", ""),
        (b"/dev1/0/000", "collection", "0/000"),
        (b"/dev1/usage?x=1", "usage", "usage"),
        (b"/dev1/initialise", "initialise", "initialise"),
        (b"/dev1/test-write/test-write-3", "test", "test-write/test-write-3"),
        (b"http://host:1/dev1/usage", "usage", "usage"),
    ],
)
def test_the_others(raw, kind, name):
    assert parse_target(raw)[::2] == (kind, name)


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"/dev1/../x", ForbiddenError),
        (b"/dev1/..", ForbiddenError),
        (b"/dev1/./usage", ForbiddenError),
        (b"/dev1/%2e%2e", BadRequestError),
        (b"/dev1/a b", BadRequestError),
        (b"/dev1/\x00", BadRequestError),
        (b"/dev1/\xe4", BadRequestError),
        (b"usage", BadRequestError),
        (b"/dev1/.mogile-device", BadRequestError),
        (b"/dev1/test-write/.hidden", BadRequestError),
        (b"/dev1/test-write/a/b", BadRequestError),
        (b"/dev32768/usage", MissingError),
        (b"/dev007/usage", MissingError),
        (b"/other", MissingError),
        (b"/dev1/" + b"a" * 2000, BadRequestError),
    ],
)
def test_what_names_nothing(raw, error):
    with pytest.raises(error):
        parse_target(raw)
