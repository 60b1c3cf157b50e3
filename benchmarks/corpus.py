"""Recordings with their references, and how far a text is from one. They are not shipped: MURMUR_RECORDINGS names their
folder, in which `manifest.jsonl` has a line for each."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jiwer
from whisper_normalizer.basic import BasicTextNormalizer
from whisper_normalizer.english import EnglishTextNormalizer

ROOT = Path(__file__).parents[1]
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
    duration_s: float | None
    expect: str


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
            entry.get("duration_s"),
            entry.get("expect") or "",
        )


def error_rate(pairs: Iterable[tuple[str, str]], language: str = "en") -> float:
    """Wrong words per word of the references (letters, in some languages), over all pairs of (reference, heard), normalised
    as Whisper's authors do."""
    normalised = EnglishTextNormalizer() if language == "en" else BasicTextNormalizer()
    references, heard = zip(*((normalised(a), normalised(b)) for a, b in pairs), strict=True)
    if language in BY_LETTER:
        return float(jiwer.cer([_dense(text) for text in references], [_dense(text) for text in heard]))
    return float(jiwer.wer(list(references), list(heard)))


def _dense(text: str) -> str:
    return re.sub(r"\s", "", text)
