"""Prometheus metrics; the values are in Redis, so any replica reports them for all."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from serve_app.models.job import Phase
from serve_app.store.stats import Stats

COUNTERS = {
    "jobs_submitted": ("murmur_jobs_submitted", "Jobs accepted."),
    "windows": ("murmur_windows", "Windows decoded and committed."),
    "windows_redone": ("murmur_windows_redone", "Windows that were decoded more than once, because the first was doubtful."),
    "leases_expired": ("murmur_leases_expired", "Leases that ran out because their worker went silent."),
}
HISTOGRAMS = {
    "wait_ms": ("murmur_queue_wait_seconds", "From a job's submission to its first claim."),
    "cancel_ms": ("murmur_cancel_seconds", "From the request to cancel a job to its release."),
    "first_segment_ms": ("murmur_first_segment_seconds", "From a job's submission to its first segment."),
    "batch_fill": ("murmur_batch_fill_ratio", "Share of a batch's places that were taken, of the fullest of each window."),
    "real_time": ("murmur_real_time_factor", "Seconds from first claim to end, for a second of audio."),
}


def exposition(stats: Stats) -> bytes:
    registry = CollectorRegistry()
    registry.register(_StatsCollector(stats))
    return generate_latest(registry)


class _StatsCollector:
    def __init__(self, stats: Stats) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        counters = self._stats.counters
        yield GaugeMetricFamily("murmur_jobs_waiting", "Jobs in the queue.", self._stats.waiting)
        yield GaugeMetricFamily("murmur_jobs_running", "Jobs under a lease.", self._stats.running)
        yield GaugeMetricFamily("murmur_jobs_delayed", "Jobs that wait to be tried again.", self._stats.delayed)
        for name, (metric, description) in COUNTERS.items():
            yield CounterMetricFamily(metric, description, counters.get(name, 0))
        ended = CounterMetricFamily("murmur_jobs_ended", "Jobs that have ended, by how.", labels=["phase"])
        for phase in (Phase.COMPLETED, Phase.FAILED, Phase.CANCELLED):
            ended.add_metric([phase], counters.get(f"jobs_{phase}", 0))
        yield ended
        attempts = CounterMetricFamily("murmur_webhook_tries", "Tries to deliver a webhook, by result.", labels=["result"])
        for result in ("delivered", "failed", "dead"):
            attempts.add_metric([result], counters.get(f"webhooks_{result}", 0))
        yield attempts
        yield GaugeMetricFamily("murmur_webhooks_waiting", "Webhooks on their way.", self._stats.webhooks)
        yield GaugeMetricFamily("murmur_queue_age_seconds", "Age of the oldest job that is next.", self._stats.queue_age_s)
        phases = HistogramMetricFamily("murmur_phase_seconds", "How long jobs were in a phase.", labels=["phase"])
        for phase in Phase:
            if not phase.final:
                buckets, total = _buckets(f"phase_ms:{phase}", counters)
                phases.add_metric([phase], buckets, total)
        yield phases
        for name, (metric, description) in HISTOGRAMS.items():
            buckets, total = _buckets(name, counters)
            yield HistogramMetricFamily(metric, description, buckets=buckets, sum_value=total)


def _buckets(name: str, counters: Mapping[str, int]) -> tuple[list[tuple[str, float]], float]:
    """Cumulative buckets and sum; the store counts each bucket separately, in thousandths."""
    counts = {int(m[1]): n for key, n in counters.items() if (m := re.fullmatch(rf"{name}:le:(\d+)", key))}
    buckets: list[tuple[str, float]] = []
    total = 0
    for bound in sorted(counts):
        total += counts[bound]
        buckets.append((f"{bound / 1000:g}", float(total)))
    buckets.append(("+Inf", float(counters.get(name, 0))))
    return buckets, counters.get(f"{name}:sum", 0) / 1000
