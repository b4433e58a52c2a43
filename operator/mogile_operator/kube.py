"""The Kubernetes API: the only importer of its client, and the table of everything the operator may do with it.

Objects are plain dictionaries here; typed values are made by the readers of `plan.observed`. Every call is bounded in time, paced
by a token bucket, and retried only for 429. Errors are `KubeError` with the server's own sentence; anything below HTTP passes as
`KubeError` with status 0. `RULES` is compared with the chart's RBAC by a test: nothing missing, nothing extra.
"""

import asyncio
import json
import os
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import aiohttp
from kubernetes.aio import client as kubernetes_client
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.config.config_exception import ConfigException

from mogile_core.errors import MogError

Obj = dict[str, Any]

MANAGER: Final = "mogile-operator"
MARKS: Final = "mogile-operator-marks"
"""Field manager of labels and annotations on claims, apart from what is applied: applying again must not take them away."""
FINALIZERS: Final = "mogile-operator-finalizers"
"""Field manager of our finalizers on objects of users: the only thing there that is ours besides status."""
PAGE: Final = 500
CALL_SECONDS: Final = 20.0
WATCH_SECONDS: Final = 300
WATCH_SILENCE_SECONDS: Final = 330
LINE_BYTES_MAX: Final = 4 * 1024 * 1024
TRIES_429: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Where a kind lives in the API."""

    group: str
    version: str
    plural: str
    namespaced: bool = True

    @property
    def base(self) -> str:
        """Path prefix of its group and version."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"


KINDS: Final[dict[str, Kind]] = {
    "StorageCluster": Kind(group="mogile.storage", version="v1alpha1", plural="storageclusters"),
    "Domain": Kind(group="mogile.storage", version="v1alpha1", plural="domains"),
    "Class": Kind(group="mogile.storage", version="v1alpha1", plural="classes"),
    "StatefulSet": Kind(group="apps", version="v1", plural="statefulsets"),
    "Deployment": Kind(group="apps", version="v1", plural="deployments"),
    "Service": Kind(group="", version="v1", plural="services"),
    "ConfigMap": Kind(group="", version="v1", plural="configmaps"),
    "Secret": Kind(group="", version="v1", plural="secrets"),
    "PersistentVolumeClaim": Kind(group="", version="v1", plural="persistentvolumeclaims"),
    "PersistentVolume": Kind(group="", version="v1", plural="persistentvolumes", namespaced=False),
    "Pod": Kind(group="", version="v1", plural="pods"),
    "Node": Kind(group="", version="v1", plural="nodes", namespaced=False),
    "Event": Kind(group="events.k8s.io", version="v1", plural="events"),
    "PodDisruptionBudget": Kind(group="policy", version="v1", plural="poddisruptionbudgets"),
    "NetworkPolicy": Kind(group="networking.k8s.io", version="v1", plural="networkpolicies"),
    "Lease": Kind(group="coordination.k8s.io", version="v1", plural="leases"),
}

_APPLIED = ("list", "create", "patch", "delete")
_WATCHED = ("list", "watch", "create", "patch", "delete")
RULES: Final[dict[tuple[str, str], tuple[str, ...]]] = {
    ("mogile.storage", "storageclusters"): ("get", "list", "watch", "patch"),
    ("mogile.storage", "storageclusters/status"): ("patch",),
    ("mogile.storage", "domains"): ("list", "watch", "patch"),
    ("mogile.storage", "domains/status"): ("patch",),
    ("mogile.storage", "classes"): ("list", "watch", "patch"),
    ("mogile.storage", "classes/status"): ("patch",),
    ("apps", "statefulsets"): _WATCHED,
    ("apps", "deployments"): _WATCHED,
    ("", "services"): _APPLIED,
    ("", "configmaps"): _APPLIED,
    ("", "persistentvolumeclaims"): _WATCHED,
    ("policy", "poddisruptionbudgets"): _APPLIED,
    ("networking.k8s.io", "networkpolicies"): _APPLIED,
    ("", "secrets"): ("get", "create", "delete"),
    ("", "pods"): ("list", "watch"),
    ("", "pods/eviction"): ("create",),
    ("events.k8s.io", "events"): ("create", "patch"),
}
"""Inside the namespaces it looks after."""
CLUSTER_RULES: Final[dict[tuple[str, str], tuple[str, ...]]] = {
    ("", "nodes"): ("list", "watch"),
    ("", "persistentvolumes"): ("get",),
}
"""Of the whole cluster, read only: machines, and which of them a volume cannot leave."""
OWN_RULES: Final[dict[tuple[str, str], tuple[str, ...]]] = {
    ("coordination.k8s.io", "leases"): ("get", "create", "patch"),
}
"""In the operator's own namespace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How a kubeconfig says the API server is reached."""

    server: str
    ca_path: str | None
    insecure: bool
    token: str | None
    certificate_path: str | None
    private_key_path: str | None


class KubeError(MogError):
    """The Kubernetes API refused a request or could not be reached."""

    def __init__(self, status: int, reason: str, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.status, self.reason, self.message, self.retry_after = status, reason, message, retry_after


class Bucket:
    """Token bucket: `rate` calls per second on average, `burst` at once."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst, self._tokens = rate, burst, burst
        self._stamp: float | None = None

    async def take(self) -> None:
        """Wait for a token."""
        now = asyncio.get_running_loop().time()
        if self._stamp is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._stamp) * self._rate)
        self._stamp = now
        self._tokens -= 1
        if self._tokens < 0:
            await asyncio.sleep(-self._tokens / self._rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Objects of a list and the version they were read at."""

    items: list[Obj]
    version: str


class Kube:
    """One connection pool to one API server."""

    def __init__(self, api: kubernetes_client.ApiClient, bucket: Bucket | None = None) -> None:
        self._api = api
        self._bucket = bucket or Bucket(rate=50, burst=100)
        self.calls: dict[tuple[str, int], int] = {}
        """(method, status) to number of calls, for the metrics."""

    @property
    def access(self) -> Access:
        """The same way in, for kopf's own client."""
        configuration = self._api.configuration
        token = configuration.api_key.get("BearerToken")
        return Access(
            server=configuration.host,
            ca_path=configuration.ssl_ca_cert,
            insecure=not configuration.verify_ssl,
            token=token.removeprefix("Bearer ").removeprefix("bearer ") if token else None,
            certificate_path=configuration.cert_file,
            private_key_path=configuration.key_file,
        )

    async def close(self) -> None:
        """Give the connections back."""
        await self._api.close()  # type: ignore[no-untyped-call]

    async def get(self, kind: str, namespace: str, name: str) -> Obj | None:
        """One object; None when there is none."""
        try:
            return await self._json("GET", path(kind, namespace, name))
        except KubeError as error:
            if error.status == 404:
                return None
            raise

    async def list(self, kind: str, namespace: str = "", selector: str = "") -> Page:
        """All objects, in pages."""
        items: list[Obj] = []
        query = {"limit": str(PAGE), **({"labelSelector": selector} if selector else {})}
        while True:
            answer = await self._json("GET", path(kind, namespace), query)
            items += answer.get("items", [])
            token = answer.get("metadata", {}).get("continue", "")
            if not token:
                return Page(items=items, version=answer.get("metadata", {}).get("resourceVersion", ""))
            query["continue"] = token

    async def apply(self, obj: Obj, *, dry_run: bool = False) -> Obj:
        """Server-side apply as the owner of all its fields."""
        meta = obj["metadata"]
        query = {"fieldManager": MANAGER, "force": "true", **({"dryRun": "All"} if dry_run else {})}
        where = path(obj["kind"], meta.get("namespace", ""), meta["name"])
        return await self._json("PATCH", where, query, obj, "application/apply-patch+yaml")

    async def apply_status(self, obj: Obj) -> Obj:
        """Server-side apply of the status subresource only."""
        meta = obj["metadata"]
        where = path(obj["kind"], meta.get("namespace", ""), meta["name"]) + "/status"
        query = {"fieldManager": MANAGER, "force": "true"}
        return await self._json("PATCH", where, query, obj, "application/apply-patch+yaml")

    async def merge(self, kind: str, namespace: str, name: str, body: Obj) -> Obj:
        """Merge patch; `metadata.uid` or `resourceVersion` in the body are preconditions."""
        query = {"fieldManager": MARKS}
        return await self._json("PATCH", path(kind, namespace, name), query, body, "application/merge-patch+json")

    async def finalizer(self, kind: str, namespace: str, name: str, uid: str, finalizers: Sequence[str]) -> None:
        """Our finalizers on an object, exactly these, whatever others it has; only on that very object."""
        spec = KINDS[kind]
        meta: Obj = {"name": name, "namespace": namespace, "uid": uid}
        if finalizers:
            meta["finalizers"] = list(finalizers)
        body = {"apiVersion": f"{spec.group}/{spec.version}", "kind": kind, "metadata": meta}
        query = {"fieldManager": FINALIZERS, "force": "true"}
        try:
            await self._json("PATCH", path(kind, namespace, name), query, body, "application/apply-patch+yaml")
        except KubeError as error:
            if error.status not in {404, 409} or finalizers:
                raise

    async def create(self, obj: Obj) -> Obj:
        """Create; 409 when it exists."""
        where = path(obj["kind"], obj["metadata"].get("namespace", ""))
        return await self._json("POST", where, {"fieldManager": MANAGER}, obj)

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        """Delete that very object; gone already or replaced by another is fine."""
        body = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        try:
            await self._json("DELETE", path(kind, namespace, name), {}, body)
        except KubeError as error:
            if error.status not in {404, 409}:
                raise

    async def evict(self, namespace: str, name: str, uid: str) -> None:
        """Ask for a pod to go within its budget; KubeError 429 when the budget says no."""
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace},
            "deleteOptions": {"preconditions": {"uid": uid}},
        }
        try:
            await self._json("POST", path("Pod", namespace, name) + "/eviction", {}, body, retry_429=False)
        except KubeError as error:
            if error.status not in {404, 409}:
                raise

    async def watch(self, kind: str, namespace: str, selector: str, version: str) -> AsyncIterator[Obj]:
        """Events after `version`, bookmarks included; ends when the server ends it, KubeError 410 when too old."""
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        if selector:
            query["labelSelector"] = selector
        timeout = aiohttp.ClientTimeout(total=WATCH_SILENCE_SECONDS, sock_connect=CALL_SECONDS)
        response = await self._send("GET", path(kind, namespace), query, None, "application/json", timeout)
        try:
            if response.status >= 400:
                raise _error(response, await response.read())
            rest = b""
            async for chunk in response.content.iter_any():
                rest += chunk
                *lines, rest = rest.split(b"\n")
                if len(rest) > LINE_BYTES_MAX:
                    raise KubeError(0, "TooLarge", f"an event of {kind} is larger than {LINE_BYTES_MAX} bytes")
                for line in filter(None, lines):
                    yield _event(json.loads(line))
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise KubeError(0, "Unreachable", f"watch of {kind} broke: {error}") from error
        finally:
            response.close()

    async def _json(
        self,
        method: str,
        where: str,
        query: dict[str, str] | None = None,
        body: Obj | None = None,
        content_type: str = "application/json",
        *,
        retry_429: bool = True,
    ) -> Obj:
        timeout = aiohttp.ClientTimeout(total=CALL_SECONDS)
        for attempt in range(TRIES_429):
            try:
                response = await self._send(method, where, query or {}, body, content_type, timeout)
                data = await response.read()
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise KubeError(0, "Unreachable", f"{method} {where}: {error or type(error).__name__}") from error
            if response.status < 400:
                answer: Obj = json.loads(data) if data else {}
                return answer
            problem = _error(response, data)
            if response.status != 429 or not retry_429 or attempt == TRIES_429 - 1:
                raise problem
            await asyncio.sleep(min(10.0, max(1.0, problem.retry_after)))
        raise AssertionError("unreachable")

    async def _send(
        self,
        method: str,
        where: str,
        query: dict[str, str],
        body: Obj | None,
        content_type: str,
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        await self._bucket.take()
        headers = {"Content-Type": content_type, "Accept": "application/json"}
        try:
            request = await self._api.param_serialize(
                method,
                where,
                query_params=list(query.items()),
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
            )
            answer = await self._api.call_api(*request, _request_timeout=timeout)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._count(method, 0)
            raise KubeError(0, "Unreachable", f"{method} {where}: {error or type(error).__name__}") from error
        response: aiohttp.ClientResponse = answer.response
        self._count(method, response.status)
        return response

    def _count(self, method: str, status: int) -> None:
        self.calls[(method, status)] = self.calls.get((method, status), 0) + 1


def path(kind: str, namespace: str, name: str = "") -> str:
    """URL path of an object or a collection; no namespace means all of them."""
    spec = KINDS[kind]
    parts = [spec.base]
    if spec.namespaced and namespace:
        parts += ["namespaces", quote(namespace, safe="")]
    parts.append(spec.plural)
    if name:
        parts.append(quote(name, safe=""))
    return "/".join(parts)


def _error(response: aiohttp.ClientResponse, data: bytes) -> KubeError:
    try:
        status = json.loads(data)
    except ValueError:
        status = {}
    if not isinstance(status, dict):
        status = {}
    retry = response.headers.get("Retry-After", "0")
    return KubeError(
        response.status,
        str(status.get("reason") or response.reason),
        str(status.get("message") or data[:200].decode(errors="replace") or response.reason),
        float(retry) if retry.isdigit() else 0.0,
    )


def _event(event: Obj) -> Obj:
    if event.get("type") == "ERROR":
        status = event.get("object", {})
        raise KubeError(int(status.get("code", 500)), str(status.get("reason", "")), str(status.get("message", "")))
    return event


async def connect(kubeconfig: str = "") -> Kube:
    """From a kubeconfig file, else from the pod's service account; KubeError in one sentence when neither works."""
    configuration = kubernetes_client.Configuration()
    try:
        if kubeconfig:
            # Of a file that it cannot read the client only says that it lacks a context.
            os.stat(kubeconfig)
            await kubernetes_config.load_kube_config(  # type: ignore[no-untyped-call]
                config_file=kubeconfig, client_configuration=configuration
            )
        else:
            kubernetes_config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except (ConfigException, OSError, ssl.SSLError) as error:
        source = (
            f"kubeconfig {kubeconfig}"
            if kubeconfig
            else "the pod's service account (set MOGILE_KUBECONFIG outside a pod)"
        )
        raise KubeError(0, "NoAccess", f"no access to Kubernetes by {source}: {error}") from error
    return Kube(kubernetes_client.ApiClient(configuration))
