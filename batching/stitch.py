"""Joins the segments of windows into one timeline."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from batching.sentence_split import count_letters, strip_letters
from batching.types import SAMPLE_RATE, Segment, Window, Word


def stitch(
    segments: Iterable[Segment],
    *,
    next_id: int,
    end_s: float,
    min_confidence: float = 0.0,
    window: Window | None = None,
) -> list[Segment]:
    """Number a window's segments from `next_id` and keep them behind `end_s`, the end of the timeline so far."""
    timeline: list[Segment] = []
    for segment in _without_overlap(segments, window, end_s) if window else segments:
        text = segment.text.strip()
        if not text or segment.confidence < min_confidence:
            continue
        # A segment that starts too early is moved, not dropped: no other window has its words.
        start = max(round(segment.start, 3), end_s)
        end = max(round(segment.end, 3), start)
        words = segment.words and tuple(_not_before(word, start) for word in segment.words)
        timeline.append(replace(segment, id=next_id + len(timeline), start=start, end=end, text=text, words=words))
        end_s = end
    return timeline


def _without_overlap(segments: Iterable[Segment], window: Window, end_s: float) -> Iterator[Segment]:
    # The middle of a word at a cut decides which window it belongs to.
    # Two decodes time a word slightly differently: the later window goes on from the end of the earlier text, not from
    # the cut.
    since = end_s if window.joined else 0.0
    until = window.cut / SAMPLE_RATE if window.cut is not None else float("inf")
    for segment in segments:
        if segment.words is None:
            yield segment
            continue
        early = [word for word in segment.words if _middle(word) < since]
        late = [word for word in segment.words if _middle(word) >= until]
        words = segment.words[len(early) : len(segment.words) - len(late)]
        if len(words) == len(segment.words):
            yield segment
        elif words:
            text = strip_letters(segment.text, _letters(early), _letters(late))
            yield replace(segment, start=words[0].start, end=words[-1].end, text=text, words=words)


def _middle(word: Word) -> float:
    return (word.start + word.end) / 2


def _letters(words: Iterable[Word]) -> int:
    return sum(count_letters(word.text) for word in words)


def _not_before(word: Word, start: float) -> Word:
    return word if word.start >= start else replace(word, start=start, end=max(word.end, start))
