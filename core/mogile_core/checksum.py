"""Digest names, their forms on the wire (`MD5:<hex>`) and in the database (number + bytes), and streaming digests. No I/O."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol


class HashType(IntEnum):
    """`class.hashtype` / `checksum.hashtype`; the value is the number in the database."""

    MD5 = 1
    SHA1 = 2

    @property
    def wire_name(self) -> str:
        return "MD5" if self is HashType.MD5 else "SHA-1"

    @property
    def size_bytes(self) -> int:
        return 16 if self is HashType.MD5 else 20

    @classmethod
    def from_wire(cls, name: str) -> HashType:
        """`MD5` or `SHA-1`; ValueError otherwise."""
        for member in cls:
            if member.wire_name == name:
                return member
        raise ValueError(f"unknown hash type {name!r}; known: MD5, SHA-1")


class Digest(Protocol):
    """What hashlib returns, as far as it is used here."""

    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...
    def hexdigest(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Checksum:
    """A digest with its type; `str()` is the wire form."""

    hashtype: HashType
    digest: bytes

    def __str__(self) -> str:
        return f"{self.hashtype.wire_name}:{self.digest.hex()}"

    @classmethod
    def parse(cls, text: str) -> Checksum:
        """`MD5:<32 hex>` or `SHA-1:<40 hex>` (hex in any case); ValueError otherwise."""
        name, separator, hexdigits = text.partition(":")
        if not separator:
            raise ValueError("a checksum looks like MD5:<hex>")
        hashtype = HashType.from_wire(name)
        if len(hexdigits) != 2 * hashtype.size_bytes or not hexdigits.isalnum():
            raise ValueError(f"a {name} checksum has {2 * hashtype.size_bytes} hex digits")
        return cls(hashtype, bytes.fromhex(hexdigits))


def new_digest(hashtype: HashType) -> Digest:
    """An empty digest to feed. MD5 and SHA-1 identify content here, they protect nothing."""
    if hashtype is HashType.MD5:
        return hashlib.md5(usedforsecurity=False)
    return hashlib.sha1(usedforsecurity=False)
