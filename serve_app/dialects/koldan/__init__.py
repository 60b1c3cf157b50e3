"""Koldan's transcriptions: files and jobs, filtered lists, deletion in two steps (deleted, purged)."""

from __future__ import annotations

from serve_app.dialects.koldan.routes import KOLDAN

__all__ = ["KOLDAN"]
