"""Parts of the Whisper engine: device choice, encoder context, timestamp tokens, word alignment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ctranslate2
import pytest

from batching.types import Segment
from deployments.errors import ModelUnavailable
from deployments.transcription.engines import load
from deployments.transcription.engines.base import Decode, EngineConfig
from deployments.transcription.engines.encoder_context import context_frames
from deployments.transcription.engines.faster_whisper import choose_compute_type, choose_device
from deployments.transcription.engines.token_timestamps import split_at_timestamps, with_words


@pytest.mark.parametrize(
    ("gpus", "requested", "device"),
    [(0, "auto", "cpu"), (0, "cpu", "cpu"), (1, "auto", "cuda"), (1, "cuda", "cuda"), (1, "cpu", "cpu")],
)
def test_devices_are_chosen(monkeypatch: pytest.MonkeyPatch, gpus: int, requested: str, device: str) -> None:
    monkeypatch.setattr(ctranslate2, "get_cuda_device_count", lambda: gpus)
    assert choose_device(requested) == device


def test_cuda_without_a_gpu_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ctranslate2, "get_cuda_device_count", lambda: 0)
    with pytest.raises(ModelUnavailable, match="cuda"):
        choose_device("cuda")
    with pytest.raises(ModelUnavailable, match="cuda"):
        load(EngineConfig("faster_whisper", "base", str(tmp_path), device="cuda"))


@pytest.mark.parametrize(
    ("requested", "device", "chosen"), [("int8", "cpu", "int8"), ("auto", "cuda", "float16"), ("float32", "cpu", "float32")]
)
def test_compute_types_are_chosen(requested: str, device: str, chosen: str) -> None:
    assert choose_compute_type(requested, device) == chosen


@pytest.mark.parametrize(
    ("seconds", "context_s"),
    [(0.1, 10), (4.0, 10), (4.1, 12), (14.0, 20), (18.9, 25), (19.0, 25), (22.0, 26), (24.0, 28), (30.0, 30)],
)
def test_the_encoder_context_is_a_clip_and_some_silence(seconds: float, context_s: int) -> None:
    assert context_frames(seconds) == context_frames(seconds, "ja") == 100 * context_s


def test_english_needs_no_more_context_than_other_languages() -> None:
    contexts = [(context_frames(length / 10, "en"), context_frames(length / 10)) for length in range(301)]
    assert all(english <= other for english, other in contexts)
    assert any(english < other for english, other in contexts)


def at(seconds: float) -> int:
    """Timestamp token; the first is 1000."""
    return 1000 + round(seconds / 0.02)


@pytest.mark.parametrize(
    ("tokens", "sentences", "ends_at"),
    [
        ([], [], None),
        ([at(0)], [], None),
        ([at(0), 1, 2, at(2)], [(0, 2, [1, 2])], 2),
        ([at(1), 1, at(2), at(2), 2, at(4)], [(1, 2, [1]), (2, 4, [2])], 4),
        ([at(1), 1, at(2), at(3), 2, at(4)], [(1, 2, [1]), (3, 4, [2])], 4),
        # A sentence that goes on at the end has no end of its own.
        ([at(0), 1, at(2), at(2), 2], [(0, 2, [1]), (2, 10, [2])], None),
        ([1, 2], [(0, 10, [1, 2])], None),
        ([at(0), 1, at(2), at(2)], [(0, 2, [1])], 2),
        # Nothing is later than the clip.
        ([at(0), 1, at(20)], [(0, 10, [1])], 10),
    ],
)
def test_tokens_are_split_at_timestamps(
    tokens: list[int], sentences: list[tuple[float, float, list[int]]], ends_at: float | None
) -> None:
    split, end = split_at_timestamps(tokens, 1000, 10.0)
    assert [words for _, _, words in split] == [words for _, _, words in sentences]
    assert [begin for begin, _, _ in split] == pytest.approx([begin for begin, _, _ in sentences])
    assert [stop for _, stop, _ in split] == pytest.approx([stop for _, stop, _ in sentences])
    assert end == pytest.approx(ends_at)


def aligned(*words: str) -> list[dict[str, Any]]:
    """Words as faster-whisper aligns them, one per second."""
    return [{"word": w, "start": float(i), "end": i + 0.5, "probability": 0.5} for i, w in enumerate(words)]


@pytest.mark.parametrize(
    ("texts", "words", "assigned"),
    [
        ([" one two", " three"], [" one", " two", " three"], [["one", "two"], ["three"]]),
        ([" Yes, it is."], [" Yes,", "", " it", " is.", ""], [["Yes,", "it", "is."]]),
        ([" one", " two"], [" one"], [["one"], []]),
        ([" one"], [], [[]]),
        ([], [" one"], []),
    ],
)
def test_words_go_to_the_segments_that_hold_them(texts: list[str], words: list[str], assigned: list[list[str]]) -> None:
    segments = tuple(Segment(0, float(i), i + 1.0, text, 0.9, "en") for i, text in enumerate(texts))
    decode = with_words(Decode(segments, "en", -0.2, 0.0, 9, 2.0), aligned(*words))
    assert [[word.text for word in segment.words or ()] for segment in decode.segments] == assigned
    assert [segment.text for segment in decode.segments] == texts
    assert [segment.confidence for segment in decode.segments] == [0.5 if own else 0.9 for own in assigned]
    assert (decode.log_probability, decode.tokens, decode.ends_at) == (-0.2, 9, 2.0)


def test_words_keep_their_times() -> None:
    decode = with_words(Decode((Segment(0, 0.0, 2.0, " one two", 0.9),), "en", -0.2, 0.0, 2), aligned(" one", " two"))
    assert [(w.start, w.end) for w in decode.segments[0].words or ()] == [(0.0, 0.5), (1.0, 1.5)]


@pytest.mark.parametrize(
    ("texts", "words", "assigned"),
    [
        (["甚至出现", "停滞"], ["甚", "至", "出", "现", "停", "滞"], [["甚", "至", "出", "现"], ["停", "滞"]]),
        ([" a half-hour I", " said"], [" a", " half", "-hour", " I", " said"], [["a", "half", "-hour", "I"], ["said"]]),
        ([" one-two-three of", " it"], [" one", "-two", "-three", " of", " it"], [["one", "-two", "-three", "of"], ["it"]]),
    ],
)
def test_words_without_spaces_go_to_the_segments_that_hold_them(
    texts: list[str], words: list[str], assigned: list[list[str]]
) -> None:
    segments = tuple(Segment(0, float(i), i + 1.0, text, 0.9) for i, text in enumerate(texts))
    decode = with_words(Decode(segments, "zh", -0.2, 0.0, 9, 2.0), aligned(*words))
    assert [[word.text for word in segment.words or ()] for segment in decode.segments] == assigned
