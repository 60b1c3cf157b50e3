"""Spans of speech → windows to decode, as the audio arrives.

A window is contiguous audio from the first span it holds to the last: nothing is glued, so a time inside it is a time in
the source. Spans are packed greedily up to the limit; a long silence closes a window early, because silence inside a window
costs as much as speech and invites invented words; but not one of a few words, which nobody understands alone. Windows
overlap only where one span follows another without a gap between them, which is how speech without a pause is cut; `stitch`
then sorts out which of them has which word.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from batching.types import SAMPLE_RATE, Span, Window


@dataclass(frozen=True, slots=True)
class WindowLimits:
    """Seconds: a window's greatest length, which leaves silence after it in the 30 s that Whisper hears, and that of the
    first of several, which shows what language it is and whose text somebody waits for; the silence that closes it, once
    it holds so much speech; the margins kept before and after speech, where that long nobody else speaks and the length
    allows it; and the speech heard beyond a cut without a pause. Whisper understands a recording's first and last words
    better with the silence around them: with 1.4 and 0.8 s instead of 0.4 a quarter fewer words were wrong in
    Portuguese, a fiftieth in long recordings (base)."""

    longest_s: float = 24.0
    first_s: float = 10.0
    closing_silence_s: float = 3.0
    closing_speech_s: float = 3.0
    before_s: float = 1.4
    after_s: float = 0.8
    overlap_s: float = 0.5

    def __post_init__(self) -> None:
        if self.longest_s <= 2 * self.overlap_s or self.closing_silence_s < 2 * self.after_s:
            raise ValueError("a window must be longer than two overlaps, the silence that closes it than two margins")

    @property
    def longest_span_s(self) -> float:
        """The longest span that fits into a window, whatever comes before and after it."""
        return self.longest_s - 2 * self.overlap_s


class WindowPlanner:
    """Feeds on spans in order, gives windows in order. Its decisions depend on the spans alone, never on how they
    were handed over, so a job that is planned again gets the same windows."""

    def __init__(self, limits: WindowLimits | None = None) -> None:
        limits = limits or WindowLimits()
        self._longest = int(limits.longest_s * SAMPLE_RATE)
        self._first = int(min(limits.first_s, limits.longest_s) * SAMPLE_RATE)
        self._room = int(limits.longest_span_s * SAMPLE_RATE)
        self._silence = int(limits.closing_silence_s * SAMPLE_RATE)
        self._speech = int(limits.closing_speech_s * SAMPLE_RATE)
        self._before = int(limits.before_s * SAMPLE_RATE)
        self._after = int(limits.after_s * SAMPLE_RATE)
        self._overlap = int(limits.overlap_s * SAMPLE_RATE)
        self._open: list[Span] = []
        self._joined = False
        self._floor = 0
        self._index = 0

    def feed(self, spans: Iterable[Span], heard: int) -> list[Window]:
        """Take the spans found since the last call; `heard` samples have been listened to. Returns what closed."""
        closed = [window for span in spans for piece in self._cut(span) for window in self._place(piece)]
        if self._open and self._is_done(heard):
            closed.append(self._close(heard))
        return closed

    def finish(self, total: int) -> list[Window]:
        """The audio ended after `total` samples: close what is open."""
        return [self._close(total)] if self._open else []

    def next_start(self, heard: int) -> int:
        """Where the next window will start, at the earliest, if `heard` samples have been listened to."""
        return self._start(*((self._open[0].start, self._open[-1].end) if self._open else (heard, heard)))

    def _start(self, first: int, last: int) -> int:
        """Of a window whose speech goes from `first` to `last`."""
        margin = min(self._before, self._longest - self._overlap - (last - first))
        return max(first - self._overlap if self._joined else max(first - margin, self._floor), 0)

    def _cut(self, span: Span) -> Iterator[Span]:
        """A span longer than a window, in pieces that fit. The speech detector cuts in a pause where there is one;
        what is still too long here has none."""
        start = span.start
        while span.end - start > self._room:
            yield Span(start, start + self._room)
            start += self._room
        yield Span(start, span.end)

    def _place(self, span: Span) -> Iterator[Window]:
        if self._open and self._is_done(span.start):
            yield self._close(span.start)
        if self._open and self._length(span.end) > self._longest:
            if not self._index:
                yield from self._begin()
            if self._length(span.end) > self._longest:
                yield self._close(span.start, runs_on=span.start == self._open[-1].end)
        self._open.append(span)

    def _is_done(self, silent_until: int) -> bool:
        """Whether the silence after the window that is open closes it: it holds enough, or can take no more."""
        if silent_until - self._open[-1].end < self._silence:
            return False
        held = sum(span.end - span.start for span in self._open)
        return held >= self._speech or self._length(silent_until) > self._longest

    def _length(self, end: int) -> int:
        """Of the window that is open, if it went on to `end`, at the least."""
        return end - self._open[0].start + 2 * self._overlap

    def _begin(self) -> Iterator[Window]:
        """Speech that fills more than a window has begun: the beginning of it goes ahead, and somebody reads it soon. What
        fits into one window stays whole, it is understood better so."""
        fitting = max(sum(self._length(span.end) <= self._first for span in self._open), 1)
        ahead, rest = self._open[:fitting], self._open[fitting:]
        if rest:
            self._open = ahead
            yield self._close(rest[0].start, runs_on=rest[0].start == ahead[-1].end)
            self._open = rest

    def _close(self, ceiling: int, runs_on: bool = False) -> Window:
        """The open spans as a window, with a margin that stays clear of its neighbours' speech, or reaches into it where
        speech runs on."""
        first, last = self._open[0], self._open[-1]
        start = self._start(first.start, last.end)
        after = min(self._after, start + self._longest - last.end)
        end = min(last.end + after, max(last.end, (last.end + ceiling) // 2))
        if runs_on:
            end = last.end + self._overlap
        window = Window(self._index, start, end, tuple(self._open), self._joined, cut=last.end if runs_on else None)
        self._index += 1
        self._floor = end
        self._joined = runs_on
        self._open = []
        return window


def remainder(window: Window, heard: int, least_s: float = 0.6, margin_s: float = 0.4) -> Window | None:
    """What is left of a window whose text ends at sample `heard`: Whisper in timestamp mode may stop before the speech
    does. None where less than `least_s` of detected speech follows."""
    left = tuple(Span(max(span.start, heard), span.end) for span in window.speech if span.end > heard)
    if not left or sum(span.end - span.start for span in left) < least_s * SAMPLE_RATE:
        return None
    start = max(left[0].start - int(margin_s * SAMPLE_RATE), heard)
    return replace(window, start=start, speech=left)
