"""The jobs of a tracker: monitor, replication, deletion, reaper, balancing, census; each class runs in whichever process the parent says.

Any number of processes and trackers run the same set; leases and row claims keep them from doing the same thing at once.
"""

import asyncio

from mogile_tracker.context import JobsContext
from mogile_tracker.jobclasses import GIVE_WAY
from mogile_tracker.nodes import Nodes
from mogile_tracker.workers.balance import Balance
from mogile_tracker.workers.base import Jobs, JobWorker
from mogile_tracker.workers.census import Census
from mogile_tracker.workers.copydeletes import DeleteCopies
from mogile_tracker.workers.delete import Delete
from mogile_tracker.workers.drain import Drain
from mogile_tracker.workers.fsck import Fsck, FsckCheck
from mogile_tracker.workers.giving_way import GivesWay, Pauses
from mogile_tracker.workers.groups import Groups
from mogile_tracker.workers.heal import Heal
from mogile_tracker.workers.monitor import Monitor
from mogile_tracker.workers.moves import Moves
from mogile_tracker.workers.orphans import Orphans
from mogile_tracker.workers.reaper import Reaper
from mogile_tracker.workers.rebalance import Rebalance
from mogile_tracker.workers.replicate import Replicate
from mogile_tracker.workers.reporting import report_for_ever
from mogile_tracker.workers.sweep import Sweep
from mogile_tracker.workers.utilization import Utilization


def make_nodes(context: JobsContext) -> Nodes:
    """The node client of a jobs process."""
    settings = context.settings
    return Nodes(
        cluster_id=context.topology.current.cluster_id,
        connect_timeout_seconds=settings.conn_timeout_seconds,
        request_timeout_seconds=max(5.0, 2 * settings.node_timeout_seconds),
        transfer_idle_seconds=settings.transfer_idle_seconds,
        mgmt_port=settings.mgmt_port,
        retry_seconds=settings.node_retry_seconds,
    )


def make_workers(jobs: Jobs) -> list[JobWorker]:
    """All workers of all classes; each process keeps those of its classes."""
    replicators: list[JobWorker] = [Replicate(jobs, n + 1) for n in range(jobs.settings.replicate_workers)]
    return [
        Monitor(jobs),
        Utilization(jobs),
        *replicators,
        Delete(jobs),
        DeleteCopies(jobs),
        Sweep(jobs),
        Reaper(jobs),
        Moves(jobs),
        Balance(jobs),
        Rebalance(jobs),
        Drain(jobs),
        Census(jobs),
        Fsck(jobs),
        FsckCheck(jobs),
        Orphans(jobs),
        Heal(jobs),
    ]


def workers_of(jobs: Jobs, job: str, pauses: Pauses) -> list[JobWorker]:
    """The workers of one class; those that may wait give way to commands."""
    workers = [worker for worker in make_workers(jobs) if worker.job_class == job]
    return [GivesWay(worker, pauses) for worker in workers] if job in GIVE_WAY else workers


async def run(context: JobsContext) -> None:
    """Run the assigned job classes until `context.stop` is set and their workers have ended."""
    if not context.topology.current.cluster_id:
        await context.topology.refresh()
    nodes = make_nodes(context)
    jobs = Jobs.make(context, nodes)
    pauses = Pauses(context.foreground, lambda: context.topology.current.our_settings, context.registry)
    groups = Groups(context, lambda job: workers_of(jobs, job, pauses))
    reporter = asyncio.create_task(report_for_ever(context, jobs, groups))
    try:
        await groups.run()
    finally:
        reporter.cancel()
        await asyncio.gather(reporter, return_exceptions=True)
        await nodes.close()
