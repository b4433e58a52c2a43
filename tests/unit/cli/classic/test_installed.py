"""Every classic tool is an entry point of the package."""

import importlib
import tomllib
from pathlib import Path

import pytest

PYPROJECT = Path(__file__).parents[4] / "pyproject.toml"
TOOLS = [
    "mogadm",
    "mogupload",
    "mogfetch",
    "mogdelete",
    "mogfileinfo",
    "moglistkeys",
    "moglistfids",
    "mogrename",
    "mogstats",
    "mogfiledebug",
]


@pytest.mark.parametrize("tool", TOOLS)
def test_entry_point(tool: str) -> None:
    module, _, function = tomllib.loads(PYPROJECT.read_text())["project"]["scripts"][tool].partition(":")
    assert callable(getattr(importlib.import_module(module), function))
