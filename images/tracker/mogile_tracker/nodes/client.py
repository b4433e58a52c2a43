"""HTTP and side-channel client to storage nodes, pooled per node, every call bounded in time.

Every request carries the cluster id, and an answer with another one is refused: a reused address must never be taken for a node of
ours. Errors are `NodeUnreachableError` (no answer), `NodeForeignError` (somebody else's node), `NodeError` (an answer that is no
success); a missing copy is not an error but a value.
"""

import asyncio
import base64
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from mogile_core.checksum import Checksum, HashType, new_digest
from mogile_core.errors import NodeError, NodeUnreachableError
from mogile_core.model import CLUSTER_HEADER, NODE_MGMT_PORT, Host
from mogile_core.paths import base_url, fid_path
from mogile_core.runtime.workers import progress
from mogile_tracker.nodes.sidechannel import SideChannel, parse_digest, parse_size, watch
from mogile_tracker.nodes.values import (
    RESULT_LINE_BYTES_MAX,
    USAGE_BYTES_MAX,
    CopyInfo,
    DamagedCopy,
    DeleteOutcome,
    ListedCopy,
    NodeCannotDeleteManyError,
    NodeCannotListError,
    NodeCannotPullError,
    NodeForeignError,
    NodeUsage,
    PullItem,
    PullReason,
    PullResult,
    WriteTest,
)

CONNECTIONS_PER_NODE = 64
RELAY_BLOCK_BYTES = 1 << 20
RETRY_SECONDS_DEFAULT = 60.0  # how long a node without a side channel is asked by HEAD instead
NO_PULL_TIMES = 5  # so many times as long a node that refused copy orders is not sent any
PULL_ITEMS_MAX = 1000
DELETE_LINES_MAX = 1000
DELETE_SECONDS = 0.05  # a delete order may take so long for each of its copies, beside the time of any request
SINGLE_DELETES = 32  # under way at once, on a node that takes no orders
_DELETE_WORDS = frozenset(outcome.value for outcome in DeleteOutcome)
_COPY_ID = re.compile(r'"([0-9a-f]{32})"')


@dataclass(slots=True)
class _Node:
    """Connections to one node, and what it is known not to do."""

    session: aiohttp.ClientSession
    sizes: SideChannel
    digests: dict[int, SideChannel] = field(
        default_factory=dict
    )  # by device: questions that have to wait for each other
    no_side_channel_until: float = 0.0
    no_pull_until: float = 0.0
    no_delete_order_until: float = 0.0

    async def close(self) -> None:
        """Close its connections."""
        for channel in (self.sizes, *self.digests.values()):
            await channel.close()
        await self.session.close()


class Nodes:
    """All storage nodes; one instance per process."""

    def __init__(
        self,
        *,
        cluster_id: str,
        connect_timeout_seconds: float = 2.0,
        request_timeout_seconds: float = 5.0,
        transfer_idle_seconds: float = 45.0,
        mgmt_port: int = NODE_MGMT_PORT,
        retry_seconds: float = RETRY_SECONDS_DEFAULT,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.cluster_id = cluster_id
        self._connect_timeout = connect_timeout_seconds
        self._request_timeout = request_timeout_seconds
        self._transfer_idle = transfer_idle_seconds
        self._mgmt_port = mgmt_port
        self._retry_seconds = retry_seconds
        self._monotonic = monotonic
        self._nodes: dict[tuple[str, int, int], _Node] = {}

    # ------------------------------------------------------------------ connections

    def _node(self, host: Host) -> _Node:
        key = (host.hostip, host.http_port, host.read_port)
        node = self._nodes.get(key)
        if node is None:
            session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=CONNECTIONS_PER_NODE, keepalive_timeout=20.0),
                timeout=aiohttp.ClientTimeout(total=self._request_timeout, sock_connect=self._connect_timeout),
                headers={CLUSTER_HEADER: self.cluster_id, "User-Agent": "mogile-tracker"},
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                read_bufsize=RESULT_LINE_BYTES_MAX * 2,
            )
            channel = SideChannel(host.hostip, self._mgmt_port, connect_timeout_seconds=self._connect_timeout)
            node = self._nodes[key] = _Node(session=session, sizes=channel)
        return node

    async def drop(self, host: Host) -> None:
        """Close the connections to a node that was found unreachable, so that nobody waits on a dead one."""
        node = self._nodes.pop((host.hostip, host.http_port, host.read_port), None)
        if node is not None:
            await node.close()

    async def close(self) -> None:
        """Close everything."""
        nodes, self._nodes = list(self._nodes.values()), {}
        for node in nodes:
            await node.close()

    @asynccontextmanager
    async def _request(
        self, host: Host, method: str, path: str, **options: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        by_method = host.read_port if method in ("GET", "HEAD") else host.http_port
        port = options.pop("port", by_method)
        url = base_url(host.hostip, port) + path
        if "total_seconds" in options:
            options["timeout"] = aiohttp.ClientTimeout(
                total=options.pop("total_seconds"), sock_connect=self._connect_timeout
            )
        try:
            async with self._node(host).session.request(method, url, allow_redirects=False, **options) as response:
                progress()
                self._check_cluster(response)
                yield response
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise NodeUnreachableError(f"{method} {url}: {error or type(error).__name__}") from error

    def _check_cluster(self, response: aiohttp.ClientResponse) -> None:
        theirs = response.headers.get(CLUSTER_HEADER)
        if response.status == 421 or (theirs and self.cluster_id and theirs != self.cluster_id):
            raise NodeForeignError(f"{response.url}: the node belongs to cluster {theirs or 'unknown'}")

    # ------------------------------------------------------------------ questions

    async def size(self, host: Host, devid: int, fid: int) -> int | None:
        """Length of a copy, None when it is missing; by side channel where the node has one, else by HEAD."""
        node = self._node(host)
        if self._monotonic() >= node.no_side_channel_until:
            path = fid_path(devid, fid)
            try:
                answer = await node.sizes.ask(f"size {path}", timeout_seconds=self._request_timeout)
                progress()
                return parse_size(answer, path)
            except NodeError:
                node.no_side_channel_until = self._monotonic() + self._retry_seconds
        info = await self.head(host, devid, fid)
        return None if info is None else info.length

    async def head(self, host: Host, devid: int, fid: int) -> CopyInfo | None:
        """What the node knows of a copy, None when it is missing. Asks the write port: only the agent knows copy ids."""
        return await self._head_at(host, host.http_port, fid_path(devid, fid))

    async def _head_at(self, host: Host, port: int, path: str) -> CopyInfo | None:
        url = base_url(host.hostip, port) + path
        try:
            async with self._node(host).session.head(url, allow_redirects=False) as response:
                progress()
                self._check_cluster(response)
                if response.status == 404:
                    return None
                if not 200 <= response.status < 300 or response.content_length is None:
                    raise NodeError(f"HEAD {url}: status {response.status}")
                return _copy_info(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise NodeUnreachableError(f"HEAD {url}: {error or type(error).__name__}") from error

    async def digest(
        self, host: Host, devid: int, fid: int, hashtype: HashType, *, reason: str = "", timeout_seconds: float = 3600.0
    ) -> Checksum | None:
        """The digest of a copy's bytes as the node reads them now, None when it is missing; falls back to reading it ourselves.

        With a reason (`fsck`) the node reads one file at a time per device, and the question goes over a connection kept for that.
        """
        path = fid_path(devid, fid)
        kept = self._node(host).digests.get(devid) if reason else None
        channel = kept or SideChannel(host.hostip, self._mgmt_port, connect_timeout_seconds=self._connect_timeout)
        if reason:
            self._node(host).digests[devid] = channel
        progress(timeout_seconds)  # a large file on a busy disk
        try:
            answer = await channel.ask(
                f"{hashtype.wire_name} {path} {reason}".rstrip(), timeout_seconds=timeout_seconds
            )
            progress()
            found = parse_digest(answer, path, hashtype.wire_name)
            return None if found is None else Checksum(hashtype, found)
        except NodeError:
            return await self._digest_by_reading(host, path, hashtype)
        finally:
            if not reason:
                await channel.close()

    async def _digest_by_reading(self, host: Host, path: str, hashtype: HashType) -> Checksum | None:
        digest = new_digest(hashtype)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout, sock_read=self._transfer_idle)
        async with self._request(host, "GET", path, timeout=timeout) as response:
            if response.status == 404:
                return None
            if response.status != 200:
                raise NodeError(f"GET {response.url}: status {response.status}")
            async for block in response.content.iter_chunked(RELAY_BLOCK_BYTES):
                progress()
                digest.update(block)
        return Checksum(hashtype, digest.digest())

    async def usage(self, host: Host, devid: int, *, timeout_seconds: float) -> NodeUsage:
        """The usage file of a device."""
        async with self._request(host, "GET", f"/dev{devid}/usage", total_seconds=timeout_seconds) as response:
            if response.status != 200:
                raise NodeError(f"GET {response.url}: status {response.status}")
            body = await response.content.read(USAGE_BYTES_MAX)
        return NodeUsage.parse(body.decode("utf-8", "replace"))

    async def write_test(self, host: Host, devid: int, *, name: str, text: str, timeout_seconds: float) -> WriteTest:
        """Write a small file to a device and read it back."""
        path = f"/dev{devid}/test-write/{name}"
        async with self._request(host, "PUT", path, data=text.encode(), total_seconds=timeout_seconds) as response:
            if not 200 <= response.status < 300:
                return WriteTest.READ_ONLY
        async with self._request(host, "GET", path, total_seconds=timeout_seconds) as response:
            if response.status != 200:
                return WriteTest.READ_ONLY
            body = await response.content.read(USAGE_BYTES_MAX)
        return WriteTest.WRITEABLE if body == text.encode() else WriteTest.MISMATCH

    async def rejects_bad_md5(self, host: Host, devid: int, *, timeout_seconds: float) -> bool:
        """True when the node refuses a body that does not match its Content-MD5."""
        wrong = base64.b64encode(bytes(16)).decode()
        path = f"/dev{devid}/test-write/test-md5"
        async with self._request(
            host, "PUT", path, data=b"!", headers={"Content-MD5": wrong}, total_seconds=timeout_seconds
        ) as response:
            return not 200 <= response.status < 300

    async def watch(self, host: Host, seen: Callable[[int, float | None], None], *, silence_seconds: float) -> None:
        """Report the utilization of the node's devices until the connection ends or is silent for too long, which is a NodeError."""
        timeout = self._connect_timeout
        await watch(host.hostip, self._mgmt_port, timeout_seconds=timeout, silence_seconds=silence_seconds, seen=seen)

    # ------------------------------------------------------------------ listings

    async def fids(self, host: Host, devid: int, *, after: int, limit: int) -> list[ListedCopy]:
        """The next copies on a device by fid, as they lie there. NodeCannotListError from nodes that are not ours."""
        lines = await self._listing(host, f"/dev{devid}/fids?after={after}&limit={limit}", limit)
        return [ListedCopy.parse(line) for line in lines]

    async def damaged(self, host: Host, devid: int, *, after: int, limit: int) -> list[DamagedCopy]:
        """The next copies by fid that a device has put into quarantine and that nobody has replaced yet."""
        lines = await self._listing(host, f"/dev{devid}/damaged?after={after}&limit={limit}", limit)
        return [DamagedCopy.parse(line) for line in lines]

    async def is_damaged(self, host: Host, devid: int, fid: int) -> bool:
        """True when the device keeps a damaged copy of the fid in quarantine."""
        try:
            return any(copy.fid == fid for copy in await self.damaged(host, devid, after=fid - 1, limit=1))
        except NodeCannotListError:
            return False

    async def _listing(self, host: Host, path: str, limit: int) -> list[bytes]:
        """The lines of a listing. One without its last line `.` was cut short and proves nothing: NodeError."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout, sock_read=self._transfer_idle)
        async with self._request(host, "GET", path, port=host.http_port, timeout=timeout) as response:
            if response.status in (400, 404, 405, 501):
                raise NodeCannotListError(f"GET {response.url}: status {response.status}")
            if response.status != 200:
                raise NodeError(f"GET {response.url}: status {response.status}")
            lines: list[bytes] = []
            while line := await response.content.readline():
                if line == b".\n":
                    return lines
                progress()
                lines.append(line)
                if len(lines) > limit:
                    break
            raise NodeError(f"GET {response.url}: the listing is cut short")

    # ------------------------------------------------------------------ orders

    async def delete(self, host: Host, devid: int, fid: int, *, copy_id: str | None = None) -> DeleteOutcome:
        """Delete one copy; with `copy_id` only that very copy."""
        headers = {"If-Match": f'"{copy_id}"'} if copy_id else {}
        async with self._request(host, "DELETE", fid_path(devid, fid), headers=headers) as response:
            if response.status == 404:
                return DeleteOutcome.MISSING
            if response.status == 412 and copy_id:
                return DeleteOutcome.OTHER_COPY
            if 200 <= response.status < 300:
                return DeleteOutcome.DELETED
            raise NodeError(f"DELETE {response.url}: status {response.status}")

    async def delete_many(
        self, host: Host, devid: int, copies: Sequence[tuple[int, str | None]]
    ) -> list[DeleteOutcome | NodeError]:
        """`delete` for many (fid, copy id) of a device: in one order, or one by one where the node takes no such orders."""
        if not 1 <= len(copies) <= DELETE_LINES_MAX:
            raise ValueError(f"a delete order has 1 to {DELETE_LINES_MAX} lines, not {len(copies)}")
        node = self._node(host)
        if len(copies) > 1 and self._monotonic() >= node.no_delete_order_until:
            try:
                return await self._delete_order(host, devid, copies)
            except NodeCannotDeleteManyError:
                node.no_delete_order_until = self._monotonic() + NO_PULL_TIMES * self._retry_seconds
            except NodeError as error:
                return [error] * len(copies)
        gate = asyncio.Semaphore(SINGLE_DELETES)

        async def one(fid: int, copy_id: str | None) -> DeleteOutcome | NodeError:
            async with gate:
                try:
                    return await self.delete(host, devid, fid, copy_id=copy_id)
                except NodeError as error:
                    return error

        return list(await asyncio.gather(*(one(*copy) for copy in copies)))

    async def _delete_order(
        self, host: Host, devid: int, copies: Sequence[tuple[int, str | None]]
    ) -> list[DeleteOutcome | NodeError]:
        body = "".join(f"{fid} {copy_id or '-'}\n" for fid, copy_id in copies).encode()
        seconds = self._request_timeout + DELETE_SECONDS * len(copies)
        async with self._request(host, "POST", f"/dev{devid}/delete", data=body, total_seconds=seconds) as response:
            if response.status in (400, 404, 405, 501) or CLUSTER_HEADER not in response.headers:
                raise NodeCannotDeleteManyError(f"POST {response.url}: status {response.status}")
            if response.status != 200:
                raise NodeError(f"POST {response.url}: status {response.status}")
            lines = (await response.read()).decode("utf-8", "replace").splitlines()
        if [line.partition(" ")[0] for line in lines] != [str(fid) for fid, _ in copies]:
            raise NodeError(f"POST {response.url}: the answer is about other copies than the order")
        return [_delete_outcome(line) for line in lines]

    def can_pull(self, host: Host) -> bool:
        """False for a while after a node refused copy orders."""
        return self._monotonic() >= self._node(host).no_pull_until

    async def pull(self, host: Host, items: Sequence[PullItem]) -> AsyncIterator[PullResult]:
        """Have a node copy files to itself; yields as the copies are durable there. What is not yielded has an unknown outcome."""
        if not 1 <= len(items) <= PULL_ITEMS_MAX:
            raise ValueError(f"a copy order has 1 to {PULL_ITEMS_MAX} items, not {len(items)}")
        largest = max(item.length for item in items)
        # Silence is bounded by what the largest file may take at 1 MB/s, beside the time an idle transfer is allowed.
        quiet = self._transfer_idle + largest / 1e6
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout, sock_read=quiet)
        progress(quiet)
        body = json.dumps({"items": [item.as_json() for item in items]}, separators=(",", ":")).encode()
        async with self._request(
            host, "POST", "/pull", data=body, headers={"Content-Type": "application/json"}, timeout=timeout
        ) as response:
            if response.status in (400, 404, 405, 501) and CLUSTER_HEADER not in response.headers:
                self._node(host).no_pull_until = self._monotonic() + NO_PULL_TIMES * self._retry_seconds
                raise NodeCannotPullError(f"POST {response.url}: status {response.status}")
            if response.status != 200:
                text = (await response.content.read(500)).decode("utf-8", "replace").strip()
                raise NodeError(f"POST {response.url}: status {response.status}: {text}")
            while line := await response.content.readline():
                progress(quiet)
                yield PullResult.parse(line)

    async def relay(self, source: Host, source_devid: int, target: Host, item: PullItem) -> PullResult:
        """Copy through the tracker, for a target that cannot pull; the copy is compared by its length afterwards."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout, sock_read=self._transfer_idle)
        reason = PullReason.SOURCE_UNREACHABLE
        try:
            async with self._request(source, "GET", fid_path(source_devid, item.fid), timeout=timeout) as response:
                if response.status != 200:
                    missing = response.status == 404
                    return _refused(item, PullReason.SOURCE_MISSING if missing else reason, f"status {response.status}")
                if response.content_length != item.length:
                    return _refused(item, PullReason.LENGTH_MISMATCH, f"source has {response.content_length} bytes")
                reason = PullReason.DEVICE
                status = await self._relay_put(target, item, response, timeout)
            if not 200 <= status < 300:
                return _refused(item, PullReason.NO_SPACE if status == 507 else reason, f"status {status}")
            found = await self.head(target, item.devid, item.fid)
        except NodeForeignError as error:
            return _refused(item, PullReason.SOURCE_FOREIGN, str(error))
        except NodeError as error:
            return _refused(item, reason, str(error))
        if found is None or found.length != item.length:
            return _refused(item, PullReason.LENGTH_MISMATCH, "the copy has another length than the file")
        return PullResult(fid=item.fid, devid=item.devid, copy_id=found.copy_id)

    async def _relay_put(
        self, target: Host, item: PullItem, response: aiohttp.ClientResponse, timeout: aiohttp.ClientTimeout
    ) -> int:
        headers = {"Content-Length": str(item.length)}
        if item.md5:
            headers["Content-MD5"] = base64.b64encode(bytes.fromhex(item.md5)).decode()
        body = _passing(response.content.iter_chunked(RELAY_BLOCK_BYTES))
        async with self._request(
            target, "PUT", fid_path(item.devid, item.fid), data=body, headers=headers, timeout=timeout
        ) as answer:
            return answer.status

    async def heads(
        self, wanted: Sequence[tuple[Host, int, int]], *, parallel: int = 32
    ) -> list[CopyInfo | NodeError | None]:
        """`head` for many (host, devid, fid), a bounded number at a time; errors are returned in their place."""
        gate = asyncio.Semaphore(parallel)

        async def one(host: Host, devid: int, fid: int) -> CopyInfo | NodeError | None:
            async with gate:
                try:
                    return await self.head(host, devid, fid)
                except NodeError as error:
                    return error

        return list(await asyncio.gather(*(one(*each) for each in wanted)))


async def _passing(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The blocks as they come."""
    async for block in blocks:
        progress()
        yield block


def _refused(item: PullItem, reason: PullReason, message: str) -> PullResult:
    return PullResult(fid=item.fid, devid=item.devid, reason=reason, message=message)


def _delete_outcome(line: str) -> DeleteOutcome | NodeError:
    word = line.partition(" ")[2]
    return DeleteOutcome(word) if word in _DELETE_WORDS else NodeError(line)


def _copy_info(response: aiohttp.ClientResponse) -> CopyInfo:
    found = _COPY_ID.fullmatch(response.headers.get("ETag", ""))
    md5_text = response.headers.get("X-Mogile-MD5", "")
    try:
        md5 = bytes.fromhex(md5_text) or None
    except ValueError:
        md5 = None
    assert response.content_length is not None
    return CopyInfo(length=response.content_length, copy_id=found.group(1) if found else None, md5=md5)
