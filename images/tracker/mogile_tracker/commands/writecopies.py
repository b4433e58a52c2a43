"""writeCopies: the further copies of an upload that must be there before `create_close` is acknowledged.

Each is announced by an intent row, pulled and synced by a node on another machine, and recorded in the closing transaction. Whoever dies
in between leaves the intent behind, which turns into a copy delete: no bytes without a row. Orders of uploads that close at the same time
are gathered per node (`nodes.PullOrders`). A node that does not answer in time is given up for another, a few times at most, so the
wait for an answer is bounded. An upload that cannot get its copies stays open: closing it again, here or at another tracker, may succeed.
"""

import asyncio
from dataclasses import dataclass

from mogile_core.checksum import Checksum, HashType
from mogile_core.errors import CommandError
from mogile_core.model import FileClass, Host
from mogile_core.paths import fid_url
from mogile_core.runtime.logs import get_log
from mogile_tracker.commands.registry import Tracker
from mogile_tracker.nodes import PullItem, PullReason, PullResult, Transfer
from mogile_tracker.nodes.transfer import ORDER_BYTES_MAX
from mogile_tracker.policy.writing import next_target, write_goal
from mogile_tracker.store.copies import Copies

TRIES_MAX = 3  # devices tried per further copy
SLOWEST_BYTES_PER_SECOND = 4e6
INTENT_MARGIN_SECONDS = (
    30  # between the end of our patience and the end of the intent: the closing transaction lies in it
)

SLOWEST_NODE_BYTES_PER_SECOND = 1e6

log = get_log(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FurtherCopies:
    """What was made: devices, and the digest the nodes found on the way."""

    devids: tuple[int, ...] = ()
    md5: str | None = None


async def make_further_copies(
    tracker: Tracker, file_class: FileClass, fid: int, devid: int, length: int, checksum: Checksum | None
) -> FurtherCopies:
    """The copies the class wants beside the one on `devid`; CommandError `no_devices` when there are too few."""
    rule, own = tracker.write_rule(file_class.dmid, file_class.classid)
    if rule.copies <= 1:
        return FurtherCopies()
    policy = tracker.policies.get(file_class.policy)
    goal = write_goal(tracker.landscape, policy, file_class.mindevcount, rule, own=own)
    md5 = checksum.digest.hex() if checksum is not None and checksum.hashtype is HashType.MD5 else None
    holders, failed = [devid], set[int]()
    problem = "no device on another machine takes files now"
    tries = TRIES_MAX * (goal.copies - 1)
    while len(holders) < goal.copies and tries > 0:
        tries -= 1
        target = next_target(tracker.landscape, policy, file_class.mindevcount, holders, length, tracker.random, failed)
        host = tracker.topology.host_of(target.devid) if target is not None else None
        if target is None or host is None:
            break
        result = await _make(tracker, fid, devid, host, target.devid, length, md5)
        if result.ok:
            holders.append(target.devid)
            md5 = result.md5 or md5
        else:
            failed.add(target.devid)
            problem = result.message or str(result.reason)
            log.info("further copy not made", fid=fid, source=devid, target=target.devid, reason=problem)
    if len(holders) < goal.least:
        await _discard(tracker, fid, holders[1:], 0.0)
        text = (
            f"{len(holders)} of {goal.least} copies could be made, the last problem: {problem}; close the upload again"
        )
        raise CommandError("no_devices", text)
    if len(holders) < goal.copies:
        log.warning("degraded write", fid=fid, copies=len(holders), wanted=goal.copies, reason=problem)
    return FurtherCopies(devids=tuple(holders[1:]), md5=md5)


async def discard_further_copies(tracker: Tracker, fid: int, copies: FurtherCopies) -> None:
    """The upload was not closed after all: what was made for it is deleted again."""
    await _discard(tracker, fid, copies.devids, 0.0)


async def _make(
    tracker: Tracker, fid: int, source_devid: int, host: Host, devid: int, length: int, md5: str | None
) -> PullResult:
    patience = tracker.settings.write_copies_patience_seconds + length / SLOWEST_BYTES_PER_SECOND
    source = tracker.topology.host_of(source_devid)
    if source is None:
        return PullResult(fid=fid, devid=devid, reason=PullReason.OTHER, message=f"device {source_devid} is unknown")
    # A frozen tracker of ours leaves its order with the node, which may be at it for the time of all its bytes at the slowest.
    order_seconds = max(length, ORDER_BYTES_MAX) / SLOWEST_NODE_BYTES_PER_SECOND
    if not await tracker.files.intend(fid, devid, round(patience + order_seconds + INTENT_MARGIN_SECONDS)):
        message = "an older copy is still being made or deleted there"
        return PullResult(fid=fid, devid=devid, reason=PullReason.DEVICE, message=message)
    url = fid_url(source.hostip, source.read_port, source_devid, fid)
    item = PullItem(fid=fid, devid=devid, source=url, length=length, md5=md5)
    try:
        async with asyncio.timeout(patience):
            result = await tracker.orders.make(host, Transfer(item=item, source=source, source_devid=source_devid))
    except TimeoutError:
        message = f"node {host.hostname} did not answer in {patience:.3g} s"
        result = PullResult(fid=fid, devid=devid, reason=PullReason.UNREACHABLE, message=message)
    if not result.ok:
        # A node that did not answer may still be writing: its bytes are deleted when it must have ended.
        await _discard(tracker, fid, (devid,), order_seconds if result.reason is PullReason.UNREACHABLE else 0.0)
    return result


async def _discard(tracker: Tracker, fid: int, devids: tuple[int, ...] | list[int], delay_seconds: float) -> None:
    await Copies(tracker.database).not_made([(fid, devid, delay_seconds) for devid in devids])
