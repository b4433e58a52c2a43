"""Settings of the operator process."""

from dataclasses import dataclass

from mogile_core.runtime.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSettings:
    """Everything that `main` reads from environment and flags, once."""

    namespaces: str = setting("", "namespaces to look after, comma list; empty: all")
    operator_namespace: str = setting(
        "mogile-system", "namespace the operator itself runs in (its Lease, its NetworkPolicy identity)"
    )
    identity: str = setting("", "name of this replica in the Lease; empty: host name and a random part")
    leader_election: bool = setting(
        True, "take turns with other replicas by a Lease; 0 only for one replica outside a cluster"
    )
    state_directory: str = setting(
        "",
        "folder that outlives a restart of the container, to remember how long the Lease has been unchanged; empty: none",
    )
    operand_registry: str = setting(
        "", "registry and path of the images of trackers, storage nodes and gateways; empty: none"
    )
    operand_tag: str = setting("latest", "tag of those images when a StorageCluster names none")
    kubeconfig: str = setting("", "kubeconfig file; empty: the pod's service account")
    health_listen: str = setting("0.0.0.0:8080", "address of /healthz")
    metrics_listen: str = setting("0.0.0.0:8081", "address of /metrics")
    workers: int = setting(4, "clusters reconciled at the same time", minimum=1, maximum=64)
    sweep_seconds: float = setting(600.0, "every cluster is looked at at least this often", minimum=10, maximum=86400)
    steady_seconds: float = setting(
        20.0, "look again after this time at a cluster that is settled", minimum=1, maximum=3600
    )
    unsettled_seconds: float = setting(
        3.0, "look again after this time at a cluster that is not", minimum=0.5, maximum=600
    )
    cluster_dns: str = setting("", "address of the cluster's DNS; empty: this process's own resolver")
    cluster_domain: str = setting(
        "", "domain of the cluster's services; empty: from this process's resolver, else cluster.local"
    )
    tracker_address: str = setting(
        "", "tracker to talk to instead of each cluster's own Service; for an operator outside the cluster network"
    )
    log_format: str = setting("plain", "plain or json", choices=("plain", "json"))
    log_level: str = setting("info", "debug, info, warning or error", choices=("debug", "info", "warning", "error"))
