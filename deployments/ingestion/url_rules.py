"""Rules for http(s) URLs of users, checked before their host is resolved."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit


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
