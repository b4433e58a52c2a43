"""``python -m harness e2e``: a cluster, then the suite on it, then the cluster as it was found.

The whole pytest process runs inside the cluster's client namespace, so that stories reach pods and Services with
plain sockets while nothing is changed on the machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from harness import cluster, images, kind
from harness.errors import HarnessError
from harness.layout import REPOSITORY, ClusterLayout
from harness.proc import in_netns
from harness.progress import say
from harness.tools import build_all

KEEP_VARIABLE = "MOGILE_E2E_KEEP"
BACKEND_VARIABLE = "MOGILE_E2E_BACKEND"
STORY_TIMEOUT_SECONDS = 1800


def use_kind() -> bool:
    """kind where it and Docker run, else the local cluster; the environment may decide."""
    match os.environ.get(BACKEND_VARIABLE, "auto"):
        case "kind":
            return True
        case "local":
            return False
        case "auto":
            return kind.available()
        case other:
            raise HarnessError(f"{BACKEND_VARIABLE}={other!r}: use local, kind or auto")


def pytest_command(context: str, kubeconfig: str, arguments: Sequence[str]) -> list[str]:
    """pytest on a named context; without paths in the arguments, the whole suite."""
    own = ["--e2e", "--context", context, "--kubeconfig", kubeconfig, f"--timeout={STORY_TIMEOUT_SECONDS}"]
    paths = any(argument.startswith("tests/") for argument in arguments)
    return [sys.executable, "-m", "pytest", *own, *arguments, *([] if paths else ["tests/e2e"])]


def run_suite(layout: ClusterLayout, arguments: Sequence[str]) -> int:
    """Run it and return pytest's exit code; a cluster that was not running before is removed again."""
    if use_kind():
        command = pytest_command(kind.CONTEXT, str(kind.up()), arguments)
        return subprocess.run(command, cwd=REPOSITORY, check=False).returncode
    was_running = cluster.healthy(cluster.LocalCluster(layout, build_all()))
    keep = was_running or os.environ.get(KEEP_VARIABLE, "") not in ("", "0")
    try:
        cluster.up(layout, images.ALL)
        command = pytest_command(layout.context, str(layout.kubeconfig), arguments)
        return subprocess.run(in_netns(layout.client_netns, *command), cwd=REPOSITORY, check=False).returncode
    finally:
        if keep:
            say(f"cluster {layout.name} keeps running")
        else:
            cluster.down(layout)
