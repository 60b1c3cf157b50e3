"""Allow-list for outgoing requests: public addresses, and what the operator lists."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from os.path import realpath
from urllib.parse import unquote

Address = IPv4Address | IPv6Address
PORTS = (80, 443)  # of public addresses
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
TENANT = "{tenant}"

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
class Place:
    """Bucket, or a folder in one; `{tenant}` in it stands for the caller's tenant."""

    path: tuple[str, ...]  # bucket and folders

    @classmethod
    def parse(cls, entry: str) -> Place:
        """Parse `s3://BUCKET` or `s3://BUCKET/FOLDER/`. Raises ValueError."""
        bucket, *folders = entry.strip().rstrip("/")[len("s3://") :].split("/")
        odd = {"", ".", ".."} & set(folders) or set("{}?#") & set("".join(folders).replace(TENANT, ""))
        if odd or not BUCKET.fullmatch(bucket.lower()):
            raise ValueError(f"{entry}: write a bucket as s3://BUCKET or s3://BUCKET/FOLDER/, with {{tenant}} if need be")
        return cls((bucket.lower(), *folders))

    def holds(self, path: tuple[str, ...], tenant: str) -> bool:
        """Whether an object lies in it, segment by segment."""
        if not tenant and any(TENANT in folder for folder in self.path):
            return False
        return tuple(folder.replace(TENANT, tenant) for folder in self.path) == path[: len(self.path)]


@dataclass(frozen=True, slots=True)
class AllowList:
    """Private hosts, host:port pairs, networks and places in object storage that may be read."""

    entries: frozenset[str] = frozenset()  # hosts and networks
    places: frozenset[Place] = frozenset()
    own: tuple[str, ...] = ()  # scheme, bucket and folders of the service's own artifacts, which are never a source

    @classmethod
    def parse(cls, entries: Iterable[str], storage_uri: str = "") -> AllowList:
        """Parse the setting MURMUR_FETCH_ALLOW. Raises ValueError for a malformed entry."""
        stripped = [entry.strip() for entry in entries if entry.strip()]
        places = frozenset(Place.parse(entry) for entry in stripped if _is_place(entry))
        hosts = frozenset(entry.lower() for entry in stripped if not _is_place(entry))
        scheme, _, path = storage_uri.partition("?")[0].partition("://")
        path = realpath(unquote(path)) if scheme == "file" else path.rstrip("/")
        return cls(hosts, places, (scheme, *path.split("/")) if storage_uri else ())

    def has_host(self, host: str, port: int) -> bool:
        # Listed with or without its port.
        bracketed = f"[{host}]" if ":" in host else host
        return not {host.lower(), bracketed.lower(), f"{bracketed}:{port}".lower()}.isdisjoint(self.entries)

    @property
    def networks(self) -> list[IPv4Network | IPv6Network]:
        return [ip_network(entry, strict=False) for entry in self.entries if "/" in entry]

    def has_address(self, address: Address) -> bool:
        return any(address in network for network in self.networks)

    def has_object(self, bucket: str, key: str, tenant: str) -> bool:
        """Whether a tenant may read an object."""
        path = f"{bucket}/{key}"
        listed = any(place.holds(tuple(path.split("/")), tenant) for place in self.places)
        return listed and not self.is_own("s3", path)

    def is_own(self, scheme: str, path: str) -> bool:
        """Whether a resolved path is below the service's artifacts."""
        return bool(self.own) and (scheme, *path.split("/"))[: len(self.own)] == self.own


def _is_place(entry: str) -> bool:
    return entry[:5].lower() == "s3://"


def check_entries(entries: Iterable[str]) -> None:
    """Raise ValueError for a malformed network or place."""
    for entry in entries:
        if _is_place(entry):
            Place.parse(entry)
        elif "/" in entry:
            ip_network(entry.strip(), strict=False)
