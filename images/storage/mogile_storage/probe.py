"""Whether a disk still gives bytes: one small read past the page cache again and again, in a thread of its own.

A disk that hangs only for data looks well from outside: names and pages answer from memory. The agent's own reads would show it, but
most reads go through nginx, which nobody watches. So one block is read from the disk itself: with O_DIRECT, or, where the file system
has none (some FUSE), after its pages were dropped from the cache. The thread may stay inside that read for ever; `longest` tells how
long it has been.

What it cannot see: file systems that keep so small a file in its inode (btrfs, ext4 with inline_data) read it with the metadata, and
the cache of a drive or controller may have the block.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
import time
from collections.abc import Callable

PROBE_SECONDS = 0.5
BLOCK_BYTES = 4096  # O_DIRECT wants address, offset and size aligned to the sectors of the disk: a page is
_NOT_DIRECT = (errno.EINVAL, errno.EOPNOTSUPP)


class DataProbe:
    """Reads the first block of a file twice a second until it is closed."""

    def __init__(
        self, directory_fd: int, name: str, *, thread_name: str, on_os_error: Callable[[OSError], None]
    ) -> None:
        """The file `name` in `directory_fd`, which stays open until `closed`. That the file is missing is no error here."""
        self.direct = True  # False: the file system has no O_DIRECT
        self._directory_fd, self._name, self._on_os_error = directory_fd, name, on_os_error
        self._page = mmap.mmap(-1, BLOCK_BYTES)
        self._since = 0.0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name=thread_name, daemon=True)
        self._thread.start()

    @property
    def way(self) -> str:
        """How the page cache is passed by, for people."""
        return "O_DIRECT" if self.direct else "pages dropped first"

    def longest(self) -> float:
        """Seconds for which the read under way has been going on; 0 when none is. From any thread."""
        since = self._since
        return time.monotonic() - since if since else 0.0

    def close(self) -> None:
        """End when the read under way comes back; from any thread, waits for nothing."""
        self._end.set()

    @property
    def closed(self) -> bool:
        """The descriptor is not used any more."""
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._end.wait(PROBE_SECONDS):
            self._since = time.monotonic()
            try:
                self._read()
            except FileNotFoundError:
                pass
            except OSError as failure:
                self._on_os_error(failure)
            self._since = 0.0

    def _read(self) -> None:
        if self.direct:
            try:
                self._read_block(os.O_DIRECT)
            except OSError as failure:
                if failure.errno not in _NOT_DIRECT:
                    raise
                self.direct = False
        if not self.direct:
            self._read_block(0)

    def _read_block(self, flags: int) -> None:
        fd = os.open(self._name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=self._directory_fd)
        try:
            if not flags:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.preadv(fd, [self._page], 0)
        finally:
            os.close(fd)
