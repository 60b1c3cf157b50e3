"""ffmpeg filter that follows a source's timestamps, within limits."""

# Time 0 is where the source begins to play: an audio track that begins later than the rest begins with silence, gaps are
# filled with silence, an offset of the whole container does not count. (In MPEG-TS ffmpeg knows no such silence.) But
# timestamps may be broken, or made up: four kilobytes can say that four hours of nothing lie between two words. So the
# silence is limited; and where time goes backwards, which ffmpeg would answer by dropping audio until it has caught up,
# the audio is kept. Both leave the source's clock, and are reported.

from __future__ import annotations

import re

from deployments.messages import MediaWarning

# Longest silence for one gap, in seconds: a recorder that paused for longer has not recorded one event. All gaps together
# may take as much, and this many times the audio there is.
GAP_S, SILENCE_SHARE = 300, 10
JITTER_S = 0.1  # smaller gaps are filled in any case
BACKWARDS_S = 1.0  # shorter overlaps are trimmed by ffmpeg
MOST_WARNINGS = 20
_GAP_MARK = 1e9  # tells a length from a place in the log
_LOGGED = re.compile(rb"^\[Eval @ 0x[0-9a-f]+\] (-?\d+\.\d+)\s*$")

# Registers: 0 is the time that was cut out, 1 the end of the audio so far, 2 the time of this frame, 3 the gap before it,
# 4 all silence and 5 all audio so far, 6 the silence that this gap may become. All in seconds.
_REPORT = f"print(ld(1));print({_GAP_MARK}+ld(3));"
_LIMITED = f"""
st(2,PTS*TB-ld(0));st(3,ld(2)-ld(1));st(6,max(min({GAP_S},{GAP_S}+{SILENCE_SHARE}*ld(5)-ld(4)),{JITTER_S}));
if(gt(ld(3),ld(6)),REPORT st(0,ld(0)+ld(3)-ld(6));st(3,ld(6)),
if(gt(N,0)*lt(ld(3),-{BACKWARDS_S}),REPORT st(0,ld(0)+ld(3));st(3,0)));
st(4,ld(4)+max(ld(3),0));st(5,ld(5)+S/SR);st(1,PTS*TB-ld(0)+S/SR);PTS-ld(0)/TB
"""


def on_time(rate: int, *, report: bool = True) -> str:
    """Filter to `rate` Hz; its reports in the log are for TimestampLog."""
    expression = "".join(_LIMITED.replace("REPORT", _REPORT if report else "").split())
    return f"asetpts='{expression}',aresample={rate}:async=1:first_pts=0"


class TimestampLog:
    """Reader of the reports in ffmpeg's log."""

    def __init__(self) -> None:
        self._line = b""
        self._place = 0.0
        self._found = 0

    def feed(self, piece: bytes) -> list[MediaWarning]:
        """Warnings in the lines that have ended."""
        *lines, self._line = (self._line + piece).split(b"\n")
        numbers = (float(match[1]) for line in lines if (match := _LOGGED.match(line)))
        warnings = []
        for number in numbers:
            if number < _GAP_MARK / 2:
                self._place = max(number, 0.0)
                continue
            self._found += 1
            if self._found <= MOST_WARNINGS:
                warnings.append(_warning(self._place, number - _GAP_MARK, last=self._found == MOST_WARNINGS))
        self._line = self._line[-1000:]
        return warnings


def _warning(place: float, gap: float, *, last: bool) -> MediaWarning:
    more = " There may be more such places." if last else ""
    if gap < 0:
        message = f"The recording's timestamps go back by {-gap:.1f} s at {place:.1f} s: its audio is kept, and later times"
        return MediaWarning("timestamps_go_back", f"{message} are later than in the file.{more}", place, place)
    message = f"The recording's timestamps leave out {gap:.1f} s at {place:.1f} s: less silence stands for them, and later"
    return MediaWarning("timestamp_gap", f"{message} times are earlier than in the file.{more}", place, place)
