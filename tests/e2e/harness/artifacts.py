"""What to keep when a story fails: objects, events and pod logs of its namespace, node states, under ``artifacts/``.

Never raises: a dump that fails part of the way keeps what it has and writes the reason next to it.
"""

from __future__ import annotations

import re
from pathlib import Path

from harness.errors import HarnessError
from harness.kubectl import Kubectl
from harness.layout import REPOSITORY

FOLDER = REPOSITORY / "artifacts"
OPERATOR_NAMESPACE = "mogile-system"
KINDS = "storageclusters,domains,classes,all,pvc,configmaps,networkpolicies,poddisruptionbudgets,serviceaccounts,leases"
FALLBACK_KINDS = "all,pvc,configmaps,networkpolicies,poddisruptionbudgets,serviceaccounts,leases"


def folder_of(test: str) -> Path:
    """The folder of a test, by its id."""
    return FOLDER / re.sub(r"[^A-Za-z0-9_.-]+", "_", test).strip("_")


def dump(kubectl: Kubectl, namespace: str, test: str) -> Path:
    """Write everything about a namespace; returns the folder."""
    folder = folder_of(test)
    folder.mkdir(parents=True, exist_ok=True)
    inside = kubectl.within(namespace)
    kinds = KINDS if "storageclusters" in _text(kubectl, "api-resources", "-o", "name") else FALLBACK_KINDS
    calls = {
        "objects.yaml": ("get", kinds, "-o", "yaml"),
        "objects.txt": ("get", kinds, "-o", "wide"),
        "events.txt": ("get", "events", "--sort-by=.lastTimestamp"),
        "pods.txt": ("describe", "pods"),
        "nodes.txt": ("describe", "nodes"),
        "volumes.txt": ("get", "pv", "-o", "wide"),
    }
    for name, arguments in calls.items():
        (folder / name).write_text(_text(inside, *arguments))
    for each in (inside, kubectl.within(OPERATOR_NAMESPACE)):
        _dump_logs(each, folder)
    return folder


def _dump_logs(kubectl: Kubectl, folder: Path) -> None:
    try:
        pods = kubectl.list("pods")
    except HarnessError as exc:
        (folder / f"logs-{kubectl.namespace}.txt").write_text(str(exc))
        return
    for pod in pods:
        name = pod["metadata"]["name"]
        flags = ("--all-containers", "--prefix")
        (folder / f"log-{name}.txt").write_text(_text(kubectl, "logs", name, *flags, "--tail=3000"))
        statuses = pod.get("status", {}).get("containerStatuses", [])
        if any(status.get("restartCount") for status in statuses):
            previous = _text(kubectl, "logs", name, *flags, "--previous", "--tail=1000")
            (folder / f"log-{name}-previous.txt").write_text(previous)


def _text(kubectl: Kubectl, *arguments: str) -> str:
    try:
        return kubectl(*arguments)
    except (HarnessError, OSError) as exc:
        return f"not available: {exc}\n"
