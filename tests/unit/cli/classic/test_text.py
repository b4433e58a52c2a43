"""Arguments and file names are bytes, in every locale."""

import os
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from mogile_cli.classic.text import arguments, decode, encode, file_name


@given(st.binary(max_size=30))
def test_bytes_survive(raw: bytes) -> None:
    assert encode(decode(raw)) == raw
    assert [encode(word) for word in arguments([os.fsdecode(raw)])] == [raw]
    assert os.fsencode(file_name(decode(raw))) == raw


def test_a_locale_without_utf8() -> None:
    program = "import sys; from mogile_cli.classic.text import *; print(ascii(arguments(sys.argv[1:])), encode(file_name('\\xe4')) )"
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    raw = [b"\xc3\xa4", b"x\xff"]
    done = subprocess.run([sys.executable, "-c", program, *raw], env=environment, capture_output=True, check=True)
    assert done.stdout == b"['\\xe4', 'x\\udcff'] b'\\xc3\\xa4'\n"
