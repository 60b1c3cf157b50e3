"""Segments of windows → one timeline."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batching.stitch import stitch
from batching.types import SAMPLE_RATE, Segment, Window, Word


def piece(start: float, end: float, text: str = "text", confidence: float = 0.9) -> Segment:
    """A segment as an engine gives it."""
    return Segment(0, start, end, text, confidence)


def test_segments_are_numbered_on_from_the_last_window() -> None:
    timeline = stitch([piece(10, 11), piece(11, 12)], next_id=5, end_s=9)
    assert [segment.id for segment in timeline] == [5, 6]


def test_segments_that_do_not_overlap_keep_their_times() -> None:
    timeline = stitch([piece(10.5, 11), piece(12, 13)], next_id=0, end_s=9)
    assert [(segment.start, segment.end) for segment in timeline] == [(10.5, 11), (12, 13)]


def test_a_segment_that_starts_before_the_timelines_end_is_moved_to_it() -> None:
    timeline = stitch([piece(8, 11)], next_id=0, end_s=9)
    assert [(segment.start, segment.end) for segment in timeline] == [(9, 11)]


def test_a_segment_wholly_before_the_timelines_end_keeps_its_words() -> None:
    timeline = stitch([piece(7, 8, "kept")], next_id=0, end_s=9)
    assert [(segment.start, segment.end, segment.text) for segment in timeline] == [(9, 9, "kept")]


def test_segments_of_one_window_do_not_overlap_either() -> None:
    timeline = stitch([piece(0, 5), piece(3, 4), piece(4, 7)], next_id=0, end_s=0)
    assert [(segment.start, segment.end) for segment in timeline] == [(0, 5), (5, 5), (5, 7)]


def test_text_is_stripped_and_empty_segments_leave_no_gap_in_the_ids() -> None:
    timeline = stitch([piece(0, 1, " one "), piece(1, 2, "  \n"), piece(2, 3, ""), piece(3, 4, "two\n")], next_id=0, end_s=0)
    assert [(segment.id, segment.text) for segment in timeline] == [(0, "one"), (1, "two")]


def test_dropped_segments_move_no_other() -> None:
    timeline = stitch([piece(0, 9, ""), piece(0, 9, confidence=0.1), piece(1, 2)], next_id=0, end_s=0, min_confidence=0.5)
    assert [(segment.start, segment.end) for segment in timeline] == [(1, 2)]


def test_segments_below_the_minimum_confidence_are_dropped() -> None:
    pieces = [piece(0, 1, "unsure", 0.49), piece(1, 2, "just", 0.5), piece(2, 3, "sure", 0.9)]
    assert [segment.text for segment in stitch(pieces, next_id=0, end_s=0, min_confidence=0.5)] == ["just", "sure"]


def test_without_a_minimum_confidence_all_segments_stay() -> None:
    assert len(stitch([piece(0, 1, confidence=0.0)], next_id=0, end_s=0)) == 1


def test_other_fields_of_a_segment_are_unchanged() -> None:
    segment = Segment(0, 1.0, 2.0, "ja", 0.7, language="de", speaker="S1", channel=1, flags=("repetitive",))
    assert stitch([segment], next_id=0, end_s=0) == [segment]


def test_times_are_whole_milliseconds() -> None:
    (segment,) = stitch([piece(1.23449, 2.34551)], next_id=0, end_s=0)
    assert (segment.start, segment.end) == (1.234, 2.346)


def test_a_silent_window_adds_nothing() -> None:
    assert stitch([], next_id=3, end_s=10) == []


SECONDS = st.floats(0, 100)
PIECES = st.lists(st.builds(piece, SECONDS, SECONDS, st.sampled_from(["word", " ", ""]), st.floats(0, 1)), max_size=10)


@given(st.lists(PIECES, max_size=4), st.floats(0, 1))
def test_a_timeline_of_many_windows_runs_forward_only(windows: list[list[Segment]], min_confidence: float) -> None:
    timeline: list[Segment] = []
    for pieces in windows:
        end_s = timeline[-1].end if timeline else 0.0
        timeline += stitch(pieces, next_id=len(timeline), end_s=end_s, min_confidence=min_confidence)
    assert [segment.id for segment in timeline] == list(range(len(timeline)))
    edges = [time for segment in timeline for time in (segment.start, segment.end)]
    assert edges == sorted(edges)


@given(PIECES, st.floats(0, 1))
def test_no_text_of_enough_confidence_is_lost(pieces: list[Segment], min_confidence: float) -> None:
    timeline = stitch(pieces, next_id=0, end_s=50, min_confidence=min_confidence)
    assert [s.text for s in timeline] == [p.text for p in pieces if p.text.strip() and p.confidence >= min_confidence]


def segment_of(*words: tuple[str, float, float]) -> Segment:
    """A segment of words with their times."""
    timeline = tuple(Word(text, start, end, 0.9) for text, start, end in words)
    return Segment(0, timeline[0].start, timeline[-1].end, " " + " ".join(w.text for w in timeline), 0.9, "en", timeline)


def cut_at(seconds: float) -> Window:
    return Window(0, 0, int((seconds + 0.5) * SAMPLE_RATE), (), cut=int(seconds * SAMPLE_RATE))


JOINED = Window(1, 0, 0, (), joined=True)


def test_words_that_both_windows_have_around_a_cut_appear_once() -> None:
    before = segment_of(("the", 8.0, 8.3), ("quick", 8.4, 9.1), ("brown", 9.1, 9.5))
    after = segment_of(("quick", 8.6, 9.0), ("brown", 9.1, 9.5), ("fox.", 9.6, 10.0))
    timeline = stitch([before], next_id=0, end_s=0.0, window=cut_at(9.0))
    timeline += stitch([after], next_id=1, end_s=timeline[-1].end, window=JOINED)
    assert [(s.text, s.start, s.end) for s in timeline] == [("the quick", 8.0, 9.1), ("brown fox.", 9.1, 10.0)]


def test_a_word_that_both_windows_time_differently_is_neither_lost_nor_doubled() -> None:
    for shift in (-0.2, -0.1, 0.0, 0.1, 0.2):
        before = segment_of(("one", 8.0, 8.5), ("two", 8.8, 9.1))
        after = segment_of(("two", 8.8 + shift, 9.1 + shift), ("three", 9.4 + shift, 9.8))
        timeline = stitch([before], next_id=0, end_s=0.0, window=cut_at(9.0))
        timeline += stitch([after], next_id=1, end_s=timeline[-1].end, window=JOINED)
        assert " ".join(s.text for s in timeline) in ("one two three", "one two two three")
        assert abs(shift) > 0.1 or " ".join(s.text for s in timeline) == "one two three"


def test_a_word_that_only_the_later_window_has_is_kept() -> None:
    timeline = stitch([segment_of(("one", 8.0, 8.3))], next_id=0, end_s=0.0, window=cut_at(9.0))
    timeline += stitch(
        [segment_of(("two", 8.6, 8.9), ("three", 9.2, 9.5))], next_id=1, end_s=timeline[-1].end, window=JOINED
    )
    assert [s.text for s in timeline] == ["one", "two three"]


def test_a_segment_whose_words_all_belong_to_the_neighbour_is_dropped() -> None:
    pieces = [segment_of(("mine", 8.0, 8.5)), segment_of(("theirs", 9.1, 9.4))]
    assert [s.text for s in stitch(pieces, next_id=0, end_s=0.0, window=cut_at(9.0))] == ["mine"]


def test_windows_that_do_not_overlap_keep_words_that_begin_early() -> None:
    timeline = stitch([segment_of(("early", 8.0, 8.5))], next_id=0, end_s=9.0, window=Window(1, 0, 0, ()))
    assert [s.text for s in timeline] == ["early"]


@pytest.mark.parametrize("words", [None, ()])
def test_text_around_a_cut_appears_once_although_its_words_have_no_times(words: tuple[()] | None) -> None:
    before = Segment(0, 0.0, 10.0, " one two three four five six seven eight nine tenx", 0.9, "en", words)
    after = Segment(0, 8.0, 12.0, " nine tenx elev twel", 0.9, "en", words)
    timeline = stitch([before], next_id=0, end_s=0.0, window=cut_at(9.0))
    timeline += stitch([after], next_id=1, end_s=timeline[-1].end, window=JOINED)
    assert " ".join(s.text for s in timeline) == "one two three four five six seven eight nine tenx elev twel"
    assert [s.words for s in timeline] == [words, words]


def test_text_without_spaces_and_word_times_is_divided_at_the_cut() -> None:
    text = "".join(chr(0x4E00 + n) for n in range(50))
    before, after = Segment(0, 0.0, 10.0, text, 0.9, "zh", ()), Segment(0, 8.0, 18.0, text[40:] + text[:40], 0.9, "zh", ())
    timeline = stitch([before], next_id=0, end_s=0.0, window=cut_at(9.0))
    timeline += stitch([after], next_id=1, end_s=timeline[-1].end, window=JOINED)
    assert "".join(s.text for s in timeline) == text + text[:40]


def test_a_segment_without_words_that_lies_in_the_neighbour_is_dropped() -> None:
    theirs = Segment(0, 9.1, 9.5, " theirs", 0.9, "en", ())
    assert stitch([theirs], next_id=0, end_s=0.0, window=cut_at(9.0)) == []
