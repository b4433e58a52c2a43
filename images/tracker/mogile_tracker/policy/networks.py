"""Which network a host is in, for `MultipleNetworks` and `HostsPerNetwork`.

The settings come first, as in MogileFS-Network: `network_zones` names zones, `zone_<name>` lists the address ranges of one. Where they say
nothing about an address the zone label of the host counts (ours: in Kubernetes an address range says nothing about a place), and without
one the network the address is in: its /16, of an IPv6 address its /48. A host known by a name that is no address has none.
"""

import ipaddress
from collections.abc import Mapping

ZONES_SETTING = "network_zones"
ZONE_PREFIX = "zone_"
IPV4_PREFIX_BITS = 16
IPV6_PREFIX_BITS = 48

_Ranges = tuple[tuple[str, tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]], ...]


class Networks:
    """The ranges of one snapshot of the settings."""

    __slots__ = ("_ranges",)

    def __init__(self, settings: Mapping[str, str]) -> None:
        names = [word.strip() for word in settings.get(ZONES_SETTING, "").split(",") if word.strip()]
        self._ranges: _Ranges = tuple((name, _ranges(settings.get(ZONE_PREFIX + name, ""))) for name in names)

    def configured(self, address: str) -> str | None:
        """The zone the settings give an address, the first that fits."""
        parsed = _parsed(address)
        if parsed is None:
            return None
        return next((name for name, ranges in self._ranges if any(parsed in each for each in ranges)), None)

    def of(self, address: str, label: str | None) -> str | None:
        """The network of a host with this address and zone label."""
        found = self.configured(address) or label
        parsed = _parsed(address)
        if found or parsed is None:
            return found
        bits = IPV4_PREFIX_BITS if parsed.version == 4 else IPV6_PREFIX_BITS
        return str(ipaddress.ip_network((parsed, bits), strict=False))


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(address)
    except ValueError:
        return None


def _ranges(text: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    """The ranges of a list; words that are none are passed over: the command that stores them refuses them."""
    found = []
    for word in text.replace(",", " ").split():
        try:
            found.append(ipaddress.ip_network(word, strict=False))
        except ValueError:
            continue
    return tuple(found)
