"""A device directory that counts as a disk of its own size, for several devices on one file system."""

from pathlib import Path

import pytest

from mogile_storage.usage import Space, limited

DISK = Space(total=1 << 40, used=1 << 39, available=1 << 39, read_only=False)


def test_only_what_lies_in_the_directory_counts(tmp_path: Path) -> None:
    (tmp_path / "dev1" / "0" / "000").mkdir(parents=True)
    (tmp_path / "dev1" / "0" / "000" / "1.fid").write_bytes(b"x" * (1 << 20))
    (tmp_path / "dev2").mkdir()
    first, second = (limited(DISK, str(tmp_path / name), 10 << 20) for name in ("dev1", "dev2"))
    assert 1 << 20 <= first.used < (1 << 20) + (64 << 10)
    assert first.total == 10 << 20
    assert first.available == first.total - first.used
    assert (second.used, second.available) == (0, 10 << 20)


def test_the_disk_below_still_limits(tmp_path: Path) -> None:
    nearly_full = Space(total=1 << 40, used=(1 << 40) - 4096, available=4096, read_only=True)
    space = limited(nearly_full, str(tmp_path), 10 << 20)
    assert (space.total, space.available, space.read_only) == (4096, 4096, True)


def test_more_than_the_limit_leaves_no_room(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * (2 << 20))
    space = limited(DISK, str(tmp_path), 1 << 20)
    assert space.available == 0
    assert space.total == space.used >= 2 << 20


def test_a_directory_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        limited(DISK, str(tmp_path / "dev9"), 1 << 20)
