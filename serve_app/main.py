"""Build the Serve graph from the settings; the only file that wraps classes as deployments. Each replica builds its own
objects in ray_serve/replicas.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from deployments.cores import usable_cores
from deployments.transcription.weights import languages, locate
from serve_app.dialects import dialect_settings
from serve_app.jobs.model_catalog import Model
from serve_app.ray_serve.replicas import (
    IngestionReplica,
    IngressReplica,
    RunnerReplica,
    TranscoderReplica,
    TranscriberReplica,
)
from serve_app.runner.limits import RunnerLimits
from serve_app.settings import Settings

BY_LOAD = "serve_app.ray_serve.autoscaling:by_load"
LEAST_STREAMS = 64  # that a Transcoder takes
DRAIN_S = 8.0  # time of a stopping replica to return its jobs


def find_models(settings: Settings) -> tuple[Model, ...]:
    """Locate (or download) the weights of every configured model. Raises ModelUnavailable."""
    if settings.engine == "fake":
        return tuple(Model(name, ("de", "en", "fr")) for name in settings.models)
    return tuple(Model(name, languages(locate(name, str(settings.cache_dir)))) for name in settings.models)


def build(settings: Settings, models: tuple[Model, ...] | None = None) -> serve.Application:
    """Build the graph: Ingress ▶ Runner ▶ Ingestion, Transcoder and one Transcriber per model."""
    # CPUs are Ray's accounting for placement, low so that one machine holds the whole graph; they limit nothing.
    models = models or find_models(settings)
    # Serve's queue before a replica is first in, first out: no call of a Runner may wait in it.
    runners = _scale(settings, "runner", policy=BY_LOAD)
    downloads = RunnerLimits().downloads * runners.max_replicas
    ingestion = _deployment(
        IngestionReplica, "Ingestion", 0.1, _scale(settings, "ingestion", target=8), max_ongoing_requests=downloads
    ).bind(settings)
    # A replica decodes on all cores. Streams that pause count, too: a replica that is removed loses them.
    streams = max(settings.runner_jobs * runners.max_replicas, LEAST_STREAMS)
    transcoder = _deployment(
        TranscoderReplica, "Transcoder", 0.2, _scale(settings, "transcoder", target=8), max_ongoing_requests=streams
    ).bind(settings)
    transcribers = {
        model.id: _deployment(
            TranscriberReplica,
            name,
            0.5,
            _scale(settings, "transcriber", policy=BY_LOAD),
            gpus=settings.transcriber_gpus,
            max_ongoing_requests=1024,
        ).bind(settings, model.id)
        for model, name in zip(models, transcriber_names([model.id for model in models]), strict=True)
    }
    runner = _deployment(RunnerReplica, "Runner", 0.1, runners).bind(settings, ingestion, transcoder, transcribers)
    ingress = serve.ingress()(IngressReplica)
    # Most of an Ingress replica's requests are idle event streams.
    return _deployment(ingress, "Ingress", 0.1, _scale(settings, "ingress", target=500), max_ongoing_requests=4096).bind(
        settings, models, transcribers, runner, dialect_settings()
    )


def transcriber_names(models: Sequence[str]) -> list[str]:
    """Name of each model's deployment, unique also where models differ in characters that a name cannot have."""
    if len(models) == 1:
        return ["Transcriber"]
    names: list[str] = []
    for model in models:
        name = f"Transcriber-{model.replace('/', '-')}"
        while name in names:
            name += "-2"
        names.append(name)
    return names


def _deployment(
    replica: Any, name: str, cpus: float, scale: AutoscalingConfig, *, gpus: float = 0.0, max_ongoing_requests: int = 16
) -> Any:
    return serve.deployment(replica).options(
        name=name,
        ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
        autoscaling_config=scale,
        max_ongoing_requests=max_ongoing_requests,
        graceful_shutdown_timeout_s=DRAIN_S,
        graceful_shutdown_wait_loop_s=0.2,
        health_check_period_s=2,
        max_constructor_retry_count=3,
    )


def _scale(settings: Settings, stage: str, *, target: int | None = None, policy: str | None = None) -> AutoscalingConfig:
    minimum, maximum = getattr(settings, f"{stage}_min_replicas"), getattr(settings, f"{stage}_max_replicas")
    bounds = {"min_replicas": minimum, "max_replicas": max(minimum, maximum or usable_cores() // 2)}
    if policy:
        return AutoscalingConfig(**bounds, policy=AutoscalingPolicy(policy_function=policy))
    return AutoscalingConfig(**bounds, target_ongoing_requests=target)
