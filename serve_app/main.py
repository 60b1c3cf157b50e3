"""The composition root: settings → plain classes, wrapped as Serve deployments and bound into one application.

This is the only file that wraps. What a replica needs beyond its settings (a Redis client, an engine) it makes itself,
when it starts, where it runs.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Any
from uuid import uuid4

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve._private import replica
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.serve.context import _get_serve_request_context
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.artifacts import Artifacts
from deployments.buckets import Buckets
from deployments.engines import load
from deployments.engines.base import EngineConfig
from deployments.engines.memory import CPU_BATCH
from deployments.ffmpeg import find_ffmpeg
from deployments.ingestion import Ingestion
from deployments.messages import EngineInfo
from deployments.safe_http import Allowed, SafeHttp
from deployments.transcoder import Transcoder
from deployments.transcriber import Transcriber
from deployments.weights import languages, locate
from serve_app.auth import Auth
from serve_app.dialects.base import Edge
from serve_app.flow import pace_replica
from serve_app.ingress import DIALECTS, create_api
from serve_app.jobs.connection import connect
from serve_app.jobs.events import Events
from serve_app.jobs.jobs import Jobs, Model
from serve_app.jobs.outbox import Outbox
from serve_app.jobs.results import Results
from serve_app.jobs.runner import Runner, RunnerLimits
from serve_app.jobs.store import Store
from serve_app.jobs.summaries import Summaries, Writer
from serve_app.jobs.sweeper import Sweeper
from serve_app.jobs.terms import Leases
from serve_app.jobs.webhooks import Webhooks
from serve_app.keys import Keys
from serve_app.limits import Limits, TenantLimits
from serve_app.logs import OURS, log_to_file
from serve_app.scaling import LOAD
from serve_app.settings import Settings
from serve_app.stages import ServeStages
from serve_app.tokens import Tokens

VERSION = version("murmuration")
DRAIN_S = 8.0
THREADS = 64
NICENESS = 10
"""What a Transcoder adds to its workers' niceness."""


def prepare_replica(settings: Settings) -> None:
    """What every replica does first: log where Serve logs, and on one machine to a file that outlives Ray's; listen where
    the service listens."""
    for package in OURS:
        logger = logging.getLogger(package)
        for handler in logging.getLogger("ray.serve").handlers:
            logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    if not settings.ray_address:
        log_to_file(settings.data_dir, settings.log_format)
    _loopback_only(settings)


def _loopback_only(settings: Settings) -> None:
    """Keep a replica's own server, which Serve binds to every interface, to the one that the service listens on.
    There is no setting for it in Ray 2.60; a release that moves the function leaves things as Serve wants them."""
    if settings.ray_address or not hasattr(replica, "add_port_to_grpc_server"):
        return
    bind = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: bind(server, address.replace("[::]", "127.0.0.1"))


def _request_id() -> str:
    """What Serve knows a request by; its proxy tells it in the answer."""
    return str(_get_serve_request_context().request_id)


class IngressReplica:
    """Serves the API."""

    def __init__(
        self,
        settings: Settings,
        models: tuple[Model, ...],
        transcribers: dict[str, DeploymentHandle],
        _runner: DeploymentHandle,
    ) -> None:
        prepare_replica(settings)
        # Serve's loop and ours share one interpreter, and many readers keep both busy: at Python's 5 ms each waits long for
        # its turn, and requests for Redis.
        sys.setswitchinterval(0.0005)
        pace_replica()
        # Bound so that it is part of the graph; work reaches it through Redis, never through a call.
        redis = connect(settings.redis_url, "ingress")
        artifacts, store = Artifacts(settings.storage), Store(redis)
        self._store = store
        self._events = Events(store, artifacts)
        limits = Limits(store, TenantLimits(settings.tenant_requests_per_minute, settings.tenant_minutes_per_month))
        jobs = Jobs(
            store,
            self._events,
            artifacts,
            models,
            limits=limits,
            allowed=Allowed.parse(settings.fetch_allow),
            aliases=settings.model_aliases,
            result_ttl_s=settings.result_ttl_s,
            queue_limit=settings.tenant_queued_jobs,
            prompts=tuple(settings.summary_prompts) if settings.summary_base_url else (),
        )
        tokens = Tokens(settings.token_rules) if settings.token_rules else None
        self._auth = Auth(Keys(redis), limits, tokens, required=settings.keyed, hosts=settings.allowed_hosts)
        self._devices: dict[str, str] = {}
        self._asking = [asyncio.get_running_loop().create_task(self._ask(*each)) for each in transcribers.items()]
        self._edge = Edge(
            jobs,
            Outbox(redis),
            artifacts,
            settings.max_upload_bytes,
            settings.sse_max_age_s,
            settings.public_url,
            settings.stage_drive_uri,
            self._devices,
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_api(
            self._edge, self._auth, self._store, self._events, version=VERSION, devices=self._devices, request_id=_request_id
        )

    async def _ask(self, model: str, transcriber: DeploymentHandle) -> None:
        """Learn once what a model runs on; a replica that is not there yet is asked again."""
        while model not in self._devices:
            try:
                info: EngineInfo = await transcriber.info.remote()
                self._devices[model] = f"{info.device} {info.compute_type}"
            except (RayError, RayServeException):
                await asyncio.sleep(1.0)


class RunnerReplica:
    """Pulls jobs from the moment it starts; gives them back when it is told to go."""

    def __init__(
        self,
        settings: Settings,
        ingestion: DeploymentHandle,
        transcoder: DeploymentHandle,
        transcribers: dict[str, DeploymentHandle],
    ) -> None:
        prepare_replica(settings)
        # Names that webhooks lead to are looked up in these threads too, and some servers of names never answer.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS, "runner"))
        self._limits = RunnerLimits(
            jobs=settings.runner_jobs,
            windows=settings.windows_in_flight,
            tenant_jobs=settings.tenant_running_jobs,
            weights=settings.tenant_weights,
            max_audio_s=settings.max_audio_s,
            max_source_bytes=settings.max_upload_bytes,
        )
        artifacts = Artifacts(settings.storage)
        redis = connect(settings.redis_url, "runner")
        store = Store(redis, Leases(settings.lease_s))
        sweeper = Sweeper(store, artifacts, period_s=settings.lease_s / 6, stream_grace_s=settings.stream_grace_s)
        stages = ServeStages(ingestion, transcoder, transcribers)
        self._runner = Runner(f"runner-{uuid4().hex[:8]}", store, stages, artifacts, sweeper, self._limits)
        http = SafeHttp(Allowed.parse(settings.fetch_allow))
        renders = {dialect.name: dialect.render for dialect in DIALECTS if dialect.render}
        webhooks = Webhooks(Outbox(redis), store, Results(artifacts), http, renders, settings.webhook_retries_s)
        self._starting = asyncio.get_running_loop().create_task(self._runner.start())
        self._telling = [asyncio.get_running_loop().create_task(webhooks.run())]
        if settings.summary_base_url:
            key = settings.summary_key.get_secret_value()
            writer = Writer(settings.summary_base_url, settings.summary_model, key, settings.summary_prompts)
            summaries = Summaries(store, artifacts, writer)
            self._telling.append(asyncio.get_running_loop().create_task(summaries.run()))

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Its load, for serve_app.scaling."""
        return {LOAD: self._runner.jobs / self._limits.jobs}

    def check_health(self) -> None:
        """Asked by Serve; a replica that looks for work no more is replaced."""
        if any(task.done() for task in self._telling) or (self._starting.done() and not self._runner.well):
            raise RuntimeError("the runner has stopped looking for work")

    async def drain(self) -> None:
        """Claim no more, and give back at once what is not finished."""
        for task in self._telling:
            task.cancel()
        await self._starting
        await self._runner.stop()

    async def __del__(self) -> None:
        await self.drain()


class IngestionReplica(Ingestion):
    """Fetches sources."""

    def __init__(self, settings: Settings) -> None:
        prepare_replica(settings)
        allowed = Allowed.parse(settings.fetch_allow)
        super().__init__(Artifacts(settings.storage), SafeHttp(allowed), Buckets(allowed))


class TranscoderReplica(Transcoder):
    """Decodes sources."""

    def __init__(self, settings: Settings) -> None:
        prepare_replica(settings)
        # Whoever waits for words comes before whoever's file is merely being unpacked; ffmpeg inherits this.
        os.nice(NICENESS)
        super().__init__(Artifacts(settings.storage), find_ffmpeg().path)


class TranscriberReplica(Transcriber):
    """Holds a loaded model."""

    def __init__(self, settings: Settings, model: str) -> None:
        prepare_replica(settings)
        super().__init__(Artifacts(settings.storage), load(engine_config(settings, model)))


def engine_config(settings: Settings, model: str) -> EngineConfig:
    """How a replica loads a model."""
    return EngineConfig(
        engine=settings.engine,
        model=model,
        cache_dir=str(settings.cache_dir),
        device=settings.device,
        compute_type=settings.compute_type,
        workers=settings.engine_workers or _cores(),
        batch=settings.batch_size,
        beam_below=settings.beam_below,
    )


def find_models(settings: Settings) -> tuple[Model, ...]:
    """The models on offer, each of whose weights is there now. ModelUnavailable for one that cannot be had."""
    if settings.engine == "fake":
        return tuple(Model(name, ("de", "en", "fr")) for name in settings.models)
    return tuple(Model(name, languages(locate(name, str(settings.cache_dir)))) for name in settings.models)


def build(settings: Settings, models: tuple[Model, ...] | None = None) -> serve.Application:
    """The application: Ingress ▶ Runner ▶ Ingestion, Transcoder and one Transcriber a model."""
    models = models or find_models(settings)
    ingestion = _deployed(
        IngestionReplica, "Ingestion", 0.1, _range(settings, "ingestion", target=8), max_ongoing_requests=32
    ).bind(settings)
    transcoder = _deployed(
        TranscoderReplica, "Transcoder", 0.2, _range(settings, "transcoder", target=2), max_ongoing_requests=4
    ).bind(settings)
    in_flight = (settings.engine_workers or _cores()) * (settings.batch_size or CPU_BATCH) * 2
    transcribers = {
        model.id: _deployed(
            TranscriberReplica,
            "Transcriber" if len(models) == 1 else f"Transcriber-{model.id.replace('/', '-')}",
            0.5,
            _range(settings, "transcriber", target=in_flight),
            gpus=settings.transcriber_gpus,
            max_ongoing_requests=1024,
        ).bind(settings, model.id)
        for model in models
    }
    runner = _deployed(RunnerReplica, "Runner", 0.1, _range(settings, "runner", policy="serve_app.scaling:by_load")).bind(
        settings, ingestion, transcoder, transcribers
    )
    ingress = serve.ingress()(IngressReplica)
    return _deployed(ingress, "Ingress", 0.1, _range(settings, "ingress", target=500), max_ongoing_requests=4096).bind(
        settings, models, transcribers, runner
    )


def _deployed(
    kind: Any, name: str, cpus: float, scale: AutoscalingConfig, *, gpus: float = 0.0, max_ongoing_requests: int = 16
) -> Any:
    return serve.deployment(kind).options(
        name=name,
        ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
        autoscaling_config=scale,
        max_ongoing_requests=max_ongoing_requests,
        graceful_shutdown_timeout_s=DRAIN_S,
        graceful_shutdown_wait_loop_s=0.2,
        health_check_period_s=2,
        max_constructor_retry_count=3,
    )


def _range(settings: Settings, stage: str, *, target: int | None = None, policy: str | None = None) -> AutoscalingConfig:
    least, most = getattr(settings, f"{stage}_min_replicas"), getattr(settings, f"{stage}_max_replicas")
    bounds = {"min_replicas": least, "max_replicas": max(least, most or _cores() // 2)}
    if policy:
        return AutoscalingConfig(**bounds, policy=AutoscalingPolicy(policy_function=policy))
    return AutoscalingConfig(**bounds, target_ongoing_requests=target)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
