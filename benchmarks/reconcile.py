"""What the operator costs: names carried to the tracker, clusters rolled out, and what it does when there is nothing to do.

    make bench-operator            or: PYTHONPATH=tests/support:tests/e2e python benchmarks/reconcile.py --names 500 --clusters 50

A real API server and etcd without machines (so pods never run and the clusters stay unready), a real tracker on PostgreSQL, the operator
as a process with its default settings. Rates include what the API server takes on the same cores. The module is not called operator: that
would hide the one of the standard library.
"""

import argparse
import asyncio
import re
import time
import urllib.request
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

from processes import cpu_seconds, pss_mb
from report import Report, row
from stack import PYTHON, Stack, cpu_spent, postgres

from mogile_operator import labels
from mogile_operator.kube import Kube, connect
from testkit.apiserver import ApiServer, NotBuiltError, install_crds, raw

Obj = dict[str, Any]
API, OPERATOR, TRACKER = "127.0.24.201", "127.0.24.202", "127.0.24.203"
NAMESPACE = "bench"
READY_SECONDS = 300.0
IDLE_SECONDS = 20.0
PARALLEL = 16
CHILDREN_MIN = (
    8  # what a cluster without machines has at least: the tracker, PostgreSQL, the gateway and their services
)


class Bench:
    """The processes and where the figures go."""

    def __init__(self, stack: Stack, api: ApiServer, kube: Kube, report: Report) -> None:
        self.stack, self.api, self.kube, self.report = stack, api, kube, report

    @contextmanager
    def operator(self, tracker: str) -> Any:
        """The operator, fresh."""
        self.stack.start(
            "operator", [*PYTHON, "mogile_operator.main"], kubeconfig=self.api.kubeconfig, operator_namespace=NAMESPACE,
            namespaces=NAMESPACE, health_listen=f"{OPERATOR}:8080", metrics_listen=f"{OPERATOR}:8081",
            cluster_dns="10.96.0.10", tracker_address=tracker, log_level="warning",
        )  # fmt: skip
        try:
            self.stack.wait_for(OPERATOR, 8081)
            yield
        finally:
            self.stack.stop("operator")

    def requests(self) -> float:
        """Requests that the operator has sent to the API server."""
        with urllib.request.urlopen(f"http://{OPERATOR}:8081/metrics", timeout=20) as answer:
            text = answer.read().decode()
        return sum(
            float(value) for value in re.findall(r"^mogile_operator_api_requests_total\{.*\} (\S+)$", text, re.M)
        )

    async def make(self, objects: list[Obj]) -> None:
        """Create many."""
        gate = asyncio.Semaphore(PARALLEL)

        async def one(obj: Obj) -> None:
            async with gate:
                await self.kube.create(obj)

        await asyncio.gather(*map(one, objects))

    async def until(self, what: str, there: Callable[[], Any]) -> None:
        """Look again until it is so."""
        deadline = time.monotonic() + READY_SECONDS
        while not await there():
            if time.monotonic() > deadline:
                raise SystemExit(f"bench-operator: {what}: not within {READY_SECONDS:.0f} s\n{self.stack.last_words()}")
            await asyncio.sleep(0.2)

    async def clear(self) -> None:
        """Everything of ours, by the administrator."""
        for plural in ("classes", "domains", "storageclusters"):
            await raw(self.kube, "DELETE", f"/apis/mogile.storage/v1alpha1/namespaces/{NAMESPACE}/{plural}")


def obj(kind: str, name: str, spec: Obj) -> Obj:
    """A resource of ours."""
    meta = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "mogile.storage/v1alpha1", "kind": kind, "metadata": meta, "spec": spec}


def cluster(name: str) -> Obj:
    """The smallest cluster with everything."""
    storage = {"pools": [{"name": "main", "nodes": 3}]}
    return obj("StorageCluster", name, {"database": {"managed": {}}, "storage": storage})


async def name_rows(bench: Bench, count: int) -> None:
    """Domains and Classes of one cluster, made at once: until each is Ready."""
    half = count // 2
    domains = [obj("Domain", f"d{n}", {"clusterRef": {"name": "one"}}) for n in range(half)]
    classes = [obj("Class", f"c{n}", {"domainRef": {"name": f"d{n}"}, "mindevcount": 2}) for n in range(half)]

    async def ready() -> bool:
        found = [item for kind in ("Domain", "Class") for item in (await bench.kube.list(kind, NAMESPACE)).items]
        conditions = [c for item in found for c in item.get("status", {}).get("conditions", [])]
        return sum(c["type"] == "Ready" and c["status"] == "True" for c in conditions) == 2 * half

    with bench.operator(f"{TRACKER}:7001"):
        await bench.kube.create(cluster("one"))
        await asyncio.sleep(2)
        requests, cpu, begun = bench.requests(), bench.stack.cpu(), time.monotonic()
        server = sum(map(cpu_seconds, bench.api.pids))
        await bench.make([*domains, *classes])
        await bench.until("all names are Ready", ready)
        took = time.monotonic() - begun
        costs = cpu_spent(cpu, bench.stack.cpu(), count) | {
            "API server": (sum(map(cpu_seconds, bench.api.pids)) - server) / count * 1e3
        }
        add = bench.report.add
        add(row(f"{count} Domains and Classes made at once, until all are Ready", count / took, "objects/s"))
        add(
            row(
                "the same: requests to the API server", (bench.requests() - requests) / count, "/object", better="lower"
            )
        )
        bench.report.cost("name made Ready", costs)
        pss = pss_mb(bench.stack.pid("operator"))
        add(row(f"operator, memory with {count} names", pss, "MB PSS", better="lower"))
        await bench.clear()


async def cluster_rows(bench: Bench, count: int) -> None:
    """Clusters made at once: until each has its children; then what looking at them costs, none of which can become ready."""

    async def children() -> bool:
        found: dict[str, int] = {}
        for kind in ("Deployment", "StatefulSet", "Service", "PodDisruptionBudget", "NetworkPolicy"):
            for item in (await bench.kube.list(kind, NAMESPACE)).items:
                name = item["metadata"].get("labels", {}).get(labels.CLUSTER, "")
                found[name] = found.get(name, 0) + 1
        return sum(number >= CHILDREN_MIN for name, number in found.items() if name.startswith("c")) == count

    with bench.operator(f"{OPERATOR}:7001"):  # where no tracker answers, as before a new cluster's database runs
        requests, cpu, begun = bench.requests(), bench.stack.cpu(), time.monotonic()
        await bench.make([cluster(f"c{n}") for n in range(count)])
        await bench.until("all clusters have their children", children)
        took = time.monotonic() - begun
        add = bench.report.add
        add(row(f"{count} StorageClusters made at once, until all have their children", count / took, "clusters/s"))
        per = (bench.requests() - requests) / count
        add(row("the same: requests to the API server", per, "/cluster", better="lower"))
        bench.report.cost("cluster rolled out", cpu_spent(cpu, bench.stack.cpu(), count))
        await asyncio.sleep(5)
        requests, cpu = bench.requests(), bench.stack.cpu()
        await asyncio.sleep(IDLE_SECONDS)
        used = bench.stack.cpu()["operator"] - cpu["operator"]
        sent = (bench.requests() - requests) / IDLE_SECONDS / count
        add(row(f"{count} unready clusters, looked at again and again: requests", sent, "/s/cluster", better="lower"))
        add(row("the same: CPU of the operator", used / IDLE_SECONDS * 100, "% of a core", better="lower"))
        pss = pss_mb(bench.stack.pid("operator"))
        add(row(f"operator, memory with {count} clusters", pss, "MB PSS", better="lower"))


async def measure(bench: Bench, names: int, clusters: int) -> None:
    """All rows."""
    await install_crds(bench.kube)
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    await raw(bench.kube, "POST", "/api/v1/namespaces", body)
    await name_rows(bench, names)
    await cluster_rows(bench, clusters)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", type=int, default=500, help="Domains and Classes together")
    parser.add_argument("--clusters", type=int, default=50)
    arguments = parser.parse_args()
    report = Report(part="operator", about={"names": arguments.names, "clusters": arguments.clusters})
    with Stack("bench-operator") as stack, postgres(stack, 2048) as server:
        (stack.folder / "api").mkdir()
        api = ApiServer(stack.folder / "api", API)
        try:
            api.start()
        except NotBuiltError as error:
            raise SystemExit(f"bench-operator: {error}") from error
        try:
            stack.start(
                "tracker", [*PYTHON, "mogile_tracker.main"], db_dsn=server.dsn(), listen=f"{TRACKER}:7001",
                http_listen=f"{TRACKER}:7002", log_level="warning",
            )  # fmt: skip
            stack.wait_for(TRACKER, 7001)
            kube = await connect(str(api.kubeconfig))
            try:
                await measure(Bench(stack, api, kube, report), arguments.names, arguments.clusters)
            finally:
                await kube.close()
        finally:
            api.stop()
    report.finish()


if __name__ == "__main__":
    asyncio.run(main())
