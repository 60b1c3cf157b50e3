"""Koldan's API."""

from __future__ import annotations

from serve_app.dialects.koldan.routes import KOLDAN

__all__ = ["KOLDAN"]
