"""Bytes and text of people. Inside the tools text is UTF-8 with undecodable bytes as surrogate escapes, whatever the locale says.

The interpreter decodes arguments, and encodes file names, by the locale; a key is bytes, so both are undone here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence


def decode(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    """Text of people -> the bytes it came from."""
    return text.encode("utf-8", "surrogateescape")


def arguments(argv: Sequence[str]) -> list[str]:
    """`sys.argv` -> text of people."""
    return [decode(os.fsencode(word)) for word in argv]


def file_name(text: str) -> str:
    """Text of people -> what `open` takes to mean the file with these bytes as name."""
    return os.fsdecode(encode(text))
