"""Keys of things that are built once: a hash of everything that goes in, so that a changed input is a new key.

Invariant: a folder named by a key is complete.  Builders work in a temporary sibling and rename it at the end, so a
killed build never leaves a folder that looks finished.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

KEY_LENGTH = 16
SKIPPED_NAMES = frozenset({"__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"})


def key_of(*parts: str | bytes) -> str:
    """A short stable key of texts, each with its length so that moving a boundary changes the key."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(f"{len(data)}:".encode())
        digest.update(data)
    return digest.hexdigest()[:KEY_LENGTH]


def tree_files(root: Path, paths: Iterable[str]) -> list[Path]:
    """The files below the given paths of a folder, sorted, without tool caches; a missing path counts as empty."""
    files: list[Path] = []
    for path in paths:
        start = root / path
        if start.is_file():
            files.append(start)
            continue
        for folder, names, leaves in os.walk(start):
            names[:] = sorted(n for n in names if n not in SKIPPED_NAMES and not n.endswith(".egg-info"))
            files.extend(Path(folder, leaf) for leaf in leaves if not leaf.endswith(".pyc"))
    return sorted(set(files))


def tree_key(root: Path, paths: Iterable[str], *extra: str) -> str:
    """The key of file names, modes (executable or not) and contents below the given paths, plus extra texts."""
    parts: list[str | bytes] = list(extra)
    for file in tree_files(root, paths):
        executable = "x" if os.access(file, os.X_OK) else "-"
        parts += [f"{file.relative_to(root)} {executable}", file.read_bytes()]
    return key_of(*parts)


@contextmanager
def building(target: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``target`` when the block ends well, and goes away when it does not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    work.chmod(0o755)
    try:
        yield work
        shutil.rmtree(target, ignore_errors=True)
        work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """Hold a file lock: two runs of the harness must not build or start the same thing at once."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
