"""What became of many jobs that were sent, followed and counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Tally:
    """Counts, and in `wrong` a line for each thing that is not as it should be. `unasked` jobs are there although nobody
    was told of them; `lost` ones are not there, or have not ended, although they were accepted."""

    jobs: int
    accepted: int = 0
    completed: int = 0
    failed: int = 0
    lost: int = 0
    unasked: int = 0
    segments: int = 0
    doubled: int = 0
    disordered: int = 0
    differing: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    twice: int = 0
    repeats: int = 0
    reconnects: int = 0
    duration_s: float = 0.0
    wrong: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether every job was accepted once and completed with the right transcript, told in order."""
        faults = (self.failed, self.lost, self.unasked, self.doubled, self.disordered, self.differing)
        return self.accepted == self.completed == self.jobs and not any(faults) and not self.wrong

    def rows(self) -> list[tuple[str, object]]:
        """As a table."""
        killed = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kills.items()))
        return [
            ("jobs accepted", f"{self.accepted} of {self.jobs}"),
            ("jobs completed", self.completed),
            ("jobs failed", self.failed),
            ("jobs lost", self.lost),
            ("jobs that nobody was told of", self.unasked),
            ("segments told", self.segments),
            ("segments doubled", self.doubled),
            ("segments out of order", self.disordered),
            ("transcripts that differ", self.differing),
            ("killed", f"{self.kills.total()}: {killed}"),
            ("submissions sent twice", self.twice),
            ("requests sent again", self.repeats),
            ("readers cut off and back", self.reconnects),
            ("duration", f"{self.duration_s:.0f} s"),
        ]
