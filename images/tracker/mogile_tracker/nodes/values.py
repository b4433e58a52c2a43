"""What storage nodes answer, parsed: values and errors, no I/O."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any

from mogile_core.errors import NodeError

USAGE_BYTES_MAX = 65536
RESULT_LINE_BYTES_MAX = 65536


class NodeForeignError(NodeError):
    """A storage node belongs to another cluster."""

    retryable = False


class NodeCannotPullError(NodeError):
    """A storage node does not know copy orders (a node of MogileFS or a plain DAV server)."""

    retryable = False


class NodeCannotDeleteManyError(NodeError):
    """The node takes no orders to delete many copies: it is not ours, or an older one."""


class NodeCannotListError(NodeError):
    """A storage node does not list its copies (a node of MogileFS or a plain DAV server)."""

    retryable = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeUsage:
    """The usage file of one device; cluster, devid and volume are None on nodes that are not ours."""

    total_kib: int
    used_kib: int
    cluster_id: str | None = None
    devid: int | None = None
    volume_id: str | None = None
    measured: int | None = None  # unix time on the node's clock
    damaged: int = 0  # copies in quarantine that nobody has replaced yet

    @classmethod
    def parse(cls, text: str) -> "NodeUsage":
        """`key: value` lines; NodeError when the sizes are missing or zero."""
        fields: dict[str, str] = {}
        for line in text.splitlines():
            key, colon, value = line.partition(":")
            if colon:
                fields[key.strip()] = value.strip()
        total, used, devid, measured = (_whole(fields.get(name)) for name in ("total", "used", "devid", "time"))
        if not total or used is None:
            raise NodeError("usage file without total and used")
        return cls(
            total_kib=total,
            used_kib=used,
            cluster_id=fields.get("cluster") or None,
            devid=devid,
            volume_id=fields.get("volume") or None,
            measured=measured,
            damaged=_whole(fields.get("damaged")) or 0,
        )


def _whole(text: str | None) -> int | None:
    if text is None or not text.isascii() or not text.isdigit():
        return None
    return int(text)


class WriteTest(Enum):
    """What came of writing a small file and reading it back."""

    WRITEABLE = "writeable"
    READ_ONLY = "read only"
    MISMATCH = "read back something else"


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyInfo:
    """One copy as its node describes it; `copy_id` is None on nodes that are not ours."""

    length: int
    copy_id: str | None = None
    md5: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedCopy:
    """A copy as it lies on a device."""

    fid: int
    length: int
    mtime: int  # unix time on the node's clock

    @classmethod
    def parse(cls, line: bytes) -> "ListedCopy":
        """`<fid> <length> <mtime>`; NodeError for anything else."""
        words = line.split()
        if len(words) != 3 or not all(word.isdigit() for word in words):
            raise NodeError(f"listing line that cannot be read: {line[:200]!r}")
        return cls(fid=int(words[0]), length=int(words[1]), mtime=int(words[2]))


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedCopy:
    """A copy that its device has put into quarantine."""

    fid: int
    copy_id: str | None
    reason: str
    since: int  # unix time on the node's clock

    @classmethod
    def parse(cls, line: bytes) -> "DamagedCopy":
        """`<fid> <copy id or -> <reason> <time>`; NodeError for anything else."""
        words = line.decode("ascii", "replace").split()
        if len(words) != 4 or not words[0].isdigit() or not words[3].isdigit():
            raise NodeError(f"listing line that cannot be read: {line[:200]!r}")
        copy_id = None if words[1] == "-" else words[1]
        return cls(fid=int(words[0]), copy_id=copy_id, reason=words[2], since=int(words[3]))


class DeleteOutcome(Enum):
    """What a DELETE came to; after each of them the copy that was meant is not there."""

    DELETED = "deleted"
    MISSING = "missing"
    OTHER_COPY = "other"


class PullReason(StrEnum):
    """Why a node did not make a copy (docs/architecture.md), and the last three: why its tracker says so for it."""

    SOURCE_MISSING = "source_missing"
    SOURCE_UNREACHABLE = "source_unreachable"
    SOURCE_FOREIGN = "source_foreign"
    LENGTH_MISMATCH = "length_mismatch"
    DIGEST_MISMATCH = "digest_mismatch"
    EXISTS_DIFFERS = "exists_differs"
    NO_SPACE = "no_space"
    DEVICE = "device"
    CANCELLED = "cancelled"
    UNREACHABLE = "unreachable"
    OTHER = "other"
    NOT_RECORDED = "not_recorded"  # made, but the file was deleted or the copy took longer than announced

    @property
    def blames_source(self) -> bool:
        """Another source may do; with any other reason another destination may."""
        return self in _SOURCE_REASONS


_SOURCE_REASONS = frozenset(
    {
        PullReason.SOURCE_MISSING,
        PullReason.SOURCE_UNREACHABLE,
        PullReason.SOURCE_FOREIGN,
        PullReason.LENGTH_MISMATCH,
        PullReason.DIGEST_MISMATCH,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PullItem:
    """One copy order."""

    fid: int
    devid: int
    source: str  # URL
    length: int
    md5: str | None = None  # hex
    replace: bool = False

    def as_json(self) -> dict[str, object]:
        """As in the body of `POST /pull`."""
        return {
            "fid": self.fid,
            "devid": self.devid,
            "source": self.source,
            "length": self.length,
            "md5": self.md5,
            "replace": self.replace,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PullResult:
    """What came of one copy order; `reason` is None when the copy is there, durably."""

    fid: int
    devid: int
    reason: PullReason | None = None
    message: str = ""
    copy_id: str | None = None
    md5: str | None = None

    @property
    def ok(self) -> bool:
        """The copy is there."""
        return self.reason is None

    @classmethod
    def parse(cls, line: bytes) -> "PullResult":
        """One line of the answer; NodeError when it is not what the contract says."""
        try:
            data: Mapping[str, Any] = json.loads(line)
            fid, devid, status = int(data["fid"]), int(data["devid"]), str(data["status"])
        except (ValueError, KeyError, TypeError) as error:
            raise NodeError(f"copy answer that cannot be read: {line[:200]!r}") from error
        if status == "ok":
            return cls(fid=fid, devid=devid, copy_id=data.get("copyId"), md5=data.get("md5"))
        try:
            reason = PullReason(str(data.get("reason")))
        except ValueError:
            reason = PullReason.OTHER
        return cls(fid=fid, devid=devid, reason=reason, message=str(data.get("message", ""))[:500])
