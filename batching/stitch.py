"""Joins the segments of windows into one timeline."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

from batching.sentence_split import count_letters, strip_letters
from batching.types import SAMPLE_RATE, Segment, Window, Word

LONGEST_WORD = 40  # letters; more of them without a space are several words


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
    for segment in _without_overlap(segments, window, end_s) if window and _overlaps(window) else segments:
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


def _overlaps(window: Window) -> bool:
    return window.joined or window.cut is not None


def _without_overlap(segments: Iterable[Segment], window: Window, end_s: float) -> Iterator[Segment]:
    # The middle of a word at a cut decides which window it belongs to.
    # Two decodes time a word slightly differently: the later window goes on from the end of the earlier text, not from
    # the cut.
    since = end_s if window.joined else 0.0
    until = window.cut / SAMPLE_RATE if window.cut is not None else float("inf")
    for segment in segments:
        timed = segment.words or _estimated_words(segment)
        early = [word for word in timed if _middle(word) < since]
        late = [word for word in timed if _middle(word) >= until]
        words = timed[len(early) : len(timed) - len(late)]
        if len(words) == len(timed):
            yield segment
        elif words:
            text = strip_letters(segment.text, _letters(early), _letters(late))
            kept = words if segment.words else segment.words
            yield replace(segment, start=words[0].start, end=words[-1].end, text=text, words=kept)


def _estimated_words(segment: Segment) -> tuple[Word, ...]:
    # Word alignment may fail. A steady pace is close enough to keep a second of overlap from being written twice.
    pieces: Sequence[str] = segment.text.split()
    if len(pieces) == 1 and len(pieces[0]) > LONGEST_WORD:
        pieces = pieces[0]  # a script without spaces
    pace = (segment.end - segment.start) / max(sum(map(len, pieces)), 1)
    ends = list(accumulate((len(piece) * pace for piece in pieces), initial=segment.start))
    return tuple(Word(piece, *times, segment.confidence) for piece, times in zip(pieces, pairwise(ends), strict=True))


def _middle(word: Word) -> float:
    return (word.start + word.end) / 2


def _letters(words: Iterable[Word]) -> int:
    return sum(count_letters(word.text) for word in words)


def _not_before(word: Word, start: float) -> Word:
    return word if word.start >= start else replace(word, start=start, end=max(word.end, start))
