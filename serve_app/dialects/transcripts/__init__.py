"""Transcripts API: one transcript object for status and text, lists with a cursor, a webhook at the end."""

from __future__ import annotations

from serve_app.dialects.transcripts.routes import TRANSCRIPTS

__all__ = ["TRANSCRIPTS"]
