"""NetworkPolicies from the real ports: who may connect to what. Ingress only; what our pods connect to is not restricted.

Selecting a pod denies every connection that is not listed. The kubelet's probes come from the machine itself, which policies
never stop. Metrics ports are open inside the cluster: they hold no data.
"""

from collections.abc import Sequence

from mogile_operator import labels, naming
from mogile_operator.api.v1alpha1 import StorageCluster
from mogile_operator.specs import base
from mogile_operator.specs.base import Context, Obj


def _ports(*numbers: int) -> list[Obj]:
    return [{"protocol": "TCP", "port": number} for number in numbers]


def _component(cluster: str, component: str) -> Obj:
    return {"podSelector": {"matchLabels": labels.selector(cluster, component)}}


def _operator(ctx: Context) -> Obj:
    return {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": ctx.operator_namespace}},
        "podSelector": {"matchLabels": {labels.NAME: labels.OPERATOR}},
    }


def _clients(cluster: StorageCluster) -> list[Obj]:
    labelled = {
        "namespaceSelector": {},
        "podSelector": {"matchLabels": {labels.CLIENT: cluster.metadata.name}},
    }
    return [labelled, *({"ipBlock": {"cidr": cidr}} for cidr in cluster.spec.network.client_cidrs)]


def _policy(cluster: StorageCluster, name: str, component: str, ingress: Sequence[Obj]) -> Obj:
    cluster_name = cluster.metadata.name
    return base.seal(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": base.meta(cluster, name, labels.common(cluster_name, component)),
            "spec": {
                "podSelector": {"matchLabels": labels.selector(cluster_name, component)},
                "policyTypes": ["Ingress"],
                "ingress": list(ingress),
            },
        }
    )


def build_policies(cluster: StorageCluster, ctx: Context) -> list[Obj]:
    """One policy per component; none when spec.network.policies is Disabled."""
    if cluster.spec.network.policies == "Disabled":
        return []
    name = cluster.metadata.name
    tracker, storage, gateway = (_component(name, c) for c in (labels.TRACKER, labels.STORAGE, labels.GATEWAY))
    everyone: list[Obj] = [{"namespaceSelector": {}}]
    out = [
        _policy(
            cluster,
            naming.tracker(name),
            labels.TRACKER,
            [
                {"ports": _ports(base.TRACKER_PORT), "from": [tracker, gateway, _operator(ctx), *_clients(cluster)]},
                {"ports": _ports(base.TRACKER_HTTP), "from": everyone},
            ],
        ),
        _policy(
            cluster,
            f"{name}-storage",
            labels.STORAGE,
            [
                {
                    "ports": _ports(base.AGENT_PORT, base.GET_PORT),
                    "from": [tracker, storage, gateway, _operator(ctx), *_clients(cluster)],
                },
                {"ports": _ports(base.MGMT_PORT), "from": [tracker]},
                {"ports": _ports(base.AGENT_HTTP), "from": everyone},
            ],
        ),
    ]
    if cluster.spec.gateway.enabled:
        out.append(
            _policy(
                cluster,
                naming.gateway(name),
                labels.GATEWAY,
                # No `from`: the gateway is the way in for everybody, also from outside the cluster.
                [{"ports": _ports(base.GATEWAY_PORT)}, {"ports": _ports(base.GATEWAY_HTTP), "from": everyone}],
            )
        )
    if cluster.spec.database.managed is not None:
        ingress = [{"ports": _ports(base.POSTGRES_PORT), "from": [tracker]}]
        out.append(_policy(cluster, naming.postgres(name), labels.POSTGRES, ingress))
    return out
