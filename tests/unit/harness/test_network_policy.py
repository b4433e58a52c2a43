"""Network policies mean what Kubernetes says, judged by walking the generated rules, not by comparing text."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

import pytest

from harness.netpol import Pod, World, matches, ruleset

WEB = Pod(
    namespace="shop",
    name="web",
    node="n1",
    address="10.244.1.5",
    labels={"app": "web"},
    ports={("http", "TCP"): 8080},
)
CLIENT = Pod(namespace="shop", name="client", node="n2", address="10.244.2.5", labels={"app": "client"})
ODD = Pod(namespace="other", name="client", node="n2", address="10.244.2.6", labels={"app": "client"})
NAMESPACES = {"shop": {"team": "a"}, "other": {"team": "b"}}


def policy(spec: dict[str, Any], namespace: str = "shop", name: str = "p") -> dict[str, Any]:
    return {"metadata": {"namespace": namespace, "name": name}, "spec": {"podSelector": {}, **spec}}


def world(*policies: dict[str, Any]) -> World:
    return World(pods=[WEB, CLIENT, ODD], namespaces=NAMESPACES, policies=policies)


def allowed(state: World, source: Pod | str, target: Pod | str, port: int, protocol: str = "tcp") -> bool:
    """Walk a new connection through the rulesets of both nodes, as the kernel would."""
    saddr = source if isinstance(source, str) else source.address
    daddr = target if isinstance(target, str) else target.address
    nodes = {pod.node for pod in (source, target) if isinstance(pod, Pod)}
    return all(_passes(ruleset(state, node), saddr, daddr, port, protocol) for node in nodes)


def _passes(text: str, saddr: str, daddr: str, port: int, protocol: str) -> bool:
    chains = {
        found[1]: found[2].splitlines() for found in re.finditer(r"chain (\w+) \{[^\n]*\n(.*?)\n  \}", text, re.DOTALL)
    }
    for rule in chains["forwarded"]:
        jump = re.match(r"\s*ip (\w+) (\S+) jump (\w+)", rule)
        if jump is None or (saddr if jump[1] == "saddr" else daddr) != jump[2]:
            continue
        for inner in chains[jump[3]]:
            if inner.strip() == "counter drop":
                return False
            if _rule_matches(inner.strip(), saddr, daddr, port, protocol):
                break
    return True


def _rule_matches(rule: str, saddr: str, daddr: str, port: int, protocol: str) -> bool:
    for side, negated, value in re.findall(r"ip (saddr|daddr) (!= )?(\{[^}]*\}|\S+)", rule):
        address = ipaddress.ip_address(saddr if side == "saddr" else daddr)
        networks = [ipaddress.ip_network(part.strip()) for part in value.strip("{} ").split(",")]
        if any(address in network for network in networks) == bool(negated):
            return False
    if found := re.search(r"(tcp|udp|sctp) dport (\d+)(?:-(\d+))?", rule):
        return protocol == found[1] and int(found[2]) <= port <= int(found[3] or found[2])
    if found := re.search(r"meta l4proto (\w+)", rule):
        return protocol == found[1]
    assert rule.endswith("return")
    return True


def test_without_policies_everything_passes() -> None:
    assert allowed(world(), CLIENT, WEB, 8080)
    assert allowed(world(), ODD, WEB, 22)


def test_a_policy_without_rules_closes_one_direction_only() -> None:
    state = world(policy({"podSelector": {"matchLabels": {"app": "web"}}}))
    assert not allowed(state, CLIENT, WEB, 8080)
    assert allowed(state, WEB, CLIENT, 80)


def test_a_pod_selector_means_pods_of_the_same_namespace() -> None:
    state = world(policy({"ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}]}))
    assert allowed(state, CLIENT, WEB, 8080)
    assert not allowed(state, ODD, WEB, 8080)


def test_a_namespace_selector_opens_other_namespaces() -> None:
    peer = {"namespaceSelector": {"matchLabels": {"team": "b"}}}
    state = world(policy({"ingress": [{"from": [peer]}]}))
    assert allowed(state, ODD, WEB, 8080)
    assert not allowed(state, CLIENT, WEB, 8080)


def test_namespace_and_pod_selector_in_one_peer_must_both_match() -> None:
    peer = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "nobody"}}}
    assert not allowed(world(policy({"ingress": [{"from": [peer]}]})), ODD, WEB, 8080)


def test_a_named_port_is_the_receivers() -> None:
    state = world(policy({"ingress": [{"ports": [{"port": "http"}]}]}))
    assert allowed(state, CLIENT, WEB, 8080)
    assert not allowed(state, CLIENT, WEB, 8081)
    outward = world(
        policy(
            {
                "podSelector": {"matchLabels": {"app": "client"}},
                "egress": [{"ports": [{"port": "http"}]}],
                "policyTypes": ["Egress"],
            }
        )
    )
    assert allowed(outward, CLIENT, WEB, 8080)
    assert not allowed(outward, CLIENT, WEB, 8081)
    assert not allowed(outward, CLIENT, ODD, 8080)


def test_a_port_range_and_a_protocol_without_port() -> None:
    state = world(policy({"ingress": [{"ports": [{"port": 7000, "endPort": 7005}, {"protocol": "UDP"}]}]}))
    assert allowed(state, CLIENT, WEB, 7005)
    assert not allowed(state, CLIENT, WEB, 7006)
    assert allowed(state, CLIENT, WEB, 53, "udp")


def test_an_address_block_with_an_exception() -> None:
    block = {"ipBlock": {"cidr": "10.99.0.0/24", "except": ["10.99.0.128/25"]}}
    state = world(policy({"ingress": [{"from": [block]}]}))
    assert allowed(state, "10.99.0.10", WEB, 8080)
    assert not allowed(state, "10.99.0.200", WEB, 8080)
    assert not allowed(state, "10.1.1.1", WEB, 8080)


def test_an_ipv6_block_opens_nothing() -> None:
    state = world(policy({"ingress": [{"from": [{"ipBlock": {"cidr": "::/0"}}]}]}))
    assert not allowed(state, CLIENT, WEB, 8080)


def test_two_policies_add_up() -> None:
    first = policy({"ingress": [{"ports": [{"port": 1}]}]}, name="a")
    second = policy({"ingress": [{"ports": [{"port": 2}]}]}, name="b")
    state = world(first, second)
    assert allowed(state, CLIENT, WEB, 1)
    assert allowed(state, CLIENT, WEB, 2)
    assert not allowed(state, CLIENT, WEB, 3)


def test_egress_and_ingress_are_both_judged() -> None:
    closed = policy({"podSelector": {"matchLabels": {"app": "client"}}, "policyTypes": ["Egress"]})
    assert not allowed(world(closed), CLIENT, WEB, 8080)
    assert allowed(world(closed), ODD, WEB, 8080), "the policy of one namespace does not select pods of another"


def test_an_egress_section_implies_both_directions_as_the_api_server_defaults_it() -> None:
    state = world(policy({"podSelector": {"matchLabels": {"app": "web"}}, "egress": [{}]}))
    assert allowed(state, WEB, CLIENT, 80)
    assert not allowed(state, CLIENT, WEB, 8080)


@pytest.mark.parametrize(
    ("selector", "labels", "expected"),
    [
        (None, {"a": "1"}, False),
        ({}, {}, True),
        ({"matchLabels": {"a": "1"}}, {"a": "1", "b": "2"}, True),
        ({"matchLabels": {"a": "1"}}, {"a": "2"}, False),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}, {"a": "2"}, True),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, {}, True),
        ({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, {}, False),
        ({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}, {}, True),
    ],
)
def test_label_selectors(selector: dict[str, Any] | None, labels: dict[str, str], expected: bool) -> None:
    assert matches(selector, labels) is expected


def test_pods_on_the_host_network_without_address_or_finished_take_no_part() -> None:
    def item(phase: str = "Running", address: str = "10.244.1.9", host: bool = False) -> dict[str, Any]:
        return {
            "metadata": {"namespace": "shop", "name": "x"},
            "spec": {"containers": [], "hostNetwork": host, "nodeName": "n1"},
            "status": {"phase": phase, "podIP": address},
        }

    assert Pod.parse(item()) is not None
    assert Pod.parse(item(phase="Succeeded")) is None
    assert Pod.parse(item(address="")) is None
    assert Pod.parse(item(host=True)) is None


def test_a_ruleset_replaces_the_former_one_in_the_same_transaction() -> None:
    text = ruleset(world(), "n1")
    assert text.startswith("table inet mogile_np\ndelete table inet mogile_np\ntable inet mogile_np {")
    assert "ct state established,related accept" in text
