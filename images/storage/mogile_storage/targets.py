"""What a request target names. Our paths need no escapes, so anything escaped, doubled or dotted is refused instead of interpreted."""

from __future__ import annotations

import re
from typing import NamedTuple

from mogile_core.paths import DEVID_MAX, parse_fid_path
from mogile_storage.errors import BadRequestError, ForbiddenError, MissingError

TARGET_BYTES_MAX = 1024
_USUAL_FID = re.compile(rb"/dev(0|[1-9]\d{0,4})/((\d)/(\d{3})/(\d{3})/\3\4\5\d{3}\.fid)\Z")  # ten digits; others below
_DEVICE = re.compile(r"/dev(0|[1-9]\d{0,4})(?:/(.*))?\Z", re.ASCII)
_TEST_WRITE = re.compile(r"test-write/([A-Za-z0-9_-][A-Za-z0-9._-]{0,63})\Z", re.ASCII)
_COLLECTION = re.compile(r"(test-write|\d(/\d{3}){0,2})?/?\Z", re.ASCII)


class Target(NamedTuple):
    """`kind` is fid, test, usage, initialise, fids, damaged, scrub, delete, collection (a directory), root or pull; `name` is relative
    to the device."""

    kind: str
    devid: int = -1
    name: str = ""


ROOT = Target("root")
PULL = Target("pull")


def parse_target(raw: bytes) -> Target:
    """BadRequestError or ForbiddenError for what no file of ours can be called; MissingError for other paths."""
    match = _USUAL_FID.match(raw)
    if match is not None and (devid := int(match[1])) <= DEVID_MAX:
        return Target("fid", devid, match[2].decode("ascii"))
    if len(raw) > TARGET_BYTES_MAX:
        raise BadRequestError("the path is too long")
    try:
        text = raw.decode("ascii")
    except UnicodeDecodeError:
        raise BadRequestError("the path has bytes that are not ASCII") from None
    if text.startswith("http://"):  # absolute form
        text = "/" + text[7:].partition("/")[2]
    path = text.partition("?")[0]
    try:
        devid, _ = parse_fid_path(path)
        return Target("fid", devid, path[path.index("/", 1) + 1 :])
    except ValueError:
        return _other(path)


def _other(path: str) -> Target:
    if not path.startswith("/") or any(c <= " " or c in "%\\\x7f#" for c in path):
        raise BadRequestError("the path is malformed or escaped")
    if "/../" in path + "/" or "/./" in path + "/":
        raise ForbiddenError("the path contains ..")
    if path == "/":
        return ROOT
    if path == "/pull":
        return PULL
    device = _DEVICE.match(path)
    if device is None or int(device[1]) > DEVID_MAX:
        raise MissingError
    devid, name = int(device[1]), device[2] or ""
    if name in ("usage", "initialise", "fids", "damaged", "scrub", "delete"):
        return Target(name, devid, name)
    if _TEST_WRITE.match(name):
        return Target("test", devid, name)
    if _COLLECTION.match(name):
        return Target("collection", devid, name.rstrip("/"))
    raise BadRequestError("only /devN/<b>/<mmm>/<ttt>/<fid>.fid, usage and test-write exist on a device")
