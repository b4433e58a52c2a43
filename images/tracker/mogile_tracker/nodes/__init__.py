"""Storage nodes as the tracker sees them: the only place in this package that opens connections to them."""

from mogile_tracker.nodes.client import Nodes
from mogile_tracker.nodes.transfer import PullOrders, Transfer, transfer
from mogile_tracker.nodes.values import (
    CopyInfo,
    DamagedCopy,
    DeleteOutcome,
    ListedCopy,
    NodeCannotListError,
    NodeCannotPullError,
    NodeForeignError,
    NodeUsage,
    PullItem,
    PullReason,
    PullResult,
    WriteTest,
)

__all__ = [
    "CopyInfo",
    "DamagedCopy",
    "DeleteOutcome",
    "ListedCopy",
    "NodeCannotListError",
    "NodeCannotPullError",
    "NodeForeignError",
    "NodeUsage",
    "Nodes",
    "PullItem",
    "PullOrders",
    "PullReason",
    "PullResult",
    "Transfer",
    "WriteTest",
    "transfer",
]
