"""Segments as a reader wants them: a sentence each, and of a long one no more than is read at once.

Whisper puts its timestamps where it likes: often at the end of a sentence, sometimes after three, or of twenty seconds.
Words with times say where the rest of the cuts go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from batching.types import Segment, Word

LONG_S = 7.0
"""A segment longer than this is cut between clauses: two lines of a subtitle are read in about so many seconds."""
SHORT_S = 0.8
"""No cut leaves less than this."""
SENTENCE_ENDS, CLAUSE_ENDS = ".?!…。？！", ",;:—–，、；："
CLOSING = "\"'”’»)」』"
TITLES = frozenset({"mr.", "mrs.", "ms.", "dr.", "st.", "vs.", "prof.", "no.", "m.", "mme.", "hr.", "fr.", "sr.", "sra."})


def letters(text: str) -> int:
    """How many there are; spaces are none."""
    return sum(map(len, text.split()))


def without(text: str, before: int, after: int) -> str:
    """`text` without its first `before` and last `after` letters."""
    places = [i for i, letter in enumerate(text) if not letter.isspace()]
    kept = places[before : max(len(places) - after, 0)]
    return text[kept[0] : kept[-1] + 1] if kept else ""


def confidence(words: Sequence[Word]) -> float:
    """That of their text: the mean."""
    return round(sum(word.confidence for word in words) / len(words), 3)


def is_cut(segment: Segment) -> bool:
    """Whether `cut` may find a place, so that its words are wanted."""
    inner = segment.text.rstrip()[:-1]
    marks = SENTENCE_ENDS + (CLAUSE_ENDS if _seconds(segment) > LONG_S else "")
    return _seconds(segment) >= 2 * SHORT_S and any(mark in inner for mark in marks)


def cut(segment: Segment) -> list[Segment]:
    """A segment with its words → one for each of its sentences; a long one falls into clauses, by halves as even as may
    be."""
    words = segment.words or ()
    places = [i for i in range(1, len(words)) if _leaves_enough(segment, words, i)]
    ends = [i for i in places if _ends_sentence(words[i - 1], words[i])]
    if not ends and _seconds(segment) > LONG_S:
        middle = (segment.start + segment.end) / 2
        clauses = [i for i in places if words[i - 1].text.rstrip(CLOSING).endswith(tuple(CLAUSE_ENDS))]
        ends = sorted(clauses, key=lambda i: abs(words[i].start - middle))
    if not ends:
        return [segment]
    first, rest = _halves(segment, words, ends[0])
    return [*cut(first), *cut(rest)]


def _halves(segment: Segment, words: tuple[Word, ...], i: int) -> tuple[Segment, Segment]:
    head = sum(letters(word.text) for word in words[:i])
    first = without(segment.text, 0, letters(segment.text) - head)
    border = min(max(words[i - 1].end, segment.start), words[i].start)
    return (
        replace(segment, end=border, text=first, words=words[:i], confidence=confidence(words[:i])),
        replace(
            segment,
            start=words[i].start,
            text=without(segment.text, head, 0),
            words=words[i:],
            confidence=confidence(words[i:]),
        ),
    )


def _leaves_enough(segment: Segment, words: tuple[Word, ...], i: int) -> bool:
    return words[i - 1].end - segment.start >= SHORT_S and segment.end - words[i].start >= SHORT_S


def _ends_sentence(word: Word, following: Word) -> bool:
    text = word.text.rstrip(CLOSING)
    if not text.endswith(tuple(SENTENCE_ENDS)) or text.lower() in TITLES or following.text[:1].islower():
        return False
    initial = len(text) == 2 and text[0].isascii() and text[1] == "."
    goes_on = text[-2:-1].isdigit() and following.text[:1].isdigit()
    return not initial and not goes_on


def _seconds(segment: Segment) -> float:
    return segment.end - segment.start
