"""A file system that passes everything on to a directory, and fails or hangs when it is told to (FUSE; run as a program).

    python sick_disk.py <directory> <mount point> <control file> [<option of FUSE> ...]

The control file holds `hang`, `eio`, or nothing, and after a blank a part of the paths it is meant for (without: all of them). With
`hang:read`, `eio:write`, `hang:close` only that operation on open files is meant. It is read at each operation, and a hanging operation
goes on when it changes. What hung is noted in `<control file>.met`. Unless the option kernel_cache is given the kernel forgets the
pages of a file when it is opened again.
"""

import errno
import os
import sys
import time

import mfusepy


class SickDisk(mfusepy.Operations):
    use_ns = True

    def __init__(self, directory: str, control: str) -> None:
        self._directory, self._control = directory, control

    def _at(self, path: str, operation: str = "") -> str:
        if self._says("hang", path, operation):
            with open(f"{self._control}.met", "a", encoding="utf-8") as stream:
                stream.write(f"{operation} {path}\n")
        while self._says("hang", path, operation):
            time.sleep(0.02)
        if self._says("eio", path, operation):
            raise mfusepy.FuseOSError(errno.EIO)
        return self._directory + path

    def _says(self, what: str, path: str, operation: str) -> bool:
        with open(self._control, encoding="utf-8") as stream:
            words, _, part = stream.read().strip().partition(" ")
        word, _, only = words.partition(":")
        return word == what and part in path and only in ("", operation)

    def getattr(self, path, fh=None):
        status = os.lstat(self._at(path))
        names = ("st_mode", "st_ino", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks")
        times = {f"st_{name}": getattr(status, f"st_{name}_ns") for name in ("atime", "mtime", "ctime")}
        return {name: getattr(status, name) for name in names} | times

    def statfs(self, path):
        status = os.statvfs(self._at(path))
        return {name: getattr(status, name) for name in dir(status) if name.startswith("f_") and name != "f_fsid"}

    def readdir(self, path, fh):
        return [".", "..", *os.listdir(self._at(path))]

    def mkdir(self, path, mode):
        os.mkdir(self._at(path), mode)

    def rmdir(self, path):
        os.rmdir(self._at(path))

    def unlink(self, path):
        os.unlink(self._at(path))

    def rename(self, old, new):
        os.rename(self._at(old), self._at(new))

    def link(self, target, source):
        os.link(self._at(source), self._at(target))

    def truncate(self, path, length, fh=None):
        os.truncate(self._at(path), length)

    def open(self, path, flags):
        return os.open(self._at(path), flags & ~(os.O_NOFOLLOW | os.O_DIRECT))  # our buffers are not aligned

    def create(self, path, mode, fi=None):
        return os.open(self._at(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    def read(self, path, size, offset, fh):
        self._at(path, "read")
        return os.pread(fh, size, offset)

    def write(self, path, data, offset, fh):
        self._at(path, "write")
        return os.pwrite(fh, data, offset)

    def fsync(self, path, datasync, fh):
        self._at(path)
        os.fsync(fh)

    def flush(self, path, fh):
        self._at(path, "close")

    def release(self, path, fh):
        os.close(fh)

    def getxattr(self, path, name, position=0):
        return os.getxattr(self._at(path), name)

    def setxattr(self, path, name, value, options, position=0):
        os.setxattr(self._at(path), name, value, options)

    def removexattr(self, path, name):
        os.removexattr(self._at(path), name)

    def listxattr(self, path):
        return os.listxattr(self._at(path))


if __name__ == "__main__":
    directory, point, control = map(os.path.abspath, sys.argv[1:4])  # FUSE changes to the root directory
    more = dict.fromkeys(sys.argv[4:], True)
    disk = SickDisk(directory, control)
    mfusepy.FUSE(disk, point, foreground=True, fsname="sick", attr_timeout=0, entry_timeout=0, **more)
