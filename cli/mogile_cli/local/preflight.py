"""What must be true before a local cluster starts; every failure is one sentence that names the fix. Nothing is left behind by a check."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path

from mogile_cli.errors import UsageError
from mogile_cli.local.layout import Layout

FREE_MB_MIN = 512


def check(layout: Layout) -> None:
    """All checks, cheapest first; UsageError for the first that fails."""
    if not sys.platform.startswith("linux"):
        raise UsageError("local mode needs Linux: it gives every storage node a loopback address of its own")
    prepare_folder(layout.data)
    check_space(layout.data)
    check_attributes(layout.data)
    for node in layout.nodes:
        check_address(layout.address(node.number))
    for address, port, option in layout.ports():
        check_port(address, port, option)


def prepare_folder(data: Path) -> None:
    """Make the data folder; readable for others when root makes it, since PostgreSQL then runs as another user."""
    try:
        data.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=data):
            pass
    except OSError as error:
        raise UsageError(f"cannot write to {data} ({error.strerror}); choose another folder with --data") from error
    if os.geteuid() == 0:
        data.chmod(0o755)


def check_space(data: Path, needed_mb: int = FREE_MB_MIN) -> None:
    free_mb = shutil.disk_usage(data).free >> 20
    if free_mb < needed_mb:
        raise UsageError(
            f"{data} has {free_mb} MB free and local mode needs {needed_mb} MB; choose a folder on another disk with --data"
        )


def check_attributes(data: Path) -> None:
    """Storage nodes keep copy ids and digests in extended attributes."""
    with tempfile.NamedTemporaryFile(dir=data) as probe:
        try:
            os.setxattr(probe.fileno(), "user.mogile.probe", b"1")
        except OSError as error:
            raise UsageError(
                f"{data} is on a file system without extended attributes ({error.strerror}); "
                "choose a folder on ext4, xfs or btrfs with --data"
            ) from error


def check_address(address: str) -> None:
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError as error:
            raise UsageError(
                f"cannot use the address {address} ({error.strerror}); choose other ones with --base-address"
            ) from error


def check_port(address: str, port: int, option: str) -> None:
    """UsageError unless one could listen there now."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                message = (
                    f"port {port} on {address} is in use by another program; stop it or choose another with {option}"
                )
            else:
                message = f"cannot listen on {address} port {port} ({error.strerror}); choose another with {option}"
            raise UsageError(message) from error


def port_is_free(address: str, port: int) -> bool:
    try:
        check_port(address, port, "")
    except UsageError:
        return False
    return True
