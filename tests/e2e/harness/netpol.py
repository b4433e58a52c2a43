"""NetworkPolicy as nftables: pure translation of policies, pods and namespaces to one ruleset per node.

Semantics of ``networking.k8s.io/v1``: a pod that no policy selects for a direction is open in it; a selected one
gets what any selecting policy allows, and nothing else.  Replies pass by connection tracking.  Egress is judged on
the node of the sender, ingress on the node of the receiver, both in the forward hook, after service addresses have
been translated; so traffic between a node and its own pods (kubelet probes) is never filtered.  Pods on the host
network count as their node and are not selected.  IPv4 only, as the cluster.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]
TABLE = "inet mogile_np"
PROTOCOLS = {"TCP": "tcp", "UDP": "udp", "SCTP": "sctp"}
SETUP = f"table {TABLE}\ndelete table {TABLE}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """What matters of a pod: where it is, how it is labelled, its named ports."""

    namespace: str
    name: str
    node: str
    address: str
    labels: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[tuple[str, str], int] = field(default_factory=dict)

    @classmethod
    def parse(cls, item: Json) -> Pod | None:
        """A pod that takes part in the pod network, None for any other."""
        spec, status = item["spec"], item.get("status", {})
        address = status.get("podIP")
        if not address or spec.get("hostNetwork") or status.get("phase") in ("Succeeded", "Failed"):
            return None
        ports = {
            (port["name"], port.get("protocol", "TCP")): int(port["containerPort"])
            for container in [*spec.get("initContainers", []), *spec["containers"]]
            for port in container.get("ports", [])
            if "name" in port
        }
        meta = item["metadata"]
        return cls(
            namespace=meta["namespace"],
            name=meta["name"],
            node=spec.get("nodeName", ""),
            address=address,
            labels=meta.get("labels", {}),
            ports=ports,
        )


def matches(selector: Json | None, labels: Mapping[str, str]) -> bool:
    """Whether a label selector selects these labels; an empty one selects all, a missing one nothing."""
    if selector is None:
        return False
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for rule in selector.get("matchExpressions", []):
        key, present = rule["key"], rule["key"] in labels
        match rule["operator"]:
            case "In":
                fits = labels.get(key) in rule["values"]
            case "NotIn":
                fits = labels.get(key) not in rule["values"]
            case "Exists":
                fits = present
            case "DoesNotExist":
                fits = not present
            case other:
                raise ValueError(f"unknown selector operator {other!r}")
        if not fits:
            return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Everything a translation depends on."""

    pods: Sequence[Pod]
    namespaces: Mapping[str, Mapping[str, str]]
    policies: Sequence[Json]

    @classmethod
    def parse(cls, pods: Iterable[Json], namespaces: Iterable[Json], policies: Iterable[Json]) -> World:
        parsed = [pod for pod in map(Pod.parse, pods) if pod is not None]
        parsed.sort(key=lambda pod: (pod.namespace, pod.name))
        return cls(
            pods=parsed,
            namespaces={n["metadata"]["name"]: n["metadata"].get("labels", {}) for n in namespaces},
            policies=sorted(policies, key=lambda p: (p["metadata"]["namespace"], p["metadata"]["name"])),
        )

    def peers(self, peer: Json, home: str) -> list[Pod]:
        """The pods a peer (without ipBlock) of a policy in namespace ``home`` stands for."""
        found = []
        for pod in self.pods:
            if "namespaceSelector" in peer:
                in_namespace = matches(peer["namespaceSelector"], self.namespaces.get(pod.namespace, {}))
            else:
                in_namespace = pod.namespace == home
            if in_namespace and matches(peer.get("podSelector", {}), pod.labels):
                found.append(pod)
        return found


def directions(policy: Json) -> set[str]:
    """``Ingress`` and ``Egress`` as far as a policy restricts them."""
    spec = policy["spec"]
    if types := spec.get("policyTypes"):
        return set(types)
    return {"Ingress", "Egress"} if "egress" in spec else {"Ingress"}


def ruleset(world: World, node: str) -> str:
    """The complete nftables text of a node; loading it replaces the former one in one transaction."""
    chains: list[str] = []
    jumps: list[str] = []
    for index, pod in enumerate(pod for pod in world.pods if pod.node == node):
        for direction, keyword in (("Egress", "saddr"), ("Ingress", "daddr")):
            selecting = [
                policy
                for policy in world.policies
                if policy["metadata"]["namespace"] == pod.namespace
                and direction in directions(policy)
                and matches(policy["spec"].get("podSelector", {}), pod.labels)
            ]
            if not selecting:
                continue
            name = f"{direction.lower()}_{index}"
            rules = [rule for policy in selecting for rule in _policy_rules(world, policy, pod, direction)]
            body = "".join(f"    {rule}\n" for rule in [*dict.fromkeys(rules), "counter drop"])
            chains.append(f"  chain {name} {{ # {pod.namespace}/{pod.name}\n{body}  }}\n")
            jumps.append(f"    ip {keyword} {pod.address} jump {name}\n")
    base = (
        "  chain forwarded {\n    type filter hook forward priority -5; policy accept;\n"
        "    ct state established,related accept\n" + "".join(jumps) + "  }\n"
    )
    return f"{SETUP}table {TABLE} {{\n{''.join(chains)}{base}}}\n"


def _policy_rules(world: World, policy: Json, pod: Pod, direction: str) -> list[str]:
    """What one policy allows a pod in one direction, as rules that return to the caller."""
    side, peers_key = ("saddr", "from") if direction == "Ingress" else ("daddr", "to")
    home = policy["metadata"]["namespace"]
    rules: list[str] = []
    for rule in policy["spec"].get(direction.lower()) or []:
        ports = rule.get("ports") or []
        peers = rule.get(peers_key) or []
        if not peers:
            targets = world.pods if direction == "Egress" else [pod]
            rules += [f"{port}return" for port in _anywhere_ports(ports, targets, direction)]
        for peer in peers:
            if "ipBlock" in peer:
                block = _block(peer["ipBlock"], side)
                rules += [f"{block}{port}return" for port in _numbered_ports(ports, [pod])] if block else []
            else:
                found = world.peers(peer, home)
                rules += _peer_rules(found, ports, pod, direction, side)
    return rules


def _peer_rules(peers: Sequence[Pod], ports: Sequence[Json], pod: Pod, direction: str, side: str) -> list[str]:
    """Rules for peer pods; a named port is looked up on whichever pod receives the traffic."""
    if not peers:
        return []
    if direction == "Egress" and any(isinstance(port.get("port"), str) for port in ports):
        return [f"ip {side} {peer.address} {port}return" for peer in peers for port in _numbered_ports(ports, [peer])]
    addresses = ", ".join(sorted({peer.address for peer in peers}))
    return [f"ip {side} {{ {addresses} }} {port}return" for port in _numbered_ports(ports, [pod])]


def _anywhere_ports(ports: Sequence[Json], targets: Sequence[Pod], direction: str) -> list[str]:
    """Ports of a rule without peers; egress to a named port is allowed to the pods that have it."""
    if direction == "Ingress" or not any(isinstance(port.get("port"), str) for port in ports):
        return _numbered_ports(ports, targets)
    numbered = [port for port in ports if not isinstance(port.get("port"), str)]
    named = [port for port in ports if isinstance(port.get("port"), str)]
    rules = _numbered_ports(numbered, targets) if numbered else []
    for target in targets:
        rules += [f"ip daddr {target.address} {port}" for port in _numbered_ports(named, [target])]
    return rules


def _numbered_ports(ports: Sequence[Json], receivers: Sequence[Pod]) -> list[str]:
    """Match texts for a list of ports; no list means any port, a named port nobody has matches nothing."""
    if not ports:
        return [""]
    texts: list[str] = []
    for port in ports:
        protocol = port.get("protocol", "TCP")
        number = port.get("port")
        if number is None:
            texts.append(f"meta l4proto {PROTOCOLS[protocol]} ")
        elif isinstance(number, str):
            numbers = {pod.ports[number, protocol] for pod in receivers if (number, protocol) in pod.ports}
            texts += [f"{PROTOCOLS[protocol]} dport {value} " for value in sorted(numbers)]
        else:
            last = f"-{port['endPort']}" if "endPort" in port else ""
            texts.append(f"{PROTOCOLS[protocol]} dport {number}{last} ")
    return texts


def _block(block: Json, side: str) -> str:
    """The match text of an ipBlock; an IPv6 block matches nothing here."""
    if ipaddress.ip_network(block["cidr"], strict=False).version != 4:
        return ""
    text = f"ip {side} {block['cidr']} "
    excepted = [cidr for cidr in block.get("except", []) if ":" not in cidr]
    if excepted:
        text += f"ip {side} != {{ {', '.join(excepted)} }} "
    return text
