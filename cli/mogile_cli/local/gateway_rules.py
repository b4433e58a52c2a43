"""What the built-in gateway answers and passes on, without any I/O: statuses, conditions on the entity tag, paths, types.

The same rules in Lua are `answer`, `read` and `mime` of images/nginx-gateway/lua.
"""

import base64
import binascii
import logging
import re
from collections.abc import Mapping

from aiohttp import web

from mogile_cli.local.gateway_config import Location
from mogile_cli.local.gateway_store import DEVICES_MAX, Place, TrackerReply, place

logger = logging.getLogger(__name__)

_GONE = frozenset({"unknown_key", "unreg_domain", "domain_not_found"})
_UNAVAILABLE = frozenset({"unreachable", "no_devices", "db", "failure", "draining"})
_CLIENTS_FAULT = frozenset(
    {"no_key", "checksum_mismatch", "invalid_checksum_format", "invalid_key", "key_too_long", "bad_key"}
)
_ENTITY_TAG = re.compile(r'(W/)?("[^"]*")')
CONTENT_TYPES = {
    "avif": "image/avif", "css": "text/css", "csv": "text/csv", "gif": "image/gif", "htm": "text/html", "html": "text/html",
    "ico": "image/x-icon", "jpeg": "image/jpeg", "jpg": "image/jpeg", "js": "text/javascript", "json": "application/json",
    "md": "text/markdown", "mp3": "audio/mpeg", "mp4": "video/mp4", "pdf": "application/pdf", "png": "image/png", "svg": "image/svg+xml",
    "txt": "text/plain", "wasm": "application/wasm", "webm": "video/webm", "webp": "image/webp", "xml": "application/xml",
    "zip": "application/zip",
}  # fmt: skip


def say(status: int, text: str, headers: Mapping[str, str] | None = None) -> web.Response:
    body = None if status in (204, 304) else text + "\n"
    return web.Response(status=status, text=body, headers=headers)


def unavailable(text: str) -> web.Response:
    return say(503, text, {"Retry-After": "1"})


def tracker_error(reply: TrackerReply) -> web.Response:
    """The one mapping from a tracker's error to an HTTP status."""
    if reply.code in _GONE:
        return say(404, "not found")
    if reply.code in _UNAVAILABLE:
        return unavailable(f"the store cannot do this now: {reply.code}")
    if reply.code in _CLIENTS_FAULT:
        return say(400, f"the tracker refuses: {reply.code}")
    logger.error("tracker %s refuses: %s", reply.tracker, reply.code)
    return say(502, f"the tracker refuses: {reply.code}")


def normalised(path: bytes) -> bytes | None:
    """The path without dot segments, as a web server would choose a location by; None when it climbs above the root."""
    kept: list[bytes] = []
    segments = path.split(b"/")[1:]
    for segment in segments:
        if segment == b"..":
            if not kept:
                return None
            kept.pop()
        elif segment != b".":
            kept.append(segment)
    if segments[-1] in (b".", b".."):
        kept.append(b"")
    return b"/" + b"/".join(kept)


def _names(listed: str, tag: str | None, *, weak: bool) -> bool:
    """Does a list of entity tags name `tag`?"""
    if listed.strip() == "*":
        return True
    return any(one == tag and (weak or not prefix) for prefix, one in _ENTITY_TAG.findall(listed))


def md5_of(header: str) -> str | None:
    try:
        digest = base64.b64decode(header, validate=True)
    except (binascii.Error, ValueError):
        return None
    return digest.hex() if len(digest) == 16 else None


NOWHERE = Location(path="", domain="", class_name="", read="off", write="off", token_file="")


def conditions(request: web.Request, tag: str | None) -> tuple[int, dict[str, str]]:
    """304 or 412 when a condition on the ETag decides the request, else 0; and the headers for the node."""
    asked, headers = request.headers, {}
    if_match, if_none_match = asked.get("If-Match"), asked.get("If-None-Match")
    if if_match is not None and not (tag and _names(if_match, tag, weak=False)):
        return 412, {}
    if if_none_match is not None and tag and _names(if_none_match, tag, weak=True):
        return 304, {}
    if if_none_match is None and "If-Modified-Since" in asked:
        headers["If-Modified-Since"] = asked["If-Modified-Since"]
    if if_match is None and "If-Unmodified-Since" in asked:
        headers["If-Unmodified-Since"] = asked["If-Unmodified-Since"]
    if_range = asked.get("If-Range")
    if "Range" in asked and (if_range is None or '"' not in if_range or if_range == tag):
        headers["Range"] = asked["Range"]
        if if_range is not None and '"' not in if_range:
            headers["If-Range"] = if_range
    return 0, headers


def destinations(values: Mapping[str, str]) -> list[Place]:
    count = values.get("dev_count")
    if count is None:
        pairs = [(values.get("devid", ""), values.get("path", ""))]
    else:
        known = range(1, min(int(count) if count.isdecimal() else 0, DEVICES_MAX) + 1)
        pairs = [(values.get(f"devid_{index}", ""), values.get(f"path_{index}", "")) for index in known]
    found = [place(url, devid) for devid, url in pairs if devid.isdecimal()]
    return [one for one in found if one is not None]
