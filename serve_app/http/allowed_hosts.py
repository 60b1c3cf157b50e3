"""Whom a service without keys answers: requests that name this machine. A web page can have its own name resolve to
127.0.0.1, or send a form here from elsewhere; the names in Host and Origin tell."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from serve_app.errors import RequestError

ANY = "*"
"""Among the hosts, it lets every name through."""


class AllowedHosts:
    """Refuses requests whose Host or Origin names none of `hosts`."""

    def __init__(self, hosts: Collection[str]) -> None:
        self._hosts = frozenset(host.lower().strip("[]") for host in hosts)

    def check(self, headers: Headers) -> None:
        """EdgeError `forbidden` for a name that is not ours."""
        for header in ("host", "origin"):
            value = headers.get(header)
            if value is not None and ANY not in self._hosts and hostname(value) not in self._hosts:
                raise RequestError("forbidden", f"The {header} {value!r} is not of this service: see MURMUR_ALLOWED_HOSTS.")


def hostname(value: str) -> str:
    """The name in a Host (`name:port`) or an Origin (`scheme://name:port`); empty where there is none."""
    try:
        return urlsplit(value if "://" in value else f"//{value}").hostname or ""
    except ValueError:
        return ""
