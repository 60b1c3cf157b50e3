"""Recordings for tests, and the word error rate."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jiwer
import numpy as np
import pytest
from numpy.typing import NDArray
from whisper_normalizer.english import EnglishTextNormalizer

from batching.types import SAMPLE_RATE

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "tests/samples/two_voices.flac"
# Real recordings whose licences do not allow us to ship them; tests that need them are skipped without them.
RECORDINGS = Path(os.environ.get("MURMUR_RECORDINGS") or ROOT.parent / "shared/audio")


@dataclass(frozen=True, slots=True)
class Recording:
    """Line of the recordings' manifest."""

    path: Path
    set: str
    text: str | None
    duration_s: float | None
    expect: str


def recordings(kind: str) -> list[Recording]:
    """Recordings of a set; none if they are absent."""
    manifest = RECORDINGS / "manifest.jsonl"
    return [r for r in _read(manifest) if r.set == kind] if manifest.is_file() else []


def recording(name: str) -> Path:
    """Path of a recording; skips the test if it is absent."""
    path = RECORDINGS / name
    if not path.is_file():
        pytest.skip(f"the recording {name} is not here")
    return path


def _read(manifest: Path) -> Iterator[Recording]:
    for line in manifest.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        yield Recording(
            RECORDINGS / entry["file"], entry["set"], entry.get("text"), entry.get("duration_s"), entry.get("expect") or ""
        )


def word_error_rate(reference: str, hypothesis: str) -> float:
    """Word error rate after Whisper's English text normalisation."""
    normalise = EnglishTextNormalizer()
    return float(jiwer.wer(normalise(reference), normalise(hypothesis)))


def tone(seconds: float, hertz: float = 440.0, peak: float = 0.3) -> NDArray[np.float32]:
    """Sine wave."""
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return np.asarray(peak * np.sin(2 * np.pi * hertz * time), np.float32)


def s16le(audio: NDArray[np.float32]) -> bytes:
    """Samples in [-1, 1] → bytes."""
    return np.asarray(np.clip(audio, -1, 1) * 32767, "<i2").tobytes()
