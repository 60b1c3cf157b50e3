"""Allow-list for outgoing requests: public addresses, and what the operator lists."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network

Address = IPv4Address | IPv6Address

# Blocks that `ipaddress` counts as global in some Python versions, although they lead inside: IPv4 translation, multicast.
DENIED = tuple(
    ip_network(block)
    for block in (
        "192.0.0.0/24",
        "192.88.99.0/24",
        "224.0.0.0/4",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "2001::/32",
        "2002::/16",
        "3fff::/20",
        "fec0::/10",
        "ff00::/8",
    )
)
# All of IPv6 that is assigned for global use; the rest holds old notations of IPv4 (::127.0.0.1) and unassigned blocks.
UNICAST = ip_network("2000::/3")


def is_public(address: Address) -> bool:
    """Whether an address is globally routable."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return is_public(address.ipv4_mapped)
    if isinstance(address, IPv6Address) and address not in UNICAST:
        return False
    return address.is_global and not any(address in block for block in DENIED)


@dataclass(frozen=True, slots=True)
class AllowList:
    """Private hosts, host:port pairs, networks and buckets (`s3://name`) that may be read."""

    entries: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, entries: Iterable[str]) -> AllowList:
        """Parse the setting MURMUR_FETCH_ALLOW."""
        return cls(frozenset(entry.strip().lower() for entry in entries if entry.strip()))

    def has_host(self, host: str, port: int) -> bool:
        # Listed with or without its port.
        bracketed = f"[{host}]" if ":" in host else host
        return not {host.lower(), bracketed.lower(), f"{bracketed}:{port}".lower()}.isdisjoint(self.entries)

    def has_address(self, address: Address) -> bool:
        networks = (entry for entry in self.entries if "/" in entry and not entry.startswith("s3://"))
        return any(address in ip_network(network, strict=False) for network in networks)

    def has_bucket(self, name: str) -> bool:
        return f"s3://{name}".lower() in self.entries


def check_networks(entries: Iterable[str]) -> None:
    """Raise ValueError for a malformed network."""
    for entry in entries:
        if "/" in entry and not entry.startswith("s3://"):
            ip_network(entry.strip(), strict=False)
