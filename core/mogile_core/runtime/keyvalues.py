"""The `key = value` files of MogileFS's programs: one reader for the ways in which they differ.

mogilefsd and mogstored cut a line at any `#`, the tools only at one that begins the line or follows a blank, so that a password may hold
one; for mogilefsd a blank separates as well as `=`. What the keys mean, and what a line of another form means, is the program's own.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mogile_core.errors import SettingError

FILE_BYTES_MAX = 1 << 20
_AT_EQUALS = re.compile(r"([^=]*?)\s*=\s*(.*)", re.DOTALL)
_AT_BLANK = re.compile(r"([^\s=]*)(?:\s*=\s*|\s+)(.*)", re.DOTALL)
_COMMENT = re.compile(r"#.*", re.DOTALL)
_COMMENT_APART = re.compile(r"(?:\A|(?<=\s))#.*", re.DOTALL)


class Entry(NamedTuple):
    """A line that says something. `value` is None where nothing separates a value from the key."""

    number: int  # of the line, from 1
    key: str
    value: str | None
    text: str  # the line without comment and outer blanks


def read_file(path: str | Path) -> str:
    """The text of a file, bytes that are no UTF-8 as surrogates; OSError, SettingError when it is too large to be the right one."""
    with open(path, "rb") as stream:
        raw = stream.read(FILE_BYTES_MAX + 1)
    if len(raw) > FILE_BYTES_MAX:  # a part of it would be another configuration
        raise SettingError(f"{path} is larger than {FILE_BYTES_MAX} bytes; is it the right file?")
    return raw.decode("utf-8", "surrogateescape")


def entries(text: str, *, hash_in_values: bool = False, blank_separates: bool = False) -> Iterator[Entry]:
    """What the lines say, in order. `hash_in_values`: a `#` after anything but a blank is part of a value."""
    comment = _COMMENT_APART if hash_in_values else _COMMENT
    form = _AT_BLANK if blank_separates else _AT_EQUALS
    for number, line in enumerate(text.split("\n"), 1):
        if said := comment.sub("", line).strip():
            found = form.fullmatch(said)
            yield Entry(number, found[1], found[2], said) if found else Entry(number, said, None, said)
