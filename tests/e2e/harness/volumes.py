"""Volumes of a true size: XFS on a sparse image file, loop-mounted in the mount namespace of its node.

Loop devices are set up by ``mount`` itself and therefore detach with the last mount: a killed node leaves none.
XFS, because it grows while mounted without CAP_SYS_RESOURCE, which ext4 needs.
"""

from __future__ import annotations

import os
from pathlib import Path

from harness.errors import HarnessError
from harness.node import Node
from harness.proc import run
from harness.quantity import MEBIBYTE

SIZE_BYTES_MIN = 300 * MEBIBYTE  # mkfs.xfs refuses less


def usable_size(requested: int) -> int:
    """The size a volume really gets: whole MiB, at least what XFS needs."""
    size = max(requested, SIZE_BYTES_MIN)
    return -(-size // MEBIBYTE) * MEBIBYTE


def image_path(node: Node, name: str) -> Path:
    return node.layout.volumes / f"{name}.img"


def mount_point(node: Node, name: str) -> str:
    """Where a volume is mounted, as seen on its node."""
    return f"{node.layout.volume_mounts}/{name}"


def mounts(node: Node) -> dict[str, str]:
    """Mount point to device, in the node's mount namespace; read from the kernel, because asking a failed disk fails."""
    found = {}
    for line in Path(f"/proc/{node.holder().pid}/mountinfo").read_text().splitlines():
        fields, _, source = line.partition(" - ")
        found[fields.split()[4]] = source.split()[1]
    return found


def is_mounted(node: Node, name: str) -> bool:
    return mount_point(node, name) in mounts(node)


def create(node: Node, name: str, size: int) -> None:
    """Make, format and mount a volume; doing it again completes what was interrupted."""
    image = image_path(node, name)
    if is_mounted(node, name):
        return
    if not image.exists():
        image.parent.mkdir(parents=True, exist_ok=True)
        fresh = image.with_suffix(".new")
        with fresh.open("wb") as file:
            file.truncate(size)
        run("mkfs.xfs", "-q", "-f", str(fresh))
        fresh.rename(image)
    mount(node, name)


def mount(node: Node, name: str) -> None:
    point = mount_point(node, name)
    run(*node.enter("mkdir", "-p", point))
    run(*node.enter("mount", "-t", "xfs", "-o", "loop,nouuid", str(image_path(node, name)), point))


def loop_device(node: Node, name: str) -> str:
    """The loop device behind a mounted volume."""
    device = mounts(node).get(mount_point(node, name), "")
    if not device.startswith("/dev/loop"):
        raise HarnessError(f"volume {name} is not mounted on {node.layout.name}")
    return device


def grow(node: Node, name: str, size: int) -> None:
    """Make a mounted volume larger; never smaller."""
    image = image_path(node, name)
    if image.stat().st_size < size:
        os.truncate(image, size)
    run("losetup", "--set-capacity", loop_device(node, name))
    run(*node.enter("xfs_growfs", mount_point(node, name)))


def delete(node: Node, name: str) -> None:
    """Unmount and remove; a mount that a dying pod still holds goes with the pod."""
    point = mount_point(node, name)
    if is_mounted(node, name):
        run(*node.enter("umount", "-l", point))
    run(*node.enter("rmdir", "--ignore-fail-on-non-empty", point), check=False)
    image_path(node, name).unlink(missing_ok=True)
