"""How much context the encoder is given: a clip and the silence after it, 30 s at most.

What follows the sound is silence: with none the decoder does not find the end and begins to loop. The nearer a context is to
the 30 s that the model was trained with, the less of it is needed.
"""

from __future__ import annotations

from typing import NamedTuple

from deployments.transcription.engines.mel import FRAMES, FRAMES_PER_S

SPARE_S, SPARE_LONG_S = 6.0, 4.0
"""Silence after a clip, and after a long one."""


class Contexts(NamedTuple):
    """Seconds of context that there are, and from which length on a clip is long."""

    steps_s: tuple[int, ...]
    long_s: float


ENGLISH = Contexts((10, 12, 14, 16, 18, 20, 22, 24, 25, 26, 28, 30), 16.0)
ANY = Contexts((10, 12, 14, 16, 18, 20, 25, 26, 28, 30), 19.0)
"""What the model knows less well than English, or may, needs more: with the steps of English, clips of 14 to 19 s lost a
point in Japanese, Portuguese and Spanish (measured with base)."""


def context_frames(seconds: float, language: str | None = None) -> int:
    """Frames of context for a clip of `seconds` in the language that was given, in steps, so that clips of like length
    share a batch."""
    contexts = ENGLISH if language == "en" else ANY
    spare = SPARE_S if seconds < contexts.long_s else SPARE_LONG_S
    return next((s * FRAMES_PER_S for s in contexts.steps_s if s >= seconds + spare), FRAMES)
