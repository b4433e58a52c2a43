"""`mog local demo --check` as users run it: with what the machine has, without nginx, and not as root."""

import os
import re
from typing import Any

import pytest

from mogile_cli.local import samples

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]


def check(mog: Any, *words: str) -> str:
    output: str = mog.ok("local", "demo", "--check", *mog.place, *words, timeout=800)
    for title in (
        "1/10 starting PostgreSQL",
        "3/10 storing them through the gateway with plain HTTP PUT",
        "10/10 reading everything once more",
        "Everything held",
    ):
        assert title in output
    assert len(re.findall(r"^ +60 files, 22\.5 MiB", output, re.MULTILINE)) == 4  # stored once, read back three times
    for sample in samples.generate():
        assert re.search(rf"^ +{re.escape(sample.key)} .*node\d zone [abc] dev\d", output, re.MULTILINE)
    assert re.search(r"process \d+( and \d+)? killed; 127\.25\.\d+\.\d:7500 refuses", output)
    assert output.endswith("demo: everything held; all processes are stopped and all data is removed\n")
    assert list(mog.scratch.iterdir()) == []
    return output


def test_with_what_the_machine_has(other: Any) -> None:
    assert "gateway: nginx with Lua" in check(other)


def test_without_nginx(other: Any) -> None:
    output = check(other, "--no-nginx")
    assert "gateway: built in, since nginx is not wanted" in output


@pytest.mark.root
def test_as_another_user(other: Any) -> None:
    """Not as root. The one capability left is to read everything, since the interpreter of the tests may lie in root's home."""
    if os.geteuid() != 0:
        pytest.skip("the other tests have shown it: they do not run as root")
    reading = "+dac_read_search"
    other.prefix = (
        "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", f"--inh-caps={reading}", f"--ambient-caps={reading}",
    )  # fmt: skip
    os.chown(other.home, 65534, 65534)
    check(other)


def test_a_data_folder_that_is_not_empty_is_refused(other: Any) -> None:
    (other.data).mkdir()
    (other.data / "mine").write_text("keep")
    result = other("local", "demo", "--check", f"--data={other.data}")
    assert result.returncode == 2
    assert result.stderr == f"mog: {other.data} is not empty; the demo wants an empty folder with --data\n"
    assert (other.data / "mine").read_text() == "keep"
