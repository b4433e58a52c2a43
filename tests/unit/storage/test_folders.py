"""Walking a device in order of fids, on real directories."""

import os

from hypothesis import given, settings
from hypothesis import strategies as st

from mogile_core.paths import fid_path
from mogile_storage import folders


def make(root, fid):
    path = root + fid_path(1, fid).removeprefix("/dev1")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="ascii"):
        pass


def listed(root, after=-1):
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return [fid for found, _ in folders.fids(fd, after) for fid in found]
    finally:
        os.close(fd)


FIDS = st.integers(1, 99) | st.integers(1, 10**10 + 10**6) | st.integers(10**9, 2**63 - 1)


@settings(deadline=None, max_examples=40)
@given(fids=st.sets(FIDS, max_size=25), data=st.data())
def test_ascending_and_complete_from_anywhere(tmp_path_factory, fids, data):
    root = str(tmp_path_factory.mktemp("device"))
    for fid in fids:
        make(root, fid)
    assert listed(root) == sorted(fids)
    after = data.draw(st.sampled_from(sorted(fids)) if fids else st.just(5)) + data.draw(st.integers(-1, 1))
    assert listed(root, after) == sorted(fid for fid in fids if fid > after)


def test_a_directory_larger_than_a_piece_comes_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "FIDS_MAX", 7)
    wanted = [123_456_789_000 + number for number in range(50)]
    for fid in (*wanted, 1_234_567_001):
        make(str(tmp_path), fid)
    assert listed(str(tmp_path)) == [1_234_567_001, *wanted]
    assert listed(str(tmp_path), wanted[9]) == wanted[10:]


def test_what_does_not_belong_there_is_passed_over(tmp_path):
    make(str(tmp_path), 5)
    directory = tmp_path / "0" / "000" / "000"
    for name in ("0000000006.fid.tmp", "6.fid", "1000000006.fid", "00000000007.fid", "usage", "٠000000008.fid"):
        (directory / name).touch()
    (tmp_path / "0" / "abc").mkdir()
    (tmp_path / "1").touch()
    (tmp_path / "2").symlink_to(tmp_path / "0")
    assert listed(str(tmp_path)) == [5]
