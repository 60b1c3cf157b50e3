"""Shift's API."""

from __future__ import annotations

from serve_app.dialects.shift.routes import SHIFT

__all__ = ["SHIFT"]
