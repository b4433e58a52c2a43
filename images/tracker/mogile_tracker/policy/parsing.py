"""Replication policies from their texts: `Name(arguments)`, nested in `Union`, read from left to right, blanks allowed.

The errors begin with the words of the original, which operators and scripts may know, and go on to say what would be right. Text behind
the policy, which the original silently passes over, is refused.
"""

import re
from collections.abc import Callable

from mogile_tracker.policy.composed import HostsPerNetwork, Union
from mogile_tracker.policy.replication import MultipleDevices, MultipleHosts, MultipleNetworks, Policy

COPIES_MAX = 1000  # of a policy argument; more is a typing error
DEPTH_MAX = 8  # of Unions in Unions

_NAME = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*")
_ARGUMENTS = re.compile(r"\(\s*([^()]*?)\s*\)\s*")
_ORIGINAL = "MogileFS::ReplicationPolicy::"


def parse_policy(text: str | None) -> Policy:
    """A policy from its text; empty means `MultipleHosts()`. ValueError with one sentence when it cannot be understood."""
    if text is None or not text.strip():
        return MultipleHosts()
    policy, rest = _policy(text, 0)
    if rest:
        raise ValueError(f"Failed to parse policy string: {rest!r} is left over behind the policy")
    return policy


class Policies:
    """Policies of classes by their texts, each read once; one that cannot be understood counts as `MultipleHosts()`."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[str, Policy] = {}

    def get(self, text: str) -> Policy:
        """The policy of a text."""
        policy = self._known.get(text)
        if policy is None:
            try:
                policy = parse_policy(text)
            except ValueError:
                policy = MultipleHosts()
            self._known[text] = policy
        return policy


def _policy(text: str, depth: int) -> tuple[Policy, str]:
    found = _NAME.match(text)
    if found is None:
        raise ValueError(f"Failed to parse policy string: {text!r}; expected Name(arguments), such as MultipleHosts(3)")
    name, rest = found[1], text[found.end() :]
    if name == "Union":
        return _union(rest, depth)
    maker = _MAKERS.get(name)
    if maker is None:
        known = ", ".join(sorted([*_MAKERS, "Union"]))
        raise ValueError(f"Failed to load replication policy class {_ORIGINAL}{name}: known policies are {known}")
    arguments = _ARGUMENTS.match(rest)
    if arguments is None:
        raise _bad_arguments(name, rest, "expected (arguments)")
    return maker(name, arguments[1]), rest[arguments.end() :]


def _union(rest: str, depth: int) -> tuple[Policy, str]:
    """The parts of a Union, from its opening parenthesis on."""
    if depth >= DEPTH_MAX:
        raise _bad_arguments("Union", rest, f"at most {DEPTH_MAX} Unions may be nested")
    whole = rest
    parts: list[Policy] = []
    expected = "("
    while True:
        if not rest.startswith(expected):
            raise _bad_arguments("Union", whole, "expected (policy, policy, ...)")
        part, rest = _policy(rest[1:], depth + 1)
        parts.append(part)
        if rest.startswith(")"):
            return Union(tuple(parts)), rest[1:].lstrip()
        expected = ","


def _counting(make: Callable[[int | None], Policy]) -> Callable[[str, str], Policy]:
    def maker(name: str, argument: str) -> Policy:
        return make(_count(name, argument) if argument else None)

    return maker


def _hosts_per_network(name: str, argument: str) -> Policy:
    copies: dict[str, int] = {}
    for word in argument.split(","):
        network, equals, count = (part.strip() for part in word.partition("="))
        if not network or not equals or network in copies:
            raise _bad_arguments(name, argument, "expected each network once: network=copies, network=copies")
        copies[network] = _count(name, count)
    return HostsPerNetwork(tuple(copies.items()))


def _count(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9 or not 1 <= int(text) <= COPIES_MAX:
        raise _bad_arguments(name, text, f"a number of copies is from 1 to {COPIES_MAX}")
    return int(text)


def _bad_arguments(name: str, text: str, expected: str) -> ValueError:
    return ValueError(f"{_ORIGINAL}{name} failed to parse args: {text!r}; {expected}")


_MAKERS: dict[str, Callable[[str, str], Policy]] = {
    "MultipleHosts": _counting(MultipleHosts),
    "MultipleDevices": _counting(MultipleDevices),
    "MultipleNetworks": _counting(MultipleNetworks),
    "HostsPerNetwork": _hosts_per_network,
}
