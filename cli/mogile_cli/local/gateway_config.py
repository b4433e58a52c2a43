"""`gateway.json` for the built-in gateway: read and checked completely, with the same rules and sentences as the nginx gateway's.

Unknown fields are errors: a mistyped "tokenfile" must not silently open a location. `TokenFile` follows the file it was given: it
is looked at again at most once per RELOAD_SECONDS, one token per line, and an unreadable or empty file lets nobody in.
"""

import hmac
import ipaddress
import json
import logging
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

FILE_BYTES_MAX = 1 << 20
TRACKERS_MAX = 64
LOCATIONS_MAX = 500
PATH_BYTES_MAX = 512
NAME_BYTES_MAX = 255
TOKEN_FILE_BYTES_MAX = 16384
TOKENS_MAX = 16
RELOAD_SECONDS = 1.0

_ACCESS = frozenset({"open", "token", "off"})
_HOST_NAME = re.compile(r"(?!-)(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})\.)*[A-Za-z0-9_][A-Za-z0-9_-]{0,62}\.?")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_BAD_PATH = re.compile(r'[\x00-\x1f\x7f"\\{};?#%]|/\.\.?/')
_KINDS = {
    str: "string",
    dict: "object",
    list: "array",
    bool: "boolean",
    int: "number",
    float: "number",
    type(None): "null",
}
_FIELDS = (
    "listen",
    "metricsListen",
    "workers",
    "trackers",
    "resolver",
    "clusterId",
    "limits",
    "locations",
    "accessLog",
)
_LOCATION_FIELDS = ("path", "domain", "class", "read", "write", "tokenFile")


class GatewayConfigError(Exception):
    """The configuration cannot be used; the message is one sentence that names the field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """One part of the URL space: which domain it shows and who may do what."""

    path: str
    domain: str
    class_name: str
    read: str
    write: str
    token_file: str

    @property
    def allow(self) -> str:
        """The Allow header of a refusal."""
        return ", ".join(
            methods for access, methods in ((self.read, "GET, HEAD"), (self.write, "PUT, DELETE")) if access != "off"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """The whole file, checked."""

    listen: tuple[str, int]
    metrics_listen: tuple[str, int]
    trackers: tuple[tuple[str, int], ...]
    cluster_id: str
    body_bytes_max: int
    connections_per_client: int
    access_log: bool
    locations: tuple[Location, ...]

    def location_of(self, path: bytes) -> Location | None:
        """The location with the longest path that `path` begins with."""
        fitting = [location for location in self.locations if path.startswith(location.path.encode())]
        return max(fitting, key=lambda location: len(location.path), default=None)


def split_address(text: str, default_port: int | None = None) -> tuple[str, int] | None:
    """`host:port`, `[v6]:port` or, with a default port, `host`; None when it is none of these."""
    host, colon, digits = text.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):
        host, digits = text, "" if default_port is None else str(default_port)
    if not digits.isascii() or not digits.isdigit() or not 0 < int(digits) < 65536:
        return None
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if is_ip(host) or (_HOST_NAME.fullmatch(host) and not re.fullmatch(r"[\d.]+", host)):
        return host, int(digits)
    return None


def is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def load(path: Path) -> GatewayConfig:
    """Read and check a configuration file."""
    try:
        with path.open("rb") as stream:
            text = stream.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise GatewayConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(text) > FILE_BYTES_MAX:
        raise GatewayConfigError(f"{path}: is larger than {FILE_BYTES_MAX} bytes")
    try:
        value = json.loads(text, object_pairs_hook=_no_twins)
    except (ValueError, RecursionError) as error:
        raise GatewayConfigError(f"{path}: is not JSON: {error}") from error
    try:
        return _check(value)
    except GatewayConfigError as error:
        raise GatewayConfigError(f"{path}: {error}") from error


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"a field of {sorted(names)} occurs twice")
    return dict(pairs)


def _refuse(field: str, message: str) -> GatewayConfigError:
    return GatewayConfigError(f"{field}: {message}")


def _take(value: dict[str, Any], name: str, kind: type, default: Any = None, *, label: str = "") -> Any:
    if name not in value:
        if default is None:
            raise _refuse(label + name, "is missing")
        return default
    found = value[name]
    if type(found) is not kind:
        raise _refuse(label + name, f"must be a {_KINDS[kind]}, not {_KINDS[type(found)]}")
    return found


def _only(value: dict[str, Any], allowed: tuple[str, ...], label: str) -> None:
    for name in sorted(value):
        if name not in allowed:
            raise _refuse(label + name, "is no field of a gateway configuration")


def _whole(value: dict[str, Any], name: str, default: int, low: int, high: int, *, label: str = "") -> int:
    number: int = _take(value, name, int, default, label=label)
    if not low <= number <= high:
        raise _refuse(label + name, f"must be a whole number from {low} to {high}")
    return number


def _listen(value: dict[str, Any], name: str, default: str) -> tuple[str, int]:
    text = _take(value, name, str, default)
    address = split_address(text)
    if address is None or not is_ip(address[0]):
        raise _refuse(name, f'must be IP:port such as 0.0.0.0:8080, not "{text}"')
    return address


def _trackers(value: dict[str, Any]) -> tuple[tuple[str, int], ...]:
    found = _take(value, "trackers", list)
    if not found:
        raise _refuse("trackers", "needs at least one address, such as 10.0.0.5:7001")
    if len(found) > TRACKERS_MAX:
        raise _refuse("trackers", f"at most {TRACKERS_MAX} addresses")
    result = []
    for index, text in enumerate(found):
        address = split_address(text) if isinstance(text, str) else None
        if address is None:
            raise _refuse(f"trackers[{index}]", f"must be host:port such as 10.0.0.5:7001, not {json.dumps(text)}")
        result.append(address)
    return tuple(result)


def _location(value: Any, label: str, seen: set[str]) -> Location:
    if not isinstance(value, dict):
        raise _refuse(label[:-1], "must be an object")
    _only(value, _LOCATION_FIELDS, label)
    path = _take(value, "path", str, label=label)
    reserved = path.startswith("/.mogile-gateway/")
    if (
        not (path.startswith("/") and path.endswith("/"))
        or len(path.encode()) > PATH_BYTES_MAX
        or _BAD_PATH.search(path)
        or reserved
    ):
        raise _refuse(
            label + "path",
            "must begin and end with / and hold no control or quoting character, dot segment or percent sign",
        )
    if path in seen:
        raise _refuse(label + "path", f'"{path}" is given twice')
    seen.add(path)
    names = {name: _take(value, name, str, default, label=label) for name, default in (("domain", None), ("class", ""))}
    for name, text in names.items():
        if len(text.encode()) > NAME_BYTES_MAX:
            raise _refuse(label + name, f"at most {NAME_BYTES_MAX} bytes")
    if not names["domain"]:
        raise _refuse(label + "domain", "must not be empty")
    access = {name: _take(value, name, str, "off", label=label) for name in ("read", "write")}
    for name, text in access.items():
        if text not in _ACCESS:
            raise _refuse(label + name, f'must be open, token or off, not "{text}"')
    token_file = _take(value, "tokenFile", str, "", label=label)
    if "token" in access.values() and not token_file:
        raise _refuse(label + "tokenFile", "is missing: the location asks for a token")
    if token_file and not token_file.startswith("/"):
        raise _refuse(label + "tokenFile", "must be an absolute path")
    class_name = "" if names["class"] == "default" else names["class"]
    return Location(path=path, domain=names["domain"], class_name=class_name, token_file=token_file, **access)


def _check(value: Any) -> GatewayConfig:
    if not isinstance(value, dict):
        raise _refuse("the file", "must be a JSON object")
    _only(value, _FIELDS, "")
    limits = _take(value, "limits", dict, {})
    _only(limits, ("connectionsPerClient", "maxBodyBytes"), "limits.")
    access_log = value.get("accessLog", False)
    if type(access_log) is not bool:
        raise _refuse("accessLog", "must be true or false")
    _whole(value, "workers", 1, 1, 64)
    resolver = _take(value, "resolver", str, "")
    address = split_address(resolver, 53) if resolver else ("127.0.0.1", 53)
    if address is None or not is_ip(address[0]):
        raise _refuse("resolver", f'must be the IP address of a name server, not "{resolver}"')
    cluster_id = _take(value, "clusterId", str, "")
    if cluster_id and not _UUID.fullmatch(cluster_id):
        raise _refuse("clusterId", "must be a UUID or empty")
    listen, metrics_listen = _listen(value, "listen", "0.0.0.0:8080"), _listen(value, "metricsListen", "0.0.0.0:8081")
    trackers, locations = _trackers(value), _take(value, "locations", list)
    if not locations:
        raise _refuse("locations", "needs at least one location")
    if len(locations) > LOCATIONS_MAX:
        raise _refuse("locations", f"at most {LOCATIONS_MAX} locations")
    seen: set[str] = set()
    if listen == metrics_listen:
        raise _refuse("metricsListen", "must differ from listen")
    return GatewayConfig(
        listen=listen,
        metrics_listen=metrics_listen,
        trackers=trackers,
        cluster_id=cluster_id.lower(),
        body_bytes_max=_whole(limits, "maxBodyBytes", 0, 0, 2**53, label="limits."),
        connections_per_client=_whole(limits, "connectionsPerClient", 0, 0, 65535, label="limits."),
        access_log=access_log,
        locations=tuple(_location(one, f"locations[{index}].", seen) for index, one in enumerate(locations)),
    )


class TokenFile:
    """The tokens a file holds now."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._tokens: list[bytes] = []
        self._read_at = float("-inf")

    def _load(self) -> None:
        now = time.monotonic()
        if now - self._read_at < RELOAD_SECONDS:
            return
        self._read_at = now
        try:
            with self._path.open("rb") as stream:
                self._tokens = stream.read(TOKEN_FILE_BYTES_MAX).split()[:TOKENS_MAX]
        except OSError:
            self._tokens = []
        if not self._tokens:
            logger.error("token file %s holds no token: nobody is let in", self._path)

    def check(self, header: str | None) -> int:
        """200, 401 (no token) or 403 (a wrong one) for the value of an Authorization header."""
        words = (header or "").split()
        if len(words) != 2 or words[0].lower() != "bearer":
            return 401
        self._load()
        offered = words[1].encode("utf-8", "surrogateescape")
        good = [hmac.compare_digest(offered, token) for token in self._tokens]
        return 200 if any(good) else 403
