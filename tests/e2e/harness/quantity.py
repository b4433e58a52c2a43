"""Kubernetes quantities (``10Gi``, ``500M``, ``1e9``) as bytes."""

from __future__ import annotations

import math
import re
from fractions import Fraction

BINARY = {f"{letter}i": 1024**power for power, letter in enumerate("KMGTPE", start=1)}
DECIMAL = {letter: 1000**power for power, letter in enumerate("kMGTPE", start=1)}
PATTERN = re.compile(r"([+-]?\d+(?:\.\d*)?|\.\d+)(?:([eE][+-]?\d+)|([KMGTPE]i|[kMGTPEm]))?")
MEBIBYTE = 1024 * 1024


def parse(text: str) -> int:
    """Bytes of a quantity, rounded up."""
    found = PATTERN.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a Kubernetes quantity")
    number, exponent, unit = found.groups()
    value = Fraction(number)
    if exponent:
        value *= Fraction(10) ** int(exponent[1:])
    elif unit == "m":
        value /= 1000
    elif unit:
        value *= BINARY.get(unit) or DECIMAL[unit]
    return math.ceil(value)


def mebibytes(size: int) -> str:
    """A size as a whole number of MiB, rounded up."""
    return f"{math.ceil(size / MEBIBYTE)}Mi"
