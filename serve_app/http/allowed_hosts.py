"""Host and Origin allow-list of a service without keys, against DNS rebinding and cross-site requests."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from serve_app.errors import RequestError

ANY = "*"  # allows every host


class AllowedHosts:
    """Raises RequestError `forbidden` unless Host and Origin are in `hosts`."""

    def __init__(self, hosts: Collection[str]) -> None:
        self._hosts = frozenset(host.lower().strip("[]") for host in hosts)

    def check(self, headers: Headers) -> None:
        for header in ("host", "origin"):
            value = headers.get(header)
            if value is not None and ANY not in self._hosts and hostname(value) not in self._hosts:
                raise RequestError("forbidden", f"The {header} {value!r} is not allowed here: see MURMUR_ALLOWED_HOSTS.")


def hostname(value: str) -> str:
    """Host name in a Host or Origin header, or ''."""
    try:
        return urlsplit(value if "://" in value else f"//{value}").hostname or ""
    except ValueError:
        return ""
