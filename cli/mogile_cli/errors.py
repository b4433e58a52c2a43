"""Errors of the command line: one sentence for the user and an exit status.

Exit 2 is for what the caller can fix by calling differently (an argument, a busy port, an unusable folder), 1 for everything else.
"""

from __future__ import annotations

from typing import ClassVar

from mogile_core.errors import MogError


class CliError(MogError):
    """The command failed."""

    status: ClassVar[int] = 1


class UsageError(CliError):
    """The command was called in a way that cannot work."""

    status = 2
