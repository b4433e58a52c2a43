"""The demo's files: the same every time, real pictures, all sizes."""

import random
import struct
import xml.etree.ElementTree as ET
import zlib

from hypothesis import given
from hypothesis import strategies as st

from mogile_cli.local import samples


def decode_png(content: bytes) -> tuple[int, int, bytes]:
    """(width, height, samples) of an unfiltered true-colour PNG; checks every checksum."""
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    position, data, size = 8, b"", (0, 0)
    while position < len(content):
        (length,) = struct.unpack_from(">I", content, position)
        kind, body = content[position + 4 : position + 8], content[position + 8 : position + 8 + length]
        (checksum,) = struct.unpack_from(">I", content, position + 8 + length)
        assert checksum == zlib.crc32(kind + body)
        if kind == b"IHDR":
            size = struct.unpack_from(">II", body)
            assert body[8:] == bytes([8, 2, 0, 0, 0])
        elif kind == b"IDAT":
            data += zlib.decompress(body)
        position += 12 + length
    assert kind == b"IEND"
    return *size, data


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([0, 63]), st.integers(0, 99))
def test_pictures_are_real_png(width: int, height: int, grain: int, seed: int) -> None:
    content = samples.png(random.Random(seed), width, height, grain)
    found_width, found_height, data = decode_png(content)
    assert (found_width, found_height) == (width, height)
    assert len(data) == height * (1 + 3 * width)
    assert all(data[row * (1 + 3 * width)] == 0 for row in range(height))


@given(st.integers(0, 5000), st.integers(0, 99))
def test_texts_have_exactly_the_size_asked_for(size: int, seed: int) -> None:
    assert len(samples.text(random.Random(seed), size)) == size


def test_the_set_is_the_same_every_time_and_spans_the_sizes() -> None:
    made = list(samples.generate())
    assert made == list(samples.generate())
    sizes = [len(sample.content) for sample in made]
    assert len({sample.key for sample in made}) == len(made) == 60
    assert min(sizes) == 1
    assert max(sizes) > 4 << 20
    assert 15 << 20 < sum(sizes) < 40 << 20
    for sample in made:
        if sample.key.endswith(".svg"):
            ET.fromstring(sample.content)
        elif sample.key.endswith(".png"):
            decode_png(sample.content)
