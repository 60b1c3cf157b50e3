"""The API of Speech is Cheap."""

from __future__ import annotations

from serve_app.dialects.speechischeap.routes import SPEECH_IS_CHEAP

__all__ = ["SPEECH_IS_CHEAP"]
