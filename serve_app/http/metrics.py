"""Every metric's name, and the figures of the store as Prometheus wants them. They are kept in Redis: any replica tells
them for all, and a restart loses none."""

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


def exposition(figures: Stats) -> bytes:
    """The text that Prometheus scrapes."""
    registry = CollectorRegistry()
    registry.register(_Told(figures))
    return generate_latest(registry)


class _Told:
    """Stats as a collector."""

    def __init__(self, figures: Stats) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """Each metric."""
        grown = self._figures.counters
        yield GaugeMetricFamily("murmur_jobs_waiting", "Jobs in the queue.", self._figures.waiting)
        yield GaugeMetricFamily("murmur_jobs_running", "Jobs under a lease.", self._figures.running)
        yield GaugeMetricFamily("murmur_jobs_delayed", "Jobs that wait to be tried again.", self._figures.delayed)
        for name, (told, what) in COUNTERS.items():
            yield CounterMetricFamily(told, what, grown.get(name, 0))
        ended = CounterMetricFamily("murmur_jobs_ended", "Jobs that have ended, by how.", labels=["phase"])
        for phase in (Phase.COMPLETED, Phase.FAILED, Phase.CANCELLED):
            ended.add_metric([phase], grown.get(f"jobs_{phase}", 0))
        yield ended
        told_hooks = CounterMetricFamily("murmur_webhook_tries", "Tries to deliver a webhook, by result.", labels=["result"])
        for result in ("delivered", "failed", "dead"):
            told_hooks.add_metric([result], grown.get(f"webhooks_{result}", 0))
        yield told_hooks
        yield GaugeMetricFamily("murmur_webhooks_waiting", "Webhooks on their way.", self._figures.webhooks)
        yield GaugeMetricFamily("murmur_queue_age_seconds", "Age of the oldest job that is next.", self._figures.queue_age_s)
        phases = HistogramMetricFamily("murmur_phase_seconds", "How long jobs were in a phase.", labels=["phase"])
        for phase in Phase:
            if not phase.final:
                buckets, total = _buckets(f"phase_ms:{phase}", grown)
                phases.add_metric([phase], buckets, total)
        yield phases
        for name, (told, what) in HISTOGRAMS.items():
            yield _histogram(told, what, name, grown)


def _histogram(told: str, what: str, name: str, grown: Mapping[str, int]) -> Metric:
    buckets, total = _buckets(name, grown)
    return HistogramMetricFamily(told, what, buckets=buckets, sum_value=total)


def _buckets(name: str, grown: Mapping[str, int]) -> tuple[list[tuple[str, float]], float]:
    """From counts of each bucket alone, in thousandths, to Prometheus' running sums, in units; and the sum of all."""
    found = {int(m[1]): n for key, n in grown.items() if (m := re.fullmatch(rf"{name}:le:(\d+)", key))}
    buckets: list[tuple[str, float]] = []
    total = 0
    for bound in sorted(found):
        total += found[bound]
        buckets.append((f"{bound / 1000:g}", float(total)))
    buckets.append(("+Inf", float(grown.get(name, 0))))
    return buckets, grown.get(f"{name}:sum", 0) / 1000
