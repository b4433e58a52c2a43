"""What the machine must offer before anything is started; every gap is one sentence.

A missing Debian package is installed (root, apt-get); a missing kernel feature is only named.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from harness.cgroups import CONTROLLERS, ROOT
from harness.errors import MissingCapabilityError
from harness.layout import SHADOWED_FOLDERS, cache_root
from harness.proc import run
from harness.progress import step

# program -> Debian package that brings it
PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "buildah": "buildah",
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "ipset": "ipset",
    "conntrack": "conntrack",
    "socat": "socat",
    "ebtables": "ebtables",
    "ethtool": "ethtool",
    "nft": "nftables",
    "ip": "iproute2",
    "mkfs.xfs": "xfsprogs",
    "nsenter": "util-linux",
    "losetup": "mount",
    "sysctl": "procps",
}
CNI_FOLDER = Path("/usr/lib/cni")
CNI_PACKAGE = "containernetworking-plugins"
FILE_SYSTEMS = ("overlay", "xfs", "tmpfs")
ADMIN_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def missing_packages() -> list[str]:
    """Debian packages whose programs are not there."""
    path = os.environ.get("PATH", "") + ":" + ADMIN_PATH
    missing = {package for program, package in PROGRAMS.items() if shutil.which(program, path=path) is None}
    if not (CNI_FOLDER / "bridge").exists():
        missing.add(CNI_PACKAGE)
    return sorted(missing)


def ensure_packages() -> None:
    """Install what is missing, or say in one line what to install."""
    missing = missing_packages()
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise MissingCapabilityError(f"programs are missing; install these packages: {' '.join(missing)}")
    with step(f"apt-get install {' '.join(missing)}"):
        env = {"DEBIAN_FRONTEND": "noninteractive"}
        run("apt-get", "update", "-qq", timeout=300, env=env)
        run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing, timeout=900, env=env)
    if still := missing_packages():
        raise MissingCapabilityError(f"apt-get did not bring: {' '.join(still)}")


def check_machine() -> None:
    """Everything the local cluster needs from user, kernel and paths, before it changes anything."""
    if os.geteuid() != 0:
        raise MissingCapabilityError("the local cluster needs root (network namespaces, mounts, loop devices)")
    os.environ["PATH"] = os.environ.get("PATH", "") + ":" + ADMIN_PATH
    ensure_packages()
    known = Path("/proc/filesystems").read_text().split()
    for name in FILE_SYSTEMS:
        if name not in known and run("modprobe", name, check=False).returncode != 0:
            raise MissingCapabilityError(f"the kernel has no {name} file system")
    for controller in CONTROLLERS:
        if not (ROOT / controller).is_dir():
            raise MissingCapabilityError(
                f"no cgroup v1 hierarchy {ROOT / controller}: the local cluster runs on cgroup v1 only; use kind here"
            )
    if not Path("/dev/loop-control").exists():
        raise MissingCapabilityError("no /dev/loop-control: the kernel offers no loop devices for volumes")
    for folder in SHADOWED_FOLDERS:
        if cache_root().is_relative_to(folder):
            raise MissingCapabilityError(f"MOGILE_CACHE={cache_root()}: choose a folder that is not below {folder}")
    if run("unshare", "--net", "--mount", "true", check=False).returncode != 0:
        raise MissingCapabilityError("unshare fails: this root may not make network and mount namespaces")
    if run("unshare", "--net", "nft", "add table inet probe", check=False).returncode != 0:
        raise MissingCapabilityError("nft fails in a fresh namespace: the kernel has no nf_tables")
