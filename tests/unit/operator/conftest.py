"""A small world for plans: what a cluster, its machines, volumes, pods and tracker look like, and how actions change them.

`World` is the reality that plans act on: `observe` gives the snapshot the operator would take, `do` carries out one action as the
API server, the tracker and the storage nodes would. It is the test's model of *them*, never of the operator.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mogile_operator import labels, naming
from mogile_operator.api.v1alpha1 import Domain, FileClass, StorageCluster
from mogile_operator.conditions import as_plain, cluster_status
from mogile_operator.plan.actions import (
    Action,
    Apply,
    CreatePassword,
    Delete,
    Evict,
    Initialise,
    MarkClaim,
    SetFinalizer,
    Tell,
)
from mogile_operator.plan.cluster import plan_cluster
from mogile_operator.plan.observed import (
    Balance,
    Census,
    ClassRow,
    DeviceReport,
    DeviceRow,
    HostRow,
    Machine,
    Observed,
    TrackerView,
    read_claim,
    read_machine,
    read_pod,
)
from mogile_operator.specs.base import Context

Obj = dict[str, Any]
START = datetime(2026, 1, 1, tzinfo=UTC)
CLUSTER_ID = "11111111-2222-3333-4444-555555555555"
CONTEXT = Context(
    registry="reg", tag="1", operator_namespace="ops", resolver="10.96.0.10", cluster_domain="cluster.local"
)


def make_cluster(**spec: Any) -> StorageCluster:
    """A parsed StorageCluster."""
    wanted: Obj = {
        "database": {"managed": {}},
        "storage": {"pools": [{"name": "main", "nodes": 3, "devices": {"size": "2Gi"}}]},
        **spec,
    }
    meta = {"name": "demo", "namespace": "ns", "uid": "u-1", "generation": 1}
    return StorageCluster.model_validate({"metadata": meta, "spec": wanted})


def machine(name: str, zone: str, *, ready: bool = True, **extra: Any) -> Obj:
    """A Kubernetes node as the API shows it."""
    label_set = {labels.HOSTNAME: name, **({labels.ZONE: zone} if zone else {})}
    condition = {
        "type": "Ready",
        "status": "True" if ready else "Unknown",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    return {"metadata": {"name": name, "labels": label_set}, "spec": extra, "status": {"conditions": [condition]}}


@dataclass
class World:
    """Everything that is outside the operator."""

    cluster: StorageCluster
    objects: dict[tuple[str, str], Obj] = field(default_factory=dict)
    machines: dict[str, Obj] = field(default_factory=dict)
    hosts: dict[str, HostRow] = field(default_factory=dict)
    devices: dict[int, DeviceRow] = field(default_factory=dict)
    zones: dict[str, str] = field(default_factory=dict)
    volumes: dict[str, str | None] = field(default_factory=dict)
    """Claim uid to the volume id in its marker; None is blank."""
    pinned: dict[str, str] = field(default_factory=dict)
    """Claim uid to the machine its volume is on."""
    domains: dict[str, dict[str, ClassRow]] = field(default_factory=dict)
    domain_objects: list[Obj] = field(default_factory=list)
    class_objects: list[Obj] = field(default_factory=list)
    balance: Balance = field(default_factory=lambda: Balance(mode="off", spread=10, state="idle"))
    census: Census | None = field(
        default_factory=lambda: Census(
            files=0, bytes=0, to_replicate=0, fewer_copies=0, one_copy=0, no_copy=0, zone_violations=0
        )
    )
    dark: set[str] = field(default_factory=set)
    """Machines nobody reaches."""
    now: datetime = START
    tracker_up: bool = True
    password: bool = False
    counter: int = 0
    told: list[Tell] = field(default_factory=list)

    def uid(self) -> str:
        self.counter += 1
        return f"uid-{self.counter}"

    # ---- what the operator sees

    def observe(self) -> Observed:
        claims = [obj for (kind, _), obj in sorted(self.objects.items()) if kind == "PersistentVolumeClaim"]
        pinned = {f"pv-{uid}": name for uid, name in self.pinned.items()}
        pods = [obj for (kind, _), obj in sorted(self.objects.items()) if kind == "Pod"]
        return Observed(
            now=self.now,
            cluster=self.cluster,
            objects=copy.deepcopy(self.objects),
            claims=tuple(read_claim(c, pinned) for c in claims if c["metadata"]["labels"].get(labels.NODE)),
            pods=tuple(read_pod(pod) for pod in pods),
            machines=self._machines(),
            tracker=self._tracker() if self.tracker_up else None,
            tracker_problem="" if self.tracker_up else "no tracker answers",
            reports=self._reports(),
            domains=tuple(Domain.model_validate(item) for item in self.domain_objects),
            classes=tuple(FileClass.model_validate(item) for item in self.class_objects),
        )

    def _machines(self) -> dict[str, Machine]:
        return {name: read_machine(raw) for name, raw in self.machines.items()}

    def machine_of(self, node: str) -> str:
        pod = self.objects.get(("Pod", naming.pod(node)))
        return str(pod["spec"].get("nodeName", "")) if pod else ""

    def _tracker(self) -> TrackerView:
        names = {host.hostid: host for host in self.hosts.values()}
        rows = []
        for row in sorted(self.devices.values(), key=lambda r: r.devid):
            host = names[row.hostid]
            served = row.devid in {r.devid for r in self._reports().get(host.name, ()) if r.state == "ready"}
            seen = "writeable" if served and row.state != "dead" and host.status == "alive" else "unreachable"
            rows.append(_with(row, observed=seen))
        return TrackerView(
            cluster_id=CLUSTER_ID,
            hosts=dict(self.hosts),
            devices=tuple(rows),
            zones=dict(self.zones),
            census=self.census,
            balance=self.balance,
            domains=copy.deepcopy(self.domains),
        )

    def _reports(self) -> dict[str, tuple[DeviceReport, ...]]:
        out = {}
        for (kind, _), pod in self.objects.items():
            where = pod["spec"].get("nodeName") if kind == "Pod" else None
            node = pod["metadata"]["labels"].get(labels.NODE) if kind == "Pod" else None
            if not node or not where or where in self.dark or where not in self.machines:
                continue
            reports = []
            for volume in pod["spec"]["volumes"]:
                claim = volume.get("persistentVolumeClaim", {}).get("claimName")
                if claim is None:
                    continue
                marker = self.volumes.get(self.objects[("PersistentVolumeClaim", claim)]["metadata"]["uid"])
                state = "ready" if marker else "blank"
                reports.append(
                    DeviceReport(
                        devid=int(volume["name"].removeprefix("dev")),
                        state=state,
                        cluster_id=CLUSTER_ID if marker else "",
                        volume_id=marker or "",
                    )
                )
            out[node] = tuple(reports)
        return out

    # ---- what the operator does

    def do(self, action: Action) -> None:
        match action:
            case Apply():
                self._apply(action.obj)
            case CreatePassword():
                name = naming.postgres("demo")
                meta = {"name": name, "uid": self.uid(), "labels": labels.common("demo", labels.POSTGRES)}
                self.objects[("Secret", name)] = {"kind": "Secret", "metadata": meta}
            case Delete():
                self.objects.pop((action.kind, action.name), None)
                if action.kind == "StatefulSet":
                    self.objects.pop(("Pod", f"{action.name}-0"), None)
            case Evict():
                self.objects.pop(("Pod", action.name), None)
            case MarkClaim():
                self._mark(action)
            case Tell():
                self.told.append(action)
                getattr(self, f"_cmd_{action.command}")(dict(action.args))
            case Initialise():
                claim = self.objects[("PersistentVolumeClaim", action.claim)]
                assert self.volumes.get(claim["metadata"]["uid"]) is None, "a marked volume was initialised again"
                marker = f"volume-{self.uid()}"
                self.volumes[claim["metadata"]["uid"]] = marker
                claim["metadata"].setdefault("annotations", {})[naming.VOLUME_ID] = marker
            case SetFinalizer():
                self._finalizer(action)

    def _apply(self, obj: Obj) -> None:
        kind, name = obj["kind"], obj["metadata"]["name"]
        old = self.objects.get((kind, name))
        new = copy.deepcopy(obj)
        new["metadata"]["uid"] = old["metadata"]["uid"] if old else self.uid()
        if kind == "Service" and "clusterIP" not in new["spec"]:
            new["spec"]["clusterIP"] = old["spec"]["clusterIP"] if old else f"10.96.1.{self.counter % 250 + 1}"
        if kind == "PersistentVolumeClaim" and old:
            for part in ("labels", "annotations"):
                new["metadata"][part] = {**old["metadata"].get(part, {}), **new["metadata"].get(part, {})}
            new["spec"] = {**old["spec"], **new["spec"]}
        new["status"] = old.get("status", {}) if old else {}
        self.objects[(kind, name)] = new

    def _mark(self, action: MarkClaim) -> None:
        meta = self.objects[("PersistentVolumeClaim", action.name)]["metadata"]
        assert meta["uid"] == action.uid
        meta.setdefault("labels", {}).update(action.labels)
        notes = meta.setdefault("annotations", {})
        for key, value in action.annotations.items():
            if value is None:
                notes.pop(key, None)
            else:
                notes[key] = value

    def _finalizer(self, action: SetFinalizer) -> None:
        for item in [*self.domain_objects, *self.class_objects]:
            if item["metadata"]["uid"] == action.uid:
                item["metadata"]["finalizers"] = [naming.FINALIZER] if action.present else []
        gone = [
            d for d in self.domain_objects if d["metadata"].get("deletionTimestamp") and not d["metadata"]["finalizers"]
        ]
        self.domain_objects = [d for d in self.domain_objects if d not in gone]

    def _cmd_create_host(self, args: Obj) -> None:
        assert args["ip"] not in {h.address for h in self.hosts.values()}, "dup"
        if args["host"] not in self.hosts:
            number = max((h.hostid for h in self.hosts.values()), default=0) + 1
            self.hosts[args["host"]] = HostRow(
                hostid=number, name=args["host"], status="alive", address=args["ip"], port=7500, get_port=7580
            )

    def _cmd_update_host(self, args: Obj) -> None:
        host = self.hosts[args["host"]]
        others = {h.address for h in self.hosts.values() if h.name != host.name}
        assert args.get("ip") not in others, "dup"
        self.hosts[host.name] = _with(
            host, address=args.get("ip", host.address), status=args.get("status", host.status)
        )

    def _cmd_delete_host(self, args: Obj) -> None:
        hostid = self.hosts[args["host"]].hostid
        assert not [d for d in self.devices.values() if d.hostid == hostid], "host_not_empty"
        del self.hosts[args["host"]]

    def _cmd_mogile_set_zone(self, args: Obj) -> None:
        self.zones[args["host"]] = args["zone"]

    def _cmd_create_device(self, args: Obj) -> None:
        devid = int(args["devid"])
        assert devid not in self.devices, "existing_devid"
        hostid = self.hosts[args["hostname"]].hostid
        self.devices[devid] = DeviceRow(
            devid=devid,
            hostid=hostid,
            state="alive",
            observed="",
            out=False,
            zone="",
            files=0,
            mb_total=2000,
            mb_used=100,
        )

    def _cmd_set_state(self, args: Obj) -> None:
        row = self.devices[int(args["device"])]
        assert not (row.state == "dead" and args["state"] == "alive"), "state_too_high"
        self.devices[row.devid] = _with(row, state=args["state"])

    def _cmd_mogile_set_out(self, args: Obj) -> None:
        row = self.devices[int(args["devid"])]
        self.devices[row.devid] = _with(row, out=args["out"] == "1")

    def _cmd_mogile_forget_device(self, args: Obj) -> None:
        row = self.devices[int(args["devid"])]
        assert row.state == "dead", "device_not_dead"
        assert row.files == 0, "device_not_empty"
        del self.devices[row.devid]

    def _cmd_mogile_balance(self, args: Obj) -> None:
        self.balance = Balance(mode=args["mode"], spread=int(args["spread"]), state="idle")

    def _cmd_create_domain(self, args: Obj) -> None:
        self.domains[args["domain"]] = {
            "default": ClassRow(mindevcount=2, replpolicy="MultipleHosts()", hashtype="NONE")
        }

    def _cmd_delete_domain(self, args: Obj) -> None:
        del self.domains[args["domain"]]

    def _cmd_create_class(self, args: Obj) -> None:
        self._cmd_update_class(args)

    def _cmd_update_class(self, args: Obj) -> None:
        row = ClassRow(
            mindevcount=int(args["mindevcount"]),
            replpolicy=args.get("replpolicy", "MultipleHosts()"),
            hashtype=args.get("hashtype", "NONE"),
        )
        self.domains[args["domain"]][args["class"]] = row

    def _cmd_mogile_set_class(self, args: Obj) -> None:
        rows = self.domains[args["domain"]]
        rows[args["class"]] = replace(
            rows[args["class"]], write_copies=int(args["write_copies"]), degraded_writes=args["degraded_writes"] == "1"
        )

    # ---- what Kubernetes does by itself

    def tick(self, seconds: float = 5) -> None:
        """Controllers, scheduler and kubelets do their work; time passes."""
        self.now += timedelta(seconds=seconds)
        for (kind, name), obj in list(self.objects.items()):
            if kind == "StatefulSet":
                self._pods(name, obj)
            if kind in {"StatefulSet", "Deployment"}:
                wanted = obj["spec"]["replicas"]
                obj["metadata"]["generation"] = 1
                obj["status"] = {"observedGeneration": 1, "readyReplicas": wanted, "updatedReplicas": wanted}

    def _pods(self, name: str, obj: Obj) -> None:
        if ("Pod", f"{name}-0") in self.objects:
            self._refresh(self.objects[("Pod", f"{name}-0")])
            return
        template = copy.deepcopy(obj["spec"]["template"])
        claims = [
            v["persistentVolumeClaim"]["claimName"] for v in template["spec"]["volumes"] if "persistentVolumeClaim" in v
        ]
        uids = [self.objects[("PersistentVolumeClaim", claim)]["metadata"]["uid"] for claim in claims]
        pinned = {self.pinned[uid] for uid in uids if uid in self.pinned}
        free = [
            m
            for m in sorted(self.machines)
            if m not in self.dark and self.machines[m]["status"]["conditions"][0]["status"] == "True"
        ]
        load = {
            m: sum(1 for (k, _), p in self.objects.items() if k == "Pod" and p["spec"].get("nodeName") == m)
            for m in free
        }
        where = pinned.pop() if pinned else min(free, key=lambda m: (load[m], m), default="")
        if where not in free:
            where = ""
        pod = {
            "kind": "Pod",
            "metadata": {**template["metadata"], "name": f"{name}-0", "uid": self.uid()},
            "spec": template["spec"],
        }
        if where:
            pod["spec"]["nodeName"] = where
            for claim, uid in zip(claims, uids, strict=True):
                self.pinned.setdefault(uid, where)
                self.volumes.setdefault(uid, None)
                live = self.objects[("PersistentVolumeClaim", claim)]
                live["spec"]["volumeName"], live["status"] = f"pv-{uid}", {"phase": "Bound"}
        self.objects[("Pod", f"{name}-0")] = pod
        self._refresh(pod)

    def _refresh(self, pod: Obj) -> None:
        where = pod["spec"].get("nodeName", "")
        up = where in self.machines and where not in self.dark
        address = f"10.244.0.{int(pod['metadata']['uid'].removeprefix('uid-')) % 250}" if where else ""
        pod["status"] = {"podIP": address, "conditions": [{"type": "Ready", "status": "True" if up else "False"}]}

    def lose(self, name: str, *, gone: bool = False) -> None:
        """A machine goes silent; `gone`: its Node object and pods go as well."""
        self.dark.add(name)
        if gone:
            del self.machines[name]
            for key, obj in list(self.objects.items()):
                if key[0] == "Pod" and obj["spec"].get("nodeName") == name:
                    del self.objects[key]
        else:
            self.machines[name]["status"]["conditions"][0].update(
                status="Unknown", lastTransitionTime=self.now.isoformat()
            )
        self.tick(0)

    def back(self, name: str) -> None:
        self.dark.discard(name)
        self.machines[name]["status"]["conditions"][0]["status"] = "True"
        self.tick(0)

    def run_pass(self, stop_after: int | None = None) -> int:
        """One pass of the operator, possibly dying after so many actions; returns how many there were."""
        seen = self.observe()
        plan, _ = plan_cluster(seen, CONTEXT)
        for action in plan.actions[:stop_after]:
            self.do(action)
        if stop_after is None:
            self.cluster = self.cluster.model_copy(update={"status": cluster_status(seen, plan, [])})
        return len(plan.actions)

    def settle(self, passes: int = 60, seconds: float = 5) -> None:
        """Passes until nothing is left to do."""
        for _ in range(passes):
            if self.run_pass() == 0:
                return
            self.tick(seconds)
        plan, _ = plan_cluster(self.observe(), CONTEXT)
        raise AssertionError([action.reason for action in plan.actions])

    def ready(self) -> bool:
        return any(c.type == "Ready" and c.status == "True" for c in self.cluster.status.conditions)

    def status(self) -> Obj:
        return dict(as_plain(self.cluster.status))

    def condition(self, kind: str) -> str:
        return next(c.status for c in self.cluster.status.conditions if c.type == kind)

    def edit(self, **storage: Any) -> None:
        """Change the first pool."""
        spec = self.cluster.spec.model_dump(by_alias=True, mode="json")
        spec["storage"]["pools"][0].update(storage)
        raw = {"metadata": self.cluster.metadata.model_dump(by_alias=True), "spec": spec, "status": self.status()}
        self.cluster = StorageCluster.model_validate(raw)

    def goal(self) -> Obj:
        """What must be the same however often the operator died on the way."""
        return {
            "hosts": {name: host.status for name, host in self.hosts.items()},
            "devices": {row.devid: (row.state, row.out) for row in self.devices.values()},
            "claims": {
                n: self.volumes.get(o["metadata"]["uid"]) is not None
                for (k, n), o in self.objects.items()
                if k == "PersistentVolumeClaim"
            },
            "objects": sorted(key for key in self.objects if key[0] != "Pod"),
        }


def _with(row: Any, **changes: Any) -> Any:
    import dataclasses

    return dataclasses.replace(row, **changes)


def make_world(nodes: int = 3, machines: int = 3, **spec: Any) -> World:
    """A world with machines in zones a, b, c and nothing else."""
    if "storage" not in spec:
        spec["storage"] = {"pools": [{"name": "main", "nodes": nodes, "devices": {"size": "2Gi"}}]}
    world = World(cluster=make_cluster(**spec))
    world.machines = {f"m{i}": machine(f"m{i}", "abc"[i % 3]) for i in range(machines)}
    return world


@pytest.fixture(name="make_world")
def make_world_fixture() -> Callable[..., World]:
    return make_world


@pytest.fixture
def context() -> Context:
    return CONTEXT


@pytest.fixture
def settled() -> World:
    """Six storage nodes on three machines, ready."""
    out = make_world(nodes=6)
    out.settle()
    return out
