"""TLS of the service."""

from __future__ import annotations

import ssl
from pathlib import Path

from serve_app.local.preflight import StartError
from serve_app.settings import Settings


def check_tls(settings: Settings) -> dict[str, str]:
    """HTTP options of Serve. Raises StartError."""
    if not settings.tls_cert or not settings.tls_key:
        return {}
    for name, path in (("MURMUR_TLS_CERT", settings.tls_cert), ("MURMUR_TLS_KEY", settings.tls_key)):
        _check_readable(name, path)
    try:
        # The password callback keeps an encrypted key from asking on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_cert, settings.tls_key, lambda: b"")
    except (ssl.SSLError, OSError) as error:
        raise StartError(
            f"MURMUR_TLS_CERT and MURMUR_TLS_KEY cannot be used ({error.strerror or error}): they must be a PEM certificate "
            "and its key, which must not be encrypted"
        ) from None
    return {"ssl_certfile": str(settings.tls_cert.absolute()), "ssl_keyfile": str(settings.tls_key.absolute())}


def unverified() -> ssl.SSLContext:
    """Context for a request to the service itself, whose certificate is for another name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _check_readable(name: str, path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise StartError(f"{name} cannot be read ({path}: {error.strerror})") from None
