"""Folders for servers of the tests."""

import os
import shutil
import tempfile
from pathlib import Path

MEMORY = Path("/dev/shm")
ROOM_BYTES = 4 << 30


def server_folder(prefix: str, *, attributes: bool = False) -> Path:
    """A new folder, in memory where there is room, that other users may enter; the caller removes it.

    For servers that tests kill but never cut the power of: they sync as always, and no test waits for the disk that all of them share.
    Storage nodes need the extended attributes of users, which Linux has in memory since 6.6; without them the folder is on disk.
    """
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= ROOM_BYTES:
        made = Path(tempfile.mkdtemp(prefix=prefix, dir=MEMORY))
        if not attributes or _takes_attributes(made):
            made.chmod(0o755)
            return made
        made.rmdir()
    made = Path(tempfile.mkdtemp(prefix=prefix))
    made.chmod(0o755)
    return made


def _takes_attributes(folder: Path) -> bool:
    try:
        os.setxattr(folder, "user.mogile.probe", b"1")
        os.removexattr(folder, "user.mogile.probe")
    except OSError:
        return False
    return True
