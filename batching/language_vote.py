"""Which language a recording is in, by the vote of its windows."""

from __future__ import annotations

from collections import defaultdict, deque

SURE = 0.6
"""A language heard with less than this probability gives way to the one that is likely."""


class Vote:
    """What a window in doubt falls back on: `first`, the first language heard, until votes count. A window goes by the votes
    of those that are `behind` it or further: they are in whatever the pace, so the text does not depend on that."""

    def __init__(self, first: str | None, weight: float, behind: int) -> None:
        self.first = first
        self._behind = behind
        self._weights: defaultdict[str, float] = defaultdict(float)
        self._late: deque[tuple[int, str, float]] = deque()
        if first:
            self._weights[first] = weight

    def count(self, index: int, language: str, weight: float) -> None:
        """A window's vote; windows vote in order."""
        self._late.append((index, language, weight))

    def likely(self, index: int) -> str | None:
        """What the window of this index is in, as far as one can tell before it is heard."""
        while self._late and self._late[0][0] <= index - self._behind:
            _, language, weight = self._late.popleft()
            self._weights[language] += weight
        best = max(self._weights, key=self._weights.__getitem__, default=None)
        return best if best and self._weights[best] > 0 else self.first
