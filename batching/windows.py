"""Plans windows from speech spans as audio arrives."""

# Spans are packed greedily into contiguous audio: a time in a window is a time in the source. Windows overlap only where
# speech runs on without a pause; `stitch` resolves which of the two has which word.

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from batching.types import SAMPLE_RATE, Span, Window


@dataclass(frozen=True, slots=True)
class WindowLimits:
    """Lengths in seconds. Raises ValueError where they contradict each other."""

    # Longest window: leaves silence after it in the 30 s that Whisper takes.
    longest_s: float = 24.0
    # Longest first window of several: its text is the latency to the first segment, its language seeds the vote.
    first_s: float = 10.0
    # Silence that closes a window, once it holds this much speech: silence inside costs as much as speech and invites
    # hallucination, but a few words without context are recognised badly.
    closing_silence_s: float = 3.0
    closing_speech_s: float = 3.0
    # Padding around speech, where length and neighbours allow. With 1.4 and 0.8 s instead of 0.4 s there were 25 % fewer
    # wrong words in Portuguese clips, 2 % fewer in long recordings (base).
    before_s: float = 1.4
    after_s: float = 0.8
    # Audio decoded on both sides of a cut in unbroken speech.
    overlap_s: float = 0.5

    def __post_init__(self) -> None:
        if self.longest_s <= 2 * self.overlap_s or self.closing_silence_s < 2 * self.after_s:
            raise ValueError("a window must be longer than two overlaps, the silence that closes it than two margins")

    @property
    def longest_span_s(self) -> float:
        """Longest span that fits into a window."""
        return self.longest_s - 2 * self.overlap_s


class WindowPlanner:
    """Spans in, windows out, in order."""

    # How the spans are split into calls makes no difference: a job that is planned again gets the same windows. To go on
    # behind `after`, the last window of an earlier plan, it is fed all spans again.

    def __init__(self, limits: WindowLimits | None = None, after: Window | None = None) -> None:
        limits = limits or WindowLimits()
        self._longest = int(limits.longest_s * SAMPLE_RATE)
        self._first = int(min(limits.first_s, limits.longest_s) * SAMPLE_RATE)
        self._longest_span = int(limits.longest_span_s * SAMPLE_RATE)
        self._silence = int(limits.closing_silence_s * SAMPLE_RATE)
        self._speech = int(limits.closing_speech_s * SAMPLE_RATE)
        self._before = int(limits.before_s * SAMPLE_RATE)
        self._after = int(limits.after_s * SAMPLE_RATE)
        self._overlap = int(limits.overlap_s * SAMPLE_RATE)
        self._open: list[Span] = []  # spans of the window that is being filled
        self._joined = after is not None and after.cut is not None
        self._floor = after.end if after else 0  # end of the last window
        self._index = after.index + 1 if after else 0
        # Speech before this is in windows already; the earlier plan may have had other limits and other spans.
        self._covered = (after.end if after.cut is None else after.cut) if after else 0

    def feed(self, spans: Iterable[Span], analysed: int) -> list[Window]:
        """Add spans detected in the first `analysed` samples; return the windows that closed."""
        spans = (Span(max(span.start, self._covered), span.end) for span in spans if span.end > self._covered)
        closed = [window for span in spans for piece in self._split(span) for window in self._add(piece)]
        if self._open and self._is_complete(analysed):
            closed.append(self._close(analysed))
        return closed

    def finish(self, total: int) -> list[Window]:
        """Close the last window."""
        return [self._close(total)] if self._open else []

    def next_start(self, analysed: int) -> int:
        """Earliest start of the next window, in samples."""
        if not self._open:
            return self._start(analysed, analysed)
        # The first window may yet close early, and then has more room before its speech.
        last = self._open[-1] if self._index else self._open[0]
        return self._start(self._open[0].start, last.end)

    def _start(self, first: int, last: int) -> int:
        padding = min(self._before, self._longest - self._overlap - (last - first))
        return max(first - self._overlap if self._joined else max(first - padding, self._floor), 0)

    def _split(self, span: Span) -> Iterator[Span]:
        # The speech detector already cuts long speech at a pause: a span that is still too long has none.
        start = span.start
        while span.end - start > self._longest_span:
            yield Span(start, start + self._longest_span)
            start += self._longest_span
        yield Span(start, span.end)

    def _add(self, span: Span) -> Iterator[Window]:
        if self._open and self._is_complete(span.start):
            yield self._close(span.start)
        if self._open and self._length(span.end) > self._longest:
            if not self._index:
                yield from self._shorten_first()
            if self._length(span.end) > self._longest:
                yield self._close(span.start, runs_on=span.start == self._open[-1].end)
        self._open.append(span)

    def _is_complete(self, silent_until: int) -> bool:
        # Silence closes a window that has enough speech, or no room left.
        if silent_until - self._open[-1].end < self._silence:
            return False
        speech = sum(span.end - span.start for span in self._open)
        return speech >= self._speech or self._length(silent_until) > self._longest

    def _length(self, end: int) -> int:
        # At least, if the speech of the open window went on to `end`.
        return end - self._open[0].start + 2 * self._overlap

    def _shorten_first(self) -> Iterator[Window]:
        # The first window closes early for latency; audio that fits into one window stays whole.
        fitting = max(sum(self._length(span.end) <= self._first for span in self._open), 1)
        head, rest = self._open[:fitting], self._open[fitting:]
        if rest:
            self._open = head
            yield self._close(rest[0].start, runs_on=rest[0].start == head[-1].end)
            self._open = rest

    def _close(self, ceiling: int, runs_on: bool = False) -> Window:
        # Speech starts again at `ceiling` at the earliest: the padding takes half of the pause, or an overlap where
        # speech runs on.
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


def remainder(window: Window, text_end: int, least_s: float = 0.6, margin_s: float = 0.4) -> Window | None:
    """Rest of a window whose text ends at sample `text_end`; None if less than `least_s` of speech is left."""
    # Whisper in timestamp mode may end its text before the speech ends.
    left = tuple(Span(max(span.start, text_end), span.end) for span in window.speech if span.end > text_end)
    if not left or sum(span.end - span.start for span in left) < least_s * SAMPLE_RATE:
        return None
    start = max(left[0].start - int(margin_s * SAMPLE_RATE), text_end)
    return replace(window, start=start, speech=left)
