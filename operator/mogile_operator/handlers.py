"""kopf's part: events of the three kinds become keys in the queue, and `/healthz` tells the truth. No decisions here.

Only `on.event` is used: kopf's higher handlers, timers and daemons write annotations and finalizers into objects of users and lose
updates. The health probe fails when one of kopf's watchers or one of our informers is dead, which makes the kubelet restart us.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import kopf

from mogile_operator.api.v1alpha1 import GROUP, VERSION
from mogile_operator.kube import Access

PLURALS = ("storageclusters", "domains", "classes")
WATCHERS_WITHIN_SECONDS = 60.0


def build_registry(
    *,
    access: Access | None,
    cluster_touched: Callable[[str, str], None],
    names_touched: Callable[[str, str], None],
    problems: Callable[[], list[str]],
) -> kopf.OperatorRegistry:
    """The handlers, in a registry of their own (nothing global)."""
    registry = kopf.OperatorRegistry()

    # The handlers are coroutines: kopf runs plain functions in threads, and the queue belongs to the event loop.

    @kopf.on.login(registry=registry)
    def login(**kwargs: Any) -> Any:
        # In a thread: it reads files. Outside a pod kopf must see the same cluster as everything else here.
        if access is None:
            return kopf.login_with_service_account(**kwargs)
        return kopf.ConnectionInfo(
            server=access.server,
            ca_path=access.ca_path,
            insecure=access.insecure,
            token=access.token,
            certificate_path=access.certificate_path,
            private_key_path=access.private_key_path,
        )

    @kopf.on.event(GROUP, VERSION, "storageclusters", registry=registry)
    async def cluster_event(namespace: str | None, name: str | None, **_: Any) -> None:
        cluster_touched(namespace or "", name or "")

    @kopf.on.event(GROUP, VERSION, "domains", registry=registry)
    async def domain_event(namespace: str | None, spec: Any, **_: Any) -> None:
        names_touched(namespace or "", str((spec.get("clusterRef") or {}).get("name") or ""))

    @kopf.on.event(GROUP, VERSION, "classes", registry=registry)
    async def class_event(namespace: str | None, **_: Any) -> None:
        names_touched(namespace or "", "")

    @kopf.on.probe(registry=registry, id="watches")
    async def watches(**_: Any) -> str:
        found = [*problems(), *dead_watchers()]
        if found:
            # Permanent: kopf would go on retrying the probe otherwise, and the request would hang instead of failing.
            raise kopf.PermanentError("; ".join(found))
        return "ok"

    return registry


def build_settings() -> kopf.OperatorSettings:
    """kopf reduced to watching: no peering, no scanning, no event posting, endless patience with the API server."""
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.networking.request_timeout = 30
    settings.networking.error_backoffs = EndlessBackoff()
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    return settings


class EndlessBackoff:
    """Pauses that grow to half a minute and never end: kopf gives a watcher up when they do."""

    def __iter__(self) -> Any:
        pause = 0.5
        while True:
            yield pause
            pause = min(30.0, pause * 2)


def dead_watchers() -> list[str]:
    """Kinds for which no watcher task of kopf lives."""
    names = [task.get_name() for task in asyncio.all_tasks() if not task.done()]
    return [
        f"the watcher of {plural} is dead"
        for plural in PLURALS
        if not any(name.startswith("watcher for") and plural in name for name in names)
    ]
