"""Speech spans → windows, and remainders of windows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batching.types import SAMPLE_RATE, Span, Window
from batching.windows import WindowLimits, WindowPlanner, remainder

calm = settings(deadline=None)

LONGEST_S = st.sampled_from([6.0, 10.0, 28.0])


def at(seconds: float) -> int:
    """Seconds → sample index."""
    return round(seconds * SAMPLE_RATE)


def spans_of(*seconds: tuple[float, float]) -> list[Span]:
    """Spans from starts and ends in seconds."""
    return [Span(at(start), at(end)) for start, end in seconds]


EVEN = WindowLimits(longest_s=28.0, first_s=28.0)


def plan(spans: Sequence[Span], total: int, limits: WindowLimits = EVEN) -> list[Window]:
    """Windows of spans that are fed at once; the first is no shorter than the rest."""
    planner = WindowPlanner(limits)
    return [*planner.feed(spans, total), *planner.finish(total)]


def plan_seconds(*seconds: tuple[float, float], total: float) -> list[tuple[float, float]]:
    """Starts and ends of windows, all in seconds."""
    windows = plan(spans_of(*seconds), at(total))
    return [(window.start / SAMPLE_RATE, window.end / SAMPLE_RATE) for window in windows]


@st.composite
def speech(draw: st.DrawFn) -> tuple[list[Span], int]:
    """Sorted, disjoint spans and the length of the audio that holds them."""
    gap = st.one_of(st.integers(0, at(0.5)), st.integers(0, at(6)), st.just(at(3)))
    length = st.one_of(st.integers(1, at(3)), st.integers(1, at(20)), st.integers(1, at(70)))
    spans: list[Span] = []
    end = 0
    for silence, seconds in draw(st.lists(st.tuples(gap, length), max_size=12)):
        spans.append(Span(end + silence, end + silence + seconds))
        end = spans[-1].end
    return spans, end + draw(gap)


@calm
@given(speech(), LONGEST_S)
def test_no_window_starts_before_next_start(audio: tuple[list[Span], int], longest_s: float) -> None:
    spans, total = audio
    planner = WindowPlanner(WindowLimits(longest_s=longest_s))
    promised = 0
    for span in spans:
        assert promised <= planner.next_start(span.start)
        promised = planner.next_start(span.start)
        for window in planner.feed([span], span.end):
            assert window.start >= promised
        assert promised <= planner.next_start(span.end)
    promised = planner.next_start(total)
    assert all(window.start >= promised for window in planner.finish(total))


@calm
@given(speech(), LONGEST_S)
def test_no_window_is_longer_than_the_limit(audio: tuple[list[Span], int], longest_s: float) -> None:
    windows = plan(*audio, WindowLimits(longest_s))
    assert all(0 < window.seconds <= longest_s for window in windows)


@calm
@given(speech(), LONGEST_S)
def test_windows_are_numbered_in_order(audio: tuple[list[Span], int], longest_s: float) -> None:
    spans, total = audio
    windows = plan(spans, total, WindowLimits(longest_s))
    assert [window.index for window in windows] == list(range(len(windows)))
    assert all(0 <= window.start < window.end for window in windows)
    for before, after in pairwise(windows):
        assert after.joined == (before.cut is not None)
        assert before.end <= after.start or before.cut is not None
    assert not windows or (not windows[0].joined and windows[-1].cut is None)


@calm
@given(speech(), LONGEST_S)
def test_windows_overlap_only_where_one_span_follows_another_without_a_gap(
    audio: tuple[list[Span], int], longest_s: float
) -> None:
    spans, total = audio
    limits = WindowLimits(longest_s)
    for window, following in pairwise(plan(spans, total, limits)):
        touches = window.speech[-1].end == following.speech[0].start
        assert (window.cut is not None) == touches
        if touches:
            assert window.cut == window.speech[-1].end
            assert window.end == window.cut + at(limits.overlap_s)
            assert following.start == max(window.cut - at(limits.overlap_s), 0)


@calm
@given(speech(), LONGEST_S)
def test_every_sample_of_speech_is_in_a_window_and_only_what_is_around_a_cut_in_two(
    audio: tuple[list[Span], int], longest_s: float
) -> None:
    spans, total = audio
    windows = plan(spans, total, WindowLimits(longest_s))
    for span in spans:
        covered = [
            (max(w.speech[0].start, span.start), min(w.cut or w.end, span.end))
            for w in windows
            if w.speech[0].start < span.end and span.start < (w.cut or w.end)
        ]
        assert covered[0][0] == span.start
        assert covered[-1][1] == span.end
        assert all(before[1] == after[0] for before, after in pairwise(covered))


@calm
@given(speech(), LONGEST_S)
def test_a_window_lists_the_speech_inside_it(audio: tuple[list[Span], int], longest_s: float) -> None:
    spans, total = audio
    windows = plan(spans, total, WindowLimits(longest_s))
    for window in windows:
        assert window.speech
        assert all(window.start <= span.start < span.end <= window.end for span in window.speech)
    named = [span for window in windows for span in window.speech]
    assert sum(span.end - span.start for span in named) == sum(span.end - span.start for span in spans)
    assert all(any(whole.start <= span.start and span.end <= whole.end for whole in spans) for span in named)


@calm
@given(speech(), LONGEST_S, st.data())
def test_windows_do_not_depend_on_how_spans_are_split_into_calls(
    audio: tuple[list[Span], int], longest_s: float, data: st.DataObject
) -> None:
    spans, total = audio
    limits = WindowLimits(longest_s)
    planner = WindowPlanner(limits)
    windows: list[Window] = []
    waiting: list[Span] = []
    for span, after in zip(spans, [*(span.start for span in spans), total][1:], strict=True):
        waiting.append(span)
        for analysed in sorted(data.draw(st.lists(st.integers(span.end, after), max_size=3))):
            windows += planner.feed(waiting, analysed)
            waiting = []
    windows += planner.feed(waiting, total)
    windows += planner.finish(total)
    assert windows == plan(spans, total, limits)


@calm
@given(speech(), LONGEST_S, st.data())
def test_a_plan_that_goes_on_behind_a_window_is_the_rest_of_the_plan(
    audio: tuple[list[Span], int], longest_s: float, data: st.DataObject
) -> None:
    spans, total = audio
    limits = WindowLimits(longest_s)
    windows = plan(spans, total, limits)
    if windows:
        count = data.draw(st.integers(1, len(windows)))
        planner = WindowPlanner(limits, after=windows[count - 1])
        resumed = [window for span in spans for window in planner.feed([span], span.end)]
        resumed += [*planner.feed([], total), *planner.finish(total)]
        assert resumed == windows[count:]


@st.composite
def detected_again(draw: st.DrawFn, spans: list[Span]) -> list[Span]:
    """Spans as another release of the detector may find them: moved edges, lost pauses."""
    again: list[Span] = []
    for span in spans:
        moved = Span(max(span.start + draw(st.integers(-at(0.2), at(0.2))), 0), span.end + draw(st.integers(0, at(0.2))))
        floor = again[-1].end if again else 0
        joined = draw(st.booleans())
        if again and joined and moved.start - floor < at(0.3):
            again[-1] = Span(again[-1].start, max(moved.end, floor))
        elif moved.end > max(moved.start, floor):
            again.append(Span(max(moved.start, floor), moved.end))
    return again


@calm
@given(speech(), LONGEST_S, LONGEST_S, st.data())
def test_a_plan_that_goes_on_with_other_limits_and_spans_loses_and_repeats_nothing(
    audio: tuple[list[Span], int], longest_s: float, then_s: float, data: st.DataObject
) -> None:
    spans, total = audio
    before = plan(spans, total, WindowLimits(longest_s))
    if not before:
        return
    before = before[: data.draw(st.integers(1, len(before)))]
    again, total = data.draw(detected_again(spans)), total + at(1)
    planner = WindowPlanner(WindowLimits(then_s), after=before[-1])
    after = [*planner.feed(again, total), *planner.finish(total)]
    covered = before[-1].end if before[-1].cut is None else before[-1].cut
    named = [span for window in after for span in window.speech]
    rest = [(max(span.start, covered), span.end) for span in again if span.end > covered]
    assert sum(span.end - span.start for span in named) == sum(end - start for start, end in rest)
    assert all(covered <= span.start for span in named)
    assert all(first.end <= second.start for first, second in pairwise(named))
    for window, following in pairwise([before[-1], *after]):
        assert following.joined == (window.cut is not None)
        assert window.end <= following.start or following.joined
        assert following.index == window.index + 1


def test_no_speech_gives_no_window() -> None:
    assert plan([], at(60)) == []


def test_spans_close_together_share_a_window_that_holds_the_silence_between() -> None:
    assert plan_seconds((2, 4), (6, 9), total=20) == [(0.6, 9.8)]


def test_a_span_that_no_longer_fits_opens_the_next_window() -> None:
    assert plan_seconds((2, 20), (21, 30), total=60) == [(0.6, 20.5), (20.5, 30.8)]


def test_padding_takes_the_length_that_speech_leaves() -> None:
    assert plan_seconds((2, 20), (21, 28), total=60) == [(0.6, 28.6)]
    assert plan_seconds((2, 20), (21, 28.6), total=60) == [(1.1, 29.1)]
    assert plan_seconds((2, 20), (21, 29), total=60) == [(1.5, 29.5)]


def test_the_first_window_is_short_where_more_than_a_window_follows() -> None:
    turns = spans_of((1, 5), (6, 9), (10, 20), (21, 23.4))
    (whole,) = plan(turns, at(60), WindowLimits())
    assert whole.speech == tuple(turns)
    turns += spans_of((25, 31))
    windows = plan(turns, at(60), WindowLimits())
    assert [window.speech for window in windows] == [tuple(turns[:2]), tuple(turns[2:])]
    assert (windows[0].end, windows[1].start) == (at(9.5), at(9.5))


def test_a_first_window_holds_a_whole_span_at_least() -> None:
    turns = spans_of((1, 20), (21, 32))
    assert [window.speech for window in plan(turns, at(60), WindowLimits())] == [(turns[0],), (turns[1],)]


def test_a_long_silence_closes_a_window() -> None:
    assert len(plan(spans_of((1, 4), (7, 8)), at(10))) == 2


def test_a_slightly_shorter_silence_does_not() -> None:
    assert len(plan(spans_of((1, 4), (6.99, 8)), at(10))) == 1


def test_a_long_silence_closes_a_window_before_the_next_speech() -> None:
    planner = WindowPlanner()
    assert planner.feed(spans_of((1, 4)), at(6.9)) == []
    assert [window.speech for window in planner.feed([], at(7))] == [tuple(spans_of((1, 4)))]
    assert planner.finish(at(60)) == []


def test_words_between_long_silences_stay_together() -> None:
    """A single word without context is recognised badly, and shows little of its language."""
    words = spans_of((1, 1.5), (5, 5.5), (10, 10.5))
    assert [window.speech for window in plan(words, at(60))] == [tuple(words)]


def test_a_lone_word_waits_for_others_as_long_as_they_would_fit() -> None:
    planner = WindowPlanner(EVEN)
    assert planner.feed(spans_of((1, 1.5)), at(28)) == []
    assert [window.speech for window in planner.feed([], at(28.1))] == [tuple(spans_of((1, 1.5)))]
    assert [window.speech for window in plan(spans_of((1, 1.5), (28.1, 29)), at(60))] == [
        tuple(spans_of((1, 1.5))),
        tuple(spans_of((28.1, 29))),
    ]


def test_a_window_stays_open_while_more_may_fit() -> None:
    planner = WindowPlanner()
    assert planner.feed(spans_of((1, 2)), at(3)) == []
    assert planner.feed(spans_of((4, 6)), at(6)) == []
    assert [window.speech for window in planner.finish(at(7))] == [tuple(spans_of((1, 2), (4, 6)))]


def test_paddings_meet_in_the_middle_of_a_short_pause() -> None:
    assert plan_seconds((2, 20), (20.2, 40), total=60) == [(0.6, 20.1), (20.1, 40.8)]


def test_padding_ends_with_the_audio() -> None:
    (window,) = plan(spans_of((0.1, 5)), at(5))
    assert (window.start, window.end) == (0, at(5))


def test_a_span_that_fills_a_window_is_whole_and_one_sample_more_is_cut() -> None:
    assert plan(spans_of((1, 28)), at(60)) == [Window(0, at(0.5), at(28.5), tuple(spans_of((1, 28))))]
    first, second = plan([Span(at(1), at(28) + 1)], at(60))
    assert (first.speech, first.cut, first.end) == ((Span(at(1), at(28)),), at(28), at(28.5))
    assert (second.speech, second.joined, second.start) == ((Span(at(28), at(28) + 1),), True, at(27.5))


def test_windows_of_unbroken_speech_overlap_around_the_cut() -> None:
    windows = plan(spans_of((10, 90)), at(100))
    assert len(windows) == 3
    assert all(before.end - after.start == at(1) for before, after in pairwise(windows))


@pytest.mark.parametrize("limits", [{"closing_silence_s": 0.8}, {"longest_s": 1.0}])
def test_limits_that_contradict_each_other_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="margins"):
        WindowLimits(**limits)


WINDOW = Window(7, at(1), at(20), tuple(spans_of((1.2, 5), (6, 9), (12, 19))))


def test_the_remainder_begins_a_margin_before_its_speech() -> None:
    assert remainder(WINDOW, at(9.5)) == Window(7, at(11.6), at(20), tuple(spans_of((12, 19))))


def test_the_remainder_does_not_decode_again_what_the_text_covers() -> None:
    assert remainder(WINDOW, at(11.9)) == Window(7, at(11.9), at(20), tuple(spans_of((12, 19))))


def test_a_text_that_ends_within_a_span_leaves_the_rest_of_it() -> None:
    assert remainder(WINDOW, at(7)) == Window(7, at(7), at(20), tuple(spans_of((7, 9), (12, 19))))


@pytest.mark.parametrize("text_end", [18.5, 19, 20, 25])
def test_too_little_speech_after_the_text_is_no_remainder(text_end: float) -> None:
    assert remainder(WINDOW, at(text_end)) is None


def test_the_least_speech_of_a_remainder_can_be_set() -> None:
    assert remainder(WINDOW, at(18.5), least_s=0.5) == Window(7, at(18.5), at(20), tuple(spans_of((18.5, 19))))
    assert remainder(WINDOW, at(9), least_s=7.1) is None


@calm
@given(st.integers(WINDOW.start, WINDOW.end))
def test_a_remainder_lies_between_the_text_and_the_end_of_its_window(text_end: int) -> None:
    rest = remainder(WINDOW, text_end)
    if rest is not None:
        assert text_end <= rest.start < rest.end == WINDOW.end
        assert all(rest.start <= span.start < span.end <= rest.end for span in rest.speech)
        assert sum(s.end - s.start for s in rest.speech) == sum(
            max(0, s.end - max(s.start, text_end)) for s in WINDOW.speech
        )
