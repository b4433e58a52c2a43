"""A small Kubernetes API client for the harness's own controllers: JSON in and out, list and watch.

The suite's stories use kubectl; this is for what must run as long as the cluster (volumes, network policies), where
starting a program for each call would cost more than the work.  Standard library only.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

from harness import netns
from harness.layout import API_PORT, CONTROL_PLANE_ADDRESS, ClusterLayout

Json = dict[str, Any]
REQUEST_TIMEOUT_SECONDS = 15.0
WATCH_SECONDS = 240
RESPONSE_BYTES_MAX = 256 * 1024 * 1024
WATCH_LINE_BYTES_MAX = 16 * 1024 * 1024
MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"


class ApiError(Exception):
    """The API server refused; ``status`` is the HTTP code."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class _Connection(http.client.HTTPSConnection):
    """An HTTPS connection whose socket is opened by the given function."""

    def __init__(self, context: ssl.SSLContext, opener: Callable[[float], socket.socket], timeout: float) -> None:
        super().__init__(CONTROL_PLANE_ADDRESS, API_PORT, context=context, timeout=timeout)
        self._tls = context
        self._opener = opener
        self._seconds = timeout

    def connect(self) -> None:
        raw = self._opener(self._seconds)
        self.sock = self._tls.wrap_socket(raw, server_hostname=CONTROL_PLANE_ADDRESS)


class ApiClient:
    """Requests with a client certificate; a connection per request, which at the harness's rates is cheap enough."""

    def __init__(self, context: ssl.SSLContext, opener: Callable[[float], socket.socket]) -> None:
        self._context = context
        self._opener = opener

    @classmethod
    def from_layout(cls, layout: ClusterLayout) -> ApiClient:
        context = ssl.create_default_context(cafile=str(layout.pki / "ca.crt"))
        context.load_cert_chain(layout.pki / "controllers.crt", layout.pki / "controllers.key")
        address = (CONTROL_PLANE_ADDRESS, API_PORT)
        return cls(context, lambda timeout: netns.connect(layout.client_netns, address, timeout=timeout))

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Json | None = None,
        content_type: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> bytes:
        """One request; anything but 2xx is an ApiError with the server's sentence."""
        connection = _Connection(self._context, self._opener, REQUEST_TIMEOUT_SECONDS)
        try:
            headers = {"Accept": "application/json", "Content-Type": content_type}
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, _with_query(path, query), body=data, headers=headers)
            response = connection.getresponse()
            content = response.read(RESPONSE_BYTES_MAX)
        except http.client.HTTPException as exc:
            raise OSError(f"{method} {path}: {exc!r}") from exc
        finally:
            connection.close()
        if not 200 <= response.status < 300:
            raise ApiError(response.status, _message(content))
        return content

    def get_text(self, path: str) -> str:
        return self.request("GET", path).decode()

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Json:
        return _object(self.request("GET", path, query=query))

    def create(self, path: str, body: Json) -> Json:
        return _object(self.request("POST", path, body=body))

    def patch(self, path: str, body: Json) -> Json:
        return _object(self.request("PATCH", path, body=body, content_type=MERGE_PATCH))

    def apply(self, path: str, body: Json) -> Json:
        """Server-side apply as the harness."""
        query = {"fieldManager": "mogile-harness", "force": "true"}
        return _object(self.request("PATCH", path, body=body, content_type=APPLY_PATCH, query=query))

    def delete(self, path: str) -> None:
        """Delete; what is gone already is fine."""
        try:
            self.request("DELETE", path)
        except ApiError as exc:
            if exc.status != 404:
                raise

    def watch(self, path: str, resource_version: str) -> Iterator[Json]:
        """Events after a version, until the server ends the watch; an expired version is an ApiError 410."""
        query = {"watch": "1", "resourceVersion": resource_version, "allowWatchBookmarks": "true"}
        query["timeoutSeconds"] = str(WATCH_SECONDS)
        connection = _Connection(self._context, self._opener, WATCH_SECONDS + REQUEST_TIMEOUT_SECONDS)
        try:
            connection.request("GET", _with_query(path, query), headers={"Accept": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                raise ApiError(response.status, _message(response.read(RESPONSE_BYTES_MAX)))
            while line := response.readline(WATCH_LINE_BYTES_MAX):
                event = _object(line)
                if event["type"] == "ERROR":
                    raise ApiError(int(event["object"].get("code", 500)), str(event["object"].get("message")))
                yield event
        except http.client.HTTPException as exc:
            raise OSError(f"watch {path}: {exc!r}") from exc
        finally:
            connection.close()


def _with_query(path: str, query: Mapping[str, str] | None) -> str:
    return f"{path}?{urlencode(query)}" if query else path


def _object(content: bytes) -> Json:
    value: Json = json.loads(content)
    return value


def _message(content: bytes) -> str:
    try:
        return str(json.loads(content)["message"])
    except (ValueError, KeyError, TypeError):
        return content[:500].decode(errors="replace")
