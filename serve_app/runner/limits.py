"""class RunnerLimits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RunnerLimits:
    """Limits of one Runner."""

    jobs: int = 8  # at once, beside those that are downloaded
    downloads: int = 64  # at once
    tenant_downloads: int = 8  # of one tenant, 0 for no cap
    windows: int = 8  # in flight, of each job
    tenant_jobs: int = 0  # running jobs of a tenant, over all Runners; 0 for no cap
    weights: Mapping[str, float] = field(default_factory=dict)  # scheduling weights of tenants
    max_audio_s: float = 86_400.0
    max_source_bytes: int = 2 << 30

    @property
    def reserve(self) -> int:
        """Slots for interactive jobs of tenants with less than their share, who then need not wait for room to be made."""
        return self.jobs // 8
