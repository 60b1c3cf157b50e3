"""Vote on a recording's language, for windows with uncertain language detection."""

from __future__ import annotations

from collections import defaultdict, deque

CERTAIN = 0.6  # detection with a lower probability is uncertain and gives way to the likely language


class LanguageVote:
    """Weighted vote; the `first` detected language holds until votes count."""

    def __init__(self, first: str | None, weight: float, lag: int) -> None:
        self.first = first
        # Only votes at least `lag` windows back count. Those are complete at any decoding speed, so the text does not
        # depend on timing.
        self._lag = lag
        self._weights: defaultdict[str, float] = defaultdict(float)
        self._recent: deque[tuple[int, str, float]] = deque()
        if first:
            self._weights[first] = weight

    def count(self, index: int, language: str, weight: float) -> None:
        # Windows vote in order.
        self._recent.append((index, language, weight))

    def likely(self, index: int) -> str | None:
        while self._recent and self._recent[0][0] <= index - self._lag:
            _, language, weight = self._recent.popleft()
            self._weights[language] += weight
        best = max(self._weights, key=self._weights.__getitem__, default=None)
        return best if best and self._weights[best] > 0 else self.first
