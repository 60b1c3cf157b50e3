"""Voice activity detection: speech, loud or quiet; no silence, tones or noise; in chunks of any size."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from batching.types import SAMPLE_RATE, Span
from deployments.storage.pcm import to_float
from deployments.transcoding.vad import FRAME, Sensitivity, SpeechDetector
from tests.lib.media import decode_at_once
from tests.lib.recordings import Recording, recordings, tone

Floats = NDArray[np.float32]
NO_SPEECH = [r for r in recordings("nonspeech") if r.text == ""]


@pytest.fixture(scope="module")
def speech(ffmpeg: str, sample: Path) -> Floats:
    """Decoded sample recording."""
    return to_float(decode_at_once(ffmpeg, sample))


def spans_of(audio: Floats, chunk: int | None = None, sensitivity: Sensitivity | None = None) -> list[Span]:
    """Detect speech in audio fed `chunk` samples at a time, or at once."""
    detector = SpeechDetector(sensitivity)
    step = chunk or max(len(audio), 1)
    spans = [span for start in range(0, len(audio), step) for span in detector.feed(audio[start : start + step])]
    return spans + detector.finish()


def speech_mask(spans: list[Span], length: int) -> NDArray[np.bool_]:
    """Mask of speech, one value per sample."""
    mask = np.zeros(length, bool)
    for span in spans:
        mask[span.start : span.end] = True
    return mask


def noise(seconds: float, loudness: float) -> Floats:
    return np.asarray(loudness * np.random.default_rng(1).standard_normal(int(seconds * SAMPLE_RATE)), np.float32)


def test_every_sentence_is_found(speech: Floats, sample: Path) -> None:
    mask = speech_mask(spans_of(speech), len(speech))
    for turn in json.loads(sample.with_suffix(".json").read_text())["turns"]:
        start, end = int(turn["start"] * SAMPLE_RATE), int(turn["end"] * SAMPLE_RATE)
        assert mask[start:end].mean() > 0.75, turn["text"]


def test_the_long_pause_is_not_speech(speech: Floats) -> None:
    assert not speech_mask(spans_of(speech), len(speech))[int(28.6 * SAMPLE_RATE) : int(30.5 * SAMPLE_RATE)].any()


def test_spans_are_in_order_and_inside_the_audio(speech: Floats) -> None:
    cut_off = speech[: int(12.3 * SAMPLE_RATE) + 77]
    spans = spans_of(cut_off)
    assert all(span.start < span.end for span in spans)
    assert all(before.end <= after.start for before, after in pairwise(spans))
    assert spans[0].start >= 0
    # It was cut in the middle of a sentence: speech goes on to the last sample.
    assert spans[-1].end == len(cut_off)


@pytest.mark.parametrize(
    "audio",
    [
        np.zeros(5 * SAMPLE_RATE, np.float32),
        np.zeros(100, np.float32),
        np.zeros(0, np.float32),
        tone(5.0),
        tone(5.0, hertz=120.0, peak=0.01),
        noise(5.0, 0.1),
        noise(5.0, 0.0005),
    ],
    ids=["silence", "a moment", "nothing", "tone", "hum", "noise", "hiss"],
)
def test_no_speech_is_found_where_there_is_none(audio: Floats) -> None:
    assert spans_of(audio) == []


@pytest.mark.parametrize("chunk", [777, SAMPLE_RATE // 10, SAMPLE_RATE])
def test_spans_do_not_depend_on_chunk_sizes(speech: Floats, chunk: int) -> None:
    assert spans_of(speech, chunk) == spans_of(speech)


@pytest.mark.parametrize("loudness", [0.01, 0.1, 3.0])
def test_speech_is_found_whether_quiet_or_loud(speech: Floats, loudness: float) -> None:
    usual = speech_mask(spans_of(speech), len(speech))
    scaled = speech_mask(spans_of(np.clip(loudness * speech, -1, 1)), len(speech))
    assert (usual == scaled).mean() > 0.95


@pytest.mark.parametrize("longest_s", [1.0, 2.5])
def test_no_span_is_longer_than_allowed_and_none_is_lost_to_that(speech: Floats, longest_s: float) -> None:
    cut = spans_of(speech, sensitivity=Sensitivity(longest_s=longest_s))
    assert max(span.end - span.start for span in cut) <= longest_s * SAMPLE_RATE
    assert len(cut) > len(spans_of(speech))
    # What lies between two pieces is a pause of one frame.
    assert (speech_mask(cut, len(speech)) == speech_mask(spans_of(speech), len(speech))).mean() > 0.98


class ScriptedVad:
    """Stub of the network with one probability per frame."""

    def __init__(self, *probabilities: float) -> None:
        self.remaining = list(probabilities)

    def __call__(self, audio: Floats) -> Floats:
        frames = len(audio) // FRAME
        probabilities, self.remaining = self.remaining[:frames], self.remaining[frames:]
        return np.array(probabilities, np.float32)


def spans_in_frames(probabilities: list[float], longest: int) -> list[tuple[int, int]]:
    """Spans in frames, where speech may last `longest` frames."""
    limits = Sensitivity(longest_s=longest * FRAME / SAMPLE_RATE)
    detector = SpeechDetector(limits, ScriptedVad(*probabilities))
    spans = detector.feed(np.ones(len(probabilities) * FRAME, np.float32)) + detector.finish()
    return [(span.start // FRAME, span.end // FRAME) for span in spans]


def test_long_speech_is_cut_in_a_pause_of_a_frame_which_belongs_to_neither_piece() -> None:
    probabilities = [0.9] * 30
    probabilities[16] = 0.2
    assert spans_in_frames(probabilities, 20) == [(0, 16), (17, 30)]


def test_an_early_pause_is_better_than_a_cut_in_a_word() -> None:
    probabilities = [0.9] * 30
    probabilities[6] = 0.2
    assert spans_in_frames(probabilities, 20)[0] == (0, 6)


def test_speech_without_any_pause_is_cut_where_it_was_weakest_and_its_pieces_touch() -> None:
    probabilities = [0.9] * 30
    probabilities[17] = 0.6
    assert spans_in_frames(probabilities, 20) == [(0, 17), (17, 30)]


def test_no_span_begins_before_the_analysed_position(speech: Floats) -> None:
    detector = SpeechDetector()
    position = 0
    for start in range(0, len(speech), SAMPLE_RATE):
        spans = detector.feed(speech[start : start + SAMPLE_RATE])
        assert all(span.start >= position for span in spans)
        assert position <= detector.analysed <= start + SAMPLE_RATE
        position = detector.analysed


@pytest.mark.parametrize("recording", NO_SPEECH, ids=lambda r: r.path.name)
def test_recordings_without_speech_have_few_false_positives(ffmpeg: str, recording: Recording) -> None:
    audio = to_float(decode_at_once(ffmpeg, recording.path))
    assert speech_mask(spans_of(audio), len(audio)).mean() < 0.02
