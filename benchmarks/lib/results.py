"""Outcome counts of a load scenario."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class OutcomeCounts:
    """Counts of jobs, segments and requests, and `faults` as sentences."""

    jobs: int
    accepted: int = 0
    completed: int = 0
    failed: int = 0
    lost: int = 0  # accepted, but not listed or never ended
    unexpected: int = 0  # listed, but never accepted
    segments: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    differing: int = 0  # transcripts that differ from those of an undisturbed run
    kills: Counter[str] = field(default_factory=Counter)
    troubles: list[str] = field(default_factory=list)  # of infrastructure, that passed
    sent_twice: int = 0
    retries: int = 0
    reconnects: int = 0
    duration_s: float = 0.0
    faults: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every job completed once with the right transcript."""
        violations = (self.failed, self.lost, self.unexpected, self.duplicated, self.out_of_order, self.differing)
        return self.accepted == self.completed == self.jobs and not any(violations) and not self.faults

    def rows(self) -> list[tuple[str, object]]:
        kills = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kills.items()))
        return [
            ("jobs accepted", f"{self.accepted} of {self.jobs}"),
            ("jobs completed", self.completed),
            ("jobs failed", self.failed),
            ("jobs lost", self.lost),
            ("jobs created without an accepted request", self.unexpected),
            ("segments delivered", self.segments),
            ("segments duplicated", self.duplicated),
            ("segments out of order", self.out_of_order),
            ("transcripts that differ", self.differing),
            *([("killed", f"{self.kills.total()}: {kills}")] if self.kills else []),
            *([("troubles", "; ".join(self.troubles))] if self.troubles else []),
            ("submissions sent twice (idempotency)", self.sent_twice),
            ("requests retried", self.retries),
            ("event streams interrupted and resumed", self.reconnects),
            ("duration", f"{self.duration_s:.0f} s"),
        ]
