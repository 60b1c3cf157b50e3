"""Whisper on channels that were kept apart: each has its own words, although both are said at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments.messages import DecodeOptions, TranscodeRequest, TranscribeRequest
from deployments.storage.artifacts import Artifacts
from deployments.transcoding.stage import Transcoder
from deployments.transcription.engines.base import Engine
from deployments.transcription.stage import Transcriber
from tests.deployments.test_faster_whisper import base, turns
from tests.lib.media import decode_at_once, side_by_side
from tests.lib.recordings import recording, word_error_rate

__all__ = ["base", "turns"]

LEFT, RIGHT = (0.0, 16.4), (16.4, 36.6)
"""What of the sample each channel holds, in seconds."""


async def said(engine: Engine, ffmpeg: str, artifacts: Artifacts, source: bytes) -> list[str]:
    """The text of each channel."""
    artifacts.put("source/it", source)
    asked = TranscodeRequest("source/it", "pcm", 28.0, 3600.0, channels=True)
    windows = [w async for planned in Transcoder(artifacts, ffmpeg).windows(asked) for w in planned.windows]
    transcriber = Transcriber(artifacts, engine)
    text = ["", ""]
    for window in windows:
        request = TranscribeRequest("job", "tenant", 0, "pcm", window, DecodeOptions(language="en"))
        result = await transcriber.transcribe(request)
        text[window.channel or 0] += " ".join(segment.text for segment in result.segments) + " "
    return text


async def test_left_and_right_have_their_own_words(
    base: Engine, ffmpeg: str, artifacts: Artifacts, sample: Path, turns: list[dict[str, float | str]]
) -> None:
    whole = decode_at_once(ffmpeg, sample)
    sides = [whole[int(start * 32_000) : int(end * 32_000)] for start, end in (LEFT, RIGHT)]
    heard = await said(base, ffmpeg, artifacts, side_by_side(*sides))
    for text, (start, end) in zip(heard, (LEFT, RIGHT), strict=True):
        words = " ".join(str(t["text"]) for t in turns if float(t["start"]) >= start and float(t["end"]) <= end)
        assert len(words.split()) > 25
        assert word_error_rate(words, text) <= 0.1


@pytest.mark.parametrize(
    ("name", "left", "right"),
    [
        (
            "stereo/fw_stereo_diarization.wav",
            "He began a confused complaint against the wizard, who had vanished behind the curtain on the left.",
            "The horizon seems extremely distant.",
        ),
        (
            "stereo/crafted_right_silent.flac",
            "Fortunately Warner and the detectives were keeping bachelor hall in the lodge.",
            "",
        ),
    ],
)
async def test_recordings_of_two_sides(
    base: Engine, ffmpeg: str, artifacts: Artifacts, name: str, left: str, right: str
) -> None:
    heard = await said(base, ffmpeg, artifacts, recording(name).read_bytes())
    # A small model, and one sentence of literature each: what matters is who said it.
    assert word_error_rate(left, heard[0]) <= 0.5
    assert word_error_rate(right, heard[1]) <= 0.5 if right else not heard[1].strip()
