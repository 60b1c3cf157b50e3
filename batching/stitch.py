"""Results of windows → one timeline, in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from batching.sentence_split import letters, without
from batching.types import SAMPLE_RATE, Segment, Window, Word


def stitch(
    pieces: Iterable[Segment], *, next_id: int, end_s: float, min_confidence: float = 0.0, window: Window | None = None
) -> list[Segment]:
    """Number a window's segments from `next_id` and keep them clear of `end_s`, where the timeline ended so far.

    A segment that starts before that is moved, not dropped: its words were heard in audio that no other window holds.
    Only where `window` overlaps its neighbours, which it does if speech runs on without a pause, words are dropped that
    a neighbour has; its segments must come with words then. Those without text and those below `min_confidence` go.
    """
    line: list[Segment] = []
    for piece in _own(pieces, window, end_s) if window else pieces:
        text = piece.text.strip()
        if not text or piece.confidence < min_confidence:
            continue
        start = max(round(piece.start, 3), end_s)
        end = max(round(piece.end, 3), start)
        words = piece.words and tuple(_not_before(word, start) for word in piece.words)
        line.append(replace(piece, id=next_id + len(line), start=start, end=end, text=text, words=words))
        end_s = end
    return line


def _own(pieces: Iterable[Segment], window: Window, end_s: float) -> Iterator[Segment]:
    """What is the window's own: of a word at a cut the middle decides, and two decodes place it a little differently, so
    the later window goes on from where the earlier one's text did end, not from the cut."""
    since = end_s if window.joined else 0.0
    until = window.cut / SAMPLE_RATE if window.cut is not None else float("inf")
    for piece in pieces:
        if piece.words is None:
            yield piece
            continue
        early = [word for word in piece.words if _middle(word) < since]
        late = [word for word in piece.words if _middle(word) >= until]
        kept = piece.words[len(early) : len(piece.words) - len(late)]
        if len(kept) == len(piece.words):
            yield piece
        elif kept:
            text = without(piece.text, _letters(early), _letters(late))
            yield replace(piece, start=kept[0].start, end=kept[-1].end, text=text, words=kept)


def _middle(word: Word) -> float:
    return (word.start + word.end) / 2


def _letters(words: Iterable[Word]) -> int:
    return sum(letters(word.text) for word in words)


def _not_before(word: Word, start: float) -> Word:
    return word if word.start >= start else replace(word, start=start, end=max(word.end, start))
