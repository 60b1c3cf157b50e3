"""Autoscaling by load: of Runners, which pull jobs, so that Serve sees no requests to count, and of Transcribers, whose
capacity only the loaded engine knows."""

from __future__ import annotations

import math
from typing import Any

LOAD = "load"  # metric that a replica reports: its work as a share of its capacity, more than 1 where work waits


def by_load(context: Any) -> tuple[int, dict[str, Any]]:
    """Replicas that keep the mean load at two thirds; Serve applies bounds and delays."""
    # Runs in Serve's controller, where an exception would stall every deployment: without metrics, change nothing.
    loads = (context.aggregated_metrics or {}).get(LOAD) or {}
    if not loads:
        return context.target_num_replicas, {}
    return max(1, math.ceil(sum(loads.values()) * 1.5)), {}
