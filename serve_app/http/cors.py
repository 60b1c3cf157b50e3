"""Cross-origin requests of web pages (CORS)."""

from __future__ import annotations

from collections.abc import Collection

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

EXPOSED = (
    *("Location", "Retry-After", "X-Request-ID", "X-Job-Id", "Idempotent-Replayed", "WWW-Authenticate", "Allow"),
    *("RateLimit", "RateLimit-Policy", "Accept-Ranges", "Content-Range", "Content-Length", "Content-Disposition"),
)
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def with_cors(app: ASGIApp, origins: Collection[str]) -> ASGIApp:
    """Allow `origins` to call the API."""
    # Without credentials, since keys are headers.
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=METHODS,
        allow_headers=("*",),
        expose_headers=EXPOSED,
        allow_private_network=True,
    )
