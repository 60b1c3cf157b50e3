"""Every metric's name, and the figures of the store as Prometheus wants them. They are kept in Redis: any replica tells
them for all, and a restart loses none."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from serve_app.jobs.models import Phase
from serve_app.jobs.terms import Figures

COUNTERS = {
    "jobs_submitted": ("murmur_jobs_submitted", "Jobs accepted."),
    "leases_expired": ("murmur_leases_expired", "Leases that ran out because their worker went silent."),
}
HISTOGRAMS = {
    "wait_ms": ("murmur_queue_wait_seconds", "From a job's submission to its first claim."),
    "cancel_ms": ("murmur_cancel_seconds", "From the request to cancel a job to its release."),
}


def exposition(figures: Figures) -> bytes:
    """The text that Prometheus scrapes."""
    registry = CollectorRegistry()
    registry.register(_Told(figures))
    return generate_latest(registry)


class _Told:
    """Figures as a collector."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """Each metric."""
        grown = self._figures.grown
        yield GaugeMetricFamily("murmur_jobs_waiting", "Jobs in the queue.", self._figures.waiting)
        yield GaugeMetricFamily("murmur_jobs_running", "Jobs under a lease.", self._figures.running)
        yield GaugeMetricFamily("murmur_jobs_delayed", "Jobs that wait to be tried again.", self._figures.delayed)
        for name, (told, what) in COUNTERS.items():
            yield CounterMetricFamily(told, what, grown.get(name, 0))
        ended = CounterMetricFamily("murmur_jobs_ended", "Jobs that have ended, by how.", labels=["phase"])
        for phase in (Phase.COMPLETED, Phase.FAILED, Phase.CANCELLED):
            ended.add_metric([phase], grown.get(f"jobs_{phase}", 0))
        yield ended
        for name, (told, what) in HISTOGRAMS.items():
            yield _histogram(told, what, name, grown)


def _histogram(told: str, what: str, name: str, grown: Mapping[str, int]) -> Metric:
    """From counts of each bucket alone, bounds in milliseconds, to Prometheus' running sums, in seconds."""
    found = {int(m[1]): n for key, n in grown.items() if (m := re.fullmatch(rf"{name}:le:(\d+)", key))}
    buckets: list[tuple[str, float]] = []
    total = 0
    for bound in sorted(found):
        total += found[bound]
        buckets.append((f"{bound / 1000:g}", float(total)))
    buckets.append(("+Inf", float(grown.get(name, 0))))
    return HistogramMetricFamily(told, what, buckets=buckets, sum_value=grown.get(f"{name}:sum", 0) / 1000)
