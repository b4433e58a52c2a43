"""What all jobs share: the stores, the node client, the current topology in the form the policies want."""

import asyncio
import random
from dataclasses import dataclass, field
from typing import Protocol

from mogile_core.runtime.workers import Busy, Step, Throttled, Worker
from mogile_tracker.context import JobsContext
from mogile_tracker.nodes import Nodes
from mogile_tracker.policy.from_topology import landscape_of
from mogile_tracker.policy.landscape import Landscape
from mogile_tracker.policy.parsing import Policies
from mogile_tracker.policy.replication import Policy
from mogile_tracker.settings import TrackerSettings
from mogile_tracker.store.census import CensusStore
from mogile_tracker.store.copies import Copies
from mogile_tracker.store.leases import Leases
from mogile_tracker.store.pace import PaceStore
from mogile_tracker.store.queues import Queues
from mogile_tracker.topology import Topology
from mogile_tracker.workers.pacing import Governor

GATHER_SECONDS = 0.2


class JobWorker(Worker, Protocol):
    """A worker of a tracker: it also says which of `jobclasses.JOB_CLASSES` it belongs to, and so in which process it runs."""

    job_class: str


@dataclass(slots=True, kw_only=True)
class Jobs:
    """One per jobs process."""

    context: JobsContext
    nodes: Nodes
    leases: Leases
    queues: Queues
    copies: Copies
    census: CensusStore
    governor: Governor
    randomness: random.Random
    utilization: dict[int, float] = field(default_factory=dict)  # devid -> percent busy, of nodes that tell
    _landscape: Landscape = field(default_factory=lambda: Landscape(()))
    _landscape_of: Topology | None = None
    _policies: Policies = field(default_factory=Policies)

    @classmethod
    def make(cls, context: JobsContext, nodes: Nodes, *, seed: int | None = None) -> "Jobs":
        """Everything wired to one context."""
        lease_seconds = context.settings.lease_seconds
        return cls(
            context=context,
            nodes=nodes,
            leases=Leases(context.database, owner=context.owner, seconds=lease_seconds),
            queues=Queues(context.database, claim_seconds=lease_seconds),
            copies=Copies(context.database),
            census=CensusStore(context.database),
            governor=Governor(PaceStore(context.database), lambda: context.topology.current.our_settings),
            randomness=random.Random(seed),  # noqa: S311 - spreads load, protects nothing
        )

    @property
    def settings(self) -> TrackerSettings:
        """The tracker's settings."""
        return self.context.settings

    @property
    def topology(self) -> Topology:
        """The newest snapshot."""
        return self.context.topology.current

    def landscape(self) -> Landscape:
        """The newest snapshot as the policies see it; computed once per snapshot."""
        topology = self.topology
        if topology is not self._landscape_of:
            self._landscape, self._landscape_of = landscape_of(topology), topology
        return self._landscape

    def policy_of(self, dmid: int, classid: int) -> tuple[Policy, int]:
        """The policy of a class and its mindevcount; a text that cannot be parsed is treated as MultipleHosts()."""
        file_class = self.topology.class_by_id(dmid, classid)
        return self._policies.get(file_class.policy), file_class.mindevcount

    async def idle(self) -> None:
        """The wait of a worker that found nothing."""
        await asyncio.sleep(self.settings.job_idle_seconds)

    def after_batch(self, rows: int, wanted: int, *, urgent: bool = False) -> Step:
        """What a worker of a queue does next: a batch that was not nearly full has caught up, and rows may gather before the next one.

        Each batch costs a dozen statements however small it is; without the pause a worker that keeps up with new files handles a few
        at a time and takes more processor time from the commands than the files themselves do.
        """
        if 2 * rows >= wanted:
            return Busy(urgent)
        return Throttled(min(GATHER_SECONDS, self.settings.job_idle_seconds), urgent)
