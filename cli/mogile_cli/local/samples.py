"""The demo's files: pictures and texts made from a seed, nothing but the standard library.

The same seed gives the same bytes. Pictures are real (PNG with an IDAT stream and checksums, SVG), so that a browser shows what the
gateway serves. Sizes run from one byte to some megabytes; the large ones are pictures with grain, which does not compress.
"""

from __future__ import annotations

import math
import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SEED = 20260101
SENTENCE = (
    "a store of many small files is a calendar of small promises every byte has a home and a second home in another zone "
    "when a machine goes away its files are read from their other copies and copied again until each has two homes once more"
)
WORDS = SENTENCE.split()
# width, height, grain (0: smooth, 63: as noisy as a photograph)
PICTURES = (
    (1, 1, 0), (16, 16, 0), (32, 32, 63), (64, 48, 0), (64, 64, 63), (96, 96, 0), (120, 80, 63), (160, 120, 0),
    (200, 150, 63), (256, 192, 0), (256, 256, 63), (320, 240, 0), (320, 240, 63), (400, 300, 63), (480, 360, 0),
    (480, 360, 63), (640, 480, 0), (640, 480, 63), (800, 600, 63), (1024, 768, 0), (1024, 768, 63), (1280, 960, 63),
    (1600, 1200, 63), (1600, 1200, 0),
)  # fmt: skip
DRAWINGS = 12
TEXT_BYTES = (
    1, 2, 3, 10, 100, 255, 256, 511, 512, 1000, 1023, 1024, 1025, 2000, 4095, 4096, 4097, 10_000, 30_000, 65_535, 65_536,
    100_000, 300_000, 1_000_000,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One file: its key in the store and its bytes."""

    key: str
    content: bytes


def generate(seed: int = SEED) -> Iterator[Sample]:
    """All files, one after the other."""
    chance = random.Random(seed)  # noqa: S311 - the same seed gives the same files; nothing is secret
    for number, (width, height, grain) in enumerate(PICTURES, 1):
        yield Sample(key=f"pictures/{number:02d}-{width}x{height}.png", content=png(chance, width, height, grain))
    for number in range(1, DRAWINGS + 1):
        yield Sample(key=f"drawings/{number:02d}.svg", content=svg(chance, number * 6))
    for number, size in enumerate(TEXT_BYTES, 1):
        yield Sample(key=f"texts/{number:02d}-{size}-bytes.txt", content=text(chance, size))


def write(folder: Path, samples: list[Sample]) -> None:
    """Write the files below a folder, so that the user can look at what was uploaded."""
    for sample in samples:
        path = folder / sample.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample.content)


def png(chance: random.Random, width: int, height: int, grain: int) -> bytes:
    """A true-colour picture of waves; `grain` is the mask of random noise that is added to every sample."""
    waves = []
    for _channel in range(3):
        period, depth = chance.uniform(60, 400), chance.uniform(40, 96)
        table = bytes(round(96 + depth * math.sin(2 * math.pi * i / period)) for i in range(width + 2 * height + 1))
        waves.append((table, chance.choice((0, 1, 2))))
    mask = int.from_bytes(bytes([grain]) * (3 * width), "big")
    rows = bytearray()
    for y in range(height):
        row = bytearray(3 * width)
        for channel, (table, slope) in enumerate(waves):
            row[channel::3] = table[y * slope : y * slope + width]
        if grain:  # waves stay below 193 and noise below 64: no byte of this long addition carries into its neighbour
            noise = int.from_bytes(chance.randbytes(3 * width), "big") & mask
            row = bytearray((int.from_bytes(row, "big") + noise).to_bytes(3 * width, "big"))
        rows += b"\0" + row
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    level = 1 if grain else 6
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(bytes(rows), level))
        + _chunk(b"IEND", b"")
    )


def svg(chance: random.Random, shapes: int) -> bytes:
    """A drawing of circles."""
    lines = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 400 300">']
    for _ in range(shapes):
        x, y, radius = chance.randrange(400), chance.randrange(300), chance.randrange(4, 60)
        colour = f"hsl({chance.randrange(360)} 70% 60%)"
        lines.append(f'<circle cx="{x}" cy="{y}" r="{radius}" fill="{colour}" fill-opacity="0.6"/>')
    return "\n".join([*lines, "</svg>", ""]).encode()


def text(chance: random.Random, size: int) -> bytes:
    """Exactly `size` bytes of words in lines."""
    pieces, length, column = [], 0, 0
    while length < size:
        word = chance.choice(WORDS)
        column += len(word) + 1
        end = "\n" if column > 72 else " "
        column = 0 if end == "\n" else column
        pieces.append(word + end)
        length += len(word) + 1
    return "".join(pieces).encode()[:size]


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
