"""Results of windows → one timeline, in order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from batching.types import Segment, Word


def stitch(pieces: Iterable[Segment], *, next_id: int, end_s: float, min_confidence: float = 0.0) -> list[Segment]:
    """Number a window's segments from `next_id` and keep them clear of `end_s`, where the timeline ended so far.

    A segment that starts before that is moved, not dropped: its words were heard in audio that no other window holds.
    Those without text and those below `min_confidence` go.
    """
    line: list[Segment] = []
    for piece in pieces:
        text = piece.text.strip()
        if not text or piece.confidence < min_confidence:
            continue
        start = max(round(piece.start, 3), end_s)
        end = max(round(piece.end, 3), start)
        words = piece.words and tuple(_not_before(word, start) for word in piece.words)
        line.append(replace(piece, id=next_id + len(line), start=start, end=end, text=text, words=words))
        end_s = end
    return line


def _not_before(word: Word, start: float) -> Word:
    return word if word.start >= start else replace(word, start=start, end=max(word.end, start))
