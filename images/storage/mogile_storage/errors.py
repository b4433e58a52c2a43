"""Why a storage node refuses or cannot do something; `status` is the HTTP answer, `reason` the word of a pull answer."""

from __future__ import annotations

from typing import ClassVar

from mogile_core.errors import MogError


class NodeRefusal(MogError):  # noqa: N818 - most of these are answers, not faults
    """The storage node refused the request."""

    status: ClassVar[int] = 500
    reason: ClassVar[str] = "device"


class BadRequestError(NodeRefusal):
    """The request cannot be understood."""

    status = 400


class LengthRequiredError(NodeRefusal):
    """The request must say how long its body is."""

    status = 411


class TooLargeError(NodeRefusal):
    """A body that would have to be kept in memory is too long."""

    status = 413


class DigestMismatchError(NodeRefusal):
    """The bytes that arrived do not have the digest that was promised."""

    status = 400
    reason = "digest_mismatch"


class LengthMismatchError(NodeRefusal):
    """The number of bytes that arrived is not what was promised."""

    status = 400
    reason = "length_mismatch"


class ExistsDiffersError(NodeRefusal):
    """A file of this name with other bytes exists; .fid files are immutable."""

    status = 409
    reason = "exists_differs"


class WrongCopyError(NodeRefusal):
    """The copy on this device is not the one named in If-Match."""

    status = 412


class TargetExistsError(NodeRefusal):
    """There is a file of that name already; it stays."""

    status = 412


class MissingError(NodeRefusal):
    """There is no such file on this device."""

    status = 404
    reason = "source_missing"


class ForbiddenError(NodeRefusal):
    """This node does not take that request without the id of its cluster."""

    status = 403


class WrongClusterError(NodeRefusal):
    """This node belongs to another cluster."""

    status = 421


class NoSpaceError(NodeRefusal):
    """The device has no room for this."""

    status = 507
    reason = "no_space"


class DeviceUnavailableError(NodeRefusal):
    """The device cannot be used now."""

    status = 503
    retryable = True


class BusyError(NodeRefusal):
    """Too much work is waiting for this device; try again."""

    status = 503
    retryable = True


class DamagedError(NodeRefusal):
    """The file on this device is damaged: its length is not the recorded one."""

    status = 500
