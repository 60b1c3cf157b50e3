"""Host and Origin allow-list of a service without keys, against DNS rebinding and cross-site requests."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from serve_app.errors import RequestError

ANY = "*"  # allows every host, or every origin


class AllowedHosts:
    """Names of the service, and `origins` of other pages that may call it."""

    def __init__(self, hosts: Collection[str], origins: Collection[str] = ()) -> None:
        self._hosts = frozenset(host.lower().strip("[]") for host in hosts)
        self._origins = frozenset(origins)

    def check(self, headers: Headers) -> None:
        """Raises RequestError `forbidden`."""
        origin = headers.get("origin")
        if not self.has(headers.get("host")):
            raise _refused("host", headers["host"], "MURMUR_ALLOWED_HOSTS")
        if not (self.has(origin) or origin in self._origins or ANY in self._origins):
            raise _refused("origin", str(origin), "MURMUR_ALLOWED_HOSTS and MURMUR_CORS_ORIGINS")

    def has(self, value: str | None) -> bool:
        """Whether a Host or Origin header is absent or names an allowed host."""
        return value is None or ANY in self._hosts or hostname(value) in self._hosts


def hostname(value: str) -> str:
    """Host name in a Host or Origin header, or ''."""
    try:
        return urlsplit(value if "://" in value else f"//{value}").hostname or ""
    except ValueError:
        return ""


def _refused(header: str, value: str, settings: str) -> RequestError:
    return RequestError("forbidden", f"The {header} {value!r} is not allowed here: see {settings}.")
