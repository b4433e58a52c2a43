"""The exception tree of the project and MogileFS's table of wire error codes.

Every class states its default message in its docstring, its wire `code` where one exists, and whether the same call may simply be
made again (`retryable`). Boundary modules wrap foreign exceptions into these (`raise ... from`); nothing else catches them broadly.
"""

from __future__ import annotations

from typing import ClassVar

# Texts fixed by MogileFS; a code that is not here has its own name as text (clients of other languages show and compare these).
ERROR_TEXTS: dict[str, str] = {
    "after_mismatch": "Pattern does not match the after-value?",
    "bad_params": "Invalid parameters to command; please see documentation",
    "class_exists": "That class already exists in that domain",
    "class_has_files": "Class still has files, unable to delete",
    "class_not_found": "Class not found",
    "db": "Database error",
    "domain_exists": "That domain already exists",
    "domain_has_files": "Domain still has files, unable to delete",
    "domain_not_empty": "Domain still has classes, unable to delete",
    "domain_not_found": "Domain not found",
    "dup": "Duplicate name/number used.",
    "failure": "Operation failed",
    "host_exists": "That host already exists",
    "host_mismatch": "The device specified doesn't belong to the host specified",
    "host_not_empty": "Unable to delete host; it contains devices still",
    "host_not_found": "Host not found",
    "invalid_mindevcount": "The mindevcount must be at least 1",
    "key_exists": "Target key name already exists; can't overwrite.",
    "no_class": "No class provided",
    "no_device": "Device not found",
    "no_devices": "No devices found to store file",
    "no_domain": "No domain provided",
    "no_host": "No host provided",
    "no_ip": "IP required to create host",
    "no_port": "Port required to create host",
    "no_rebal_policy": "No rebalance policy available",
    "no_rebal_state": "No available rebalance status",
    "no_temp_file": "No tempfile or file already closed",
    "nodel_default_class": "Cannot delete the default class",
    "none_match": "No keys match that pattern and after-value (if any).",
    "plugin_aborted": "Action aborted by plugin",
    "rebal_not_started": "Rebalance not running",
    "state_too_high": "Status cannot go from dead to alive; must use down",
    "unknown_command": "Unknown server command",
    "unknown_host": "Host not found",
    "unknown_state": "Invalid/unknown state",
    "unreg_domain": "Domain name invalid/not found",
    # ours
    "device_not_dead": "Device is not dead; mark it dead first",
    "device_not_empty": "Device still holds files",
    "draining": "Tracker is shutting down; use another one",
    "request_too_long": "Request is longer than this tracker accepts",
}


class MogError(Exception):
    """Something went wrong in the object store."""

    code: ClassVar[str] = "failure"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or type(self).__doc__ or type(self).__name__)


class SettingError(MogError):
    """A setting has a value that cannot be used."""


class ProtocolError(MogError):
    """A peer sent something that is not the tracker line protocol."""


class RequestTooLongError(ProtocolError):
    """Request is longer than this tracker accepts"""

    code = "request_too_long"


class TrackerUnavailableError(MogError):
    """No tracker could be reached."""

    retryable = True


class TrackerOutcomeUnknownError(MogError):
    """The connection was lost after the request was sent: the tracker may or may not have done it."""


class CommandError(MogError):
    """A tracker command failed with a code of the line protocol (`wire_code`, `text`)."""

    def __init__(self, wire_code: str, text: str | None = None) -> None:
        self.wire_code = wire_code
        self.text = text if text is not None else ERROR_TEXTS.get(wire_code, wire_code)
        super().__init__(f"{wire_code}: {self.text}" if self.text != wire_code else wire_code)


class StoreError(MogError):
    """Database error"""

    code = "db"


class StoreUnavailableError(StoreError):
    """The database cannot be reached or takes no writes now."""

    retryable = True


class NodeError(MogError):
    """A storage node did not do what it was asked."""

    retryable = True


class NodeUnreachableError(NodeError):
    """A storage node cannot be reached."""


class TransferError(MogError):
    """The bytes of a file could not be moved or do not match what was promised."""
