"""docs/client.md keeps its word: its examples run, in order and in one namespace, and print what the page shows."""

import ast
import contextlib
import inspect
import io
import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "client.md"
BLOCK = re.compile(r"^```(python|text)\n(.*?)^```$", re.M | re.S)


def examples() -> list[tuple[str, str, int]]:
    """(code, what it prints, line of the page)."""
    text = PAGE.read_text("utf-8")
    found: list[tuple[str, str, int]] = []
    for match in BLOCK.finditer(text):
        kind, body = match.groups()
        if kind == "python":
            found.append((body, "", text[: match.start()].count("\n") + 2))
        else:
            found[-1] = (found[-1][0], body, found[-1][2])
    return found


async def test_the_examples_of_the_page_run(three_nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    assert len(examples()) > 5
    for code, expected, line in examples():
        tree = compile(
            "\n" * (line - 1) + code.replace("127.0.0.1:7001", three_nodes.trackers[0].where),
            str(PAGE),
            "exec",
            flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
        )
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            running = eval(tree, namespace)
            if inspect.isawaitable(running):
                await running
        assert printed.getvalue() == expected, f"{PAGE.name}:{line}"
