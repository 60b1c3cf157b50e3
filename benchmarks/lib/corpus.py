"""Recordings with their references, and how far a text is from one. They are not shipped: MURMUR_RECORDINGS names their
folder, in which `manifest.jsonl` has a line for each."""

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
BY_LETTER = ("zh", "ja", "ko")
"""Languages whose words are not apart, or are put apart in many ways: their letters are counted."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A line of the manifest."""

    path: Path
    set: str
    language: str | None
    text: str | None
    duration_s: float


def recordings(kind: str) -> list[Recording]:
    """The recordings of a set, none where they are absent."""
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
    """Utterances of LibriSpeech; where they are absent, the shipped sample some times over."""
    clips = [r for r in recordings("short") if "librispeech" in str(r.path)]
    return clips or [_sample() for _ in range(6)]


def long_files(folder: Path) -> list[Recording]:
    """Long recordings with their text; where they are absent, the shipped sample looped, which is put into `folder`."""
    found = [r for r in recordings("long") if r.text]
    if found:
        return found
    once = _sample()
    times = 5
    path = looped(once.path, times * once.duration_s, folder / "looped.mp3")
    return [replace(once, path=path, text=" ".join([once.text or ""] * times), duration_s=times * once.duration_s)]


def joined(clips: Sequence[Recording], path: Path) -> Recording:
    """Recordings one after another as one."""
    concatenate([clip.path for clip in clips], path)
    text = " ".join(clip.text or "" for clip in clips)
    return replace(clips[0], path=path, text=text, duration_s=sum(clip.duration_s for clip in clips))


def _sample() -> Recording:
    seconds = json.loads(SAMPLE.with_suffix(".json").read_text(encoding="utf-8"))["duration_s"]
    return Recording(SAMPLE, "sample", "en", SAMPLE.with_suffix(".txt").read_text(encoding="utf-8"), seconds)


def error_rate(recordings: Iterable[Recording], texts: Iterable[str]) -> float:
    """Wrong words per word of the references (letters, in some languages), over all, normalised as Whisper's authors do."""
    pairs = [_normalised(r.language or "en", r.text or "", text) for r, text in zip(recordings, texts, strict=True)]
    references, heard = map(list, zip(*pairs, strict=True))
    return float(jiwer.wer(references, heard))


def _normalised(language: str, *texts: str) -> list[str]:
    """Where letters count, each is made a word."""
    normalise = EnglishTextNormalizer() if language == "en" else BasicTextNormalizer()
    plain = [normalise(zhconv.convert(text, "zh-cn") if language == "zh" else text) for text in texts]
    return [" ".join(re.sub(r"\s", "", text)) for text in plain] if language in BY_LETTER else plain
