"""Real Whisper on separate channels: each has its own words, although they overlap in time."""

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

LEFT, RIGHT = (0.0, 16.4), (16.4, 36.6)  # part of the sample in each channel, seconds


async def transcribe(engine: Engine, ffmpeg: str, artifacts: Artifacts, source: bytes) -> list[str]:
    """Text of each channel."""
    artifacts.put("source/it", source)
    request = TranscodeRequest("source/it", "pcm", 28.0, 3600.0, channels=True)
    windows = [w async for progress in Transcoder(artifacts, ffmpeg).windows(request) for w in progress.windows]
    transcriber = Transcriber(artifacts, engine)
    text = ["", ""]
    for window in windows:
        options = DecodeOptions(language="en")
        result = await transcriber.transcribe(TranscribeRequest("job", "tenant", 0, "pcm", window, options))
        text[window.channel or 0] += " ".join(segment.text for segment in result.segments) + " "
    return text


async def test_left_and_right_have_their_own_words(
    base: Engine, ffmpeg: str, artifacts: Artifacts, sample: Path, turns: list[dict[str, float | str]]
) -> None:
    whole = decode_at_once(ffmpeg, sample)
    sides = [whole[int(start * 32_000) : int(end * 32_000)] for start, end in (LEFT, RIGHT)]
    texts = await transcribe(base, ffmpeg, artifacts, side_by_side(*sides))
    for text, (start, end) in zip(texts, (LEFT, RIGHT), strict=True):
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
async def test_recordings_of_two_speakers(
    base: Engine, ffmpeg: str, artifacts: Artifacts, name: str, left: str, right: str
) -> None:
    texts = await transcribe(base, ffmpeg, artifacts, recording(name).read_bytes())
    # A small model and one sentence of literature each: only the channel matters.
    assert word_error_rate(left, texts[0]) <= 0.5
    assert word_error_rate(right, texts[1]) <= 0.5 if right else not texts[1].strip()
