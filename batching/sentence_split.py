"""Splits segments into sentences and clauses."""

# Whisper sets its timestamps freely: often at the end of a sentence, sometimes after three of them or after 20 s.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from batching.types import Segment, Word

LONG_S = 7.0  # longer segments are split between clauses: two subtitle lines are read in about this time
SHORT_S = 0.8  # no split leaves less than this
SENTENCE_ENDS, CLAUSE_ENDS = ".?!…。？！", ",;:—–，、；："
CLOSING = "\"'”’»)」』"
TITLES = frozenset({"mr.", "mrs.", "ms.", "dr.", "st.", "vs.", "prof.", "no.", "m.", "mme.", "hr.", "fr.", "sr.", "sra."})


def count_letters(text: str) -> int:
    """Count characters other than spaces."""
    return sum(map(len, text.split()))


def strip_letters(text: str, before: int, after: int) -> str:
    """Remove letters from both ends; spaces do not count."""
    positions = [i for i, letter in enumerate(text) if not letter.isspace()]
    remaining = positions[before : max(len(positions) - after, 0)]
    return text[remaining[0] : remaining[-1] + 1] if remaining else ""


def mean_confidence(words: Sequence[Word]) -> float:
    return round(sum(word.confidence for word in words) / len(words), 3)


def may_split(segment: Segment) -> bool:
    """Whether `split` could find a boundary, without the word times that it needs."""
    inner = segment.text.rstrip()[:-1]
    marks = SENTENCE_ENDS + (CLAUSE_ENDS if _seconds(segment) > LONG_S else "")
    return _seconds(segment) >= 2 * SHORT_S and any(mark in inner for mark in marks)


def split(segment: Segment) -> list[Segment]:
    """Split into sentences, and a long sentence at the clause nearest to its middle."""
    words = segment.words or ()
    candidates = [i for i in range(1, len(words)) if _leaves_enough(segment, words, i)]
    boundaries = [i for i in candidates if _ends_sentence(words[i - 1], words[i])]
    if not boundaries and _seconds(segment) > LONG_S:
        middle = (segment.start + segment.end) / 2
        clauses = [i for i in candidates if words[i - 1].text.rstrip(CLOSING).endswith(tuple(CLAUSE_ENDS))]
        boundaries = sorted(clauses, key=lambda i: abs(words[i].start - middle))
    if not boundaries:
        return [segment]
    first, rest = _split_at(segment, words, boundaries[0])
    return [*split(first), *split(rest)]


def _split_at(segment: Segment, words: tuple[Word, ...], i: int) -> tuple[Segment, Segment]:
    head = sum(count_letters(word.text) for word in words[:i])
    text = strip_letters(segment.text, 0, count_letters(segment.text) - head)
    end = min(max(words[i - 1].end, segment.start), words[i].start)
    return (
        replace(segment, end=end, text=text, words=words[:i], confidence=mean_confidence(words[:i])),
        replace(
            segment,
            start=words[i].start,
            text=strip_letters(segment.text, head, 0),
            words=words[i:],
            confidence=mean_confidence(words[i:]),
        ),
    )


def _leaves_enough(segment: Segment, words: tuple[Word, ...], i: int) -> bool:
    return words[i - 1].end - segment.start >= SHORT_S and segment.end - words[i].start >= SHORT_S


def _ends_sentence(word: Word, following: Word) -> bool:
    text = word.text.rstrip(CLOSING)
    if not text.endswith(tuple(SENTENCE_ENDS)) or text.lower() in TITLES or following.text[:1].islower():
        return False
    initial = len(text) == 2 and text[0].isascii() and text[1] == "."
    decimal = text[-2:-1].isdigit() and following.text[:1].isdigit()
    return not initial and not decimal


def _seconds(segment: Segment) -> float:
    return segment.end - segment.start
