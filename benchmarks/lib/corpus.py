"""Recordings with reference texts from MURMUR_RECORDINGS/manifest.jsonl, and the word error rate."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jiwer
import zhconv
from whisper_normalizer.basic import BasicTextNormalizer
from whisper_normalizer.english import EnglishTextNormalizer

from benchmarks.lib.harness import ROOT, SAMPLE, concatenate, looped

RECORDINGS = Path(os.environ.get("MURMUR_RECORDINGS") or ROOT.parent / "shared/audio")
# Languages without word boundaries, or with ambiguous ones: characters are counted instead of words.
CHARACTER_LANGUAGES = ("zh", "ja", "ko")
LOOPS = 5


@dataclass(frozen=True, slots=True)
class Recording:
    """Line of the manifest."""

    path: Path
    set: str
    language: str | None
    text: str | None
    duration_s: float


def recordings(kind: str) -> list[Recording]:
    """Recordings of a set; empty without a manifest."""
    manifest = RECORDINGS / "manifest.jsonl"
    return [r for r in _read(manifest) if r.set == kind] if manifest.is_file() else []


def _read(manifest: Path) -> Iterator[Recording]:
    for line in manifest.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        yield Recording(
            RECORDINGS / entry["file"],
            entry["set"],
            entry.get("language"),
            entry.get("text"),
            entry.get("duration_s") or 0.0,
        )


def short_clips() -> list[Recording]:
    """Utterances of LibriSpeech, or copies of the shipped sample."""
    clips = [r for r in recordings("short") if "librispeech" in str(r.path)]
    return clips or [_sample() for _ in range(6)]


def long_files(folder: Path) -> list[Recording]:
    """Long recordings with reference text, or the shipped sample looped."""
    long = [r for r in recordings("long") if r.text]
    if long:
        return long
    sample = _sample()
    duration_s = LOOPS * sample.duration_s
    path = looped(sample.path, duration_s, folder / "looped.mp3")
    return [replace(sample, path=path, text=" ".join([sample.text or ""] * LOOPS), duration_s=duration_s)]


def joined(clips: Sequence[Recording], path: Path) -> Recording:
    concatenate([clip.path for clip in clips], path)
    text = " ".join(clip.text or "" for clip in clips)
    return replace(clips[0], path=path, text=text, duration_s=sum(clip.duration_s for clip in clips))


def _sample() -> Recording:
    seconds = json.loads(SAMPLE.with_suffix(".json").read_text(encoding="utf-8"))["duration_s"]
    return Recording(SAMPLE, "sample", "en", SAMPLE.with_suffix(".txt").read_text(encoding="utf-8"), seconds)


def error_rate(recordings: Iterable[Recording], texts: Iterable[str]) -> float:
    """Word error rate over all recordings, after the Whisper normaliser."""
    pairs = [_normalised(r.language or "en", r.text or "", text) for r, text in zip(recordings, texts, strict=True)]
    references, hypotheses = map(list, zip(*pairs, strict=True))
    return float(jiwer.wer(references, hypotheses))


def _normalised(language: str, *texts: str) -> list[str]:
    normalise = EnglishTextNormalizer() if language == "en" else BasicTextNormalizer()
    normalised = [normalise(zhconv.convert(text, "zh-cn") if language == "zh" else text) for text in texts]
    if language in CHARACTER_LANGUAGES:  # jiwer counts words: make each character one
        return [" ".join(re.sub(r"\s", "", text)) for text in normalised]
    return normalised
