"""How many Runners there should be. They pull their jobs, so Serve sees no requests to count: they tell their load."""

from __future__ import annotations

import math
from typing import Any

LOAD = "load"
"""What a Runner tells of itself: its jobs as a share of what it takes on, 0 to 1."""


def by_load(context: Any) -> tuple[int, dict[str, Any]]:
    """As many replicas as keep the mean load at two thirds; Serve applies the bounds and the delays. It runs in the
    controller, where an error would stall every deployment: without figures it changes nothing."""
    loads = (context.aggregated_metrics or {}).get(LOAD) or {}
    if not loads:
        return context.target_num_replicas, {}
    return max(1, math.ceil(sum(loads.values()) * 1.5)), {}
