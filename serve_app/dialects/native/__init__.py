"""The native API: jobs, models and webhooks under /v1. Errors are application/problem+json (RFC 9457)."""

from __future__ import annotations

from serve_app.dialects.native.routes import NATIVE

__all__ = ["NATIVE"]
