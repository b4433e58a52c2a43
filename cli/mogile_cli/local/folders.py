"""Where local clusters keep their data unless told otherwise."""

from __future__ import annotations

import os
from pathlib import Path

ROOT_FOLDER = Path("/var/lib/mogile")  # PostgreSQL runs as another user under root and cannot enter root's home


def default_folder(name: str = "local") -> Path:
    """`~/.local/share/mogile/<name>`; for root, a folder that other users may enter."""
    base = ROOT_FOLDER if os.geteuid() == 0 else Path.home() / ".local" / "share" / "mogile"
    return base / name


def candidates() -> list[Path]:
    """The folders in which a cluster is looked for when none is named: your own one, then the demo's."""
    return [default_folder(), default_folder("demo")]
