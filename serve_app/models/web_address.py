"""Web addresses in settings."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit


def is_origin(text: str) -> bool:
    """Whether browsers could send a text as Origin."""
    try:
        parts = urlsplit(text)
        return (
            bool(parts.scheme and parts.hostname and parts.port != 0)
            and "@" not in parts.netloc
            and text == f"{parts.scheme}://{parts.netloc.lower()}"
        )
    except ValueError:
        return False


def is_private_channel(url: str) -> bool:
    """Whether a URL is https, or http on loopback."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host)))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
