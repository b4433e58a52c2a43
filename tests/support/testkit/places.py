"""Folders for servers of the tests."""

import shutil
import tempfile
from pathlib import Path

MEMORY = Path("/dev/shm")
ROOM_BYTES = 4 << 30


def server_folder(prefix: str) -> Path:
    """A new folder, in memory where there is room, that other users may enter; the caller removes it.

    For servers that tests kill but never cut the power of: they sync as always, and no test waits for the disk that all of them share.
    """
    in_memory = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= ROOM_BYTES
    made = Path(tempfile.mkdtemp(prefix=prefix, dir=MEMORY if in_memory else None))
    made.chmod(0o755)
    return made
