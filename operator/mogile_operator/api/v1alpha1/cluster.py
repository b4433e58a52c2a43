"""`StorageCluster`: trackers, storage nodes with their volumes, a gateway, and the database they share.

Identity is by name, never by list position (pools are a map list). What cannot change without moving data is immutable, and the
API server says so in one sentence; what can only grow (device size and count) is refused when it shrinks.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from mogile_operator.api.v1alpha1.common import (
    LABEL_NAME_PATTERN,
    Condition,
    Duration,
    LocalRef,
    Model,
    MogileName,
    ObjectMeta,
    ObjectName,
    Quantity,
    Resources,
    SecretKeyRef,
    ShortText,
    Toleration,
    map_list,
    rules,
)

NO_SHRINK = (
    "quantity(self.size).compareTo(quantity(oldSelf.size)) >= 0",
    "size cannot shrink: a volume only grows; add a pool with smaller devices and remove this one instead",
)
SAME_CLASS = (
    "has(self.storageClassName) == has(oldSelf.storageClassName) && "
    "(!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)",
    "storageClassName is immutable: add a pool with the other storage class and remove this one instead",
)


class Image(Model):
    """Where the images of trackers, storage nodes and gateway come from."""

    registry: Annotated[str, Field(max_length=255)] = ""
    """Registry and path in front of mogile-tracker, mogile-storage and mogile-gateway; empty means the operator's own."""
    tag: Annotated[str, Field(max_length=128)] = ""
    """Image tag; empty means the operator's own version."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When the images are pulled."""
    pull_secrets: Annotated[tuple[LocalRef, ...], Field(max_length=8, json_schema_extra=map_list("name"))] = ()
    """Secrets with registry credentials, given to every pod of the cluster."""


class ExternalDatabase(Model):
    """A PostgreSQL that somebody else runs."""

    secret_ref: SecretKeyRef
    """Secret key with the libpq URL (postgresql://user:password@host:5432/database) of a database owned by its user."""


class DatabaseStorage(Model):
    """The volume of the managed database."""

    model_config = Model.model_config | {"json_schema_extra": rules(NO_SHRINK, SAME_CLASS)}

    size: Quantity = "5Gi"
    """Size of the volume; may grow, not shrink."""
    storage_class_name: ObjectName | None = None
    """Storage class of the volume; unset means the default class. Immutable."""


class ManagedDatabase(Model):
    """One PostgreSQL instance that the operator runs (a small installation's choice; it is not replicated)."""

    storage: DatabaseStorage = DatabaseStorage()
    """Its volume."""
    image: Annotated[str, Field(min_length=1, max_length=512)] = "postgres:17"
    """Image that keeps the contract of the official PostgreSQL image; taken as written, image.registry does not apply."""
    resources: Resources = Resources()
    """Requests and limits of the PostgreSQL container."""


class Database(Model):
    """Where the metadata lives: exactly one of external and managed."""

    model_config = Model.model_config | {
        "json_schema_extra": rules(
            (
                "has(self.external) != has(self.managed)",
                "spec.database needs exactly one of external and managed",
            ),
            (
                "has(self.managed) == has(oldSelf.managed)",
                "spec.database cannot change between external and managed: move the data with pg_dump into a new cluster",
            ),
        )
    }

    external: ExternalDatabase | None = None
    """Use a PostgreSQL that exists."""
    managed: ManagedDatabase | None = None
    """Let the operator run one."""


class Trackers(Model):
    """The processes that know where files are."""

    replicas: Annotated[int, Field(ge=1, le=64)] = 2
    """How many tracker pods; all are equal, two are enough for availability."""
    processes: Annotated[int, Field(ge=1, le=64)] = 1
    """Server processes per pod sharing the port; one more runs the background jobs."""
    resources: Resources = Resources()
    """Requests and limits of each tracker container."""


class Devices(Model):
    """The volumes of each storage node."""

    model_config = Model.model_config | {
        "json_schema_extra": rules(
            NO_SHRINK,
            SAME_CLASS,
            (
                "self.count >= oldSelf.count",
                "devices.count cannot shrink: remove whole storage nodes, or add a pool with fewer devices and remove this one",
            ),
        )
    }

    count: Annotated[int, Field(ge=1, le=32)] = 1
    """Devices (volumes) per storage node; may grow, not shrink."""
    size: Quantity = "10Gi"
    """Size of each volume; may grow, not shrink."""
    storage_class_name: ObjectName | None = None
    """Storage class of the volumes; unset means the default class. Immutable."""


class Pool(Model):
    """A group of equal storage nodes."""

    name: Annotated[str, Field(min_length=1, max_length=15, pattern=LABEL_NAME_PATTERN)]
    """Name of the pool, part of its storage nodes' names."""
    nodes: Annotated[int, Field(ge=1, le=500)]
    """How many storage nodes; lowering it drains the surplus before it is removed."""
    node_selector: Annotated[dict[str, ShortText], Field(max_length=16)] = {}  # noqa: RUF012 - pydantic copies it
    """Labels a machine must carry to run these storage nodes."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16)] = ()
    """Taints these storage nodes tolerate."""
    topology_key: Annotated[str, Field(min_length=1, max_length=316)] = "topology.kubernetes.io/zone"
    """Machine label over whose values the nodes are spread; its value becomes the zone of the host."""
    devices: Devices = Devices()
    """The volumes of each storage node."""
    resources: Resources = Resources()
    """Requests and limits of each of the two containers of a storage node."""


class Storage(Model):
    """The storage nodes."""

    expose: Literal["ClusterIP"] = "ClusterIP"
    """How storage nodes are reached: every node has a Service with a stable cluster address."""
    pools: Annotated[
        tuple[Pool, ...],
        Field(min_length=1, max_length=16, json_schema_extra=map_list("name")),
    ]
    """Groups of equal storage nodes, told apart by name; names are unique."""


class GatewayLocation(Model):
    """One URL prefix of the gateway and the domain behind it."""

    model_config = Model.model_config | {
        "json_schema_extra": rules(
            (
                "self.path.startsWith('/') && self.path.endsWith('/')",
                "path must begin and end with a slash, for example /images/",
            ),
            (
                "(self.read != 'Token' && self.write != 'Token') || has(self.tokenSecretRef)",
                "tokenSecretRef is required when read or write is Token",
            ),
            (
                "self.read != 'Off' || self.write != 'Off'",
                "read and write are both Off: open one of them or remove the location",
            ),
        )
    }

    path: Annotated[str, Field(min_length=1, max_length=255, pattern=r"^/([A-Za-z0-9._~-]+/)*$")]
    """URL prefix, beginning and ending with a slash; the rest of the URL is the key."""
    domain: MogileName
    """Name of the domain in the tracker."""
    class_: Annotated[
        str,
        Field(
            alias="class",
            max_length=255,
            pattern=r"^[A-Za-z0-9._:-]*$",
            description="Class of files that are written; empty means the default class of the domain.",
        ),
    ] = ""
    read: Literal["Open", "Token", "Off"] = "Off"
    """Who may GET and HEAD: Open everyone, Token those who send the token, Off nobody."""
    write: Literal["Open", "Token", "Off"] = "Off"
    """Who may PUT and DELETE: Open everyone, Token those who send the token, Off nobody."""
    token_secret_ref: SecretKeyRef | None = None
    """Secret key with the token that is sent as Authorization: Bearer."""


class Gateway(Model):
    """The plain HTTP way in and out."""

    enabled: bool = True
    """Whether a gateway is run at all."""
    replicas: Annotated[int, Field(ge=1, le=64)] = 2
    """How many gateway pods."""
    service_type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    """Type of the gateway's Service."""
    resources: Resources = Resources()
    """Requests and limits of each gateway container."""
    locations: Annotated[tuple[GatewayLocation, ...], Field(max_length=64, json_schema_extra=map_list("path"))] = ()
    """URL prefixes that are served; everything else is 404. Closed unless opened."""


class Rebalance(Model):
    """Moving files so that devices are equally full."""

    mode: Literal["Auto", "Off"] = "Auto"
    """Auto moves files when devices differ too much, Off never does."""
    spread_percent: Annotated[int, Field(ge=1, le=50)] = 5
    """Percent points between the fullest and the emptiest device that are left alone."""


class Failure(Model):
    """What happens when a storage node stays away."""

    out_after: Duration = "15m"
    """After this time the copies of an unreachable storage node no longer count, and new ones are made elsewhere."""


class Network(Model):
    """Who may connect to trackers and storage nodes."""

    policies: Literal["Enabled", "Disabled"] = "Enabled"
    """Enabled makes NetworkPolicies from the real ports: only the cluster's own pods, the operator and the clients below get in."""
    client_cidrs: Annotated[
        tuple[Annotated[str, Field(max_length=49, pattern=r"^[0-9a-fA-F.:]+/[0-9]{1,3}$")], ...], Field(max_length=32)
    ] = ()
    """Address ranges of MogileFS clients outside the pods; pods labelled mogile.storage/client=<cluster> are always let in."""


class StorageClusterSpec(Model):
    """What is wanted."""

    deletion_policy: Literal["Retain", "Delete"] = "Retain"
    """What happens to volumes and the database Secret when this object is deleted: Retain keeps them (the same name finds every
    file again), Delete removes them."""
    image: Image = Image()
    """Where the images come from."""
    database: Database
    """Where the metadata lives."""
    trackers: Trackers = Trackers()
    """The processes that know where files are."""
    storage: Storage
    """The storage nodes."""
    gateway: Gateway = Gateway()
    """The plain HTTP way in and out."""
    rebalance: Rebalance = Rebalance()
    """Moving files so that devices are equally full."""
    failure: Failure = Failure()
    """What happens when a storage node stays away."""
    network: Network = Network()
    """Who may connect."""


class Endpoints(Model):
    """Where clients connect."""

    trackers: Annotated[str, Field(max_length=512)] = ""
    """Tracker address for MogileFS clients."""
    gateway: Annotated[str, Field(max_length=512)] = ""
    """URL of the gateway inside the cluster."""


class DeviceCounts(Model):
    """Devices by state."""

    total: int = 0
    """Devices in use: every one that is not dead."""
    alive: int = 0
    """Devices that take new files."""
    dead: int = 0
    """Devices given up for good."""
    out: int = 0
    """Devices whose copies do not count at present."""


class FileCounts(Model):
    """Files by the tracker's census."""

    count: int = 0
    """Files."""
    bytes: int = 0
    """Their bytes, each file once."""
    under_replicated: int = 0
    """Files with fewer live copies than their class wants."""
    no_copy: int = 0
    """Files without any live copy."""
    zone_violations: int = 0
    """Files whose copies lie in fewer zones than possible."""


class NodeStatus(Model):
    """One storage node."""

    name: Annotated[str, Field(max_length=253)]
    """Name of the storage node, its Service and its host in the tracker."""
    state: Annotated[str, Field(max_length=64)] = "Pending"
    """Pending, Ready, Unavailable, Out, Draining or Surplus."""
    machine: Annotated[str, Field(max_length=253)] = ""
    """Machine it runs on."""
    zone: Annotated[str, Field(max_length=253)] = ""
    """Zone of that machine."""
    address: Annotated[str, Field(max_length=64)] = ""
    """Cluster address of its Service, asked for again when the Service is made anew."""
    devices: Annotated[tuple[int, ...], Field(max_length=64)] = ()
    """Its devices that are not dead."""
    unavailable_since: Annotated[str, Field(json_schema_extra={"format": "date-time"})] | None = None
    """Since when neither trackers nor operator reach it; unset while it is reachable."""


class StorageClusterStatus(Model):
    """What is seen."""

    observed_generation: int = 0
    """The generation of the spec that was acted on."""
    cluster_id: Annotated[str, Field(max_length=64)] = ""
    """Random id of the cluster, kept in its database and on its volumes."""
    endpoints: Endpoints = Endpoints()
    """Where clients connect."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=32, json_schema_extra=map_list("type"))] = ()
    """Observations: Ready sums them up."""
    devices: DeviceCounts = DeviceCounts()
    """Devices by state."""
    files: FileCounts = FileCounts()
    """Files by the tracker's census."""
    nodes: Annotated[tuple[NodeStatus, ...], Field(max_length=1000, json_schema_extra=map_list("name"))] = ()
    """Storage nodes."""
    ready_nodes: Annotated[str, Field(max_length=16)] = ""
    """Ready of wanted storage nodes, for example 6/6."""
    unmanaged_domains: Annotated[tuple[ShortText, ...], Field(max_length=100)] = ()
    """Domains in the tracker without a Domain object here; they are left alone."""


class StorageCluster(Model):
    """A distributed store of immutable files: trackers, storage nodes with volumes, a gateway."""

    metadata: ObjectMeta
    spec: StorageClusterSpec
    status: StorageClusterStatus = StorageClusterStatus()


CRD: dict[str, Any] = {
    "kind": "StorageCluster",
    "plural": "storageclusters",
    "singular": "storagecluster",
    "short_names": ["mogc"],
    "rules": [
        (
            "self.metadata.name.size() <= 25 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            "metadata.name must have at most 25 characters of a-z, 0-9 and -, beginning with a letter: it is part of Service names",
        )
    ],
    "columns": [
        (
            "Ready",
            "string",
            '.status.conditions[?(@.type=="Ready")].status',
            "whether everything wanted is there and healthy",
            0,
        ),
        ("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason', "why it is not, in one word", 0),
        ("Nodes", "string", ".status.readyNodes", "ready of wanted storage nodes", 0),
        ("Files", "integer", ".status.files.count", "files stored", 0),
        ("Under-replicated", "integer", ".status.files.underReplicated", "files with fewer live copies than wanted", 0),
        ("Dead", "integer", ".status.devices.dead", "devices given up for good", 1),
        ("Cluster-ID", "string", ".status.clusterId", "id of the cluster", 1),
        ("Age", "date", ".metadata.creationTimestamp", "when the object was made", 0),
    ],
}
