"""Speech is Cheap: jobs by URL or upload, streams of JSON or subtitles, errors in plain text."""

from __future__ import annotations

from serve_app.dialects.speechischeap.routes import SPEECH_IS_CHEAP

__all__ = ["SPEECH_IS_CHEAP"]
