"""Rules for http(s) URLs of users, checked before their host is resolved."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from deployments.ingestion.allow_list import PORTS, Address, AllowList, is_public


@dataclass(frozen=True, slots=True)
class UrlFault:
    """A rule that a URL breaks."""

    reason: str  # one word, for API clients
    message: str  # one sentence


def url_fault(url: str) -> UrlFault | None:
    """First rule that a URL breaks, None if it may be fetched."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return UrlFault("invalid", "The URL is not a valid one.")
    if any(letter.isspace() or not letter.isprintable() for letter in url):
        return UrlFault("blanks", "The URL must not hold blanks or control characters.")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return UrlFault("scheme", "The URL must be http or https with a host.")
    if parts.netloc.rpartition("@")[0]:
        return UrlFault("credentials", "The URL must not carry credentials.")
    return None


def address_fault(url: str, allowed: AllowList) -> UrlFault | None:
    """First rule that the host or port of a URL breaks, as far as that is known before the host is resolved."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port if parts.port is not None else PORTS[parts.scheme == "https"]
    if allowed.has_host(host, port):
        return None
    address = _literal(host)
    if address is None:
        # The name may resolve to an address of an allowed network, whose ports are all allowed.
        return None if port in PORTS or (port and allowed.networks) else _port_fault(port)
    if allowed.has_address(address):
        return None
    if not is_public(address):
        message = "The address is not a public one: use a public URL, or name its host in MURMUR_FETCH_ALLOW."
        return UrlFault("address", message)
    return None if port in PORTS else _port_fault(port)


def _port_fault(port: int) -> UrlFault:
    return UrlFault("port", f"Only ports 80 and 443 are reached, not {port}, unless MURMUR_FETCH_ALLOW names its host.")


def _literal(host: str) -> Address | None:
    """Address that a host is written as, in any of the notations that resolvers take (127.1, 0x7f000001)."""
    host = host.partition("%")[0].removesuffix(".")
    try:
        return ip_address(host)
    except ValueError:
        pass
    try:
        return ip_address(socket.inet_aton(host))
    except (OSError, UnicodeError, ValueError):
        return None
