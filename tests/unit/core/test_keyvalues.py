"""Files of `key = value`: their lines in each of the ways MogileFS's programs read them."""

from pathlib import Path

import pytest

from mogile_core.errors import SettingError
from mogile_core.runtime.keyvalues import FILE_BYTES_MAX, entries, read_file

TEXT = """\
# first
a = 1 # one
 b=x y  = z
pass = se#cret
db_dsn DBI:Pg:dbname=m

alone
 = nobody's
empty =
"""


def test_values_are_cut_at_any_hash_and_separated_by_equals() -> None:
    assert [(e.number, e.key, e.value) for e in entries(TEXT)] == [
        (2, "a", "1"),
        (3, "b", "x y  = z"),
        (4, "pass", "se"),
        (5, "db_dsn DBI:Pg:dbname", "m"),
        (7, "alone", None),
        (8, "", "nobody's"),
        (9, "empty", ""),
    ]


def test_a_hash_inside_a_value_may_belong_to_it() -> None:
    found = {e.key: e.value for e in entries(TEXT, hash_in_values=True)}
    assert (found["a"], found["pass"]) == ("1", "se#cret")


def test_a_blank_may_separate_too() -> None:
    found = {e.key: e.value for e in entries(TEXT, blank_separates=True)}
    assert found["db_dsn"] == "DBI:Pg:dbname=m"
    assert (found["a"], found["b"], found["alone"], found["empty"]) == ("1", "x y  = z", None, "")


def test_lines_end_at_line_feeds_only_and_bytes_that_are_no_utf_8_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.conf"
    path.write_bytes(b"# first\r\na = 1 # one\r\n\n   \nb = caf\xe9\x0b\xc2\x85x\n")
    assert [(e.number, e.text) for e in entries(read_file(path))] == [(2, "a = 1"), (5, "b = caf\udce9\x0b\x85x")]


def test_a_file_that_cannot_be_read_whole_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.conf"
    with pytest.raises(FileNotFoundError):
        read_file(path)
    path.write_bytes(b"a = 1\n" + b"#" * FILE_BYTES_MAX)
    with pytest.raises(SettingError, match=f"{path} is larger than"):
        read_file(path)
