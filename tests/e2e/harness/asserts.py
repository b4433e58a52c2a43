"""Assertions stories share: on conditions, pods and HTTP, all through public surfaces."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from harness.kubectl import Kubectl
from harness.timeouts import timeout_of
from harness.wait import wait_until

Json = dict[str, Any]


def condition(item: Json, kind: str) -> Json:
    """A status condition of an object; empty when it is not there."""
    for entry in item.get("status", {}).get("conditions", []):
        if entry["type"] == kind:
            found: Json = entry
            return found
    return {}


def is_true(item: Json, kind: str) -> bool:
    return condition(item, kind).get("status") == "True"


def wait_condition(kubectl: Kubectl, kind: str, name: str, wanted: str, event: str, *, status: str = "True") -> Json:
    """Wait until an object's condition has a status, and return the object."""

    def check() -> Json | None:
        item = kubectl.get(kind, name)
        found = condition(item, wanted)
        assert found.get("status") == status, f"{kind}/{name} {wanted}: {found or 'no such condition yet'}"
        return item

    item = wait_until(check, event)
    assert item is not None
    return item


def wait_pods_ready(kubectl: Kubectl, selector: str, count: int, *, event: str = "rollout") -> list[Json]:
    """Wait until exactly ``count`` pods are selected and all are ready."""

    def check() -> tuple[list[Json]]:
        pods = [pod for pod in kubectl.list("pods", selector) if "deletionTimestamp" not in pod["metadata"]]
        ready = [pod["metadata"]["name"] for pod in pods if is_true(pod, "Ready")]
        assert len(pods) == len(ready) == count, f"{selector}: {len(pods)} pods, ready: {ready}"
        return (pods,)  # a list without pods would read as "not yet"

    return wait_until(check, event)[0]


def node_ready(kubectl: Kubectl, name: str) -> bool:
    return is_true(kubectl.get("node", name), "Ready")


def request(
    method: str,
    url: str,
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    event: str = "connection",
) -> tuple[int, Mapping[str, str], bytes]:
    """One HTTP request with a time limit: status, headers (lower-case names), body."""
    parts = urlsplit(url)
    assert parts.hostname is not None, url
    connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=timeout_of(event))
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request(method, target, body=body, headers=dict(headers or {}))
        response = connection.getresponse()
        content = response.read()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, content
    except http.client.HTTPException as exc:
        raise OSError(f"{method} {url}: {exc!r}") from exc
    finally:
        connection.close()
