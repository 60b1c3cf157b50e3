"""Vendor APIs over one core: each is one file or folder here, and one line in DIALECTS."""

from __future__ import annotations

from serve_app.dialects.bifrost import BIFROST
from serve_app.dialects.koldan import KOLDAN
from serve_app.dialects.native import NATIVE
from serve_app.dialects.openai import OPENAI
from serve_app.dialects.shift import SHIFT
from serve_app.dialects.speechischeap import SPEECH_IS_CHEAP
from serve_app.dialects.transcripts import TRANSCRIPTS

DIALECTS = (NATIVE, OPENAI, SHIFT, BIFROST, TRANSCRIPTS, KOLDAN, SPEECH_IS_CHEAP)
