"""class CommittedPlace: how far a consumer of a recording is, stored for the Transcoder that runs ahead of it."""

from __future__ import annotations

from dataclasses import dataclass

from deployments.storage.artifacts import Artifacts


@dataclass(frozen=True, slots=True)
class CommittedPlace:
    """Place in the audio, and a sign of life."""

    seconds: float = 0.0
    writes: int = 0  # grows with each write: its consumer is still there

    def store(self, artifacts: Artifacts, key: str) -> None:
        artifacts.put(key, f"{self.seconds:.3f} {self.writes}".encode(), durable=False)

    @classmethod
    def load(cls, artifacts: Artifacts, key: str) -> CommittedPlace:
        """Load the place: the beginning where none is stored."""
        try:
            seconds, writes = artifacts.read(key).split()
            return cls(float(seconds), int(writes))
        except (FileNotFoundError, ValueError):  # a power cut may leave an empty file: it is not durable
            return cls()
