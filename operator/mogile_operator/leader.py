"""Leader election by a Lease: 15 s lease, renewed every 2 s, given up when 10 s pass without a renewal; lost means exit.

Only durations measured on the own monotonic clock count: a foreign lease is expired when *we* have seen it unchanged for its
duration, so clocks of machines may differ by hours. `leading()` is asked before every write; a process that was stopped and goes
on again sees its own clock jump and writes nothing more.
"""

import asyncio
import json
import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mogile_core.runtime.logs import get_log
from mogile_operator import naming
from mogile_operator.kube import Kube, KubeError

LEASE_SECONDS = 15
RENEW_WITHIN_SECONDS = 10.0
RETRY_SECONDS = 2.0
CALL_SECONDS = 5.0

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

log = get_log(__name__)


class Memory:
    """The last foreign lease that was seen, and since when it is unchanged on this machine's monotonic clock: a file, or nothing."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def recall(self, now: float) -> tuple[tuple[str, str] | None, float]:
        """(holder, renewal), since; None when there is nothing, or it is of another boot."""
        if self._path is None:
            return None, 0.0
        try:
            kept = json.loads(self._path.read_text("utf-8"))
            seen, since = (str(kept["holder"]), str(kept["renewed"])), float(kept["since"])
            if kept["boot"] == _boot() and since <= now:
                return seen, since
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("what was seen of the lease before is not readable", path=str(self._path), error=error)
        return None, 0.0

    def keep(self, seen: tuple[str, str], since: float) -> None:
        """Remember; without the file one more lease is waited for after a restart, no more."""
        if self._path is None:
            return
        holder, renewed = seen
        new = self._path.with_suffix(".new")
        try:
            new.write_text(json.dumps({"holder": holder, "renewed": renewed, "since": since, "boot": _boot()}), "utf-8")
            new.replace(self._path)
        except OSError as error:
            log.warning("what is seen of the lease cannot be kept", path=str(self._path), error=error)


def _boot() -> str:
    return BOOT_ID.read_text("ascii").strip()


class Leader:
    """One candidate."""

    def __init__(
        self, kube: Kube, namespace: str, identity: str, clock: Callable[[], float], memory: Path | None = None
    ) -> None:
        self._kube = kube
        self._namespace = namespace
        self._identity = identity
        self._clock = clock
        self._renewed: float | None = None
        self._memory = Memory(memory)
        self._seen, self._seen_at = self._memory.recall(clock())

    def leading(self) -> bool:
        """Whether this process may write now."""
        return self._renewed is not None and self._clock() - self._renewed < RENEW_WITHIN_SECONDS

    async def acquire(self) -> None:
        """Wait until this process is the leader."""
        while not await self._try():  # noqa: ASYNC110 - what is waited for happens on another machine
            await asyncio.sleep(RETRY_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311 - spreads candidates
        log.info("leading", identity=self._identity)

    async def keep(self) -> None:
        """Renew until that fails for too long; returns when leadership is lost."""
        while self.leading():
            await asyncio.sleep(RETRY_SECONDS)
            if not await self._try():
                log.warning("lease not renewed", identity=self._identity)
        log.error("leadership lost", identity=self._identity)

    async def release(self) -> None:
        """Let another one take over at once."""
        if self._renewed is None:
            return
        self._renewed = None
        try:
            async with asyncio.timeout(CALL_SECONDS):
                lease = await self._kube.get("Lease", self._namespace, naming.LEASE)
                if lease is not None and lease.get("spec", {}).get("holderIdentity") == self._identity:
                    await self._patch(lease, {"holderIdentity": "", "leaseDurationSeconds": 1})
        except (KubeError, TimeoutError) as error:
            log.info("lease not released", error=error)

    async def _try(self) -> bool:
        # The time before the call is what counts: the answer may have been on its way for long.
        started = self._clock()
        try:
            async with asyncio.timeout(CALL_SECONDS):
                won = await self._round()
        except (KubeError, TimeoutError) as error:
            log.warning("lease not reachable", error=error or "no answer in time")
            return False
        if won:
            self._renewed = started
        return won

    async def _round(self) -> bool:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        mine = {"holderIdentity": self._identity, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now}
        lease = await self._kube.get("Lease", self._namespace, naming.LEASE)
        if lease is None:
            meta = {"name": naming.LEASE, "namespace": self._namespace}
            spec = {**mine, "acquireTime": now, "leaseTransitions": 0}
            body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}
            return await self._won(self._kube.create(body))
        spec = lease.get("spec", {})
        holder = spec.get("holderIdentity") or ""
        if holder == self._identity:
            return await self._won(self._patch(lease, mine))
        if holder and not self._expired(holder, spec):
            return False
        taken = {**mine, "acquireTime": now, "leaseTransitions": int(spec.get("leaseTransitions") or 0) + 1}
        return await self._won(self._patch(lease, taken))

    def _expired(self, holder: str, spec: dict[str, Any]) -> bool:
        seen = (holder, str(spec.get("renewTime")))
        if seen != self._seen:
            self._seen, self._seen_at = seen, self._clock()
            self._memory.keep(seen, self._seen_at)
            return False
        return self._clock() - self._seen_at >= float(spec.get("leaseDurationSeconds") or LEASE_SECONDS)

    async def _patch(self, lease: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
        body = {"metadata": {"resourceVersion": lease["metadata"]["resourceVersion"]}, "spec": spec}
        return await self._kube.merge("Lease", self._namespace, naming.LEASE, body)

    async def _won(self, call: Any) -> bool:
        try:
            await call
        except KubeError as error:
            if error.status == 409:
                return False
            raise
        return True
