"""What of a cluster is on the machine: after ``down`` the answer must be "nothing".

Looks at the machine, not at records: processes by cgroup, by command line below the state directory and by network
namespace; mounts and loop devices by path; namespaces, cgroups, links, routes and rules by name and address.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from harness import cgroups, network
from harness.layout import ClusterLayout
from harness.proc import run


def find(layout: ClusterLayout) -> list[str]:
    """One line per thing that is left."""
    found = [f"process {pid}: {command(pid)}" for pid in sorted(processes(layout))]
    found += [f"network namespace {name}" for name in network.existing(layout)]
    found += [f"cgroup {path}" for path in cgroups.existing(layout.name)]
    found += [f"loop device {device}" for device in loop_devices(layout)]
    found += [f"mount {point}" for point in mounts_below(layout.state)]
    found += root_network(layout)
    if layout.state.exists():
        found.append(f"state directory {layout.state}")
    return found


def command(pid: int) -> str:
    """A process's command line, as far as it can be read."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()[:200]
    except OSError:
        return "(gone)"


def processes(layout: ClusterLayout) -> set[int]:
    """Members of the cluster's cgroups, plus anything running in its network namespaces or on its state directory."""
    found = cgroups.processes(layout.name)
    namespaces = set()
    for name in network.existing(layout):
        try:
            namespaces.add(os.stat(network.NETNS_FOLDER / name).st_ino)
        except OSError:
            continue
    own = {os.getpid(), os.getppid()}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in own:
            continue
        try:
            inside = os.stat(entry / "ns" / "net").st_ino in namespaces
            uses_state = f"{layout.state}/" in command(int(entry.name))
        except OSError:
            continue
        # Test programs and shells may run in the client namespace; only daemons on our state directory are ours.
        if uses_state and inside:
            found.add(int(entry.name))
    return found


def loop_devices(layout: ClusterLayout) -> list[str]:
    """Loop devices whose image lies below the state directory, deleted images too."""
    out = run("losetup", "--list", "--json", "--output", "NAME,BACK-FILE").stdout
    if not out.strip():
        return []
    devices = json.loads(out)["loopdevices"]
    return [device["name"] for device in devices if str(device.get("back-file") or "").startswith(f"{layout.state}/")]


def detach(devices: list[str]) -> None:
    for device in devices:
        run("losetup", "--detach", device, check=False)


def mounts_below(folder: Path) -> list[str]:
    """Mount points below a folder in the machine's own mount namespace, deepest first."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return sorted((point for point in points if point.startswith(f"{folder}/")), reverse=True)


def unmount_below(layout: ClusterLayout) -> None:
    for point in mounts_below(layout.state):
        run("umount", "-l", point, check=False)


def root_network(layout: ClusterLayout) -> list[str]:
    """Links, routes and rules of the cluster in the machine's own network namespace; it never makes any."""
    found = []
    for line in run("ip", "-o", "link").stdout.splitlines():
        name = line.split(":")[1].strip().partition("@")[0]
        if name.startswith(f"{layout.name}-") or name in {node.port for node in layout.nodes}:
            found.append(f"link {name}")
    routes = run("ip", "route").stdout.splitlines()
    found += [f"route {line}" for line in routes if line.startswith(("10.99.0.", "10.244.", "10.96.0.0"))]
    if "mogile_np" in run("nft", "list", "tables", check=False).stdout:
        found.append("nftables table mogile_np")
    return found
