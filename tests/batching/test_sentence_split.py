"""Splitting segments into sentences and clauses."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batching.sentence_split import LONG_S, count_letters, may_split, split, strip_letters
from batching.types import Segment, Word


def segment_of(text: str, pace_s: float = 0.5, start: float = 10.0) -> Segment:
    """A segment whose words take `pace_s` each, a tenth of that being a pause."""
    words = tuple(Word(w, start + i * pace_s, start + (i + 0.9) * pace_s, 0.8) for i, w in enumerate(text.split()))
    return Segment(0, start, words[-1].end if words else start, f" {text}", 0.5, "en", words, flags=("cut_off",))


def texts(segment: Segment) -> list[str]:
    return [piece.text.strip() for piece in split(segment)]


def test_every_sentence_becomes_a_segment() -> None:
    pieces = split(segment_of("It was late. We went home. Why not?"))
    assert [piece.text.strip() for piece in pieces] == ["It was late.", "We went home.", "Why not?"]
    assert [t for p in pieces for t in (p.start, p.end)] == pytest.approx([10.0, 11.45, 11.5, 12.95, 13.0, 13.95])
    assert [[w.text for w in p.words or ()] for p in pieces][2] == ["Why", "not?"]
    assert all(p.flags == ("cut_off",) and p.confidence == 0.8 and p.language == "en" for p in pieces)


@pytest.mark.parametrize(
    "text",
    [
        "Mr. Smith and Dr. Jones are here today.",
        "He read J. R. R. Tolkien all night.",
        "It costs about 3. 5 of them went.",
        "So it went on... and on it went.",
        "Yes. That is what I said",
        "no marks at all here",
        "one",
        "",
    ],
)
def test_abbreviations_decimals_and_short_sentences_are_not_split(text: str) -> None:
    assert len(split(segment_of(text))) == 1


def test_a_long_sentence_is_split_at_the_clause_nearest_its_middle() -> None:
    text = "when the sun went down, and the wind had died away in the trees, we sat by the fire, all of us"
    pieces = texts(segment_of(text))
    assert pieces == ["when the sun went down, and the wind had died away in the trees,", "we sat by the fire, all of us"]


def test_a_short_sentence_keeps_its_clauses() -> None:
    assert len(split(segment_of("when the sun went down, we sat by the fire"))) == 1


def test_closing_quotes_stay_with_their_sentence() -> None:
    assert texts(segment_of('"We must go." "But where to?" she said.')) == ['"We must go."', '"But where to?" she said.']


def test_languages_without_spaces_are_split_too() -> None:
    words = tuple(
        Word(w, i * 0.5, i * 0.5 + 0.4, 0.9) for i, w in enumerate(["今", "天", "很", "好。", "我", "们", "回", "家。"])
    )
    assert [p.text for p in split(Segment(0, 0.0, 3.9, "今天很好。我们回家。", 0.9, "zh", words))] == [
        "今天很好。",
        "我们回家。",
    ]


def test_a_segment_without_words_is_not_split() -> None:
    segment = Segment(0, 0.0, 20.0, "One. Two three four. Five six.", 0.9)
    assert split(segment) == [segment]


WORDS = st.lists(st.sampled_from(["and", "We", "home.", "late,", "Why?", "Mr.", "«Non!»", "3.", "x"]), max_size=40)


@given(WORDS, st.floats(0.05, 3.0))
def test_no_word_is_lost_and_time_runs_forward(words: list[str], pace_s: float) -> None:
    whole = segment_of(" ".join(words), pace_s)
    pieces = split(whole)
    assert " ".join(texts(whole)) == " ".join(words)
    assert [w for p in pieces for w in p.words or ()] == list(whole.words or ())
    assert (pieces[0].start, pieces[-1].end) == (whole.start, whole.end)
    assert all(p.start <= p.end for p in pieces)
    assert all(before.end <= after.start for before, after in pairwise(pieces))
    assert len(pieces) == 1 or may_split(whole)


@given(WORDS)
def test_a_segment_that_is_still_long_has_no_clause_to_split_at(words: list[str]) -> None:
    for piece in split(segment_of(" ".join(words))):
        if piece.end - piece.start > LONG_S + 1.6:
            inner = (piece.words or ())[1:-2]
            assert not any(w.text.endswith(",") for w in inner if w.end - piece.start > 0.8 < piece.end - w.end)


@given(st.text(max_size=20), st.integers(0, 8), st.integers(0, 8))
def test_letters_are_stripped_from_both_ends(text: str, before: int, after: int) -> None:
    kept = "".join(strip_letters(text, before, after).split())
    assert kept == "".join(text.split())[before : max(count_letters(text) - after, 0)]
