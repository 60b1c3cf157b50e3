"""The Transcripts API."""

from __future__ import annotations

from serve_app.dialects.transcripts.routes import TRANSCRIPTS

__all__ = ["TRANSCRIPTS"]
